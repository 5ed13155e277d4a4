"""The camera as the segmentation node sees it: subscriptions whose callbacks enqueue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from rise_perception.core.frame import CameraIntrinsics
from rise_perception.inference.pairing import FramePairing, Pair
from rise_perception.nodes import qos


def stamp_of(header: Any) -> int:
    """Nanoseconds of a std_msgs/Header."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


class CameraInputs:
    """Colour, depth and camera info of one camera; the worker thread takes frames from it.

    A topic that ends in ``/compressed`` or ``/compressedDepth`` is a CompressedImage. An empty
    ``depth_topic`` means that there is no depth.
    """

    def __init__(
        self,
        node: Node,
        color_topic: str,
        depth_topic: str,
        info_topic: str,
        tolerance: float,
        report: Callable[[str], None],
    ) -> None:
        self._node = node
        self._report = report
        self.color_topic = node.resolve_topic_name(color_topic)
        self.depth_topic = node.resolve_topic_name(depth_topic) if depth_topic else ""
        self.info_topic = node.resolve_topic_name(info_topic)
        self.pairing = FramePairing(tolerance)
        self.arrivals = 0
        self.last_color_arrival: float | None = None
        self.last_depth_arrival: float | None = None
        self._info: Any = None
        self._subscriptions: list[Any] = []
        self._condition = threading.Condition()
        self._stopped = False

    @property
    def is_open(self) -> bool:
        """True while subscribed."""
        return bool(self._subscriptions)

    def open(self) -> None:
        """Subscribes."""
        self.last_color_arrival = self.last_depth_arrival = None
        self._subscribe(self.color_topic, _image_type(self.color_topic), self._on_color)
        self._subscribe(self.info_topic, CameraInfo, self._on_info)
        if self.depth_topic:
            self._subscribe(self.depth_topic, _image_type(self.depth_topic), self._on_depth)

    def close(self) -> None:
        """Unsubscribes and forgets what was stashed."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        with self._condition:
            self.pairing.clear()
            self._info = None

    def stop(self) -> None:
        """Ends :meth:`next` for good."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def next(self) -> Pair | None:
        """Blocks until a frame is due and returns it; None after :meth:`stop`."""
        with self._condition:
            while not self._stopped:
                now = time.monotonic()
                pair = self.pairing.take(now)
                if pair is not None:
                    return pair
                self._condition.wait(self.pairing.wait_time(now))
            return None

    def info(self, width: int, height: int) -> Any:
        """The last CameraInfo if it is of an image of this size, otherwise None."""
        info = self._info
        return info if info is not None and (info.width, info.height) == (width, height) else None

    def depth_is_alive(self) -> bool:
        """True while depth comes in or may be expected."""
        with self._condition:
            return self.pairing.depth_is_alive(time.monotonic())

    def _subscribe(self, topic: str, kind: type, callback: Callable[[Any], None]) -> None:
        options = qos.subscription_options(topic, self._report)
        self._subscriptions.append(
            self._node.create_subscription(kind, topic, callback, qos.camera_input(), **options)
        )

    def _on_color(self, message: Any) -> None:
        now = time.monotonic()
        with self._condition:
            self.arrivals += 1
            self.last_color_arrival = now
            if (
                self.depth_topic
                and self.last_depth_arrival is None
                and self._node.count_publishers(self.depth_topic)
            ):
                self.pairing.expect_depth(now)
            self.pairing.add_color(stamp_of(message.header), message, now)
            self._condition.notify()

    def _on_depth(self, message: Any) -> None:
        now = time.monotonic()
        with self._condition:
            self.last_depth_arrival = now
            self.pairing.add_depth(stamp_of(message.header), message, now)
            self._condition.notify()

    def _on_info(self, message: Any) -> None:
        self._info = message


def intrinsics(info: Any) -> CameraIntrinsics | None:
    """Intrinsics of a CameraInfo; None if it is absent or uncalibrated (K all zero)."""
    if info is None or not (info.k[0] > 0 and info.k[4] > 0):
        return None
    return CameraIntrinsics(
        width=int(info.width),
        height=int(info.height),
        fx=float(info.k[0]),
        fy=float(info.k[4]),
        cx=float(info.k[2]),
        cy=float(info.k[5]),
    )


def _image_type(topic: str) -> type:
    return CompressedImage if topic.endswith(("/compressed", "/compressedDepth")) else Image
