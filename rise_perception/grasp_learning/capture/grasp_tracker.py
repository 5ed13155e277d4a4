"""Grasps under way: joins what the robot announces with the frames around it into episodes."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field, replace

import numpy as np

from rise_perception.core.errors import DataError
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.grasp_learning.capture.episode import (
    MAX_EXPRESSION,
    Calibration,
    Episode,
    Grasp,
    Outcome,
    Phase,
    Referred,
)
from rise_perception.grasp_learning.capture.frame_buffer import MAX_BYTES, FrameBuffer, Sample, choose_pair

#: Grasps that may be under way at a time; the oldest is given up for a new one.
MAX_UNDER_WAY = 8
LONGEST_ID = 200
#: How far the stamp of an event may lie from the newest frame, in seconds, before it is refused.
FARTHEST_STAMP = 60.0
#: Predictions kept for frames that have not come yet.
MAX_EARLY, MAX_EARLY_BYTES = 4, 128 << 20
#: Grasps whose reason is kept.
MAX_REASONS = 100
#: Frames kept of the time before a grasp: enough for the sharpest one, and bounded.
MAX_CANDIDATES = 12


@dataclass(frozen=True)
class CaptureSettings:
    """Times, in seconds.

    Attributes:
        window: around an event, in which the frame is looked for.
        approach: how long before the gripper closes the scene may have been free, where nothing but the
            gripper says that a grasp is under way.
        timeout: after the grasp, until the arm has to be out of view and the scene settled.
        grasp_timeout_s: after which a grasp without an end is given up.
        history: how long frames are kept.
        period: between frames without predictions that are kept longer than a second.
        masks: not a time: whether masks of the robot come, and are waited for as predictions are.
    """

    window: float = 1.0
    approach: float = 5.0
    timeout: float = 5.0
    grasp_timeout_s: float = 120.0
    history: float = 6.0
    period: float = 0.1
    masks: bool = False


@dataclass
class _Attempt:
    grasp: Grasp
    started: int
    before: list[Sample]
    after_from: int | None = None
    deadline: int = 0
    untouched: int = 1 << 62  # the last moment before another grasp changed the scene
    after: list[Sample] = field(default_factory=list)


class Attempts:
    """Takes events, frames and predictions; gives finished episodes and counts what became of the others.

    ``discarded`` counts why grasps became no episode, ``reasons`` has that of the last ones by id.
    All times are those of the stamps. Nothing here knows ROS, and nothing here blocks.
    """

    def __init__(self, settings: CaptureSettings) -> None:
        self.settings = settings
        self.buffer = FrameBuffer(settings.history, settings.period)
        self.discarded: Counter[str] = Counter()
        self.reasons: OrderedDict[str, str] = OrderedDict()
        self._attempts: OrderedDict[str, _Attempt] = OrderedDict()
        self._finished: list[Episode] = []
        self._early: OrderedDict[int, tuple[Instances, str]] = OrderedDict()

    @property
    def under_way(self) -> list[str]:
        """Ids of the grasps that have begun and not ended."""
        return list(self._attempts)

    def event(
        self,
        grasp_id: str,
        phase: int,
        target_id: int,
        outcome: int,
        stamp: int,
        expression: str = "",
        referred: int = Referred.UNKNOWN,
    ) -> str:
        """Take an event of a grasp; returns what it led to, as a sentence.

        Raises:
            DataError: a field holds what cannot be, or the event fits no grasp; nothing has changed then.
        """
        grasp = self._check(grasp_id, phase, target_id, outcome, stamp)
        if referred not in Referred.__members__.values():
            raise DataError(f"referred {referred} of grasp {grasp_id!r} is none of GraspEvent's")
        # A sentence that is too long was not understood either; it costs nothing of the grasp.
        grasp = replace(grasp, expression=expression[:MAX_EXPRESSION], referred=Referred(referred))
        kind = Phase(phase)
        if kind == Phase.BEFORE:
            return self._begin(grasp, self.settings.window)
        attempt = self._attempts.get(grasp_id)
        if attempt is None:
            raise DataError(
                f"{kind.name} of grasp {grasp_id!r}, of which no BEFORE has come; send BEFORE first"
            )
        if stamp < attempt.started:
            raise DataError(f"{kind.name} of grasp {grasp_id!r} has a stamp before its BEFORE")
        attempt.grasp = replace(
            attempt.grasp,
            target_id=target_id if target_id >= 0 else attempt.grasp.target_id,
            outcome=grasp.outcome if grasp.outcome != Outcome.UNKNOWN else attempt.grasp.outcome,
            stamp=stamp,
            stamps=attempt.grasp.stamps | grasp.stamps,
            expression=grasp.expression or attempt.grasp.expression,
            referred=grasp.referred if grasp.referred != Referred.UNKNOWN else attempt.grasp.referred,
        )
        if kind == Phase.ABORTED:
            self.discard(grasp_id, "aborted")
            return f"grasp {grasp_id!r} is given up"
        self._touch(stamp, grasp_id)
        if kind == Phase.AFTER:
            if attempt.after_from is None:
                self._end(attempt, stamp)
            return f"waiting for a settled frame after grasp {grasp_id!r}"
        return f"grasp {grasp_id!r} goes on"

    def gripper_closed(self, grasp_id: str, stamp: int) -> None:
        """The gripper closed, which is all that is known: the free scene came before the approach."""
        grasp = self._check(grasp_id, Phase.CLOSED, -1, Outcome.UNKNOWN, stamp)
        self._touch(stamp, grasp_id)
        self._begin(grasp, self.settings.approach)

    def gripper_opened(self, grasp_id: str, stamp: int) -> None:
        """The gripper let go: the free scene comes when the arm has left."""
        attempt = self._attempts.get(grasp_id)
        if attempt is not None and attempt.after_from is None:
            attempt.grasp = replace(attempt.grasp, stamp=stamp)
            self._end(attempt, stamp)

    def frame(self, frame: Frame, calibration: Calibration | None = None) -> None:
        """Take a camera frame."""
        newest = self.buffer.newest
        for grasp_id in self.under_way:
            attempt = self._attempts[grasp_id]
            if newest is not None and frame.stamp < newest:
                self.discard(grasp_id, "the clock jumped back")
            elif attempt.after_from is not None and attempt.deadline < frame.stamp:
                self._look(grasp_id, attempt, attempt.deadline)  # a late frame makes the buffer forget
        self.buffer.add(frame, calibration)
        self._bound()
        if frame.stamp in self._early:
            self.buffer.attach(frame.stamp, *self._early.pop(frame.stamp))
        for grasp_id in self.under_way:
            attempt = self._attempts[grasp_id]
            if attempt.after_from is not None:
                self._look(grasp_id, attempt, frame.stamp)
            elif frame.stamp - attempt.started > self.settings.grasp_timeout_s * 1e9:
                self.discard(grasp_id, "never ended")

    def predictions(self, stamp: int, instances: Instances, model_version: str) -> None:
        """Take the instances of the frame with this stamp, which may be about to come."""
        if not self.buffer.attach(stamp, instances, model_version):
            self._early[stamp] = instances, model_version
            while len(self._early) > MAX_EARLY or self._early_bytes() > MAX_EARLY_BYTES:
                self._early.popitem(last=False)

    def _early_bytes(self) -> int:
        return sum(instances.label_map.nbytes for instances, _ in self._early.values())

    def _bound(self) -> None:
        """Give up the oldest grasps while the frames that are kept for all of them are too large."""
        while self._attempts:
            kept = {id(s): s for a in self._attempts.values() for s in (*a.before, *a.after)}
            if sum(sample.size for sample in kept.values()) <= MAX_BYTES:
                return
            self.discard(next(iter(self._attempts)), "its frames take too much memory")

    def robot_mask(self, stamp: int, robot: np.ndarray) -> None:
        """Take a mask, (H, W) bool, of the robot in the frames around this stamp, also of those to come."""
        self.buffer.mask(stamp, robot)

    def finish(self) -> None:
        """No more frames will come: end the grasps that can be ended, and give the others up."""
        for grasp_id in self.under_way:
            attempt = self._attempts[grasp_id]
            if attempt.after_from is None:
                self.discard(grasp_id, "never ended")
            else:
                self._look(grasp_id, attempt, attempt.deadline)

    def take_finished(self) -> list[Episode]:
        """Episodes that have become complete since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def settle_before(self, grasp_id: str) -> Sample | None:
        """The sharpest settled frame for the begin of a grasp, a newer one while there is none yet."""
        attempt = self._attempts.get(grasp_id)
        if attempt is None:
            return None
        if not any(sample.settled for sample in attempt.before):
            since = attempt.started - int(self.settings.window * 1e9)
            attempt.before = self.buffer.between(since, self.buffer.newest or since)[-MAX_CANDIDATES:]
        settled = [sample for sample in attempt.before if sample.settled]
        return max(settled, key=lambda s: s.sharpness, default=None)

    def discard(self, grasp_id: str, reason: str) -> None:
        """Give a grasp up; its reason is counted and kept for whoever asks."""
        if self._attempts.pop(grasp_id, None) is not None:
            self.discarded[reason] += 1
            self.reasons[grasp_id] = reason
            while len(self.reasons) > MAX_REASONS:
                self.reasons.popitem(last=False)

    def _check(self, grasp_id: str, phase: int, target_id: int, outcome: int, stamp: int) -> Grasp:
        """Nothing an event says is trusted."""
        if not grasp_id or len(grasp_id) > LONGEST_ID or not grasp_id.isprintable():
            raise DataError(f"grasp_id {grasp_id[:40]!r} is empty, too long or unprintable; name each grasp")
        if phase not in Phase.__members__.values():
            raise DataError(f"phase {phase} of grasp {grasp_id!r} is none of GraspEvent's")
        if outcome not in Outcome.__members__.values():
            raise DataError(f"outcome {outcome} of grasp {grasp_id!r} is none of GraspEvent's")
        if target_id < -1:
            raise DataError(f"target_id {target_id} of grasp {grasp_id!r}; expected an instance's id, or -1")
        newest = self.buffer.newest
        if newest is None:
            raise DataError(f"grasp {grasp_id!r}: no frame has come from the camera yet")
        if abs(stamp - newest) > FARTHEST_STAMP * 1e9:
            raise DataError(
                f"the stamp of grasp {grasp_id!r} is {(stamp - newest) / 1e9:.1f} s away from the newest "
                "frame; camera and picking application have to use one clock"
            )
        return Grasp(grasp_id, target_id, Outcome(outcome), stamp, {Phase(phase): stamp})

    def _begin(self, grasp: Grasp, window: float) -> str:
        if grasp.grasp_id in self._attempts:
            raise DataError(f"grasp {grasp.grasp_id!r} has begun already; ids are used once")
        if len(self._attempts) >= MAX_UNDER_WAY:
            self.discard(next(iter(self._attempts)), "never ended")
        candidates = self.buffer.between(grasp.stamp - int(window * 1e9), grasp.stamp)
        settled = [sample for sample in candidates if sample.settled or sample.still_after is None]
        kept = sorted(settled, key=lambda s: s.sharpness)[-MAX_CANDIDATES:] or candidates[-MAX_CANDIDATES:]
        self._attempts[grasp.grasp_id] = _Attempt(grasp, grasp.stamp, kept)
        self.reasons.pop(grasp.grasp_id, None)  # of an earlier try
        return f"grasp {grasp.grasp_id!r} began with {len(kept)} frames to choose from"

    def _touch(self, stamp: int, grasp_id: str) -> None:
        """The gripper closed: frames from now on show what this grasp did beside what earlier ones did."""
        for other, attempt in self._attempts.items():
            if other != grasp_id and attempt.after_from is not None and attempt.after_from < stamp:
                attempt.untouched = min(attempt.untouched, stamp - 1)

    def _end(self, attempt: _Attempt, stamp: int) -> None:
        attempt.after_from = stamp
        attempt.deadline = stamp + int(self.settings.timeout * 1e9)
        if self.buffer.newest is not None:
            self._look(attempt.grasp.grasp_id, attempt, self.buffer.newest)

    def _look(self, grasp_id: str, attempt: _Attempt, now: int) -> None:
        """Finish an attempt when frames around its end allow it, or give it up when its time is over.

        One that cannot be looked at is given up: it must not cost the frames that follow.
        """
        try:
            self._conclude(grasp_id, attempt, now)
        except DataError as error:
            self.discard(grasp_id, "its frames do not fit together")
            self.reasons[grasp_id] = str(error)
        except Exception:
            self.discard(grasp_id, "an internal error; see the log")
            raise

    def _conclude(self, grasp_id: str, attempt: _Attempt, now: int) -> None:
        assert attempt.after_from is not None
        window = int(self.settings.window * 1e9)
        attempt.after = self.buffer.between(attempt.after_from, min(attempt.deadline, attempt.untouched))
        if now < attempt.after_from + window:
            return
        found = choose_pair(attempt.before, attempt.after)
        if isinstance(found, str):
            if now >= attempt.deadline:
                self.discard(grasp_id, found)
            return
        first, second = found
        missing = first.instances is None or second.instances is None
        if self.settings.masks:
            missing |= max(first.stamp, second.stamp) > self.buffer.masked_until
        if missing and now < min(attempt.deadline, attempt.after_from + 2 * window):
            return  # whoever predicts, or masks the robot, may still be at work on a frame
        self._finished.append(Episode(first.observation(), second.observation(), attempt.grasp))
        del self._attempts[grasp_id]


class Gripper:
    """Turns a gripper's readings into closing and opening, with some play so that noise does neither."""

    def __init__(self, threshold: float, play: float, closed_below: bool) -> None:
        """Say how to read it.

        Args:
            threshold: reading at which the gripper counts as closed.
            play: how far it has to go back beyond the threshold to count as open.
            closed_below: True when readings fall as it closes (a width); False when they rise (a vacuum).
        """
        self._threshold, self._play, self._sign = threshold, play, 1 if closed_below else -1
        self.closed: bool | None = None

    def update(self, reading: float) -> bool | None:
        """True when it has just closed, False when it has just opened, None when nothing changed.

        The first reading only says how it stands. NaN is no reading.
        """
        if not np.isfinite(reading):
            return None
        beyond = self._sign * (reading - self._threshold)
        closed = beyond <= 0 if not self.closed else beyond <= self._play
        was, self.closed = self.closed, closed
        return None if was is None or was == closed else closed
