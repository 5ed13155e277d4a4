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


def without_objects(sample: LabelledImage) -> LabelledImage:
    """An annotated picture with its objects painted over from what surrounds them, depth too."""
    none = LabelledImage.unlabelled(sample.name, sample.image, sample.depth)
    if not len(sample.masks):
        return none
    side = 2 * MARGIN + 1
    objects = np.asarray(sample.masks.any(0), np.uint8)
    hole = cv2.dilate(objects, np.ones((side, side), np.uint8))
    if hole.all():
        return replace(none, image=np.full_like(sample.image, 114))
    image = cv2.inpaint(sample.image, hole, RADIUS, cv2.INPAINT_TELEA)
    depth = sample.depth
    if depth is not None:
        depth = np.asarray(cv2.inpaint(depth.astype(np.float32), hole, RADIUS, cv2.INPAINT_NS))
        depth = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    return replace(none, image=np.asarray(image), depth=depth)
