"""What is answered to a sentence: an item, or that there is none, several, or no understanding; no guess."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from rise_perception.core.errors import require
from rise_perception.core.instances import Instances
from rise_perception.core.regions import encode_mask
from rise_perception.language.meaning import Meaning


class Status(IntEnum):
    """What became of a sentence, with the numbers of rise_msgs/Referral."""

    FOUND = 0
    NONE = 1
    AMBIGUOUS = 2
    NOT_UNDERSTOOD = 3


@dataclass(frozen=True)
class Thresholds:
    """When an item is named, and when it is said that there is none.

    Attributes:
        found: least probability of the item.
        lead: least ratio of its probability to the next item's.
        none: least probability that nothing fits.
        several: least probability, by the prior, that several fit: then none of them is named, whatever the
            head makes of it.
        candidate: items with this fraction of the best one's probability are candidates.
    """

    found: float = 0.5
    lead: float = 2.0
    none: float = 0.6
    several: float = 0.6
    candidate: float = 0.25

    def __post_init__(self) -> None:
        for name in ("found", "none", "several", "candidate"):
            value = getattr(self, name)
            require(0 < value <= 1, f"thresholds.{name}", value, "above 0 and at most 1")
        require(self.lead >= 1, "thresholds.lead", self.lead, "at least 1")


@dataclass(frozen=True)
class Referral:
    """The answer to one sentence about one image.

    Attributes:
        status: see there.
        detail: one sentence for people.
        score: probability of the answer; 0 where the sentence was not understood.
        index: of the instance that was found, None otherwise.
        candidates: indices of the instances that it may be, likeliest first.
        mask: (H, W) bool, pixels of what was found; nothing otherwise.
    """

    status: Status
    detail: str
    score: float
    index: int | None
    candidates: tuple[int, ...]
    mask: np.ndarray

    def as_json(self, instances: Instances) -> dict[str, Any]:
        """Ready for JSON: boxes are x, y, width, height, the mask is a COCO RLE."""
        found = self.index is not None
        return {
            "status": self.status.name.lower(),
            "score": round(self.score, 4),
            "detail": self.detail,
            "id": int(instances.ids[self.index]) if self.index is not None else None,
            "box": _box(instances, self.index) if self.index is not None else None,
            "mask": encode_mask(self.mask) if found else None,
            "candidates": [{"id": int(instances.ids[k]), "box": _box(instances, k)} for k in self.candidates],
        }


def judge(
    probabilities: np.ndarray, thresholds: Thresholds, belief: Meaning | None = None
) -> tuple[Status, tuple[int, ...]]:
    """What to answer by probabilities, and which instances it is about, the likeliest first.

    Args:
        probabilities: (N + 1,) of each instance being meant, and of none; they sum to at most 1: what is
            left is the probability that several fit.
        thresholds: when what is said.
        belief: what a prior says, where there is one.
    """
    items, none = probabilities[:-1], float(probabilities[-1])
    if not len(items) or none >= max(thresholds.none, float(items.max())):
        return Status.NONE, ()
    order = np.argsort(-items, kind="stable")
    score = float(items[order[0]])
    next_best = float(items[order[1]]) if len(order) > 1 else 0.0
    alike = belief is not None and belief.several >= thresholds.several
    if not alike and score >= thresholds.found and score >= thresholds.lead * next_best:
        return Status.FOUND, (int(order[0]),)
    if alike and belief is not None:  # each of them fits, and none alone
        items, score = belief.fits, float(belief.fits.max())
        order = np.argsort(-items, kind="stable")
    near = (int(k) for k in order if items[k] > 0 and items[k] >= thresholds.candidate * score)
    return Status.AMBIGUOUS, tuple(near)


def decide(
    probabilities: np.ndarray,
    thresholds: Thresholds,
    instances: Instances,
    said: str,
    belief: Meaning | None = None,
) -> Referral:
    """Answer by probabilities, as :func:`judge`.

    Args:
        probabilities: (N + 1,), see there.
        thresholds: when what is said.
        instances: of the image.
        said: the sentence as it was understood, for ``detail``.
        belief: what a prior says, where there is one.
    """
    status, rows = judge(probabilities, thresholds, belief)
    nothing = np.zeros((instances.height, instances.width), bool)
    if status is Status.NONE:
        if not len(instances):
            return Referral(status, "no item is seen at all", 1.0, None, (), nothing)
        return Referral(status, f"no item fits {said!r}", float(probabilities[-1]), None, (), nothing)
    score = float(probabilities[:-1].max())
    if status is Status.FOUND:
        return Referral(status, f"found {said!r}", score, rows[0], rows, instances.mask(rows[0]))
    detail = f"{len(rows)} items may be {said!r}"
    if len(rows) < 2:
        detail = f"it is not certain enough that an item is {said!r}"
    return Referral(status, detail, score, None, rows, nothing)


def not_understood(reason: str, instances: Instances) -> Referral:
    """The answer to what has no meaning."""
    nothing = np.zeros((instances.height, instances.width), bool)
    return Referral(Status.NOT_UNDERSTOOD, reason, 0.0, None, (), nothing)


def _box(instances: Instances, index: int) -> list[float]:
    x0, y0, x1, y1 = map(float, instances.boxes[index])
    return [x0, y0, x1 - x0, y1 - y0]
