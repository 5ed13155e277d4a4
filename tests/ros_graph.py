"""A small ROS 2 graph for tests: real nodes in processes of their own, this one as camera and consumer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed; `make venv` installs it")

from builtin_interfaces.msg import Time  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from node_server import ForkedNode  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rise_msgs.msg import InstanceArray  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from rise_perception.data import ros_images  # noqa: E402
from rise_perception.nodes.node_process import NodeProcess, environment, free_domain  # noqa: E402

PATIENCE = 120.0  # seconds; a loaded machine takes most of a minute to import torch
COLOR, DEPTH, INFO = "/image", "/depth", "/camera_info"
#: What the camera says beside K.
LENS = {
    "distortion_model": "plumb_bob",
    "d": [0.1, -0.05, 0.001, 0.0, 0.01],
    "r": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
    "p": [199.0, 0.0, 80.0, 0.0, 0.0, 199.0, 60.0, 0.0, 0.0, 0.0, 1.0, 0.0],
}
RELIABLE = {f"qos_overrides.{topic}.subscription.reliability": "reliable" for topic in (COLOR, DEPTH, INFO)}


class Graph:
    """A domain of its own with this process in it."""

    def __init__(self, folder: Path, namespace: str = "") -> None:
        self.domain, self.namespace = free_domain(), namespace
        self.env = {**environment(self.domain, folder / "ros"), "OMP_NUM_THREADS": "2"}
        # The profile has to be the nodes' own, and is read when the first participant is made.
        os.environ.update({k: v for k, v in self.env.items() if k.startswith(("FAST", "ROS_"))})
        self._folder = folder
        self._processes: list[NodeProcess] = []
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=self.domain)
        self.node = rclpy.create_node("test", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        self._color = self.node.create_publisher(Image, namespace + COLOR, reliable)
        self._depth = self.node.create_publisher(Image, namespace + DEPTH, reliable)
        self._info = self.node.create_publisher(CameraInfo, namespace + INFO, reliable)
        self._compressed = self.node.create_publisher(
            CompressedImage, f"{namespace}{COLOR}/compressed", reliable
        )
        self.received: dict[str, list[Any]] = {}
        self._subscriptions: dict[str, Any] = {}
        self.diagnostics: list[DiagnosticStatus] = []
        self.node.create_subscription(
            DiagnosticArray, "/diagnostics", lambda m: self.diagnostics.append(m.status[0]), 10
        )

    def start(
        self, name: str, parameters: Mapping[str, Any], env: Mapping[str, str] | None = None
    ) -> NodeProcess:
        """Starts a node of the package."""
        log = self._folder / f"{name}-{len(self._processes)}.log"
        process = ForkedNode(name, parameters, env or self.env, log, self.namespace or "/")
        self._processes.append(process)
        return process

    def spin(self, seconds: float) -> None:
        """Handles what comes in for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
        """Spins until ``condition`` gives something true, and returns it."""
        end = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > end:
                logs = "\n".join(f"--- {p.name}\n{p.log_tail(30)}" for p in self._processes)
                said = self.diagnostics[-1].message if self.diagnostics else "nothing"
                pytest.fail(f"waited {timeout:.0f} s for {what}; diagnostics said: {said}\n{logs}")
            self._executor.spin_once(timeout_sec=0.05)
        return value

    def listen(self, topic: str, kind: type, qos: Any = 10) -> list[Any]:
        """Subscribes and returns the list that messages are appended to."""
        if topic not in self.received:
            self.received[topic] = []
            append = self.received[topic].append
            self._subscriptions[topic] = self.node.create_subscription(kind, topic, append, qos)
        return self.received[topic]

    def stop_listening(self, topic: str) -> None:
        """Unsubscribes."""
        self.node.destroy_subscription(self._subscriptions.pop(topic))
        del self.received[topic]

    def call(self, kind: type, name: str, request: Any) -> Any:
        """Calls a service and returns its response."""
        client = self.node.create_client(kind, name)
        try:
            self.wait(client.service_is_ready, f"service {name}")
            future = client.call_async(request)
            self.wait(future.done, f"the answer of {name}")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def wait_for_camera_subscriber(self, node: str = "segmentation_node") -> None:
        """Waits until a node sees this process as its camera."""
        self.wait(
            lambda: (
                self.camera_subscribers(node)
                and self._depth.get_subscription_count()
                and self._info.get_subscription_count()
            ),
            "the segmentation node to subscribe to the camera",
        )

    def camera_subscribers(self, node: str = "segmentation_node") -> int:
        """How many nodes of this name subscribe to the colour image, raw or compressed.

        Others may listen to the camera too, before this one does.
        """
        topics = (self._color.topic_name, self._compressed.topic_name)
        found = [info for topic in topics for info in self.node.get_subscriptions_info_by_topic(topic)]
        return sum(info.node_name == node for info in found)

    def send(
        self,
        image: np.ndarray | Image | CompressedImage,
        depth: np.ndarray | Image | None,
        stamp: int,
        **info: Any,
    ) -> None:
        """Publishes a frame; arrays are rgb8 and metres, messages go out as they are, stamped.

        ``info`` replaces fields of the CameraInfo that goes with an array.
        """
        header = header_of(stamp)
        if depth is not None:
            if isinstance(depth, np.ndarray):
                depth = ros_images.fill(Image(), depth, "32FC1")
            depth.header = header
            self._depth.publish(depth)
        if isinstance(image, np.ndarray):
            height, width = image.shape[:2]
            k = [200.0, 0.0, width / 2, 0.0, 200.0, height / 2, 0.0, 0.0, 1.0]
            said = {"width": width, "height": height, "k": k, **LENS, **info}
            self._info.publish(CameraInfo(header=header, **said))
            image = ros_images.fill(Image(), image, "rgb8")
        image.header = header
        (self._compressed if isinstance(image, CompressedImage) else self._color).publish(image)

    def segment(self, image: Any, depth: np.ndarray | Image | None, stamp: int, **info: Any) -> InstanceArray:
        """Publishes a frame and waits for its instances."""
        instances = self.listen(f"{self.namespace}/segmentation_node/instances", InstanceArray)
        self.wait_for_camera_subscriber()
        before = len(instances)
        self.send(image, depth, stamp, **info)
        return self.wait(
            lambda: next((m for m in instances[before:] if stamp_of(m) == stamp), None), f"frame {stamp}"
        )

    def wait_for_diagnostics(self, text: str, timeout: float = PATIENCE) -> DiagnosticStatus:
        """Waits for a status, from now on, whose message or values contain ``text``."""
        seen = len(self.diagnostics)

        def matching() -> DiagnosticStatus | None:
            return next((s for s in self.diagnostics[seen:] if text in status_text(s)), None)

        return self.wait(matching, f"diagnostics that say {text!r}", timeout)

    def close(self) -> None:
        """Stops everything."""
        for process in reversed(self._processes):
            process.stop()
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)


def header_of(stamp: int) -> Header:
    return Header(
        stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="camera_color_optical_frame"
    )


def stamp_of(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def status_text(status: DiagnosticStatus) -> str:
    return status.message + "\n" + "\n".join(f"{v.key}: {v.value}" for v in status.values)
