"""What a sentence can say about the items of one image, measured: place, size, depth, colour, contact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from rise_perception.language.colours import colour_fractions, colour_map

#: Items touch across this many pixels, as a fraction of the image's diagonal (3 pixels of 320 x 240).
_GAP = 0.0075
#: An item's near side is this quantile of its depths.
_NEAR = 0.1
#: Fewer measured pixels than this fraction of an item say nothing about its depth.
_MEASURED = 0.1


@dataclass(frozen=True)
class Things:
    """N items of one image.

    Attributes:
        boxes: (N, 4) float32, x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
        centres: (N, 2) float32, x, y of the masks' centroids.
        areas: (N,) float32, pixels.
        depths: (N,) float32, median metres; NaN where unknown.
        near: (N,) float32, depth of the near side in metres; NaN where unknown.
        colours: (N, 11) float32, fraction of the pixels that have each colour name.
        contact: (N, N) float32, fraction of what lies around item i that is item j.
        kinds: (N, 8) float32, probability of each of
            :data:`~rise_perception.language.vocabulary.KINDS`, or None where nobody can tell.
        width, height: of the image in pixels.
    """

    boxes: np.ndarray
    centres: np.ndarray
    areas: np.ndarray
    depths: np.ndarray
    near: np.ndarray
    colours: np.ndarray
    contact: np.ndarray
    kinds: np.ndarray | None
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def diagonal(self) -> float:
        """Of the image, pixels."""
        return float(np.hypot(self.width, self.height))


def measure(
    image: np.ndarray,
    depth: np.ndarray | None,
    label_map: np.ndarray,
    labels: np.ndarray,
    kinds: np.ndarray | None = None,
) -> Things:
    """Measure the items of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres, 0 = none; or None.
        label_map: (H, W) uint16, 0 = background.
        labels: (N,) values of ``label_map``, one for each item.
        kinds: (N, 8) probabilities of kinds, or None.
    """
    height, width = label_map.shape
    count = len(labels)
    index_of = np.zeros(max(int(label_map.max(initial=0)), int(labels.max(initial=0))) + 1, np.int32)
    index_of[labels.astype(np.int64)] = np.arange(1, count + 1)
    owners = index_of.take(label_map)  # (H, W), 0 = nobody, i + 1 = item i
    inside = np.flatnonzero(owners > 0)  # row numbers: a mask would take seven times as long
    owned = owners.ravel().take(inside)
    fractions = colour_fractions(colour_map(image.reshape(-1, 3).take(inside, axis=0)), owned, count)
    boxes, centres = np.zeros((count, 4), np.float32), np.zeros((count, 2), np.float32)
    areas = np.bincount(owned, minlength=count + 1)[1:].astype(np.float32)
    depths, near = np.full(count, np.nan, np.float32), np.full(count, np.nan, np.float32)
    contact = np.zeros((count, count), np.float32)
    reach = max(2, round(_GAP * float(np.hypot(width, height))))
    brush = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    spans = _spans(owners, count)
    for row, span in enumerate(spans):
        if span is None:
            continue
        x0, y0, x1, y1 = span
        boxes[row] = span
        top, left = max(0, y0 - reach), max(0, x0 - reach)
        around = slice(top, min(height, y1 + reach)), slice(left, min(width, x1 + reach))
        mask = owners[around] == row + 1
        sums = cv2.moments(mask.view(np.uint8), True)
        centres[row] = left + sums["m10"] / sums["m00"] + 0.5, top + sums["m01"] / sums["m00"] + 0.5
        ring = cv2.dilate(mask.view(np.uint8), brush).view(bool) & ~mask
        touched = np.bincount(owners[around][ring], minlength=count + 1)
        contact[row] = touched[1:] / max(1, touched.sum())
        if depth is not None:
            values = depth[around][mask]
            values = values[(values > 0) & np.isfinite(values)]
            if len(values) >= max(1.0, _MEASURED * areas[row]):
                near[row], depths[row] = quantiles(values, (_NEAR, 0.5))
    return Things(boxes, centres, areas, depths, near, fractions, contact, kinds, width, height)


def quantiles(values: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """As ``np.quantile`` of (n,) finite numbers, n >= 1, without what that spends beside the numbers."""
    ordered = np.sort(values)
    at = np.asarray(fractions) * (len(ordered) - 1)
    low = at.astype(np.intp)
    below, above = ordered[low], ordered[np.minimum(low + 1, len(ordered) - 1)]
    return np.asarray(below + (above - below) * (at - low))


def _spans(owners: np.ndarray, count: int) -> list[tuple[int, int, int, int] | None]:
    from scipy.ndimage import find_objects

    found = find_objects(owners, count)
    return [None if s is None else (s[1].start, s[0].start, s[1].stop, s[0].stop) for s in found]
