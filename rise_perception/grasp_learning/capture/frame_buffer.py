"""The last seconds of a camera: which frames are still, which is sharpest, and whether an arm is in view."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

import cv2
import numpy as np

from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.grasp_learning.capture.episode import Calibration, Observation

#: Width of the small pictures that motion is seen in; a grasp moves things much larger than their pixels.
SMALL = 96
#: Grey values, and deviations of the noise, by which a small pixel has to differ to have changed.
GREY_STEP, DEVIATIONS = 8.0, 6.0
#: A frame is settled when fewer of its small pixels than this changed since the one before.
STILL_FRACTION = 0.004
#: An arm reaches into the picture when more than this fraction of its rim changed; the rim's width, as a
#: fraction.
RIM_FRACTION, RIM_WIDTH = 0.03, 0.08
#: Nanoseconds for which every frame is kept.
RECENT = 1_000_000_000
#: Nanoseconds between a frame and a robot mask that may be taken for it; masks kept, and their bytes.
MASK_TOLERANCE, MAX_MASKS, MAX_MASK_BYTES = 100_000_000, 20, 64 << 20
#: Bytes of all frames in the buffer: six seconds of a VGA camera with depth take 200 MiB.
MAX_BYTES = 512 << 20
#: Rows of a small picture at most: those of a picture twice as high as wide.
SMALL_ROWS = 2 * SMALL


@dataclass
class Sample:
    """A frame in the buffer.

    Attributes:
        frame: as it came.
        small: (h, SMALL) float32, brightness.
        sharpness: higher is sharper, for frames of one scene.
        calibration: of the camera, where it is known.
        robot: (H, W) bool, the mask that is nearest in time; None while there is none.
        hidden: (h, SMALL) bool, where the robot is.
        moving: fraction of the small pixels that changed since the frame before; 1 for the first one.
        still_after: what the next frame found; None until it has come.
        instances, model_version: predictions, when they have come.
    """

    frame: Frame
    small: np.ndarray
    sharpness: float
    calibration: Calibration | None = None
    robot: np.ndarray | None = None
    hidden: np.ndarray = field(init=False)
    moving: float = 1.0
    still_after: bool | None = None
    instances: Instances | None = None
    model_version: str = ""

    def __post_init__(self) -> None:
        self.hidden = np.zeros(self.small.shape, bool)

    @property
    def stamp(self) -> int:
        """Nanoseconds."""
        return self.frame.stamp

    def hide(self, robot: np.ndarray) -> None:
        """Leave the robot, (H, W) bool, out of every comparison."""
        self.robot = robot
        size = self.small.shape[::-1]
        self.hidden = cv2.resize(robot.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0

    @property
    def size(self) -> int:
        """Bytes."""
        arrays = [self.frame.image, self.frame.depth, self.small, self.hidden]
        if self.instances is not None:
            arrays.append(self.instances.label_map)
        return sum(array.nbytes for array in arrays if array is not None)

    @property
    def settled(self) -> bool:
        """A neighbour shows the same: nothing moved while this frame was taken."""
        return self.moving < STILL_FRACTION or self.still_after is True

    def observation(self) -> Observation:
        """The frame with all that is known about it."""
        return Observation(self.frame, self.instances, self.robot, self.model_version, self.calibration)


class FrameBuffer:
    """Keeps the frames of the last ``seconds``.

    Those of the last ``RECENT`` are all kept, because predictions come late and for some frames only; of the
    older ones, those with predictions and otherwise one each ``period`` seconds. A stamp that jumps back
    (a recording that loops) empties the buffer. A frame with the stamp of the one before takes its place:
    it is the same frame again, or the camera does not stamp its images, and then nothing can be told from
    their order. The oldest frames leave when all take more than ``most_bytes``.

    Attributes:
        repeated: frames in a row that had the stamp of the one before.
        masked_until: stamp of the newest robot mask; no frame up to there gets one that fits better.
    """

    def __init__(self, seconds: float, period: float, most_bytes: int = MAX_BYTES) -> None:
        self._most_bytes = most_bytes
        self.repeated = 0
        self._span, self._period = int(seconds * 1e9), int(period * 1e9)
        self._old: deque[Sample] = deque()
        self._recent: deque[Sample] = deque()
        self._masks: deque[tuple[int, np.ndarray]] = deque(maxlen=MAX_MASKS)
        self.masked_until = 0

    def __len__(self) -> int:
        return len(self._old) + len(self._recent)

    def add(self, frame: Frame, calibration: Calibration | None = None) -> Sample:
        """Take a frame, measure it, and forget what is too old."""
        last = self._recent[-1] if self._recent else None
        if last is not None and frame.stamp < last.stamp:
            self.clear()
            last = None
        sample = measure(frame, calibration)
        self._hide(sample)
        again = last is not None and last.stamp == frame.stamp
        if last is not None:
            _compare(last, sample)
        if again:
            self._recent.pop()
        self.repeated = self.repeated + 1 if again else 0
        self._recent.append(sample)
        while self._recent[0].stamp < frame.stamp - RECENT:
            aging = self._recent.popleft()
            if (
                aging.instances is not None
                or not self._old
                or aging.stamp - self._old[-1].stamp >= self._period
            ):
                self._old.append(aging)
        while self._old and self._old[0].stamp < frame.stamp - self._span:
            self._old.popleft()
        self._bound()
        return sample

    def samples(self) -> list[Sample]:
        """All frames, oldest first."""
        return [*self._old, *self._recent]

    def _bound(self) -> None:
        """Forget the oldest frames that are too many; the newest two, which show motion, stay."""
        size = sum(sample.size for sample in self.samples())
        while size > self._most_bytes and len(self) > 2:
            size -= (self._old or self._recent).popleft().size

    def attach(self, stamp: int, instances: Instances, model_version: str) -> bool:
        """Add predictions to the frame of exactly this stamp; False if it is not here (any more)."""
        for sample in self.samples():
            if sample.stamp == stamp:
                if instances.label_map.shape != sample.frame.image.shape[:2]:
                    return False
                sample.instances, sample.model_version = instances, model_version
                return True
        return False

    def mask(self, stamp: int, robot: np.ndarray) -> None:
        """Take a robot mask, (H, W) bool; masks may come before their frames, or after."""
        self._masks.append((stamp, robot))
        while len(self._masks) > 1 and sum(mask.nbytes for _, mask in self._masks) > MAX_MASK_BYTES:
            self._masks.popleft()
        self.masked_until = max(self.masked_until, stamp)
        for sample in self._recent:
            if abs(sample.stamp - stamp) <= MASK_TOLERANCE:
                self._hide(sample)
        for first, second in itertools.pairwise(self._recent):
            if min(abs(first.stamp - stamp), abs(second.stamp - stamp)) <= MASK_TOLERANCE:
                _compare(first, second)

    def _hide(self, sample: Sample) -> None:
        size = sample.frame.image.shape[:2]
        near = [(abs(stamp - sample.stamp), mask) for stamp, mask in self._masks if mask.shape == size]
        off, mask = min(near, key=lambda pair: pair[0], default=(0, None))
        if mask is not None and mask is not sample.robot and off <= MASK_TOLERANCE:
            sample.hide(mask)

    def between(self, first: int, last: int) -> list[Sample]:
        """Frames with stamps ``first`` to ``last``, oldest first."""
        return [s for s in self.samples() if first <= s.stamp <= last]

    @property
    def newest(self) -> int | None:
        """Stamp of the newest frame."""
        return self._recent[-1].stamp if self._recent else None

    def clear(self) -> None:
        """Forget all frames."""
        self._old.clear()
        self._recent.clear()
        self._masks.clear()
        self.masked_until = 0


def measure(frame: Frame, calibration: Calibration | None = None) -> Sample:
    """A sample of a frame, with its sharpness."""
    grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
    # Within bounds: of a picture one pixel wide, it would be larger than the picture.
    height = min(max(1, round(grey.shape[0] * SMALL / grey.shape[1])), SMALL_ROWS)
    small = cv2.resize(grey, (SMALL, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    small = np.asarray(cv2.GaussianBlur(small, (0, 0), 1.5))  # a blurred frame shows the same scene
    detail = cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 1.0), cv2.CV_32F)
    # Relative to the contrast of the scene, so that a brighter exposure is not taken for a sharper one.
    sharpness = float(detail.var() / (np.float32(grey.std()) ** 2 + 1))
    return Sample(frame, small, sharpness, calibration)


def _compare(first: Sample, second: Sample) -> None:
    """Find out whether anything moved from one frame to the next."""
    second.moving = changed(first, second)
    first.still_after = second.moving < STILL_FRACTION


def _differs(first: Sample, second: Sample) -> tuple[np.ndarray, np.ndarray]:
    """(h, SMALL) bool: small pixels that differ, whatever exposure did; and those that can be compared."""
    comparable = ~(first.hidden | second.hidden)
    a, b = first.small, second.small
    if comparable.any():
        level_a, level_b = np.median(a[comparable]), np.median(b[comparable])
        b = b * ((level_a + 1) / (level_b + 1))
    off = np.abs(a - b)
    noise = 1.4826 * float(np.median(off[comparable])) if comparable.any() else 0.0
    return (off > max(GREY_STEP, DEVIATIONS * noise)) & comparable, comparable


def same_size(first: Sample, second: Sample) -> bool:
    """False when the camera's resolution changed in between."""
    return first.frame.image.shape == second.frame.image.shape


def changed(first: Sample, second: Sample) -> float:
    """Fraction of the picture that differs between two frames, the robot left out; 1 where the size does."""
    if not same_size(first, second):
        return 1.0
    differs, comparable = _differs(first, second)
    return float(differs.sum() / max(1, comparable.sum()))


def rim_changed(first: Sample, second: Sample) -> float:
    """Fraction of the picture's rim that differs: arms come in over it."""
    differs, comparable = _differs(first, second)
    width = max(1, round(RIM_WIDTH * min(differs.shape)))
    rim = np.ones(differs.shape, bool)
    rim[width:-width, width:-width] = False
    return float((differs & rim).sum() / max(1, (comparable & rim).sum()))


def choose_pair(before: list[Sample], after: list[Sample]) -> tuple[Sample, Sample] | str:
    """The sharpest settled frames of both sides without an arm in one of them, or why there are none.

    On each side the newest such frame says what the scene looked like, and a sharper one counts if it looks
    the same. Frames with predictions go before those without: a label is worth most where there was one. So
    do frames with a robot mask, and before all others.
    """
    for side, samples in (("before", before), ("after", after)):
        if not samples:
            return f"no frame {side} the grasp"
        if not any(sample.settled for sample in samples):
            return f"the scene never settled {side} the grasp"
    settled = [(a, b) for a in before for b in after if a.settled and b.settled and same_size(a, b)]
    if not settled:
        return "the size of the camera's images changed during the grasp"
    pairs = [(a, b) for a, b in settled if rim_changed(a, b) <= RIM_FRACTION]
    if not pairs:
        return "the arm stayed in view"
    first = _best_like_newest([a for a, _ in pairs])
    return first, _best_like_newest([b for a, b in pairs if a is first])


def _best_like_newest(samples: list[Sample]) -> Sample:
    """With mask and predictions if possible, then sharpest, of those that show what the newest shows."""
    newest = max(samples, key=lambda s: s.stamp)
    same = [s for s in samples if s is newest or changed(s, newest) < STILL_FRACTION]
    return max(same, key=lambda s: (s.robot is not None, s.instances is not None, s.sharpness))
