"""The service ~/segment: one answer for the newest frame after a stamp, for cells that stop and look."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rise_msgs.srv import Segment

from rise_perception.nodes.inputs import stamp_of
from rise_perception.nodes.outputs import Result, result_message
from rise_perception.nodes.spin import pause

POLL_PERIOD = 0.02  # seconds
DEFAULT_TIMEOUT, LONGEST_TIMEOUT = 2.0, 60.0  # seconds


class SegmentService:
    """Serves the requests; while one waits, the node looks at the camera although nobody else listens.

    Args:
        node: whose service it is.
        problem: gives why no frame can come now, empty if one can.
    """

    def __init__(self, node: Node, problem: Callable[[], str]) -> None:
        self._node, self._problem = node, problem
        self._lock = threading.Lock()
        self._last: Result | None = None
        self._count = self._waiting = 0
        # A call that waits holds its callback group.
        group = ReentrantCallbackGroup()
        self._service = node.create_service(Segment, "~/segment", self._on_segment, callback_group=group)

    @property
    def waits(self) -> bool:
        """True while a request waits for a frame."""
        return self._waiting > 0

    def offer(self, result: Result) -> None:
        """Takes a segmented frame; from the worker thread."""
        with self._lock:
            self._last = result
            self._count += 1

    def forget(self) -> None:
        """What was seen is of no use any more: nobody looks at the camera."""
        with self._lock:
            self._last = None

    async def _on_segment(self, request: Segment.Request, response: Segment.Response) -> Segment.Response:
        timeout = request.timeout_s or DEFAULT_TIMEOUT
        if not 0 < timeout <= LONGEST_TIMEOUT:
            response.message = (
                f"timeout_s is {request.timeout_s}; expected 0 (for {DEFAULT_TIMEOUT:.0f}) to "
                f"{LONGEST_TIMEOUT:.0f} seconds"
            )
            return response
        not_before = request.not_before.sec * 10**9 + request.not_before.nanosec
        end, begun = time.monotonic() + timeout, self._count
        self._waiting += 1
        try:
            while True:
                if problem := self._problem():
                    response.message = problem
                    return response
                with self._lock:
                    last, fresh = self._last, self._count > begun
                # Without a stamp, the frame in work or the next one: the last may show a robot that moves.
                if last is not None and (stamp_of(last.header) >= not_before if not_before else fresh):
                    break
                if time.monotonic() > end:
                    response.message = f"no frame within {timeout:g} s"
                    if last is not None and not_before:
                        late = (not_before - stamp_of(last.header)) / 1e9
                        response.message += f" that is new enough: the newest is {late:.3f} s too old"
                    return response
                await pause(self._node, POLL_PERIOD)
        finally:
            self._waiting -= 1
        response.instances = result_message(last)
        count = len(response.instances.instances)
        response.success, response.message = True, f"{count} instances"
        return response
