"""The camera as the nodes see it: subscriptions whose callbacks enqueue, and what is wrong with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from rise_perception.core.errors import DataError
from rise_perception.core.frame import CameraIntrinsics
from rise_perception.inference.pairing import FramePairing, Pair
from rise_perception.nodes import qos
from rise_perception.nodes.camera_info import intrinsics, is_rectified
from rise_perception.nodes.diagnostics import ERROR, WARN, Condition

SILENCE = 2.0  # seconds without an image after which the camera counts as gone
LATE = 5.0  # seconds for which a frame that waited in vain for its depth is told


def stamp_of(header: Any) -> int:
    """Nanoseconds of a std_msgs/Header."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


class CameraInputs:
    """Colour, depth and camera info of one camera; a worker thread takes frames from it.

    A topic whose resolved name ends in ``/compressed`` or ``/compressedDepth`` is a CompressedImage.

    Args:
        node: that subscribes.
        given: the values of :func:`rise_perception.nodes.camera_parameters.camera_parameters`.
        patience: seconds for which a colour image waits for its depth; asked before each frame.
        report: told of publishers with another quality of service.
    """

    def __init__(
        self,
        node: Node,
        given: SimpleNamespace,
        patience: Callable[[], float],
        report: Callable[[str], None],
    ) -> None:
        self._node = node
        self._patience, self._report = patience, report
        self.color_topic = node.resolve_topic_name(given.color_topic)
        self.depth_topic = node.resolve_topic_name(given.depth_topic) if given.depth_topic else ""
        self.info_topic = node.resolve_topic_name(given.info_topic)
        self.depth_info_topic = node.resolve_topic_name(given.depth_info_topic)
        self.pairing = FramePairing(given.sync_tolerance_s, given.depth_patience_s)
        self.arrivals = 0
        self.last_color_arrival: float | None = None
        self.last_depth_arrival: float | None = None
        self._opened = time.monotonic()
        self._info: Any = None
        self._depth_info: Any = None
        self._info_problem = ""
        self._subscriptions: list[Any] = []
        self._condition = threading.Condition()
        self._stopped = False

    @property
    def is_open(self) -> bool:
        """True while subscribed."""
        return bool(self._subscriptions)

    def open(self) -> None:
        """Subscribes."""
        self._opened = time.monotonic()
        self.last_color_arrival = self.last_depth_arrival = None
        self._subscribe(self.color_topic, _image_type(self.color_topic), self._on_color)
        self._subscribe(self.info_topic, CameraInfo, self._on_info)
        if self.depth_topic:
            self._subscribe(self.depth_topic, _image_type(self.depth_topic), self._on_depth)
            self._subscribe(self.depth_info_topic, CameraInfo, self._on_depth_info)

    def close(self) -> None:
        """Unsubscribes and forgets what was enqueued."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        with self._condition:
            self.pairing.clear()
            self._info, self._depth_info, self._info_problem = None, None, ""

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
                self.pairing.patience = self._patience()
                pair = self.pairing.take(now)
                if pair is not None:
                    return pair
                self._condition.wait(self.pairing.wait_time(now))
            return None

    def camera(self, width: int, height: int) -> CameraIntrinsics | None:
        """Intrinsics of the colour image if it is of this size; None, and a condition says why, otherwise."""
        info = self._info
        if info is None:
            self._info_problem = f"no camera info on {self.info_topic}"
            return None
        try:
            camera = intrinsics(info, width, height, is_rectified(self.color_topic))
        except DataError as error:
            self._info_problem = f"camera info on {self.info_topic} {error}"
            return None
        self._info_problem = ""
        return camera

    @property
    def has_depth_info(self) -> bool:
        """True when the depth camera has said what it is."""
        return self._depth_info is not None

    def depth_camera(self, width: int, height: int) -> CameraIntrinsics:
        """Intrinsics of the depth image.

        Raises:
            DataError: there are none of an image of this size.
        """
        info = self._depth_info
        if info is None:
            raise DataError(f"no camera info on {self.depth_info_topic}")
        try:
            return intrinsics(info, width, height, is_rectified(self.depth_topic))
        except DataError as error:
            raise DataError(f"camera info on {self.depth_info_topic} {error}") from None

    @property
    def info(self) -> Any:
        """The last CameraInfo, None before the first."""
        return self._info

    def conditions(self) -> list[Condition]:
        """What is wrong with the camera, while subscribed."""
        now = time.monotonic()
        with self._condition:
            alive = self.pairing.depth_is_alive(now)
            demoted, late = self.pairing.demoted_since(now - LATE), self.pairing.lateness
        values = {"frames without their depth": str(self.pairing.demoted)}
        silent = now - (self.last_color_arrival or self._opened)
        if silent > SILENCE:
            text = f"no image on {self.color_topic} for {silent:.0f} s ({self._publishers(self.color_topic)})"
            return [(ERROR, text, values)]
        found: list[Condition] = []
        if self.depth_topic and not alive:
            text = f"no depth on {self.depth_topic} ({self._publishers(self.depth_topic)}): going on without"
            found.append((WARN, text, values))
        elif demoted:
            text = (
                f"{demoted} frames in {LATE:.0f} s waited {self.pairing.patience:g} s in vain for their depth"
                " and were served without it"
            )
            if late > self.pairing.patience:
                text += f"; depth comes {late:.2f} s after its image: set depth_patience_s above that"
            found.append((WARN, text, values))
        if self._info_problem and self.depth_topic and alive:
            hint = f" ({self._publishers(self.info_topic)})" if self._info is None else ""
            found.append((WARN, f"{self._info_problem}{hint}: nothing is in 3D", values))
        return found

    def depth_is_alive(self) -> bool:
        """True while depth comes in or may be expected."""
        with self._condition:
            return self.pairing.depth_is_alive(time.monotonic())

    def _publishers(self, topic: str) -> str:
        return f"{self._node.count_publishers(topic)} publishers"

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

    def _on_depth_info(self, message: Any) -> None:
        self._depth_info = message


def _image_type(topic: str) -> type:
    return CompressedImage if topic.endswith(("/compressed", "/compressedDepth")) else Image
