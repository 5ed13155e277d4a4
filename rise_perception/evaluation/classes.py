"""Class-aware figures: AP of each class, which class is taken for which, what a score threshold costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pycocotools import mask as coco_mask

from rise_perception.core.regions import ImagePair, Region
from rise_perception.evaluation.coco import CocoScores, coco_scores
from rise_perception.evaluation.counts import FOUND_IOU, Counts, count

#: Score thresholds of a sweep.
SWEEP = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
#: The row and the column of a confusion for what has no counterpart.
NOTHING = "(nothing)"


@dataclass(frozen=True)
class Confusion:
    """Which class is taken for which.

    Attributes:
        names: of the classes, then :data:`NOTHING`.
        counts: (N, N) int64; row: true class, column: predicted class. Matching is by mask alone.
    """

    names: tuple[str, ...]
    counts: np.ndarray


def class_names(pairs: Sequence[ImagePair]) -> tuple[str, ...]:
    """The names that occur in truth or predictions, in alphabetical order."""
    return tuple(sorted({region_name(r) for p in pairs for r in (*p.truth, *p.predicted)}))


def region_name(region: Region) -> str:
    """What a region's class is called."""
    return region.name or region.category


def class_scores(pairs: Sequence[ImagePair]) -> dict[str, CocoScores]:
    """AP of each class that occurs: a prediction counts only for objects of its own class."""
    return {name: coco_scores(_of_class(pairs, name), with_containers=True) for name in class_names(pairs)}


def above(pairs: Sequence[ImagePair], threshold: float) -> list[ImagePair]:
    """The pairs with predictions that score at least ``threshold``."""
    return [replace(p, predicted=[r for r in p.predicted if r.score >= threshold]) for p in pairs]


def confusion(pairs: Sequence[ImagePair], threshold: float = 0.0) -> Confusion:
    """Confusion of the classes at a score threshold."""
    names = (*class_names(pairs), NOTHING)
    index = {name: k for k, name in enumerate(names)}
    counts = np.zeros((len(names), len(names)), np.int64)
    for pair in above(pairs, threshold):
        matches = match_regions(pair.predicted, pair.truth)
        for region, match in zip(pair.predicted, matches, strict=True):
            true = region_name(pair.truth[match]) if match >= 0 else NOTHING
            counts[index[true], index[region_name(region)]] += 1
        for missed in set(range(len(pair.truth))) - set(matches):
            counts[index[region_name(pair.truth[missed])], index[NOTHING]] += 1
    return Confusion(names, counts)


def sweep(pairs: Sequence[ImagePair]) -> list[tuple[float, Counts, float | None]]:
    """Counts and AP50 of the objects at each threshold of :data:`SWEEP`."""
    kept = [(threshold, above(pairs, threshold)) for threshold in SWEEP]
    return [(threshold, count(part), coco_scores(part).ap50) for threshold, part in kept]


def match_regions(predicted: Sequence[Region], truth: Sequence[Region]) -> list[int]:
    """The index of the object that each prediction finds, or -1; the best scored choose first."""
    result = [-1] * len(predicted)
    if not predicted or not truth:
        return result
    overlap = np.array(coco_mask.iou([p.rle for p in predicted], [t.rle for t in truth], [0] * len(truth)))
    for row in sorted(range(len(predicted)), key=lambda k: -predicted[k].score):
        best = int(overlap[row].argmax())
        if overlap[row, best] >= FOUND_IOU:
            result[row] = best
            overlap[:, best] = 0.0
    return result


def without_ignored(pair: ImagePair, ignored: np.ndarray, fraction: float = 0.5) -> ImagePair:
    """The pair without predictions that lie mostly where nothing is known.

    Args:
        pair: one image.
        ignored: (H, W) bool.
        fraction: of a prediction's area.
    """
    if not ignored.any() or not pair.predicted:
        return pair
    area = coco_mask.encode(np.asfortranarray(ignored).view(np.uint8))
    inside = np.array(coco_mask.iou([r.rle for r in pair.predicted], [area], [1]))[:, 0]
    kept = [r for r, part in zip(pair.predicted, inside.tolist(), strict=True) if part <= fraction]
    return replace(pair, predicted=kept)


def _of_class(pairs: Sequence[ImagePair], name: str) -> list[ImagePair]:
    def mine(regions: Sequence[Region]) -> list[Region]:
        return [r for r in regions if region_name(r) == name]

    return [replace(p, predicted=mine(p.predicted), truth=mine(p.truth)) for p in pairs]
