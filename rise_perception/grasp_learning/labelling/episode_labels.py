"""What an episode teaches: a verdict with its cause, and the labels that are certain."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np


class Verdict(str, Enum):
    """What became of an episode."""

    CONFIRMED = "confirmed"  # one item left, and it was segmented well
    CORRECTED = "corrected"  # one item left, and it was not: the valuable ones
    MOVED = "moved"  # something changed its place
    DOUBLE = "double pick"  # several items left
    EMPTY = "empty grasp"  # nothing changed
    REJECTED = "rejected"  # nothing can be concluded


class Cause(str, Enum):
    """Why; what is counted in statistics."""

    AGREES = "agrees"
    UNDER_SEGMENTED = "under-segmented"  # the prediction held more than the item
    OVER_SEGMENTED = "over-segmented"  # the item was predicted as several
    MISSED = "missed"  # nothing was predicted there
    OUTLINE = "outline"  # the prediction covers a part of the item
    AS_REPORTED = "as reported"
    NOT_AS_REPORTED = "not as reported"
    CAMERA_MOVED = "camera moved"
    EXPOSURE_JUMP = "exposure jump"
    CHANGE_EVERYWHERE = "change everywhere"
    NOTHING_CHANGED = "nothing changed"
    TARGET_STAYED = "target stayed"
    ROBOT_IN_VIEW = "robot in view"
    HIDDEN = "hidden"
    AMBIGUOUS = "ambiguous"
    TOO_LARGE = "too large"


@dataclass(frozen=True)
class EpisodeLabels:
    """Labels of the frame before, as far as they are certain. There are other items, without labels.

    Attributes:
        verdict, cause: what was found, for people and statistics.
        reason: one sentence.
        masks: (N, H, W) bool, one item each, certain; N may be 0.
        known: (H, W) bool, pixels of which it is certain whether they belong to ``masks``; a loss leaves
            the others out (the robot, neighbours that moved, doubtful edges).
        unmoved: (K,) uint16, labels of the frame before's predictions that look the same in the frame after.
        to_after: (2, 3) float64, maps pixels (x, y) of the frame before to the frame after.
        removed, added: (H, W) bool, the change that this was concluded from (:mod:`.change`).
    """

    verdict: Verdict
    cause: Cause
    reason: str
    masks: np.ndarray
    known: np.ndarray
    unmoved: np.ndarray
    to_after: np.ndarray
    removed: np.ndarray
    added: np.ndarray

    @property
    def teaches(self) -> bool:
        """True when there is a label to learn from."""
        return len(self.masks) > 0
