"""`rise predict` and `rise eval` as users type them, good and bad input alike."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rise_perception.data.images import read_image, read_label_map, write_image

START = 1_700_000_000_000_000_000
PERIOD = 100_000_000


@pytest.fixture
def pictures(tmp_path, scene):
    """A folder of two pictures with depth images of the same names in another folder."""
    image, depth = scene
    for name in ("a", "b"):
        write_image(tmp_path / "pictures" / f"{name}.png", image)
        write_image(tmp_path / "depth" / f"{name}.png", (depth * 1000).astype(np.uint16))
    return tmp_path / "pictures"


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


def test_what_is_not_needed_for_a_picture_is_not_loaded(rise, pictures, tmp_path):
    status, text, _ = rise("predict", pictures / "a.png", "--out", tmp_path / "out")
    assert status == 0
    assert "model rise_small_rgb-" in text  # of the pair only the one that has its input
    assert "rise_small_rgbd" not in text
    code = "import sys, rise_perception.inference.engines.feeds; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"rosbags", "scipy.spatial", "torch"} & set(loaded.stdout.split())


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
