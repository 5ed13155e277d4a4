"""Cut-outs: single objects taken out of labelled images, with their relief where there is depth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from rise_perception.data.coco import LabelledImage

#: Objects nearer to the image's border than this fraction of its side are cut off, or may be.
BORDER = 0.05
#: Smaller objects, in pixels, are no model for a paste.
SMALLEST = 64
#: Width in pixels of the ring around an object in which the depth of its support is read.
RING = 7


@dataclass(frozen=True)
class CutOut:
    """One object, cut from a labelled image.

    Attributes:
        image: (h, w, 3) uint8 RGB, the object's bounding box.
        mask: (h, w) bool.
        relief: (h, w) float32 metres, depth minus that of the support around the object: negative where the
            object stands out towards the camera, NaN without a measurement; None without depth.
        category: class index.
    """

    image: np.ndarray
    mask: np.ndarray
    relief: np.ndarray | None
    category: int


def cut_outs(sample: LabelledImage, containers: frozenset[int]) -> Iterator[CutOut]:
    """Cut out every object that is whole: no container, large enough, away from the border (5 %)."""
    height, width = sample.image.shape[:2]
    margin_y, margin_x = round(BORDER * height), round(BORDER * width)
    for mask, category in zip(sample.masks, sample.classes.tolist(), strict=True):
        if category in containers:
            continue
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        inside = x >= margin_x and y >= margin_y and x + w <= width - margin_x and y + h <= height - margin_y
        if not inside or np.count_nonzero(mask) < SMALLEST:
            continue
        box = np.s_[y : y + h, x : x + w]
        relief = None if sample.depth is None else _relief(sample.depth, mask, x, y, w, h)
        yield CutOut(sample.image[box].copy(), mask[box].copy(), relief, category)


def _relief(depth: np.ndarray, mask: np.ndarray, x: int, y: int, w: int, h: int) -> np.ndarray:
    """Depth of an object relative to the median of what surrounds it."""
    top, left = max(y - RING, 0), max(x - RING, 0)
    around = np.s_[top : y + h + RING, left : x + w + RING]
    grown = cv2.dilate(mask[around].astype(np.uint8), np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)) > 0
    ring = depth[around][grown & ~mask[around] & (depth[around] > 0)]
    patch = depth[y : y + h, x : x + w]
    if ring.size == 0:
        return np.full((h, w), np.nan, np.float32)
    return np.where(patch > 0, patch - np.float32(np.median(ring)), np.float32(np.nan)).astype(np.float32)
