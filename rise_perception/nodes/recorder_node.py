"""Records label maps and instances of a segmentation node into a bag (MCAP).

The bag has its final name only when it is whole; after a crash what was written stays readable beside it.
Every frame of which all topics have been written is confirmed on ``~/recorded``.
"""

from __future__ import annotations

import struct
import sys
from collections import defaultdict
from functools import partial
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.task import Future
from rise_msgs.msg import InstanceArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header, UInt32
from tqdm import tqdm

from rise_perception.core.errors import BagError, RiseError
from rise_perception.data.bags import BagWriter
from rise_perception.nodes import qos
from rise_perception.nodes.parameter_table import Parameter, ParameterTable
from rise_perception.nodes.parameters import Parameters
from rise_perception.nodes.spin import run

TOPICS = {
    "label_map": (Image, "sensor_msgs/msg/Image"),
    "instances": (InstanceArray, "rise_msgs/msg/InstanceArray"),
}

TABLE = ParameterTable(
    "recorder_node",
    {
        "Recording": {
            "output": Parameter("", "Bag to write; must not exist."),
            "source": Parameter(
                "segmentation_node",
                "Node whose label_map and instances are recorded, relative to this namespace.",
            ),
            "total_topic": Parameter(
                "",
                "std_msgs/UInt32 topic that says after how many frames to end; empty: until interrupted.",
            ),
        }
    },
)


class RecorderNode(Node):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("recorder_node")
        given = Parameters(self, TABLE).read()
        output, source, total_topic = given.output, given.source, given.total_topic
        if not output:
            raise RiseError("parameter 'output' is empty: name the bag to write (-p output:=PATH)")
        self.done = Future()
        self._writer = BagWriter(output)
        self._writer.__enter__()
        self._written: dict[int, set[str]] = defaultdict(set)
        self._frames = 0
        self._failure: RiseError | None = None
        self._total: int | None = None
        self._bar = tqdm(desc="segmented", unit="frame", file=sys.stderr, disable=not total_topic)
        self._confirm = self.create_publisher(Header, "~/recorded", qos.output())
        profile = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
        for name, (kind, type_name) in TOPICS.items():
            topic = self.resolve_topic_name(f"{source}/{name}")
            callback = partial(self._on_message, topic, type_name)
            options = qos.subscription_options(topic, self.get_logger().warning)
            self.create_subscription(kind, topic, callback, profile, raw=True, **options)
        if total_topic:
            self.create_subscription(UInt32, total_topic, self._on_total, qos.latched())
        self.get_logger().info(f"recording {source} to {output}")

    def _on_message(self, topic: str, type_name: str, data: bytes) -> None:
        """Writes one message as it came; a frame that was sent twice is written once."""
        seconds, nanoseconds = struct.unpack_from("<iI", data, 4)  # the header begins every message
        stamp = seconds * 10**9 + nanoseconds
        topics = self._written[stamp]
        if topic not in topics:
            try:
                self._writer.write(topic, type_name, data, stamp)
            except OSError as error:
                self._end(BagError(f"{self._writer.path}: cannot be written any further ({error.strerror})"))
                return
            topics.add(topic)
            if len(topics) == len(TOPICS):
                self._frames += 1
                self._bar.update()
        if len(topics) == len(TOPICS):
            self._confirm.publish(Header(stamp=Time(sec=seconds, nanosec=nanoseconds)))
        self._end_when_complete()

    def _on_total(self, message: UInt32) -> None:
        self._total = message.data
        self._bar.total = self._total
        self._bar.refresh()
        self._end_when_complete()

    def _end_when_complete(self) -> None:
        if self._total is not None and self._frames >= self._total and not self.done.done():
            self._end(None)

    def _end(self, failure: RiseError | None) -> None:
        """Ends the recording; the bag keeps its temporary name after a failure."""
        self._failure = failure
        if failure is None:
            self._confirm.wait_for_all_acked(Duration(seconds=5))
            self.done.set_result(None)
        elif not self.done.done():
            self.done.set_exception(failure)

    def destroy_node(self) -> Any:
        """Closes the bag and gives it its name."""
        self._bar.close()
        self._writer.__exit__(None if self._failure is None else type(self._failure), self._failure, None)
        if self._failure is None:
            self.get_logger().info(f"wrote {self._frames} frames to {self._writer.path}")
        return super().destroy_node()


def main(args: list[str] | None = None) -> int:
    """Records until the announced number of frames, or until interrupted."""
    return run(RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
