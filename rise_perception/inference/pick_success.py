"""How likely a grasp of each instance succeeds: a small calibrated head over what is known of its mask.

The head is a logistic regression. The learner fits it from the outcomes of grasps and stores it in the card
of the model, so that a version carries the head that was fitted for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from rise_perception.core.errors import ModelError
from rise_perception.core.instances import Instances
from rise_perception.core.support_surface import fit_support_surface, relief

#: Key of a card's ``metrics`` under which the head lies.
CARD_KEY = "pick_success"
#: Millimetres above the support surface from which a pixel stands up.
STANDS = 5.0
#: What is measured of a mask; the embedding follows.
FEATURES = (
    "score",  # logit of the score
    "area",  # logarithm of the fraction of the picture
    "solidity",  # area over that of the convex hull
    "room",  # logarithm of the distance from the middle to the rim, in pixels at 320x240
    "reach",  # the same for the innermost pixel
    "relief",  # root of the median millimetres above the support surface
    "standing",  # fraction of the mask that stands up
    "middle relief",  # root of the millimetres around the middle
    "rough",  # logarithm of the spread of depth around the middle
    "step",  # fraction of the rim beyond which the ground lies lower
    "depth",  # fraction of the mask with depth
    "crowd",  # fraction of the rim that touches other masks
)


@dataclass(frozen=True)
class PickSuccess:
    """The head.

    Attributes:
        mean, scale: (D,) of the features, to standardise them.
        weights: (D,) of the standardised features.
        bias: of the logit.
        outcomes: grasps that it was fitted on.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: float
    outcomes: int

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N,) float32 probabilities; NaN where the head knows other features."""
        if features.shape[1] != len(self.weights):
            return np.full(len(features), np.nan, np.float32)
        logits = ((features - self.mean) / self.scale).clip(-4, 4) @ self.weights + self.bias
        return (1 / (1 + np.exp(-logits))).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        """For the card."""
        vectors = {name: getattr(self, name).round(6).tolist() for name in ("mean", "scale", "weights")}
        return {**vectors, "bias": round(self.bias, 6), "outcomes": self.outcomes}

    @staticmethod
    def from_card(metrics: dict[str, Any]) -> PickSuccess | None:
        """The head of a card; None where it has none.

        Raises:
            ModelError: it is damaged.
        """
        raw = metrics.get(CARD_KEY)
        if raw is None:
            return None
        try:
            mean, scale, weights = (np.array(raw[name], np.float64) for name in ("mean", "scale", "weights"))
            head = PickSuccess(mean, scale, weights, float(raw["bias"]), int(raw["outcomes"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the pick-success head of a card is damaged ({error!r}); roll back") from error
        shapes = {mean.shape, scale.shape, weights.shape}
        good = len(shapes) == 1 and mean.ndim == 1 and (scale > 0).all()
        if not (good and np.isfinite([*mean, *scale, *weights, head.bias]).all()):
            raise ModelError("the pick-success head of a card is damaged; roll back to another version")
        return head


def with_pick_success(instances: Instances, depth: np.ndarray | None, head: PickSuccess) -> Instances:
    """Instances with the probability that a grasp of each succeeds."""
    return replace(instances, pick_success=head(pick_features(instances, depth)))


def without_flat(instances: Instances, depth: np.ndarray, min_relief_mm: float) -> Instances:
    """Instances that stand up from the support surface by ``min_relief_mm`` in the median.

    Without a support surface, and where a mask has no depth, everything stays.

    Args:
        instances: of the frame.
        depth: (H, W) float32 metres.
        min_relief_mm: millimetres.
    """
    plane = fit_support_surface(depth)
    if plane is None or not len(instances):
        return instances
    heights = relief(depth, plane)
    kept = np.ones(len(instances), bool)
    for row in range(len(instances)):
        inside = heights[instances.mask(row)]
        known = inside[np.isfinite(inside)]
        kept[row] = not len(known) or bool(np.median(known) >= min_relief_mm)
    return instances.only(kept)


def pick_features(instances: Instances, depth: np.ndarray | None) -> np.ndarray:
    """What the head sees of each instance.

    Args:
        instances: N, with embeddings of D values.
        depth: (H, W) float32 metres, 0 or NaN = none; None without.

    Returns:
        (N, len(FEATURES) + D) float64; what depth would tell is 0 without it.
    """
    heights = None
    if depth is not None and (plane := fit_support_surface(depth)) is not None:
        heights = relief(depth, plane)
    rows = [_describe(instances, row, heights) for row in range(len(instances))]
    shape = np.array(rows, np.float64).reshape(len(instances), len(FEATURES))
    norms = np.linalg.norm(instances.embeddings, axis=1, keepdims=True)
    return np.concatenate([shape, instances.embeddings / np.maximum(norms, 1e-6)], 1)


def _describe(instances: Instances, row: int, heights: np.ndarray | None) -> list[float]:
    label_map, (x0, y0, x1, y1) = instances.label_map, instances.boxes[row].astype(int)
    # All that is asked for lies within two pixels of the mask's box.
    top, left = max(0, y0 - 3), max(0, x0 - 3)
    window = (slice(top, y1 + 3), slice(left, x1 + 3))
    labels = label_map[window]
    mask = labels == instances.labels[row]
    scale = math.sqrt(320 * 240 / label_map.size)
    area = max(1, int(mask.sum()))
    away = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(mask)
    y, x = (rows.mean(), columns.mean()) if len(rows) else (0.0, 0.0)
    room = float(away[round(y), round(x)]) if mask.any() else 0.0
    if room == 0 and mask.any():
        y, x = np.unravel_index(int(away.argmax()), away.shape)
        room = float(away.max())
    hull = cv2.convexHull(np.stack([columns, rows], 1).astype(np.int32)) if len(rows) else None
    solidity = area / max(float(area), cv2.contourArea(hull)) if hull is not None else 0.0
    ring = (cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0) & ~mask
    score = float(np.clip(instances.scores[row], 1e-3, 1 - 1e-3))
    shape = [
        math.log(score / (1 - score)),
        math.log(area / label_map.size),
        solidity,
        math.log(1 + room * scale),
        math.log(1 + float(away.max()) * scale),
    ]
    crowd = float((labels[ring] > 0).mean()) if ring.any() else 0.0
    if heights is None:
        return [*shape, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, crowd]
    part = heights[window]
    inside, known = part[mask], np.isfinite(part)
    seen = inside[np.isfinite(inside)]
    if not len(seen):
        return [*shape, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, crowd]
    grid_y, grid_x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    near = known & ((grid_y - y) ** 2 + (grid_x - x) ** 2 <= (5 / scale) ** 2)
    middle, spread = (float(np.median(part[near])), float(part[near].std())) if near.any() else (0.0, 0.0)
    height = float(np.median(seen))
    lower = ring & known & (part < height - STANDS)
    return [
        *shape,
        math.sqrt(max(0.0, height)),
        float((seen > STANDS).mean()),
        math.sqrt(max(0.0, middle)),
        math.log(1 + spread),
        float(lower.sum() / max(1, (ring & known).sum())),
        len(seen) / area,
        crowd,
    ]
