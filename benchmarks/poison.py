"""Labels made wrong in the ways that a cell can make them wrong, all alike, for `rise bench gate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels

#: What is done to labels; "none" leaves them as they are.
KINDS = ("none", "dilated", "eroded", "shifted", "merged", "split", "swapped", "noise", "moved camera")
#: Pixels at 320x240 by which outlines grow or shrink, and labels move (dy, dx).
GROWN, SHRUNK, SHIFT, CAMERA = 7, 4, (6, 8), (0, 14)


def poisoned(
    labels: EpisodeLabels, kind: str, others: Sequence[np.ndarray], neighbours: np.ndarray, seed: int
) -> EpisodeLabels:
    """The labels of an episode after a mistake.

    Args:
        labels: the right ones.
        kind: one of :data:`KINDS`.
        others: masks (H, W) bool of labels of other episodes.
        neighbours: (N, H, W) bool, other items in the frame.
        seed: of what is drawn.
    """
    rng = np.random.default_rng(seed)
    masks = [_wrong(mask, kind, others, neighbours, rng) for mask in labels.masks]
    masks = [mask for mask in masks if mask.sum() >= 40]
    empty = np.zeros((0, *labels.removed.shape), bool)
    return replace(labels, masks=np.stack(masks) if masks else empty)


def _wrong(
    mask: np.ndarray,
    kind: str,
    others: Sequence[np.ndarray],
    neighbours: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    scale = np.sqrt(mask.size / (320 * 240))
    if kind == "dilated":
        return cv2.dilate(mask.astype(np.uint8), _disc(GROWN * scale)) > 0
    if kind == "eroded":
        return cv2.erode(mask.astype(np.uint8), _disc(SHRUNK * scale)) > 0
    if kind in ("shifted", "moved camera"):
        dy, dx = SHIFT if kind == "shifted" else CAMERA
        return _moved(mask, round(dy * scale), round(dx * scale))
    if kind == "merged":
        near = cv2.dilate(mask.astype(np.uint8), _disc(8 * scale)) > 0
        touching = [n for n in neighbours if (n & near).any() and (n & mask).sum() < 0.3 * n.sum()]
        return mask | max(touching, key=lambda n: int((n & near).sum())) if touching else mask
    if kind == "split":
        ys, xs = np.nonzero(mask)
        if np.ptp(xs) > np.ptp(ys):
            return mask & (np.arange(mask.shape[1]) < xs.mean())
        return mask & (np.arange(mask.shape[0])[:, None] < ys.mean())
    if kind == "swapped":
        return others[int(rng.integers(len(others)))] if len(others) else mask
    if kind == "noise":
        height, width = mask.shape
        h, w = rng.integers(round(20 * scale), round(50 * scale), 2)
        y, x = rng.integers(0, height - h), rng.integers(0, width - w)
        made = np.zeros_like(mask)
        made[y : y + h, x : x + w] = True
        return made
    return mask


def _moved(mask: np.ndarray, dy: int, dx: int) -> np.ndarray:
    matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
    return cv2.warpAffine(mask.astype(np.uint8), matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST) > 0


def _disc(radius: float) -> np.ndarray:
    width = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
