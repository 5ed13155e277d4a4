"""Numbers that describe a crop: orientations of edges in picture, mask and relief, and measures of its shape.

They are fixed; what is learned starts after them: few thousand crops and minutes of one core have to do.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch.nn import functional

from rise_perception.language.things import quantiles
from rise_perception.referring.crops import SIZE

#: Orientations of edges, and cells along a side.
_ORIENTATIONS, _CELLS = 9, 6
_EDGES = _ORIENTATIONS * _CELLS * _CELLS
#: Outline (14), relief (12), colour and texture (7).
_OUTLINE, _RELIEF, _LOOK = 14, 12, 7
#: Length of a descriptor, and which of its numbers come from depth; those are 0 without depth.
LENGTH = 3 * _EDGES + _OUTLINE + _RELIEF + _LOOK
DEPTH_COLUMNS = slice(2 * _EDGES, 3 * _EDGES), slice(3 * _EDGES + _OUTLINE, LENGTH - _LOOK)
#: Rings around the middle, as fractions of the radius: a hollow thing is deep in its inner ones.
_RINGS = ((0, 0.3), (0.3, 0.6), (0.6, 0.85), (0.85, 1.1))


def describe(crops: np.ndarray) -> np.ndarray:
    """Describe crops.

    Args:
        crops: (N, 6, 48, 48) uint8 (:func:`rise_perception.referring.crops.cut_crops`).

    Returns:
        (N, LENGTH) float32.
    """
    if not len(crops):
        return np.zeros((0, LENGTH), np.float32)
    edges = np.concatenate([_edges(crops[k : k + 256]) for k in range(0, len(crops), 256)])
    shapes = np.stack([_shape(crop) for crop in crops])
    return np.nan_to_num(np.concatenate([edges, shapes], 1)).astype(np.float32)


def _edges(crops: np.ndarray) -> np.ndarray:
    """(N, 3 * 9 * 6 * 6) square roots of normalised histograms of edge orientations."""
    pictures = torch.from_numpy(crops).float()
    grey = torch.stack([pictures[:, :3].mean(1), pictures[:, 3], pictures[:, 4]], 1) / 255
    dx = grey[..., 1:-1, 2:] - grey[..., 1:-1, :-2]
    dy = grey[..., 2:, 1:-1] - grey[..., :-2, 1:-1]
    strength = torch.hypot(dx, dy)
    angle = torch.atan2(dy, dx).remainder(torch.pi) / torch.pi * _ORIENTATIONS
    low, part = angle.floor().long(), angle - angle.floor()
    bins = torch.zeros(*strength.shape[:2], _ORIENTATIONS, *strength.shape[2:])
    for index, fraction in ((low % _ORIENTATIONS, 1 - part), ((low + 1) % _ORIENTATIONS, part)):
        bins.scatter_add_(2, index[:, :, None], (strength * fraction)[:, :, None])
    cells = functional.adaptive_avg_pool2d(bins.flatten(0, 1), _CELLS).unflatten(0, bins.shape[:2])
    norm = cells.flatten(2).norm(dim=2)[:, :, None, None, None]
    return (cells / (norm + 1e-3)).flatten(1).sqrt().numpy()


def _shape(crop: np.ndarray) -> np.ndarray:
    mask = (crop[3] > 127).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not outlines:
        return np.zeros(_OUTLINE + _RELIEF + _LOOK, np.float32)
    outline = max(outlines, key=cv2.contourArea)
    moments = cv2.moments(mask, True)
    _, radius = cv2.minEnclosingCircle(outline)
    inner = cv2.erode(mask, np.ones((5, 5), np.uint8)) > 0
    parts = [
        _of_outline(outline, mask, moments, radius),
        _of_relief(crop, mask > 0, inner, moments, radius),
        _of_look(crop, mask > 0, inner),
    ]
    return np.concatenate(parts)


def _of_outline(
    outline: np.ndarray, mask: np.ndarray, moments: dict[str, float], radius: float
) -> np.ndarray:
    area, length = max(1.0, cv2.contourArea(outline)), max(1.0, cv2.arcLength(outline, True))
    hull = max(1.0, cv2.contourArea(cv2.convexHull(outline)))
    short, long = sorted(max(1.0, side) for side in cv2.minAreaRect(outline)[1])
    corners = len(cv2.approxPolyDP(outline, 0.03 * length, True)) / 10
    hu = np.asarray(cv2.HuMoments(moments)).ravel()
    return np.array(
        [
            4 * np.pi * area / length**2,
            area / hull,
            short / long,
            area / (short * long),
            area / (np.pi * max(radius, 1.0) ** 2),
            corners,
            float(mask.sum()) / area - 1,
            *(np.sign(hu) * np.log10(np.abs(hu) + 1e-12) / 10),
        ]
    )


def _of_relief(
    crop: np.ndarray, mask: np.ndarray, inner: np.ndarray, moments: dict[str, float], radius: float
) -> np.ndarray:
    relief = (crop[4].astype(np.float32) - 128) / 127
    known = (crop[5] > 127) & mask
    if known.sum() <= 10:
        return np.zeros(_RELIEF)
    mass = max(moments["m00"], 1.0)
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    distance = np.hypot(x - moments["m10"] / mass, y - moments["m01"] / mass) / max(radius, 1.0)
    rings = [_mean(relief[known & (distance >= low) & (distance < high)]) for low, high in _RINGS]
    border = _mean(relief[known & inner]) - _mean(relief[known & ~inner])
    values = relief[known]
    return np.array(
        [*quantiles(values, (0.05, 0.25, 0.5, 0.75, 0.95)), values.std(), border, known.mean(), *rings]
    )


def _of_look(crop: np.ndarray, mask: np.ndarray, inner: np.ndarray) -> np.ndarray:
    picture = np.ascontiguousarray(crop[:3].transpose(1, 2, 0))
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32) / 64
    pixels = lab[mask]
    texture = _mean(np.abs(cv2.Laplacian(np.ascontiguousarray(lab[..., 0]), cv2.CV_32F))[inner])
    return np.array([*pixels.mean(0), *pixels.std(0), texture])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
