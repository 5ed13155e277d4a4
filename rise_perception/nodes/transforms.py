"""/tf and /tf_static, listened to while somebody asks for a transform."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from rise_perception.core.errors import TransformError
from rise_perception.core.transforms import TransformTree

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # a machine without ROS's distribution; told when a transform is needed
    TFMessage = None

# What tf2_ros takes.
_DYNAMIC = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
_STATIC = QoSProfile(
    depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)


class Transforms:
    """Transforms by stamp; may be asked from any thread.

    Args:
        node: that subscribes, from the first :meth:`listen` on.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tree = TransformTree()
        self._lock = threading.Lock()
        self._refused = ""
        self._subscriptions: list[Any] = []

    def listen(self) -> None:
        """Subscribes, once; in the executor's thread."""
        if self._subscriptions or TFMessage is None:
            return
        for topic, profile, static in (("/tf", _DYNAMIC, False), ("/tf_static", _STATIC, True)):

            def take(message: Any, static: bool = static) -> None:
                self._take(message, static)

            self._subscriptions.append(self._node.create_subscription(TFMessage, topic, take, profile))

    def lookup(self, target: str, source: str, stamp: int) -> np.ndarray:
        """(4, 4) float64: maps points of ``source`` to ``target`` at ``stamp`` in nanoseconds.

        Raises:
            TransformError: it is missing or stale, or there is no tf2_msgs.
        """
        if target == source:
            return np.eye(4)
        if TFMessage is None:
            raise TransformError("transforms need tf2_msgs, which is not installed: install ROS's geometry2")
        with self._lock:
            try:
                return self._tree.lookup(target, source, stamp)
            except TransformError as error:
                raise TransformError(f"{error}; {self._refused}" if self._refused else str(error)) from None

    def _take(self, message: Any, static: bool) -> None:
        with self._lock:
            for item in message.transforms:
                shift, turn = item.transform.translation, item.transform.rotation
                stamp = item.header.stamp.sec * 10**9 + item.header.stamp.nanosec
                try:
                    self._tree.add(
                        item.header.frame_id,
                        item.child_frame_id,
                        stamp,
                        (shift.x, shift.y, shift.z),
                        (turn.x, turn.y, turn.z, turn.w),
                        static,
                    )
                except TransformError as error:
                    self._refused = str(error)
