"""Joins colour images with their depth by stamp; the newest frame wins and nothing old is kept."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

#: Nanoseconds a stamp must fall back for a clock that was set back; less is a message that came late.
JUMP = 500_000_000
#: Images kept per camera while their partner is on its way: at least these, and those of a camera of this
#: rate (Hz) for as long as one waits.
DEPTH_OF_QUEUE, MAX_RATE = 4, 60.0
#: Frames without their depth that are remembered, to see how late it comes.
MAX_DEMOTED = 100


#: Bytes of images kept per camera.
MAX_BYTES = 256 << 20


class Pair(NamedTuple):
    """A colour image and its depth (None: without), with the time at which the colour image arrived."""

    color: Any
    depth: Any
    stamp: int
    arrival: float


class _Entry(NamedTuple):
    stamp: int
    arrival: float
    message: Any


def _is_full(entries: deque[_Entry], length: int) -> bool:
    """True when a queue has more entries, or bytes, than it may; its newest entry stays in any case."""
    if len(entries) <= 1:
        return False
    return len(entries) > length or sum(len(getattr(e.message, "data", ())) for e in entries) > MAX_BYTES


class FramePairing:
    """Holds the few newest messages of both cameras and hands out the newest complete frame.

    Times of arrival (``now``) are seconds of any steady clock; stamps are nanoseconds of the cameras'.

    Args:
        tolerance: seconds by which the stamps of a pair may differ.
        patience: seconds for which a colour image waits for its depth.
        silence: seconds without any depth after which nothing waits for it any more.

    Attributes:
        superseded: colour images that were replaced by newer ones before they were taken.
        late: messages that arrived after younger ones of their camera and were dropped.
        jumps: how often the clock was set back.
        demoted: frames handed out without depth although depth comes in.
        lateness: seconds by which the depth of such a frame came after its image, the last time it came.
    """

    def __init__(self, tolerance: float, patience: float = 0.1, silence: float = 1.0) -> None:
        self.tolerance = round(tolerance * 1e9)
        self.patience = patience
        self.silence = silence
        self.superseded = self.late = self.jumps = self.demoted = 0
        self.lateness = 0.0
        self._colors: deque[_Entry] = deque()
        self._depths: deque[_Entry] = deque()
        self._demoted: deque[tuple[int, float, float]] = deque(maxlen=MAX_DEMOTED)  # stamp, arrival, when
        self._last_color: int | None = None
        self._depth_hope = -1e18  # until when it is reasonable to wait for depth

    def clear(self) -> None:
        """Forgets all messages and stamps; the counters stay."""
        self._colors.clear()
        self._depths.clear()
        self._demoted.clear()
        self._last_color = None
        self._depth_hope = -1e18

    @property
    def length(self) -> int:
        """Images kept per camera."""
        return max(DEPTH_OF_QUEUE, math.ceil(self.patience * MAX_RATE) + 1)

    def demoted_since(self, when: float) -> int:
        """Frames (at most :data:`MAX_DEMOTED`) handed out without their depth since then."""
        return sum(handed > when for _, _, handed in self._demoted)

    def expect_depth(self, now: float) -> None:
        """Says that a depth camera is there, although nothing has come from it yet."""
        if self._depth_hope < 0:
            self._depth_hope = now + self.silence

    def depth_is_alive(self, now: float) -> bool:
        """True while depth comes in, or may still be expected to start."""
        return now <= self._depth_hope

    def add_color(self, stamp: int, message: Any, now: float) -> None:
        """Takes a colour image."""
        if self._last_color is not None and stamp < self._last_color:
            if self._last_color - stamp < JUMP:
                self.late += 1
                return
            self.jumps += 1
            self._colors.clear()
            self._depths = deque(e for e in self._depths if e.stamp <= stamp + self.tolerance)
            self._demoted.clear()
        self._last_color = stamp
        self._colors.append(_Entry(stamp, now, message))
        while _is_full(self._colors, self.length):
            self._colors.popleft()
            self.superseded += 1

    def add_depth(self, stamp: int, message: Any, now: float) -> None:
        """Takes a depth image."""
        self._depth_hope = now + self.silence
        if self._depths and stamp < self._depths[-1].stamp:
            if self._depths[-1].stamp - stamp < JUMP:
                self.late += 1
                return
            self._depths.clear()
        self._depths.append(_Entry(stamp, now, message))
        while _is_full(self._depths, self.length):
            self._depths.popleft()
        for demoted, arrival, _ in self._demoted:
            if abs(demoted - stamp) <= self.tolerance:
                self.lateness = now - arrival

    def take(self, now: float) -> Pair | None:
        """The newest complete frame, removed together with all older ones; None if none is due.

        Complete is a colour image with its depth, or one that has waited long enough for it.
        """
        for index in range(len(self._colors) - 1, -1, -1):
            color = self._colors[index]
            for depth in reversed(self._depths):
                if abs(depth.stamp - color.stamp) <= self.tolerance:
                    return self._hand_out(index, depth.message)
        if not self._colors:
            return None
        alive = self.depth_is_alive(now)
        full = len(self._colors) >= self.length  # a camera so fast has its oldest image dropped next
        if not alive or full or now - self._colors[0].arrival >= self.patience:
            newest = self._colors[-1]
            if alive:
                self.demoted += 1
                self._demoted.append((newest.stamp, newest.arrival, now))
            return self._hand_out(len(self._colors) - 1, None)
        return None

    def wait_time(self, now: float) -> float | None:
        """Seconds until :meth:`take` may succeed without a new message; None if only one can help."""
        if not self._colors:
            return None
        return max(0.0, min(self._colors[0].arrival + self.patience, self._depth_hope) - now + 1e-3)

    def _hand_out(self, index: int, depth: Any) -> Pair:
        self.superseded += index
        color = self._colors[index]
        for _ in range(index + 1):
            self._colors.popleft()
        return Pair(color.message, depth, color.stamp, color.arrival)
