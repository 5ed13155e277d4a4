"""Heartbeats of an active node, by which a lifecycle manager such as nav2's sees that it lives.

One side of a bond of ROS's package `bond`: both publish their state on the topic ``bond`` under the same id.
Where the package is not installed, nobody waits for heartbeats and there are none.
"""

from __future__ import annotations

import uuid
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

try:
    from bond.msg import Status
except ImportError:
    Status = None

TOPIC = "bond"  # in the node's namespace, as nav2's lifecycle manager in the same one expects
PERIOD = 0.1  # seconds; nav2's
TIMEOUT = 4.0  # seconds after which the other side may take the node for dead; nav2's


class Heartbeat:
    """The node's side of a bond; its id is the node's name.

    Args:
        node: that beats from :meth:`start` to :meth:`stop`.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher: Any = None
        self._timer: Any = None
        self._instance = ""

    def start(self) -> None:
        """Begins a new bond, where `bond` is installed."""
        if Status is None or self._timer is not None:
            return
        self._instance = str(uuid.uuid4())
        if self._publisher is None:
            self._publisher = self._node.create_publisher(Status, TOPIC, 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a simulation's clock may stand still
        self._timer = self._node.create_timer(PERIOD, lambda: self._beat(True), clock=steady)

    def stop(self) -> None:
        """Breaks the bond: the node goes on purpose."""
        if self._timer is not None:
            self._node.destroy_timer(self._timer)
            self._timer = None
            self._beat(False)

    def _beat(self, active: bool) -> None:
        status = Status(id=self._node.get_name(), instance_id=self._instance, active=active)
        status.header.stamp = self._node.get_clock().now().to_msg()
        status.heartbeat_timeout, status.heartbeat_period = TIMEOUT, PERIOD
        self._publisher.publish(status)
