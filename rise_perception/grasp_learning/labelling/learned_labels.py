"""Labels from the grasp segmenter: masks that it takes for one item that left."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from rise_perception.core.regions import mask_iou
from rise_perception.grasp_learning.labelling.change import pieces

if TYPE_CHECKING:
    from rise_perception.grasp_learning.segmenter.model import Removal

#: Probability from which a pixel shows what left.
LEFT = 0.5
#: Fraction of a prediction that has to have left before it is judged as what left.
GONE = 0.5
#: Fraction of a mask that may lie in another label.
OVERLAP = 0.15
#: Masks that are judged at most, and labels of one grasp.
MOST, MOST_LABELS = 16, 3


def learned_masks(
    removal: Removal, predicted: Sequence[np.ndarray], analysed: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Masks (H, W) bool of single items that left, the surest first.

    Args:
        removal: what the network sees.
        predicted: (H, W) bool each, the instances of the frame before.
        analysed: (H, W) bool each, the labels that the analysis of the change came to.
    """
    candidates = candidate_masks(removal.left, predicted, analysed)
    found = distinct(candidates, removal.quality(candidates))
    return [candidates[k] for k, quality in found if quality >= removal.min_quality][:MOST_LABELS]


def distinct(candidates: Sequence[np.ndarray], quality: np.ndarray) -> list[tuple[int, float]]:
    """Numbers and qualities of masks that hardly overlap better ones, the best first."""
    kept: list[tuple[int, float]] = []
    for k in np.argsort(-quality, kind="stable").tolist():
        mask, size = candidates[k], candidates[k].sum()
        others = (candidates[other] for other, _ in kept)
        if all((mask & other).sum() <= OVERLAP * min(size, other.sum()) for other in others):
            kept.append((k, float(quality[k])))
    return kept


def candidate_masks(
    left: np.ndarray, predicted: Sequence[np.ndarray], analysed: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """What may be one item that left: parts of what left, predictions, their common pixels, older labels."""
    parts = [_smooth(part) for part in pieces(left > LEFT)]
    found = [*parts]
    whole = np.any(parts, axis=0) if parts else np.zeros(left.shape, bool)
    if len(parts) > 1:
        found.append(whole)
    for mask in predicted:
        size = int(mask.sum())
        if not size or float(left[mask].mean()) < GONE:
            continue
        found.append(mask)
        held = whole & (cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
        if held.sum() >= 0.5 * size:
            found.append(held)
    found += analysed
    different: list[np.ndarray] = []
    for mask in found:
        if mask.any() and all(mask_iou(mask, other) < 0.98 for other in different):
            different.append(mask)
    return different[:MOST]


def _smooth(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool without threads and specks of holes."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    opened = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    return np.asarray(cv2.morphologyEx(opened, cv2.MORPH_CLOSE, kernel)) > 0
