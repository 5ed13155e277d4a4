"""Plays a bag or a folder of pictures as a camera: colour, depth and camera info.

Frames of a bag keep their own stamps, so that results can be compared with it; pictures are stamped from
zero on. With ``acknowledge_topic`` the next frame is sent when the last one has been
acknowledged there, and again when that takes too long: nothing is lost, however slow the machine is.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.clock import Clock as SteadyClock
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.task import Future
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header, UInt32

from rise_perception.core.errors import RiseError
from rise_perception.core.frame import Frame
from rise_perception.data import ros_images
from rise_perception.data.source import FrameSource
from rise_perception.nodes import qos
from rise_perception.nodes.camera_info import camera_info
from rise_perception.nodes.camera_parameters import COLOR, DEPTH, INFO
from rise_perception.nodes.inputs import stamp_of
from rise_perception.nodes.parameter_table import Parameter, ParameterTable
from rise_perception.nodes.parameters import Parameters
from rise_perception.nodes.spin import run

PATIENCE = 10.0  # seconds after which a frame that was not acknowledged is sent again, doubled each time
TRIES = 4
END: tuple[Frame | None, None] = (None, None)
TABLE = ParameterTable(
    "camera_node",
    {
        "Source": {
            "input": Parameter("", "Bag (rosbag2 folder, .mcap, .db3), folder of pictures, or picture."),
            "rate": Parameter(10.0, "Frames per second, at most.", (0.01, 1000.0)),
            "loop": Parameter(False, "Start again at the end; the stamps then jump back."),
            "clock": Parameter(False, "Publish each frame's stamp on /clock, for nodes with use_sim_time."),
            "acknowledge_topic": Parameter(
                "", "std_msgs/Header topic that confirms each frame; empty: frames are sent at the rate."
            ),
        }
    },
)


class CameraNode(Node):
    """See the module. Publishes the number of frames of one round on ``~/total`` (latched)."""

    def __init__(self) -> None:
        super().__init__("camera_node")
        given = Parameters(self, TABLE).read()
        source, acknowledge = given.input, given.acknowledge_topic
        self._loop = given.loop
        if not source:
            raise RiseError("parameter 'input' is empty: name a bag or a folder of pictures (-p input:=PATH)")
        self.done = Future()
        self._period = 1.0 / given.rate
        self._source = FrameSource(source)
        self._frames = self._source.frames()
        self._failure: RiseError | None = None
        self._sent = self._skipped = 0
        self._pending: Frame | None = None
        self._tries = 0
        self._sent_at = -1e18
        self._color = self._publisher(Image, COLOR)
        self._depth = self._publisher(Image, DEPTH) if self._source.has_depth else None
        self._info = self._publisher(CameraInfo, INFO)
        self._time = self.create_publisher(Clock, "/clock", qos.camera_output()) if given.clock else None
        self._total = self.create_publisher(UInt32, "~/total", qos.latched())
        self._total.publish(UInt32(data=self._source.count))
        self._acknowledge = acknowledge
        if acknowledge:
            self.create_subscription(Header, acknowledge, self._on_acknowledged, qos.output())
        # By a steady clock: this node may be the source of the other one.
        steady = SteadyClock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(min(self._period, 0.01), self._tick, clock=steady)
        self.get_logger().info(f"playing {self._source.count} frames of {source}")

    def _publisher(self, kind: type, topic: str) -> Any:
        resolved = self.resolve_topic_name(topic)
        options = qos.publisher_options(resolved, self.get_logger().warning)
        return self.create_publisher(kind, topic, qos.camera_output(), **options)

    def _listened_to(self) -> bool:
        """True when everybody who has to see the first frame is there."""
        publishers = [self._color] if self._depth is None else [self._color, self._depth]
        if any(publisher.get_subscription_count() == 0 for publisher in publishers):
            return False
        return not self._acknowledge or self.count_publishers(self._acknowledge) > 0

    def _tick(self) -> None:
        now = time.monotonic()
        if self._sent == 0 and self._pending is None and not self._listened_to():
            return
        if self._pending is not None and self._acknowledge:
            if now - self._sent_at < PATIENCE * 2 ** (self._tries - 1):
                return
            if self._tries < TRIES:
                self._send(self._pending)
                return
            self.get_logger().error(
                f"frame {self._sent} was sent {TRIES} times and never confirmed; left out"
            )
            self._skipped += 1
        elif now - self._sent_at < self._period:
            return
        self._next()

    def _next(self) -> None:
        """Sends the next frame, or ends."""
        self._tries = 0
        try:
            self._pending, _ = next(self._frames, END)
        except RiseError as error:  # the source is damaged from here on; what came before was played
            self._pending, self._failure = None, error
        if self._pending is None and self._loop and self._sent and self._failure is None:
            self._frames = self._source.frames()
            self._pending, _ = next(self._frames, END)
        if self._pending is None:
            self._finish()
            return
        self._sent += 1
        self._send(self._pending)

    def _send(self, frame: Frame) -> None:
        self._tries += 1
        self._sent_at = time.monotonic()
        stamp = Time(sec=frame.stamp // 10**9, nanosec=frame.stamp % 10**9)
        if self._time is not None:
            self._time.publish(Clock(clock=stamp))
        header = Header(stamp=stamp, frame_id=frame.frame_id)
        if frame.depth is not None and self._depth is not None:
            self._depth.publish(ros_images.fill(Image(header=header), frame.depth, "32FC1"))
        if frame.camera is not None:
            self._info.publish(camera_info(header, frame.camera))
        self._color.publish(ros_images.fill(Image(header=header), frame.image, "rgb8"))

    def _on_acknowledged(self, header: Header) -> None:
        if self._pending is not None and stamp_of(header) == self._pending.stamp:
            self._pending = None

    def _finish(self) -> None:
        if self.done.done():
            return
        self._total.publish(UInt32(data=self._sent - self._skipped))
        for publisher in (self._color, self._total):
            publisher.wait_for_all_acked(Duration(seconds=5))
        self.get_logger().info(f"played {self._sent} frames")
        if self._failure is not None:
            self.done.set_exception(self._failure)
        else:
            self.done.set_result(None)


def main(args: list[str] | None = None) -> int:
    """Plays until the end, or for ever with ``loop``."""
    return run(CameraNode, args)


if __name__ == "__main__":
    sys.exit(main())
