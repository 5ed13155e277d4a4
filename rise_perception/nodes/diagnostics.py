"""What a node tells a person or a supervisor about itself, once a second."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node

from rise_perception.core.errors import RiseError

WINDOW = 5.0  # seconds over which rates and latencies are taken
RECENT = 5.0  # seconds for which an error keeps the status from being OK
PLAUSIBLE_AGE = 3600.0  # seconds
STANDSTILL = 2.5  # seconds for which a simulation's clock may say the same

OK, WARN, ERROR = (int.from_bytes(level, "little") for level in (b"\x00", b"\x01", b"\x02"))
#: A condition: level, summary and further values.
Condition = tuple[int, str, dict[str, str]]


class WorkerDiedError(RiseError):
    """A thread that the node cannot do without has ended; its process has to, for its supervisor to see."""


class Diagnostics:
    """Counts frames and errors from any thread and publishes ``/diagnostics`` from the executor.

    It is the watchdog of the node's threads, too: when one that is watched has ended, that is published and
    :class:`WorkerDiedError` leaves the executor.

    Args:
        node: publishes on its behalf; works in every lifecycle state.
        condition: called at each report; says what only the node knows.
        task: what the node does, and what it says while nothing is wrong.
    """

    def __init__(
        self,
        node: Node,
        condition: Callable[[], list[Condition]],
        task: tuple[str, str] = ("segmentation", "segmenting"),
    ) -> None:
        self._node = node
        self._task = task
        self._condition = condition
        self._lock = threading.Lock()
        self._frames: deque[tuple[float, float, float]] = deque(maxlen=1000)  # (when, latency, age)
        self._errors = 0
        self._last_error = ""
        self._last_error_time = self._last_logged = -1e18
        self._watched: list[threading.Thread] = []
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._clock_seen = (-1, time.monotonic())  # what the node's clock said, and since when
        # By a steady clock: a simulation's that stands still must not silence the node.
        self._timer = node.create_timer(1.0, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def watch(self, *threads: threading.Thread) -> None:
        """Watch these threads from now on, and no others."""
        self._watched = list(threads)

    def frame(self, latency: float, age: float) -> None:
        """Counts a published frame.

        Args:
            latency: seconds from arrival to publishing.
            age: seconds from the frame's stamp to publishing, by the node's clock.
        """
        with self._lock:
            self._frames.append((time.monotonic(), latency, age))

    def error(self, message: str) -> None:
        """Counts an error, keeps it for the report and logs it (the same one at most every 5 s)."""
        now = time.monotonic()
        with self._lock:
            repeated = message == self._last_error and now - self._last_logged < RECENT
            self._errors += 1
            self._last_error = message
            self._last_error_time = now
            if not repeated:
                self._last_logged = now
        if not repeated:
            self._node.get_logger().error(message)

    def _publish(self) -> None:
        now = time.monotonic()
        with self._lock:
            recent = np.array([f for f in self._frames if now - f[0] <= WINDOW], np.float64).reshape(-1, 3)
            errors, last_error, since = self._errors, self._last_error, now - self._last_error_time
        values = {
            "output rate (Hz)": f"{len(recent) / WINDOW:.1f}",
            "errors": str(errors),
            "last error": last_error or "none",
        }
        if len(recent):
            values["latency median (ms)"] = f"{np.median(recent[:, 1]) * 1e3:.1f}"
            values["latency 95 % (ms)"] = f"{np.quantile(recent[:, 1], 0.95) * 1e3:.1f}"
            age = np.median(recent[:, 2])
            # The stamps of a recording, or of a clock that nobody set, say nothing about age.
            values["age median (ms)"] = (
                f"{age * 1e3:.1f}" if abs(age) < PLAUSIBLE_AGE else "stamps of another time"
            )
        level, summaries = OK, []
        for severity, summary, more in [*self._condition(), *self._clock_condition(now)]:
            level = max(level, severity)
            values.update(more)
            if summary:
                summaries.append(summary)
        if errors and since < RECENT:
            level = max(level, ERROR)
            summaries.append(last_error)
        dead = [thread.name for thread in self._watched if not thread.is_alive()]
        if dead:
            level = ERROR
            summaries.insert(0, f"the thread {dead[0]!r} has died, and the process ends: start it again")
        status = DiagnosticStatus(
            level=bytes([level]),
            name=f"{self._node.get_fully_qualified_name()}: {self._task[0]}",
            message="; ".join(summaries) or self._task[1],
            hardware_id=self._node.get_fully_qualified_name(),
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)
        if dead:
            self._publisher.wait_for_all_acked(Duration(seconds=1))
            raise WorkerDiedError(summaries[0])

    def _clock_condition(self, now: float) -> list[Condition]:
        """Whether the simulation's clock, if the node uses it, is there and runs."""
        if not self._node.get_parameter("use_sim_time").value:
            return []
        said, since = self._clock_seen
        clock = self._node.get_clock().now().nanoseconds
        if clock != said:
            self._clock_seen = clock, now
            return []
        if now - since < STANDSTILL:
            return []
        if not self._node.count_publishers("/clock"):
            return [(WARN, "use_sim_time is set and nobody publishes /clock", {})]
        return [(WARN, f"use_sim_time is set and /clock has stood still for {now - since:.0f} s", {})]

    def latency_median(self) -> float | None:
        """Median latency of the last seconds, None without frames."""
        now = time.monotonic()
        with self._lock:
            recent = [f[1] for f in self._frames if now - f[0] <= WINDOW]
        return float(np.median(recent)) if recent else None
