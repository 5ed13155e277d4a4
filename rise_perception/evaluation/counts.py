"""What a picker counts at one threshold: items found, false masks, masks that merge; and calibration."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from pycocotools import mask as coco_mask

from rise_perception.core.regions import ImagePair

#: A mask finds an item when their IoU is at least this.
FOUND_IOU = 0.5
#: A mask merges items when it covers at least this fraction of each of two or more.
MERGED_FRACTION = 0.5
#: Bins of the expected calibration error.
BINS = 10


@dataclass(frozen=True)
class Counts:
    """Sums over images.

    Attributes:
        images, items, masks: how many images, true objects and predicted objects.
        found: objects that a mask finds (each mask one object, each object one mask).
        merged: masks that cover most of several objects.
        false: masks that neither find nor merge. Where only some items are labelled this counts masks of
            the others, too.
    """

    images: int = 0
    items: int = 0
    masks: int = 0
    found: int = 0
    merged: int = 0
    false: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def count(pairs: Iterable[ImagePair]) -> Counts:
    """Count over images; the predictions are those above the threshold, containers are left out."""
    return sum((_count_one(pair) for pair in pairs), Counts())


def _count_one(pair: ImagePair) -> Counts:
    truth = [r.rle for r in pair.truth if r.is_object]
    masks = [r.rle for r in sorted(pair.predicted, key=lambda r: -r.score) if r.is_object]
    if not truth or not masks:
        return Counts(1, len(truth), len(masks), 0, 0, len(masks))
    overlap = np.array(coco_mask.iou(masks, truth, [0] * len(truth)))  # (masks, objects)
    # With the mask as a "crowd", pycocotools divides the shared area by that of the object alone.
    covered = np.array(coco_mask.iou(truth, masks, [1] * len(masks))).T
    merges = (covered >= MERGED_FRACTION).sum(1) >= 2
    finds = np.zeros(len(masks), bool)
    for row in range(len(masks)):
        best = int(overlap[row].argmax())
        if overlap[row, best] >= FOUND_IOU:
            finds[row] = True
            overlap[:, best] = 0.0
    false = ~finds & ~merges
    return Counts(1, len(truth), len(masks), int(finds.sum()), int(merges.sum()), int(false.sum()))


def calibration_error(
    scores: Sequence[float] | np.ndarray, right: Sequence[bool] | np.ndarray
) -> float | None:
    """Expected calibration error: by how much score and fraction of right masks differ, mean over the masks.

    Args:
        scores: (N,) in [0, 1].
        right: (N,) bool, whether each mask finds an object.

    Returns:
        the mean over :data:`BINS` equal bins of the score, weighted by their masks, of |mean score - fraction
        of right ones|; None without masks.
    """
    scores, right = np.asarray(scores, float), np.asarray(right, bool)
    if not len(scores):
        return None
    bins = np.minimum((scores * BINS).astype(int), BINS - 1)
    gaps = [
        len(scores[bins == k]) * abs(scores[bins == k].mean() - right[bins == k].mean()) for k in set(bins)
    ]
    return float(sum(gaps) / len(scores))
