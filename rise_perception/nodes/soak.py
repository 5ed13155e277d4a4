"""The whole node under a camera that never pauses: does its delay grow, does its memory?"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tqdm import tqdm

from rise_perception.core.errors import RiseError
from rise_perception.core.frame import Frame
from rise_perception.data import ros_images
from rise_perception.nodes import qos
from rise_perception.nodes.camera_info import camera_info
from rise_perception.nodes.camera_parameters import COLOR, DEPTH, INFO
from rise_perception.nodes.inputs import stamp_of
from rise_perception.nodes.node_process import NodeProcess, environment, free_domain

START = 180.0  # seconds until the node must have answered for the first time
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class SoakResult:
    """What was seen, without the node's start.

    Attributes:
        times: (N,) seconds at which label maps arrived.
        latencies: (N,) milliseconds from the publishing of the image to the arrival of its label map.
        memory: (M,) resident memory of the node in MB, once a second.
        sent: images sent.
    """

    times: np.ndarray
    latencies: np.ndarray
    memory: np.ndarray
    sent: int

    def latency_growth(self) -> float:
        """Median latency of the last quarter of the time over that of the second: 1 when it does not grow."""
        fraction = self.times / max(float(self.times[-1]), 1e-9)
        early, late = (fraction >= 0.25) & (fraction < 0.5), fraction >= 0.75
        return float(np.median(self.latencies[late]) / np.median(self.latencies[early]))

    def memory_growth(self) -> float:
        """MB by which the last quarter's median memory exceeds that of the second."""
        quarter = len(self.memory) // 4
        return float(np.median(self.memory[-quarter:]) - np.median(self.memory[quarter : 2 * quarter]))


def soak(parameters: Mapping[str, Any], frames: Sequence[Frame], rate: float, seconds: float) -> SoakResult:
    """Run the segmentation node in a process of its own and be its camera and its consumer.

    Args:
        parameters: of the node.
        frames: sent in turn; depth and intrinsics too, where they have any.
        rate: images a second.
        seconds: after the node's first answer.

    Raises:
        RiseError: the node does not answer, or ends.
    """
    domain = free_domain()
    with tempfile.TemporaryDirectory() as folder:
        env = environment(domain, Path(folder))
        os.environ.update({key: env[key] for key in env if key.startswith(("FAST", "ROS_"))})
        node = NodeProcess("segmentation_node", parameters, env, Path(folder) / "log")
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain)
        camera = _Camera(context, frames)
        try:
            camera.run(1.0 / rate, START, node, until_answer=True)
            camera.forget()
            camera.run(1.0 / rate, seconds, node, until_answer=False)
            if not camera.latencies:
                raise RiseError(f"the node stopped answering:\n{node.log_tail()}")
            return SoakResult(
                np.array(camera.times), np.array(camera.latencies), np.array(camera.memory), camera.sent
            )
        finally:
            camera.close()
            rclpy.shutdown(context=context)
            node.stop()


class _Camera:
    """Publishes images stamped with the time of sending and receives label maps."""

    def __init__(self, context: rclpy.Context, frames: Sequence[Frame]) -> None:
        self._node = rclpy.create_node("soak", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self._publishers = {
            topic: self._node.create_publisher(kind, topic, qos.camera_output())
            for topic, kind in ((COLOR, Image), (DEPTH, Image), (INFO, CameraInfo))
        }
        self._node.create_subscription(
            Image, "/segmentation_node/label_map", self._on_label_map, qos.output()
        )
        self._messages = [_messages(frame) for frame in frames]
        self.forget()

    def forget(self) -> None:
        """Begin to count again."""
        self.times: list[float] = []
        self.latencies: list[float] = []
        self.memory: list[float] = []
        self.sent = 0
        self._started = time.monotonic()

    def run(self, period: float, seconds: float, node: NodeProcess, until_answer: bool) -> None:
        end = self._started + seconds
        due, next_look = time.monotonic(), self._started
        progress = tqdm(total=round(seconds), desc="soak", unit="s", disable=until_answer)
        while (now := time.monotonic()) < end:
            if until_answer and self.latencies:
                return
            if node.poll() is not None:
                raise RiseError(f"the node ended with status {node.poll()}:\n{node.log_tail()}")
            if now >= next_look:
                self.memory.append(resident(node.pid))
                next_look += 1.0
                progress.update()
            if now >= due:
                self._send()
                due = max(due + period, now)  # a camera does not catch up either
            self._executor.spin_once(timeout_sec=max(0.0, min(due, next_look) - time.monotonic()))
        progress.close()
        if until_answer:
            raise RiseError(f"the node did not answer within {seconds:.0f} s:\n{node.log_tail()}")

    def _send(self) -> None:
        messages = self._messages[self.sent % len(self._messages)]
        now = time.time_ns()
        header = Header(frame_id="camera_color_optical_frame")
        header.stamp = Time(sec=now // 10**9, nanosec=now % 10**9)
        for topic, message in messages.items():
            message.header = header
            self._publishers[topic].publish(message)
        self.sent += 1

    def _on_label_map(self, message: Image) -> None:
        self.times.append(time.monotonic() - self._started)
        self.latencies.append((time.time_ns() - stamp_of(message.header)) / 1e6)

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()


def _messages(frame: Frame) -> dict[str, Any]:
    """The messages of a frame by topic, colour last, so that its depth is there already."""
    messages: dict[str, Any] = {}
    if frame.camera is not None:
        messages[INFO] = camera_info(Header(), frame.camera)
    if frame.depth is not None:
        messages[DEPTH] = ros_images.fill(Image(), frame.depth, "32FC1")
    messages[COLOR] = ros_images.fill(Image(), frame.image, "rgb8")
    return messages


def resident(pid: int) -> float:
    """MB of memory that a process holds; 0 once it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 2**20
    except (OSError, IndexError):
        return 0.0
