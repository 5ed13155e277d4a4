"""Whether labels end where the picture has edges: evidence that a mistake in the labels does not share.

One label's outline may run beside the edges: items touch, and ground has a pattern. What all labels of a
learner have in common is another matter: grown or shrunk, their outlines lie off the edges by as much
everywhere, and moved, off by the same vector.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

#: Offsets of the outline that are compared, in pixels at 320x240: outwards, and for moves in both axes.
OFFSETS = np.arange(-9, 10)
MOVES = np.arange(-9, 10, 3)
#: Offset, in the same pixels, from which all labels together lie beside the edges.
MAX_OFFSET = 1.5
MAX_MOVE = 3
#: Labels below which nothing is concluded.
MIN_LABELS = 6
#: An outline on edges has so much more of them than the outlines around it, in the mean over labels.
MIN_CONTRAST = 1.15
#: Depth changes by this fraction of itself within a pixel at the edge of an item.
DEPTH_STEP = 0.008


@dataclass(frozen=True)
class Evidence:
    """Edges along one label's outline and along outlines near it, each relative to their mean.

    Attributes:
        grown: (len(OFFSETS),) for the outline moved outwards by so much.
        moved: (len(MOVES), len(MOVES)) for the outline moved by (dy, dx).
    """

    grown: np.ndarray
    moved: np.ndarray


def outline_evidence(mask: np.ndarray, edges: np.ndarray) -> Evidence | None:
    """The evidence about one label; None where it is too small to say.

    Args:
        mask: (H, W) bool.
        edges: of :func:`edge_strength`.
    """
    scale = max(1.0, float(np.sqrt(mask.size / (320 * 240))))
    rows, columns = np.nonzero(mask)
    if len(rows) < 60 * scale * scale:
        return None
    margin = round(12 * scale)
    top, left = max(0, rows.min() - margin), max(0, columns.min() - margin)
    window = slice(top, rows.max() + margin + 1), slice(left, columns.max() + margin + 1)
    part, strength = mask[window], edges[window]
    inside = cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5)
    outside = cv2.distanceTransform((~part).astype(np.uint8), cv2.DIST_L2, 5)
    distance = np.where(part, 0.5 - inside, outside - 0.5) / scale
    grown = np.array([_mean(strength, np.abs(distance - offset) <= 0.75) for offset in OFFSETS])
    outline = np.argwhere(np.abs(distance) <= 0.75)
    moved = np.zeros((len(MOVES), len(MOVES)))
    for row, dy in enumerate(MOVES):
        for column, dx in enumerate(MOVES):
            points = outline + np.round(np.array([dy, dx]) * scale).astype(int)
            fits = ((points >= 0) & (points < part.shape)).all(1)
            moved[row, column] = strength[tuple(points[fits].T)].mean() if fits.any() else np.nan
    if not np.nanmean(grown) > 0 or not np.nanmean(moved) > 0:
        return None
    return Evidence(
        np.nan_to_num(grown / np.nanmean(grown), nan=1.0), np.nan_to_num(moved / np.nanmean(moved), nan=1.0)
    )


def edge_strength(image: np.ndarray, depth: np.ndarray | None) -> np.ndarray:
    """(H, W) float32 in [0, 2]: how much of an edge each pixel is, in colour and, where there is, in depth.

    Args:
        image: (H, W, 3) uint8.
        depth: (H, W) float32 metres, 0 = none; None without.
    """
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)
    dx, dy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    colour = np.sqrt(dx * dx + dy * dy).max(axis=2)
    strength = np.minimum(colour / max(1e-3, 2 * float(np.quantile(colour, 0.9))), 1.0)
    if depth is not None:
        metres = cv2.medianBlur(depth.astype(np.float32), 5)
        kernel = np.ones((3, 3), np.uint8)
        known = cv2.erode((metres > 0).astype(np.uint8), kernel) > 0
        step = (cv2.dilate(metres, kernel) - cv2.erode(metres, kernel)) / np.maximum(metres, 0.1)
        strength = strength + np.where(known, np.minimum(step / DEPTH_STEP / 2, 1.0), 0)
    return strength.astype(np.float32)


def systematic_fault(labels: Sequence[Evidence]) -> str:
    """Why labels cannot be right together; empty where nothing speaks against them."""
    if len(labels) < MIN_LABELS:
        return ""
    grown = np.mean([label.grown for label in labels], axis=0)
    smooth = np.convolve(np.pad(grown, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    offset = int(OFFSETS[int(smooth.argmax())])
    if abs(offset) > MAX_OFFSET:
        side = "inside" if offset < 0 else "outside"
        return (
            f"the edges of the pictures lie {abs(offset)} pixels {side} the outlines of {len(labels)} "
            "labels: they are " + ("too large" if offset < 0 else "too small")
        )
    moved = np.mean([label.moved for label in labels], axis=0)
    row, column = np.unravel_index(int(moved.argmax()), moved.shape)
    dy, dx = int(MOVES[row]), int(MOVES[column])
    if max(abs(dy), abs(dx)) > MAX_MOVE:
        return f"the edges lie {dx}, {dy} pixels beside the outlines of {len(labels)} labels"
    near = np.abs(OFFSETS) <= 1
    contrast = float(grown[near].mean() / grown[np.abs(OFFSETS) >= 5].mean())
    if contrast < MIN_CONTRAST:
        return (
            f"the outlines of {len(labels)} labels have {contrast:.2f} times the edges that are beside them, "
            f"those of items at least {MIN_CONTRAST}"
        )
    return ""


def _mean(values: np.ndarray, where: np.ndarray) -> float:
    return float(values[where].mean()) if where.any() else float("nan")


def evidence_of(
    frames: Iterable[tuple[np.ndarray, np.ndarray | None, Iterable[np.ndarray]]],
) -> list[Evidence]:
    """The evidence about the labels (H, W) bool of pictures: image, depth, masks."""
    found = []
    for image, depth, masks in frames:
        edges = edge_strength(image, depth)
        found += [e for mask in masks if (e := outline_evidence(mask, edges)) is not None]
    return found
