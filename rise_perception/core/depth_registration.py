"""Depth of one camera as another one would see it: what makes a depth topic fit its colour image."""

from __future__ import annotations

import math

import numpy as np

from rise_perception.core.frame import CameraIntrinsics

#: Largest footprint in pixels of a depth pixel in the other image; a coarser depth camera leaves holes.
MAX_FOOTPRINT = 8


def register_depth(
    depth: np.ndarray, camera: CameraIntrinsics, target: CameraIntrinsics, target_from_camera: np.ndarray
) -> np.ndarray:
    """Move every measurement to the other camera; where several fall on a pixel, the nearest stays.

    A depth pixel is drawn as large as it is in the other image, so that a finer one has no grid of holes.
    What the other camera sees beside an occluder stays without a measurement.

    Args:
        depth: (h, w) float32 metres along the axis of ``camera``; 0 or NaN: no measurement.
        camera: intrinsics of ``depth``.
        target: intrinsics of the image to register to.
        target_from_camera: (4, 4) maps points of ``camera``'s frame to ``target``'s.

    Returns:
        (target.height, target.width) float32 metres along the axis of ``target``; 0: no measurement.
    """
    v, u = np.nonzero(depth > 0)
    z = depth[v, u].astype(np.float32)
    rotation = target_from_camera[:3, :3].astype(np.float32)
    shift = target_from_camera[:3, 3].astype(np.float32)
    x = (u.astype(np.float32) - np.float32(camera.cx)) / np.float32(camera.fx)
    y = (v.astype(np.float32) - np.float32(camera.cy)) / np.float32(camera.fy)
    moved = [z * (row[0] * x + row[1] * y + row[2]) + t for row, t in zip(rotation, shift, strict=True)]
    ahead = (moved[2] > 1e-3) & np.isfinite(moved[2])
    x, y, z = (part[ahead] for part in moved)
    column = target.fx * x / z + target.cx
    row = target.fy * y / z + target.cy
    # The nearest last: of equal indices, the last assignment stays.
    order = np.argsort(-z, kind="stable")
    column, row, z = column[order], row[order], z[order]
    registered = np.full((target.height, target.width), np.inf, np.float32)
    wide = _footprint(target.fx / camera.fx)
    high = _footprint(target.fy / camera.fy)
    for i in range(wide):
        for j in range(high):
            c = np.floor(column + (0.5 + i - (wide - 1) / 2)).astype(np.int64)
            r = np.floor(row + (0.5 + j - (high - 1) / 2)).astype(np.int64)
            inside = (c >= 0) & (c < target.width) & (r >= 0) & (r < target.height)
            layer = np.full(registered.size, np.inf, np.float32)
            layer[r[inside] * target.width + c[inside]] = z[inside]
            np.minimum(registered, layer.reshape(registered.shape), out=registered)
    return np.where(np.isfinite(registered), registered, np.float32(0))


def _footprint(scale: float) -> int:
    return min(MAX_FOOTPRINT, max(1, math.ceil(scale - 1e-3)))
