"""A small picture of each item, cut out of its image: what a kind of thing is recognised by."""

from __future__ import annotations

import cv2
import numpy as np

#: Side of a crop in pixels, and its channels: red, green, blue, mask, height over the item, measured.
SIZE, CHANNELS = 48, 6
#: A crop is so much larger than the item.
_MARGIN = 1.25
#: Least side that is cut out, pixels.
_LEAST = 16
#: Metres before and behind the item's middle that the height channel spans.
_SPAN = 0.12


def cut_crops(
    image: np.ndarray, depth: np.ndarray | None, label_map: np.ndarray, labels: np.ndarray, boxes: np.ndarray
) -> np.ndarray:
    """Cut the items out of an image.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres, 0 = none; or None.
        label_map: (H, W) uint16.
        labels: (N,) values of the items in ``label_map``.
        boxes: (N, 4) x0, y0, x1, y1 in pixels.

    Returns:
        (N, 6, 48, 48) uint8; the height channel is 128 at the item's median depth and where nothing was
        measured, larger towards the camera; mask and measured are 0 or 255.
    """
    crops = np.zeros((len(labels), SIZE, SIZE, CHANNELS), np.uint8)
    for row, (label, box) in enumerate(zip(labels, boxes, strict=True)):
        side = max(_LEAST, int(np.ceil(_MARGIN * max(box[2] - box[0], box[3] - box[1]))))
        left, top = int((box[0] + box[2] - side) // 2), int((box[1] + box[3] - side) // 2)
        crops[row, ..., :3] = _cut(image, left, top, side)
        mask = label_map[max(0, top) : top + side, max(0, left) : left + side] == label
        inside = max(0, -left), max(0, -top)
        crops[row, ..., 3] = _paste(mask.view(np.uint8) * np.uint8(255), 0, inside, side)
        if depth is None:
            crops[row, ..., 4] = 128
            continue
        part = depth[max(0, top) : top + side, max(0, left) : left + side]
        known = (part > 0) & np.isfinite(part)
        middle = float(np.median(part[mask & known])) if (mask & known).any() else 0.0
        relief = _relief(np.where(known, part, np.float32(middle)), middle)
        crops[row, ..., 4] = _paste(relief, 128, inside, side)
        crops[row, ..., 5] = _paste(known.view(np.uint8) * np.uint8(255), 0, inside, side)
    return np.ascontiguousarray(crops.transpose(0, 3, 1, 2))


def _relief(depth: np.ndarray, middle: float) -> np.ndarray:
    """(h, w) float32 metres -> (h, w) uint8 height over ``middle``, which is 128; all 128 if that is 0."""
    if middle <= 0:
        return np.full(depth.shape, 128, np.uint8)
    height = depth * np.float32(-127 / _SPAN)
    height += np.float32(128.5 + 127 * middle / _SPAN)
    return np.clip(height, 1, 255.5, out=height).astype(np.uint8)


def _cut(picture: np.ndarray, left: int, top: int, side: int) -> np.ndarray:
    part = picture[max(0, top) : top + side, max(0, left) : left + side]
    return _paste(part, 0, (max(0, -left), max(0, -top)), side)


def _paste(part: np.ndarray, ground: int, at: tuple[int, int], side: int) -> np.ndarray:
    """A part of the image on a square of ``side`` pixels, made as large as a crop."""
    whole = np.full((side, side, *part.shape[2:]), ground, np.uint8)
    whole[at[1] : at[1] + part.shape[0], at[0] : at[0] + part.shape[1]] = part
    return cv2.resize(whole, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
