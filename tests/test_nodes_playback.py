"""Camera node, recorder and the demo: every frame arrives, and nothing that was written gets lost."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rise_msgs.msg import InstanceArray
from ros_graph import COLOR, DEPTH, INFO, Graph, stamp_of
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import UInt32

from rise_perception.core.frame import CameraIntrinsics
from rise_perception.data import ros_images
from rise_perception.data.bags import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC, TRUTH_TOPIC, BagReader, BagWriter
from rise_perception.data.images import write_image
from rise_perception.nodes import qos

pytestmark = pytest.mark.slow
STAMPS = [5_000_000_000 + number * 100_000_000 for number in range(6)]


@pytest.fixture(scope="module")
def bag(tmp_path_factory, scene) -> Path:
    """Six RGB-D frames with truth."""
    image, depth = scene
    path = tmp_path_factory.mktemp("bags") / "scene"
    truth = np.zeros((120, 160), np.uint16)
    truth[30:70, 20:60], truth[50:100, 90:140] = 1, 2
    camera = CameraIntrinsics(160, 120, 200, 200, 80, 60)
    with BagWriter(path) as writer:
        for stamp in STAMPS:
            writer.write_image(COLOR_TOPIC, image, "rgb8", stamp, "camera")
            millimetres = (depth * 1000).astype(np.uint16)
            writer.write_image(DEPTH_TOPIC, millimetres, "16UC1", stamp, "camera")
            writer.write_camera_info(INFO_TOPIC, camera, stamp, "camera")
            writer.write_image(TRUTH_TOPIC, truth, "mono16", stamp, "camera")
    return path


@pytest.fixture
def graph(tmp_path) -> Iterator[Graph]:
    graph = Graph(tmp_path)
    yield graph
    graph.close()


def in_a_new_process(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rise_perception.cli.main", *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=400)


def test_the_camera_plays_a_bag_as_it_was_recorded(graph, bag, scene):
    image, depth = scene
    colors = graph.listen(COLOR, Image)
    depths = graph.listen(DEPTH, Image)
    infos = graph.listen(INFO, CameraInfo)
    totals = graph.listen("/camera_node/total", UInt32, qos.latched())
    camera = graph.start("camera_node", {"input": str(bag), "rate": 20.0})
    graph.wait(lambda: len(colors) == len(depths) == len(infos) == 6, "six frames")
    graph.wait(lambda: totals, "the total")
    assert totals[0].data == 6
    assert [stamp_of(m) for m in colors] == STAMPS
    np.testing.assert_array_equal(ros_images.to_rgb8(colors[3]), image)
    np.testing.assert_allclose(ros_images.to_depth(depths[3]), depth, atol=1e-6)
    assert infos[0].k[0] == 200
    assert camera.wait(60) == 0


def test_a_looping_camera_goes_on_until_it_is_interrupted(graph, bag):
    colors = graph.listen(COLOR, Image)
    graph.listen(DEPTH, Image)
    clocks = graph.listen("/clock", Clock)
    camera = graph.start("camera_node", {"input": str(bag), "rate": 50.0, "loop": True, "clock": True})

    def began_anew() -> bool:
        stamps = [stamp_of(m) for m in colors]
        return any(later < earlier for earlier, later in itertools.pairwise(stamps))

    graph.wait(began_anew, "a second round")
    assert {c.clock.sec * 10**9 + c.clock.nanosec for c in clocks} == set(STAMPS)
    assert camera.poll() is None
    assert camera.stop() == 0


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"input": "/nowhere/bag"}, "/nowhere/bag"),
        ({}, "parameter 'input' is empty"),
    ],
)
def test_a_camera_without_input_says_so(graph, parameters, says):
    camera = graph.start("camera_node", parameters)
    assert camera.wait(120) == 2
    assert says in camera.log_tail()
    assert "Traceback" not in camera.log_tail(100)


def test_a_killed_recorder_leaves_what_it_had_and_a_second_one_starts_anew(
    graph, tmp_path, tiny_model, scene
):
    output = tmp_path / "result"
    recorder = graph.start("recorder_node", {"output": str(output)})
    publisher = graph.node.create_publisher(InstanceArray, "/segmentation_node/instances", 10)
    label_maps = graph.node.create_publisher(Image, "/segmentation_node/label_map", 10)
    graph.wait(
        lambda: publisher.get_subscription_count() and label_maps.get_subscription_count(), "the recorder"
    )
    # Noise does not compress: the recording is larger than what is held back in memory.
    noise = np.random.default_rng(0).integers(0, 65536, (480, 640)).astype(np.uint16)
    for number in range(20):
        label_map = ros_images.fill(Image(), noise, "mono16")
        label_map.header.stamp.sec = number + 1
        label_maps.publish(label_map)
        publisher.publish(InstanceArray(header=label_map.header, label_map=label_map))
        graph.spin(0.1)
    graph.spin(2.0)
    os.kill(recorder.pid, signal.SIGKILL)
    recorder.wait(10)
    assert not output.exists()
    with BagReader(output.with_name("result.incomplete") / "result") as reader:
        assert reader.counts["/segmentation_node/label_map"] >= 10
    again = graph.start("recorder_node", {"output": str(output)})
    graph.wait(lambda: "recording" in again.log_tail(), "the second recorder")
    assert again.stop() == 0
    assert output.is_dir()
    third = graph.start("recorder_node", {"output": str(output)})
    assert third.wait(120) == 2
    assert "exists already" in third.log_tail()


def test_demo_segments_every_frame_of_a_bag_and_measures(rise, bag, tiny_model, tmp_path):
    result = in_a_new_process(
        *("demo", bag, "--model", tiny_model, "--out", "report", "--sentence", "the largest thing"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    out = tmp_path / "report"
    with BagReader(out / "result") as reader:
        stamps = [stamp_of(m) for _, m in reader.messages("/segmentation_node/instances")]
        assert reader.counts["/segmentation_node/label_map"] == 6
        (_, first), *_ = reader.messages("/segmentation_node/instances")
    assert stamps == STAMPS
    assert any(np.isfinite(i.centroid.z) for i in first.instances)
    assert len(list((out / "overlays").glob("*.png"))) == 6
    report = (out / "report.html").read_text()
    for part in ("AP50", "Latency", "rise demo", "tiny_rgb-", "The sentence", "rise_refer_small-"):
        assert part in report
    for name in ("result", "overlays", "report.html"):
        assert f"report/{name}" in result.stdout
    status, _, err = rise("demo", bag, "--model", tiny_model, "--out", out)
    assert status == 2
    assert "not empty" in err


def test_demo_on_pictures_with_a_broken_one_does_the_others_and_says_so(tiny_model, tmp_path, scene):
    pictures = tmp_path / "pictures"
    for name in ("a", "b", "c"):
        write_image(pictures / f"{name}.png", scene[0])
    (pictures / "b.png").write_bytes((pictures / "b.png").read_bytes()[:200])
    result = in_a_new_process("demo", pictures, "--model", tiny_model, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "b.png" in result.stderr
    assert sorted(p.stem for p in (tmp_path / "out/overlays").glob("*.png")) == ["a", "c"]
    assert (tmp_path / "out/report.html").is_file()


def test_demo_on_a_cut_off_bag_keeps_what_is_intact(bag, tiny_model, tmp_path):
    cut = tmp_path / "cut"
    shutil.copytree(bag, cut)
    (storage,) = cut.glob("*.mcap")
    storage.write_bytes(storage.read_bytes()[: int(storage.stat().st_size * 0.9)])
    with BagReader(cut) as reader:
        intact = reader.counts.get(COLOR_TOPIC, 0)
    result = in_a_new_process("demo", cut, "--model", tiny_model, "--out", tmp_path / "out")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "damaged" in result.stderr
    assert len(list((tmp_path / "out/overlays").glob("*.png"))) == intact


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["/nowhere"], "/nowhere"),
        ([".", "--model", "no_such_model"], "no_such_model"),
        (["."], "no picture in this folder"),
    ],
)
def test_demo_refuses_what_is_not_there(rise, arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = rise("demo", *arguments)
    assert status == 2
    assert says in err
    assert not (tmp_path / "out").exists()


def test_bench_node_measures_every_part(rise, tiny_model, tmp_path):
    file = tmp_path / "node.json"
    result = in_a_new_process("bench", "node", "--model", tiny_model, "--frames", 5, "--json", file)
    assert result.returncode == 0, result.stderr
    rows = {row["name"]: row for row in json.loads(file.read_text())["rows"]}
    parts = ["receive", "decode", "preprocess", "postprocess", "track", "label map"]
    for name in [*parts, "network", "instances", "overlay"]:
        assert 0 < rows[name]["median_ms"] <= rows[name]["p95_ms"]
    total = rows["image to label map, without the network"]["median_ms"]
    assert total >= max(rows[name]["median_ms"] for name in parts)
    assert rows["... and to the instances"]["median_ms"] > total
    assert "640x480, " in result.stdout
    assert "below 7 ms" in result.stdout
    assert rise("bench", "node", "--frames", 0)[0] == 2
    assert "--size is 8x8" in rise("bench", "node", "--size", "8x8")[2]
