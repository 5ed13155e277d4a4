"""The command `rise` as users type it, good and bad input alike."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rise_perception.cli.main import COMMANDS, main
from rise_perception.data import bags
from rise_perception.data.bag_messages import image_message
from rise_perception.data.bags import BagReader, BagWriter
from rise_perception.data.images import read_image, read_label_map, write_image
from rise_perception.frame import CameraIntrinsics

START = 1_700_000_000_000_000_000
PERIOD = 100_000_000


@pytest.fixture
def rise(capsys):
    """Runs a command; gives (exit status, stdout, stderr)."""

    def run(*arguments):
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse
            status = stop.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run


@pytest.fixture
def pictures(tmp_path, scene):
    """A folder of two pictures with depth images of the same names in another folder."""
    image, depth = scene
    for name in ("a", "b"):
        write_image(tmp_path / "pictures" / f"{name}.png", image)
        write_image(tmp_path / "depth" / f"{name}.png", (depth * 1000).astype(np.uint16))
    return tmp_path / "pictures"


@pytest.fixture
def bag(tmp_path, scene):
    """Six RGB-D frames with truth; the clock jumps back after the fourth."""
    image, depth = scene
    truth = np.zeros(image.shape[:2], np.uint16)
    truth[30:70, 20:60], truth[50:100, 90:140] = 1, 2
    with BagWriter(tmp_path / "bag") as writer:
        for i in range(6):
            stamp, log = START + (i if i < 4 else i - 4) * PERIOD, START + i * PERIOD
            for topic, array, encoding in (
                (bags.COLOR_TOPIC, image, "rgb8"),
                (bags.DEPTH_TOPIC, (depth * 1000).astype(np.uint16), "16UC1"),
                (bags.TRUTH_TOPIC, truth, "mono16"),
            ):
                writer.write(
                    topic, "sensor_msgs/msg/Image", image_message(array, encoding, stamp, "cam"), log
                )
            writer.write_camera_info(
                bags.INFO_TOPIC, CameraIntrinsics(160, 120, 150, 150, 79.5, 59.5), log, "cam"
            )
    return tmp_path / "bag"


# ---- rise


def test_help_lists_every_command_and_each_has_examples(rise):
    status, out, _ = rise("--help")
    assert status == 0
    for command in COMMANDS:
        assert f"\n  {command} " in out
        status, text, _ = rise(command, "--help")
        assert status == 0, command
        assert f"rise {command}" in text.split("examples:")[1], command


def test_unknown_command_suggests(rise):
    status, _, err = rise("pretict")
    assert status == 2
    assert "did you mean 'predict'" in err
    assert rise()[0] == 2


def test_help_does_not_load_torch():
    code = "import sys, rise_perception.cli.main as m; m.main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


# ---- rise predict


def test_predict_writes_what_it_promises(rise, pictures, tiny_model, tmp_path):
    out = tmp_path / "new" / "out"
    status, text, _ = rise("predict", pictures, "--out", out, "--model", tiny_model)
    assert status == 0
    assert "2 images" in text
    assert sorted(p.name for p in out.iterdir()) == sorted(
        f"{name}.{kind}" for name in "ab" for kind in ("label.png", "instances.json", "overlay.png")
    )
    content = json.loads((out / "a.instances.json").read_text())
    labels = read_label_map(out / "a.label.png")
    raw = cv2.imread(str(out / "a.label.png"), cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint16
    assert labels.shape == (content["height"], content["width"]) == (120, 160)
    assert content["image"] == "a.png"
    assert content["model"].startswith("tiny_rgb-")
    assert content["milliseconds"]["network"] > 0
    assert content["instances"]
    assert {i["label"] for i in content["instances"]} == set(np.unique(labels)) - {0}
    for instance in content["instances"]:
        mask = coco_mask.decode(instance["segmentation"]).astype(bool)
        np.testing.assert_array_equal(mask, labels == instance["label"])
        assert instance["bbox"] == coco_mask.toBbox(instance["segmentation"]).tolist()
        assert instance["area"] == mask.sum()
        assert 0 <= instance["score"] <= 1
    assert read_image(out / "a.overlay.png").shape == (120, 160, 3)


def test_predict_with_depth(rise, pictures, tiny_depth_model, tmp_path):
    out = tmp_path / "out"
    status, _, _ = rise(
        "predict",
        pictures,
        "--depth",
        tmp_path / "depth",
        "--depth-scale",
        "0.001",
        "--out",
        out,
        "--model",
        tiny_depth_model,
    )
    assert status == 0
    assert json.loads((out / "a.instances.json").read_text())["depth_file"].endswith("depth/a.png")


def test_predict_depth_mistakes(rise, pictures, tiny_depth_model, tiny_model, tmp_path):
    out = tmp_path / "out"
    base = ["predict", pictures, "--out", out]
    status, _, err = rise(*base, "--model", tiny_depth_model)
    assert (status, "needs depth" in err) == (2, True)
    (tmp_path / "depth" / "b.png").unlink()
    status, _, err = rise(*base, "--model", tiny_depth_model, "--depth", tmp_path / "depth")
    assert status == 2
    assert "b.png has no depth image" in err
    status, _, err = rise(*base, "--model", tiny_depth_model, "--depth", tmp_path / "nowhere")
    assert (status, "nowhere" in err) == (2, True)
    assert not out.exists()
    write_image(tmp_path / "depth" / "b.png", np.ones((10, 10), np.uint16))
    status, _, err = rise(*base, "--model", tiny_model, "--depth", tmp_path / "depth")
    assert status == 2
    assert "b.png: depth is 10x10 but the image is 160x120" in err
    assert (out / "a.instances.json").exists()
    status, _, err = rise(*base, "--model", tiny_model, "--depth", tmp_path / "depth", "--depth-scale", "-1")
    assert (status, "depth scale is -1" in err) == (2, True)


def test_predict_goes_on_after_broken_pictures_and_reports_them(rise, pictures, tiny_model, tmp_path):
    good = cv2.imencode(".jpg", np.full((60, 80, 3), 99, np.uint8))[1].tobytes()
    (pictures / "cut.jpg").write_bytes(good[: len(good) // 2])
    (pictures / "empty.png").write_bytes(b"")
    (pictures / "text.png").write_text("hello")
    out = tmp_path / "out"
    status, text, err = rise("predict", pictures, "--out", out, "--model", tiny_model)
    assert status == 2
    assert "2 images" in text
    for name in ("cut.jpg", "empty.png", "text.png"):
        assert err.count(name) == 1
    assert {p.name.split(".")[0] for p in out.iterdir()} == {"a", "b"}


@pytest.mark.parametrize(
    "array",
    [
        np.full((1, 1, 3), 9, np.uint8),
        np.full((3, 200, 3), 9, np.uint8),
        np.full((60, 80), 9, np.uint8),
        np.full((60, 80, 4), 9, np.uint8),
        np.full((60, 80, 3), 9000, np.uint16),
    ],
    ids=["1x1", "3x200", "grayscale", "rgba", "16 bit"],
)
def test_predict_odd_pictures(rise, tiny_model, tmp_path, array):
    cv2.imwrite(str(tmp_path / "odd.png"), array)
    status, _, err = rise("predict", tmp_path / "odd.png", "--out", tmp_path / "out", "--model", tiny_model)
    assert status == 0, err
    assert read_label_map(tmp_path / "out" / "odd.label.png").shape == array.shape[:2]


def test_predict_float_pictures(rise, tiny_model, tmp_path):
    np.save(tmp_path / "f.npy", np.full((60, 80, 3), 0.4, np.float32))
    cv2.imwrite(str(tmp_path / "t.tiff"), np.full((60, 80), 0.4, np.float32))
    status, _, err = rise(
        "predict", tmp_path / "f.npy", tmp_path / "t.tiff", "--out", tmp_path / "out", "--model", tiny_model
    )
    assert status == 0, err


@pytest.mark.slow
def test_predict_8k(rise, tiny_model, tmp_path):
    cv2.imwrite(str(tmp_path / "8k.jpg"), np.full((4320, 7680, 3), 120, np.uint8))
    status, _, err = rise("predict", tmp_path / "8k.jpg", "--out", tmp_path / "out", "--model", tiny_model)
    assert status == 0, err
    assert read_label_map(tmp_path / "out" / "8k.label.png").shape == (4320, 7680)


def test_predict_nan_depth(rise, scene, tiny_depth_model, tmp_path):
    image, depth = scene
    write_image(tmp_path / "a.png", image)
    (tmp_path / "depth").mkdir()
    broken = depth.copy()
    broken[:60] = np.nan
    broken[60, :5] = np.inf
    np.save(tmp_path / "depth" / "a.npy", broken)
    arguments = ["predict", tmp_path / "a.png", "--depth", tmp_path / "depth", "--model", tiny_depth_model]
    status, _, err = rise(*arguments, "--out", tmp_path / "out")
    assert status == 0, err
    np.save(tmp_path / "depth" / "a.npy", np.full_like(depth, np.nan))  # a covered camera, an RGB-D model
    status, _, err = rise(*arguments, "--out", tmp_path / "out2")
    assert (status, "a.png" in err) == (2, True)


def test_predict_wrong_arguments(rise, pictures, tiny_model, tmp_path):
    (tmp_path / "none").mkdir()
    out = ["--out", tmp_path / "out"]
    for arguments, word in (
        ([tmp_path / "none", *out, "--model", tiny_model], "no picture in this folder"),
        ([tmp_path / "*.gif", *out, "--model", tiny_model], "*.gif"),
        ([pictures, *out, "--model", tmp_path / "nomodel"], "nomodel"),
        ([pictures, *out, "--model", tiny_model, "--device", "tpu"], "tpu"),
        ([pictures, *out, "--model", tiny_model, "--score", "7"], "--score"),
        ([pictures, "--model", tiny_model], "--out"),
    ):
        status, _, err = rise("predict", *arguments)
        assert status == 2, word
        assert word in err
    assert not (tmp_path / "out").exists()


def test_predict_refuses_two_pictures_of_one_name(rise, pictures, tiny_model, tmp_path):
    shutil.copy(pictures / "a.png", tmp_path / "a.png")
    status, _, err = rise(
        "predict", pictures, tmp_path / "a.png", "--out", tmp_path / "o", "--model", tiny_model
    )
    assert status == 2
    assert "a.label.png" in err


def test_card_that_does_not_fit_the_weights(rise, pictures, tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    card = json.loads((model / "card.json").read_text())
    card["network"]["queries"] += 1
    (model / "card.json").write_text(json.dumps(card))
    for command in (["predict", pictures, "--out", tmp_path / "out", "--model", model], ["info", model]):
        status, _, err = rise(*command)
        assert status == 2
        assert "do not fit" in err


# ---- rise eval


def test_eval_of_predict(rise, pictures, tiny_model, tmp_path):
    out = tmp_path / "out"
    rise("predict", pictures, "--out", out, "--model", tiny_model)
    truth = tmp_path / "truth"
    truth.mkdir()
    for name in "ab":  # what was predicted is taken for truth: all objects must be found
        labels = read_label_map(out / f"{name}.label.png")
        content = json.loads((out / f"{name}.instances.json").read_text())
        for instance in content["instances"]:
            if instance["category"] == "container":
                labels[labels == instance["label"]] = 0
        write_image(truth / f"{name}.label.png", labels)
    status, text, _ = rise("eval", "--pred", out, "--truth", truth, "--json", tmp_path / "m.json")
    assert status == 0
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["metrics"]["overlap_f"] == pytest.approx(1)
    assert metrics["metrics"]["mean_best_iou"] == pytest.approx(1)
    assert metrics["metrics"]["ap50"] == pytest.approx(1)
    assert "mean best IoU of the labelled items  1.000" in text
    assert sorted(p.name for p in (out / "evaluation").iterdir()) == [
        "metrics.json",
        "plot.png",
        "report.html",
        "worst.png",
    ]
    assert "rise eval --pred" in (out / "evaluation" / "report.html").read_text()
    status, text, _ = rise("eval", "--pred", out, "--truth", truth, "--partial", "--out", tmp_path / "e")
    assert status == 0
    assert "AP" not in text
    assert (tmp_path / "e" / "worst.png").exists()


def test_eval_mistakes(rise, tmp_path):
    status, _, err = rise("eval", "--pred", tmp_path / "x", "--truth", tmp_path)
    assert (status, "--pred" in err) == (2, True)


# ---- rise replay


def test_replay_with_truth(rise, bag, tiny_model, tmp_path):
    from rise_perception.network.checkpoint import load_model, save_model

    network, card = load_model(tiny_model)
    for name, parameter in network.named_parameters():
        if name.startswith("contrastive"):  # random embeddings are all alike: spread them
            parameter.data *= 30
    save_model(tmp_path / "model", network, card)
    out = tmp_path / "out"
    status, text, err = rise(
        "replay", bag, "--out", out, "--truth", bags.TRUTH_TOPIC, "--model", tmp_path / "model"
    )
    assert status == 0, err
    assert "AP50" in text
    assert json.loads((tmp_path / "out.metrics.json").read_text())["items"] == 12
    assert "rise replay" in (tmp_path / "out.report.html").read_text()
    with BagReader(out) as reader:
        maps = [m for _, m in reader.messages("/segmentation_node/label_map")]
        arrays = [m for _, m in reader.messages("/segmentation_node/instances")]
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in maps]
    assert stamps == [START + i * PERIOD for i in (0, 1, 2, 3, 0, 1)]
    ids = [{i.id for i in a.instances} for a in arrays]
    # The same picture each time: items keep their ids until the clock jumps back, then all are new.
    assert ids[0] & ids[1] & ids[2] & ids[3]
    assert ids[4] & ids[5]
    assert not (ids[0] | ids[1] | ids[2] | ids[3]) & (ids[4] | ids[5])
    for label_map, array in zip(maps, arrays, strict=True):
        assert label_map.encoding == "mono16"
        assert array.header.frame_id == "cam"
        np.testing.assert_array_equal(label_map.data, array.label_map.data)
        labels = label_map.data.view(np.uint16).reshape(120, 160)
        for instance in array.instances:
            assert instance.area == (labels == instance.label).sum()
            assert 0.5 < instance.centroid.z < 1.2


def test_replay_without_depth(rise, bag, tiny_model, tmp_path):
    status, _, err = rise("replay", bag, "--out", tmp_path / "out", "--depth", "none", "--model", tiny_model)
    assert status == 0, err
    with BagReader(tmp_path / "out") as reader:
        arrays = [m for _, m in reader.messages("/segmentation_node/instances")]
    assert len(arrays) == 6
    assert all(np.isnan(i.centroid.z) for a in arrays for i in a.instances)
    assert not (tmp_path / "out.metrics.json").exists()


@pytest.mark.parametrize("option", ["--truth", "--color", "--depth", "--info"])
def test_replay_missing_topic_lists_those_that_are_there(rise, bag, tiny_model, tmp_path, option):
    status, _, err = rise("replay", bag, "--out", tmp_path / "out", "--model", tiny_model, option, "/wrist")
    assert status == 2
    assert "'/wrist'" in err
    assert bags.COLOR_TOPIC in err
    assert not (tmp_path / "out").exists()


def test_replay_of_a_cut_off_bag_keeps_what_was_intact(rise, scene, tiny_model, tmp_path):
    noise = np.random.default_rng(0)
    with BagWriter(tmp_path / "bag") as writer:
        for i in range(40):
            image = noise.integers(0, 256, scene[0].shape, np.uint8)
            writer.write_image(bags.COLOR_TOPIC, image, "rgb8", START + i * PERIOD, "cam")
    file = tmp_path / "bag" / "bag.mcap"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.7)])
    status, text, err = rise("replay", tmp_path / "bag", "--out", tmp_path / "out", "--model", tiny_model)
    assert status == 2
    assert "damaged" in err
    with BagReader(tmp_path / "out") as reader:
        done = reader.counts["/segmentation_node/instances"]
    assert 10 <= done <= 28
    assert f"in {done} frames" in text
    assert "damaged" in (tmp_path / "out.report.html").read_text()


def test_replay_goes_on_after_a_lying_frame(rise, scene, tiny_model, tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        for i in range(4):
            message = image_message(scene[0], "rgb8", START + i * PERIOD, "cam")
            if i == 1:
                message.step = 7
            writer.write(bags.COLOR_TOPIC, "sensor_msgs/msg/Image", message, START + i * PERIOD)
    status, text, err = rise("replay", tmp_path / "bag", "--out", tmp_path / "out", "--model", tiny_model)
    assert status == 2
    assert "step 7" in err
    assert "in 3 frames" in text


def test_replay_refuses_to_overwrite(rise, bag, tiny_model):
    status, _, err = rise("replay", bag, "--out", bag, "--model", tiny_model)
    assert status == 2
    assert "exists already" in err
    with BagReader(bag) as reader:
        assert reader.counts[bags.COLOR_TOPIC] == 6


def test_replay_bayer_and_other_encodings(rise, scene, tiny_model, tmp_path):
    gray = np.ascontiguousarray(scene[0][:, :, 1])
    cases = {
        "mono8": gray,
        "bgr8": scene[0],
        "rgba8": np.dstack([scene[0], gray]),
        "mono16": gray.astype(np.uint16) * 257,
        "bayer_rggb8": gray,
    }
    with BagWriter(tmp_path / "bag") as writer:
        for i, (encoding, array) in enumerate(cases.items()):
            writer.write_image(bags.COLOR_TOPIC, array, encoding, START + i * PERIOD, "cam")
    status, text, err = rise("replay", tmp_path / "bag", "--out", tmp_path / "out", "--model", tiny_model)
    assert status == 0, err
    assert "in 5 frames" in text


# ---- rise info


def test_info_shows_card_and_size(rise, tiny_model):
    status, out, _ = rise("info", tiny_model)
    assert status == 0
    assert "tiny_rgb-" in out
    assert "M parameters" in out
    assert '"resnet18"' in out


def test_info_of_what_is_no_model(rise, tmp_path, tiny_model):
    status, _, err = rise("info", tmp_path)
    assert (status, str(tmp_path) in err) == (2, True)
    shutil.copytree(tiny_model, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"\x80\x04cpickle")
    status, _, err = rise("info", tmp_path / "m")
    assert (status, "model.safetensors" in err) == (2, True)


# ---- errors on the way


def test_unknown_configuration_key_is_named(rise, tmp_path):
    (tmp_path / "c.yaml").write_text("nettwork: {width: 32}\n")
    status, _, err = rise("train", tmp_path / "c.yaml")
    assert (status, "nettwork" in err) == (2, True)


def test_output_that_cannot_be_written(rise, pictures, tiny_model, tmp_path):
    (tmp_path / "file").write_text("x")
    status, _, err = rise("predict", pictures, "--out", tmp_path / "file", "--model", tiny_model)
    assert status == 2
    assert str(tmp_path / "file") in err
    assert (tmp_path / "file").read_text() == "x"


def test_interrupt_keeps_what_was_written(rise, pictures, tiny_model, tmp_path, monkeypatch):
    from rise_perception.data import images

    read = images.read_image

    def stop_at_b(path):
        if path.name == "b.png":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(images, "read_image", stop_at_b)
    status, _, err = rise("predict", pictures, "--out", tmp_path / "out", "--model", tiny_model)
    assert (status, "interrupted" in err) == (130, True)
    assert (tmp_path / "out" / "a.instances.json").exists()
