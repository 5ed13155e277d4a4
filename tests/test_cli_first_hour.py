"""What a newcomer types in the first hour: nested folders, other topics and units, output for programs."""

from __future__ import annotations

import fcntl
import json
import os
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

from rise_perception.core import resources
from rise_perception.core.errors import BagError
from rise_perception.core.frame import CameraIntrinsics
from rise_perception.data import bags
from rise_perception.data.bags import BagReader, BagWriter
from rise_perception.data.images import implausible_depth, write_image
from rise_perception.data.source import FrameSource

START, PERIOD = 1_700_000_000_000_000_000, 100_000_000


def record(path: Path, scene, depth_topic: str, prefix: str = "/camera", unit: int = 1000) -> Path:
    """Two RGB-D frames on topics of another driver."""
    image, depth = scene
    with BagWriter(path) as bag:
        for stamp in (START, START + PERIOD):
            bag.write_image(f"{prefix}/color/image_raw", image, "rgb8", stamp, "cam")
            bag.write_image(depth_topic, (depth * unit).astype(np.uint16), "16UC1", stamp, "cam")
            camera = CameraIntrinsics(160, 120, 150, 150, 79.5, 59.5)
            bag.write_camera_info(f"{prefix}/color/camera_info", camera, stamp, "cam")
    return path


# ---- progress bars and --quiet


def without_tqdm_disable() -> dict[str, str]:
    """The environment without what commands of the tests before have set in this process."""
    return {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}


def on_a_terminal(*arguments: object) -> str:
    """What `rise ...` in a process of its own writes to a terminal as its stderr."""
    command = [sys.executable, "-m", "rise_perception.cli.main", *map(str, arguments)]
    env = without_tqdm_disable()
    ours, theirs = os.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    child = subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=env)
    os.close(theirs)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert child.wait() == 0
    return said.decode()


@pytest.mark.slow
def test_progress_is_shown_in_a_terminal_only_and_not_if_it_is_to_be_quiet(tmp_path, scene, tiny_model):
    write_image(tmp_path / "a.png", scene[0])
    predict = ["predict", tmp_path / "a.png", "--out", tmp_path / "out", "--model", tiny_model]
    predict += ["--device", "cpu"]
    assert "1/1" in on_a_terminal(*predict)
    assert on_a_terminal(*predict, "--quiet") == ""
    command = [sys.executable, "-m", "rise_perception.cli.main", *map(str, predict)]
    done = subprocess.run(command, capture_output=True, text=True, env=without_tqdm_disable())
    assert (done.returncode, "1 images" in done.stdout, done.stderr) == (0, True, "")


# ---- rise info --json


def test_info_for_programs(rise, tiny_model):
    status, out, _ = rise("info", tiny_model, "--json")
    told = json.loads(out)
    assert status == 0
    assert told["version"].startswith("tiny_rgb-")
    assert told["parameters"] > 1000 < told["bytes"]
    assert told["card"]["network"]["backbone"] == "resnet18"


# ---- rise train


def test_a_missing_configuration_names_the_folder_of_those_that_ship(rise, tmp_path):
    status, _, err = rise("train", tmp_path / "rise_small_rgbd.yml")
    assert status == 2
    named = Path(err.strip().rpartition("those that ship are in ")[2])
    assert named == resources.find("config") / "train"
    assert list(named.glob("*.yaml"))


# ---- rise predict


def test_folders_in_folders(rise, tmp_path, scene, tiny_depth_model):
    image, depth = scene
    for name in ("a", "monday/a", "monday/late/b"):
        write_image(tmp_path / f"in/{name}.png", image)
        write_image(tmp_path / f"depth/{name}.png", (depth * 1000).astype(np.uint16))
    write_image(tmp_path / "in/labels/a.png", image)  # a companion's folder
    common = ("--depth", tmp_path / "depth", "--model", tiny_depth_model)
    status, text, err = rise("predict", "-r", tmp_path / "in", "--out", tmp_path / "out", *common)
    assert status == 0, err
    assert "3 images" in text
    written = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.label.png"))
    assert written == ["a.label.png", "monday/a.label.png", "monday/late/b.label.png"]
    status, text, _ = rise("predict", tmp_path / "in", "--out", tmp_path / "flat", *common)
    assert (status, "1 images" in text) == (0, True)

    (tmp_path / "in/a.png").unlink()
    status, _, err = rise("predict", tmp_path / "in", "--out", tmp_path / "none", *common)
    assert status == 2
    assert f"there are some in {tmp_path / 'in/monday'}" in err


def test_a_depth_scale_that_is_wrong_by_ten_is_noticed(rise, tmp_path, scene, tiny_depth_model):
    image, depth = scene
    write_image(tmp_path / "a.png", image)
    write_image(tmp_path / "b.png", image)
    for name in "ab":
        write_image(tmp_path / f"depth/{name}.png", (depth * 10_000).astype(np.uint16))
    common = ("--depth", tmp_path / "depth", "--model", tiny_depth_model, "--out", tmp_path / "out")
    pictures = (tmp_path / "a.png", tmp_path / "b.png")
    status, _, err = rise("predict", *pictures, *common)
    assert status == 0
    assert err.count("the median depth is") == 1
    assert "is --depth-scale right?" in err
    assert rise("predict", *pictures, *common, "--depth-scale", "0.0001")[2].count("warning") == 0
    assert "0.08" in implausible_depth(np.full((4, 4), 0.08, np.float32))
    assert implausible_depth(np.zeros((4, 4), np.float32)) == ""


# ---- rise replay


@pytest.mark.parametrize("prefix", ["/camera", "/camera/camera"])
def test_depth_that_realsense_aligns_is_found(rise, tmp_path, scene, tiny_depth_model, prefix):
    bag = record(tmp_path / "bag", scene, f"{prefix}/aligned_depth_to_color/image_raw", prefix)
    status, text, err = rise("replay", bag, "--out", tmp_path / "out", "--model", tiny_depth_model)
    assert (status, "warning" in err) == (0, False)
    assert "in 2 frames" in text
    source = FrameSource(bag)
    assert (source.count, source.has_depth) == (2, True)
    assert all(frame.depth is not None and frame.camera is not None for frame, _ in source.frames())


def test_depth_under_another_name_is_not_ignored_in_silence(rise, tmp_path, scene, tiny_model):
    topic = "/wrist/depth_registered/image_rect"
    bag = record(tmp_path / "bag", scene, topic)
    status, _, err = rise("replay", bag, "--out", tmp_path / "out", "--model", tiny_model)
    assert status == 0
    assert "depth is not used" in err
    assert f"--depth {topic}" in err
    for number, choice in enumerate((topic, "none")):
        common = ("--out", tmp_path / f"out{number}", "--model", tiny_model)
        assert rise("replay", bag, "--depth", choice, *common)[2].count("warning") == 0


def test_depth_in_another_unit_is_noticed(rise, tmp_path, scene, tiny_model):
    bag = record(tmp_path / "bag", scene, bags.DEPTH_TOPIC, unit=10_000)
    status, _, err = rise("replay", bag, "--out", tmp_path / "out", "--model", tiny_model)
    assert (status, err.count("the median depth is")) == (0, 1)


@pytest.mark.parametrize(
    ("argument", "topic"),
    [("--depth", bags.INFO_TOPIC), ("--color", bags.INFO_TOPIC), ("--info", bags.COLOR_TOPIC)],
)
def test_a_topic_of_another_kind_is_refused(rise, tmp_path, scene, tiny_model, argument, topic):
    bag = record(tmp_path / "bag", scene, bags.DEPTH_TOPIC)
    common = ("--out", tmp_path / "out", "--model", tiny_model)
    status, _, err = rise("replay", bag, argument, topic, *common)
    assert status == 2
    assert f"{topic} is a sensor_msgs/msg/" in err
    assert (bags.INFO_TOPIC if argument == "--info" else bags.DEPTH_TOPIC) in err
    assert not (tmp_path / "out").exists()
    with BagReader(bag) as reader, pytest.raises(BagError, match="CameraInfo"):
        reader.index(bags.INFO_TOPIC)
