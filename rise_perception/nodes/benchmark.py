"""What the segmentation node costs besides its network, part by part, with the node's own code."""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import rclpy
from rclpy.lifecycle import LifecycleNode
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tqdm import tqdm

from rise_perception.core.errors import RiseError
from rise_perception.core.frame import Frame
from rise_perception.data import ros_images
from rise_perception.evaluation.overlay import draw_overlay
from rise_perception.inference.malloc_tuning import keep_freed_memory
from rise_perception.inference.segmenter import Segmenter
from rise_perception.inference.tracker import Tracker
from rise_perception.nodes import messages
from rise_perception.nodes.node_process import NodeProcess, environment, free_domain, wait_for
from rise_perception.nodes.outputs import Outputs, Result

WARM_UP = 3


def measure_node(segmenter: Segmenter, frame: Frame, count: int) -> tuple[dict[str, list[float]], int]:
    """Runs ``count`` frames through the node's code, with the recorder listening in another process.

    Args:
        segmenter: whose network runs in between (its time is a part of its own).
        frame: with depth and camera, if these are to be measured.
        count: frames, after a few to warm up.

    Returns:
        (milliseconds of every frame by part, number of instances in the frame). Parts: ``receive`` (the
        messages from bytes), ``decode`` (messages to arrays), ``preprocess``, ``network``,
        ``postprocess``, ``track``, ``label map`` (sent), ``instances`` (with 3D boxes, sent), ``overlay``.
    """
    keep_freed_memory(one_arena=True)
    domain = free_domain()
    with tempfile.TemporaryDirectory() as folder:
        env = environment(domain, Path(folder))
        os.environ.update({key: env[key] for key in env if key.startswith(("FAST", "ROS_"))})
        recorder = NodeProcess("recorder_node", {"output": f"{folder}/bag"}, env, Path(folder) / "log")
        rclpy.init(domain_id=domain)
        node = LifecycleNode("segmentation_node")
        try:
            outputs = Outputs(node, node.get_logger().warning)
            node.trigger_configure()
            node.trigger_activate()
            if not wait_for(lambda: outputs.wanted("label_map") and outputs.wanted("instances"), 60):
                raise RiseError(f"the recorder did not connect within 60 s:\n{recorder.log_tail()}")
            return _measure(outputs, segmenter, frame, count)
        finally:
            node.destroy_node()
            rclpy.try_shutdown()
            recorder.stop()


def _measure(
    outputs: Outputs, segmenter: Segmenter, frame: Frame, count: int
) -> tuple[dict[str, list[float]], int]:
    color = serialize_message(ros_images.fill(Image(), frame.image, "rgb8"))
    depth = None
    if frame.depth is not None:
        millimetres = np.rint(frame.depth * 1000).astype(np.uint16)
        depth = serialize_message(ros_images.fill(Image(), millimetres, "16UC1"))
    tracker, found = Tracker(), 0
    spent: dict[str, list[float]] = defaultdict(list)
    mark = 0.0

    def lap(part: str) -> None:
        nonlocal mark
        now = time.perf_counter()
        if part:
            spent[part].append((now - mark) * 1e3)
        mark = now

    for index in tqdm(range(WARM_UP + count), desc="node", unit="frame"):
        if index == WARM_UP:
            spent.clear()
        lap("")
        received = deserialize_message(color, Image)
        received_depth = None if depth is None else deserialize_message(depth, Image)
        lap("receive")
        image = ros_images.to_rgb8(received)
        metres = None if received_depth is None else ros_images.to_depth(received_depth)
        lap("decode")
        instances = segmenter(image, metres)
        for part, value in segmenter.last_timing.items():
            spent[part].append(value)
        lap("")
        instances = tracker.update(instances, index)
        lap("track")
        header = Header()
        header.stamp.nanosec = index  # the recorder takes every stamp once
        version, arrival = segmenter.last_model, time.monotonic()
        shown = Frame(image, metres, frame.camera)
        result = Result(header, shown, None, instances, version, arrival)
        label_map = outputs.publish_label_map(result)
        lap("label map")
        outputs.publish_instances(result, label_map, target=None)
        lap("instances")
        messages.image(header, draw_overlay(image, instances), "rgb8")
        lap("overlay")
        found = len(instances)
    return dict(spent), found
