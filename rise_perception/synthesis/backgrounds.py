"""Pictures without objects: the user's own, or annotated ones out of which the objects are painted."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from rise_perception.data.coco import LabelledImage

#: So many pixels around a mask go with it: outlines are drawn a little inside, and objects cast shadows.
MARGIN = 4
#: Radius of cv2.inpaint, pixels.
RADIUS = 3.0
#: With less than this fraction of a picture around its objects, nothing tells what the place looks like.
LEAST_AROUND = 0.1


def without_objects(sample: LabelledImage) -> LabelledImage | None:
    """An annotated picture with its objects painted over from what surrounds them, depth too.

    Returns:
        the picture; None where objects leave less of it than :data:`LEAST_AROUND`.
    """
    none = LabelledImage.unlabelled(sample.name, sample.image, sample.depth)
    if not len(sample.masks):
        return none
    if not shows_surroundings(sample.masks):
        return None
    hole = _around(sample.masks)
    image = cv2.inpaint(sample.image, hole, RADIUS, cv2.INPAINT_TELEA)
    depth = sample.depth
    if depth is not None:
        depth = np.asarray(cv2.inpaint(depth.astype(np.float32), hole, RADIUS, cv2.INPAINT_NS))
        depth = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    return replace(none, image=np.asarray(image), depth=depth)


def shows_surroundings(masks: np.ndarray) -> bool:
    """Whether objects (N, H, W) bool leave enough of their picture for :func:`without_objects`."""
    return not len(masks) or bool(_around(masks).mean() <= 1 - LEAST_AROUND)


def _around(masks: np.ndarray) -> np.ndarray:
    """(H, W) uint8, 1 on objects (N, H, W) bool and :data:`MARGIN` around them."""
    side = 2 * MARGIN + 1
    objects = np.asarray(masks.any(0), np.uint8)
    return np.asarray(cv2.dilate(objects, np.ones((side, side), np.uint8)))
