"""`rise replay` as users type it, good and bad bags alike."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rise_perception.core.frame import CameraIntrinsics
from rise_perception.data import bags
from rise_perception.data.bag_messages import image_message
from rise_perception.data.bags import BagReader, BagWriter

START = 1_700_000_000_000_000_000
PERIOD = 100_000_000


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
