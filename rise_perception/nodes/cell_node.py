"""A simulated picking cell: its camera, and a robot that picks what the segmentation node's masks say.

It is what a real cell is to the other nodes: colour, depth and camera info, stamped with the time of day, and
GraspEvent messages. When the last grasp is done it ends; one JSON line a grasp tells what came of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.task import Future
from rise_msgs.msg import GraspEvent, InstanceArray
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from rise_perception.data import ros_images
from rise_perception.data.ros_instances import to_instances
from rise_perception.nodes import qos
from rise_perception.nodes.camera_info import camera_info
from rise_perception.nodes.camera_parameters import COLOR, DEPTH, INFO
from rise_perception.nodes.inputs import stamp_of
from rise_perception.nodes.parameter_table import Parameter, ParameterTable
from rise_perception.nodes.parameters import Parameters
from rise_perception.nodes.spin import run
from rise_perception.simulation.cell import Cell, CellSettings
from rise_perception.simulation.picker import Aim, Picker
from rise_perception.simulation.recording import FRAME_ID
from rise_perception.simulation.render import Renderer
from rise_perception.simulation.sequence import EMPTY, SUCCESS, UNKNOWN

#: Frames of the free scene before and after a grasp: enough for one to be settled and segmented.
FREE_FRAMES = 4
#: Probability of success below which a mask is left alone, once that has been learned.
MIN_SUCCESS = 0.25
#: Seconds for which the camera looks on after the last grasp, so that it becomes an episode.
LINGER = 3.0
#: Heights in metres above the item that the hand is seen at on its way.
WAY = (0.14, 0.05)
TABLE = ParameterTable(
    "cell_node",
    {
        "Cell": {
            "seed": Parameter(0, "Another seed, another cell.", (0, 2**31 - 1)),
            "picks": Parameter(100, "Grasps until the node ends.", (1, 100_000)),
            "rate": Parameter(5.0, "Frames per second.", (0.1, 60.0)),
            "period": Parameter(6.0, "Seconds of a grasp, at least.", (0.0, 3600.0)),
            "log": Parameter("", "File that gets a JSON line for each grasp; empty for none."),
            "instances_topic": Parameter("segmentation_node/instances", "Masks to pick by."),
        }
    },
)


class CellNode(Node):
    """See the module. The parameters are the command line's of ``rise live-demo``."""

    def __init__(self) -> None:
        super().__init__("cell_node")
        given = Parameters(self, TABLE).read()
        self._picks, self._period = given.picks, given.period
        self._renderer = Renderer(CellSettings.width, CellSettings.height)
        self._cell = Cell(CellSettings(given.seed), self._renderer)
        self._picker = Picker(MIN_SUCCESS)
        self._log = Path(given.log) if given.log else None
        self._color = self.create_publisher(Image, COLOR, qos.camera_output())
        self._depth = self.create_publisher(Image, DEPTH, qos.camera_output())
        self._info = self.create_publisher(CameraInfo, INFO, qos.camera_output())
        self._events = self.create_publisher(GraspEvent, "grasp_events", qos.events())
        self.create_subscription(InstanceArray, given.instances_topic, self._on_instances, qos.output())
        self._masks: InstanceArray | None = None
        self._version = ""
        self._ended = 0.0
        self._seen = np.zeros(0, np.uint16)
        self.done = Future()
        self._story = self._pick_all()
        self.create_timer(1.0 / given.rate, self._tick)

    def _tick(self) -> None:
        """One frame: the story goes on to the next."""
        try:
            next(self._story)
        except StopIteration:
            if not self.done.done():
                for publisher in (self._events, self._color):
                    publisher.wait_for_all_acked(Duration(seconds=5))
                self.get_logger().info(f"{self._picks} grasps done")
                self.done.set_result(None)

    def _on_instances(self, message: InstanceArray) -> None:
        self._masks, self._version = message, message.model_version

    # -- what happens, a frame at a time -----------------------------------------------------------

    def _pick_all(self) -> Iterator[None]:
        """Grasp after grasp; yields after each frame."""
        while self._color.get_subscription_count() == 0 or self._masks is None:
            self._show()  # until the segmentation node answers
            yield
        for number in range(self._picks):
            begun = time.monotonic()
            while (aim := (yield from self._aim())) is None:
                self._cell.next_tote(self._cell.tote + 1)
                self._picker.changed()
            yield from self._grasp(number, aim, self._version)
            last = number == self._picks - 1
            while time.monotonic() - begun < self._period or (
                last and time.monotonic() - self._ended < LINGER
            ):
                self._show()
                yield

    def _aim(self) -> Generator[None, None, Aim | None]:
        """Looks at the free scene until its masks are there; returns the aim."""
        since = self._show()
        frames = 1
        yield
        while frames < FREE_FRAMES or self._masks is None or stamp_of(self._masks.header) < since:
            self._show()
            frames += 1
            yield
        return self._picker.choose(to_instances(self._masks), self._cell.rises(self._seen))

    def _grasp(self, number: int, aim: Aim, version: str) -> Iterator[None]:
        """One attempt, from BEFORE to AFTER."""
        cell, name = self._cell, f"{self._cell.settings.seed}-{number:05d}"
        stamp = self._show()
        self._say(name, GraspEvent.BEFORE, aim, UNKNOWN, stamp)
        yield
        point = cell.point(aim.x, aim.y)
        outcome, held = cell.under_cup(aim.x, aim.y)
        for height in (*WAY, 0.0):
            stamp = self._show(point + height * cell.approach)
            yield
        self._say(name, GraspEvent.CLOSED, aim, UNKNOWN, stamp)
        cell.take(held)
        stamp = self._show(point + WAY[0] * cell.approach)
        self._say(name, GraspEvent.LIFTED, aim, outcome, stamp)
        yield
        self._say(name, GraspEvent.AFTER, aim, outcome, self._show())
        self._ended = time.monotonic()
        yield
        for _ in range(FREE_FRAMES - 1):
            self._show()
            yield
        if outcome == EMPTY:
            self._picker.failed(aim)
        else:
            self._picker.changed()
        self._write(number, name, aim, outcome, len(held), version)

    # -- messages ----------------------------------------------------------------------------------

    def _show(self, hand: np.ndarray | None = None) -> int:
        """Publishes a frame; returns its stamp in nanoseconds."""
        shot = self._cell.look(hand)
        self._seen = shot.depth
        stamp = time.time_ns()
        header = _header(stamp)
        self._info.publish(camera_info(header, self._cell.camera))
        self._depth.publish(ros_images.fill(Image(header=header), shot.depth, "16UC1"))
        self._color.publish(ros_images.fill(Image(header=header), shot.image, "rgb8"))
        return stamp

    def _say(self, name: str, phase: int, aim: Aim, outcome: int, stamp: int) -> None:
        event = GraspEvent(header=_header(stamp), grasp_id=name, phase=phase, outcome=outcome)
        event.target_id = aim.target_id
        self._events.publish(event)

    def _write(self, number: int, name: str, aim: Aim, outcome: int, taken: int, version: str) -> None:
        if self._log is None:
            return
        line: dict[str, Any] = {
            "number": number,
            "grasp": name,
            "stamp": time.time_ns(),
            "tote": self._cell.tote,
            "success": outcome == SUCCESS,
            "outcome": outcome,
            "taken": taken,
            "score": aim.score,
            "model_version": version,
        }
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _header(stamp: int) -> Header:
    return Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id=FRAME_ID)


def main(args: list[str] | None = None) -> int:
    """Picks until the last grasp is done."""
    return run(CellNode, args)


if __name__ == "__main__":
    sys.exit(main())
