"""From depth to where the instances are: centroids, oriented 3D boxes and the labelled cloud.

Everything is in the camera's optical frame: x right, y down, z away from the camera, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from rise_perception.core.frame import CameraIntrinsics
from rise_perception.core.instances import Instances

#: Fewer measured points than this say nothing about a box.
MIN_POINTS = 10
#: About how many points of all instances are looked at, and at most how many of one; more cost time alone.
GRID_POINTS, MAX_POINTS = 10_000, 300
#: Fraction of the points that may lie beyond each face: the ragged edge of a mask.
OUTLIERS = 0.005
#: Points that are further than this (metres) and than four median deviations from the median depth are not
#: the item's: at a silhouette, sensors see something between the item and what lies behind.
FLYING = 0.01
#: Larger than any coordinate, so that sorting (instance * FAR + value) sorts within the instances.
FAR = 1e4

POINT = np.dtype(
    {
        "names": ["x", "y", "z", "rgb", "label"],
        "formats": ["<f4", "<f4", "<f4", "<u4", "<u2"],
        "offsets": [0, 4, 8, 12, 16],
        "itemsize": 20,
    }
)


@dataclass(frozen=True)
class Location:
    """Where the visible part of an instance is.

    Attributes:
        centroid: (3,) float64, mean of the measured surface points.
        centre: (3,) float64, centre of the box.
        rotation: (3, 3) float64, columns are the box's axes, longest first, right-handed.
        quaternion: (4,) float64 x, y, z, w of ``rotation``.
        size: (3,) float64, lengths along these axes.
    """

    centroid: np.ndarray
    centre: np.ndarray
    rotation: np.ndarray
    quaternion: np.ndarray
    size: np.ndarray

    def moved(self, transform: np.ndarray) -> Location:
        """The same in another frame; ``transform`` (4, 4) maps points of this frame to that one."""
        turn, shift = transform[:3, :3], transform[:3, 3]
        rotation = turn @ self.rotation
        return Location(
            centroid=turn @ self.centroid + shift,
            centre=turn @ self.centre + shift,
            rotation=rotation,
            quaternion=Rotation.from_matrix(rotation).as_quat(),
            size=self.size,
        )


def backproject(depth: np.ndarray, camera: CameraIntrinsics) -> np.ndarray:
    """(H, W, 3) float32 points of a depth map; NaN where ``depth`` is 0.

    Args:
        depth: (H, W) float32 metres along the optical axis.
        camera: intrinsics of the image that ``depth`` is registered to, of the same size.
    """
    height, width = depth.shape
    z = np.where(depth > 0, depth, np.float32(np.nan))
    points = np.empty((height, width, 3), np.float32)
    np.multiply(z, ((np.arange(width) - camera.cx) / camera.fx).astype(np.float32), out=points[..., 0])
    np.multiply(
        z, ((np.arange(height) - camera.cy) / camera.fy).astype(np.float32)[:, None], out=points[..., 1]
    )
    points[..., 2] = z
    return points


def locate(instances: Instances, depth: np.ndarray, camera: CameraIntrinsics) -> list[Location | None]:
    """One :class:`Location` per instance, None where too few pixels have depth.

    Boxes lie along the principal axes of the visible points. All instances are fitted at once.

    Args:
        instances: N instances of an image of H x W pixels.
        depth: (H, W) float32 metres, 0 = no measurement.
        camera: intrinsics of that image.
    """
    count = len(instances)
    points, row = _points(instances, depth, camera)
    depths = _Groups(row, count)
    median = depths.quantile(points[:, 2], 0.5)
    offset = np.abs(points[:, 2] - median[row])
    near = offset <= np.maximum(FLYING, 4.0 * depths.quantile(offset, 0.5))[row]
    points, row = points[near], row[near]

    groups = _Groups(row, count)
    known = groups.counts >= MIN_POINTS
    centroid = groups.mean(points)
    local = points - centroid[row]
    products = [local[:, i] * local[:, j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))]
    covariance = groups.mean(np.stack(products, axis=1))[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    axes = np.linalg.eigh(covariance)[1][:, :, ::-1]  # eigh sorts rising; longest axis first
    # Signs are arbitrary: fix them, so that a still item has a still box.
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], axis=1)
    axes = axes * np.where(largest < 0, -1.0, 1.0)
    axes[:, :, 2] = np.cross(axes[:, :, 0], axes[:, :, 1])
    local = np.einsum("mi,mij->mj", local, axes[row])
    low = np.stack([groups.quantile(local[:, axis], OUTLIERS) for axis in range(3)], axis=1)
    high = np.stack([groups.quantile(local[:, axis], 1 - OUTLIERS) for axis in range(3)], axis=1)
    centre = centroid + np.einsum("nij,nj->ni", axes, (low + high) / 2)
    quaternion = Rotation.from_matrix(axes).as_quat() if count else np.zeros((0, 4))
    size = high - low
    return [
        Location(centroid[i], centre[i], axes[i], quaternion[i], size[i]) if known[i] else None
        for i in range(count)
    ]


def labelled_cloud(
    image: np.ndarray, depth: np.ndarray, camera: CameraIntrinsics, label_map: np.ndarray
) -> np.ndarray:
    """(H, W) structured array of dtype ``POINT``: x, y, z, packed 0x00RRGGBB colour, label; organised.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres; 0 gives NaN coordinates, so that every pixel keeps its place.
        camera: intrinsics of ``image``.
        label_map: (H, W) uint16.
    """
    points = backproject(depth, camera)
    cloud = np.empty(depth.shape, POINT)
    cloud["x"], cloud["y"], cloud["z"] = points[..., 0], points[..., 1], points[..., 2]
    r, g, b = (image[..., channel].astype(np.uint32) for channel in range(3))
    cloud["rgb"] = (r << 16) | (g << 8) | b
    cloud["label"] = label_map
    return cloud


def _points(
    instances: Instances, depth: np.ndarray, camera: CameraIntrinsics
) -> tuple[np.ndarray, np.ndarray]:
    """Points (M, 3) float64 of a grid over the instances, and for each the row of its instance (rising)."""
    row_of = np.full(65536, -1, np.int64)
    row_of[instances.labels] = np.arange(len(instances))
    stride = max(1, math.isqrt(np.count_nonzero(instances.label_map) // GRID_POINTS))
    start = stride // 2
    row = row_of[instances.label_map[start::stride, start::stride]]
    z = depth[start::stride, start::stride]
    v, u = np.nonzero((row >= 0) & (z > 0))
    chosen = _thinned(row[v, u], len(instances))
    v, u = v[chosen], u[chosen]
    z = z[v, u].astype(np.float64)
    x = (u * stride + (start - camera.cx)) / camera.fx * z
    y = (v * stride + (start - camera.cy)) / camera.fy * z
    return np.stack([x, y, z], axis=1), row[v, u]


def _thinned(row: np.ndarray, count: int) -> np.ndarray:
    """Indices into ``row`` (M,), sorted by row, of at most ``MAX_POINTS`` for each of ``count`` rows."""
    order = np.argsort(row.astype(np.uint16), kind="stable")  # 16 bits: a radix sort
    total = np.bincount(row, minlength=count)
    kept = np.minimum(total, MAX_POINTS)
    first = np.repeat(np.cumsum(kept) - kept, kept)
    number = np.arange(kept.sum()) - first
    # One of each run of equal length, at a varying place: a fixed one would choose columns of pixels.
    place = (number + number * 0.6180339887 % 1.0) * np.repeat(total / np.maximum(kept, 1), kept)
    return order[np.repeat(np.cumsum(total) - total, kept) + place.astype(np.int64)]


class _Groups:
    """Statistics of values (M,) that belong to ``count`` groups; ``row`` (M,) names the group, rising."""

    def __init__(self, row: np.ndarray, count: int) -> None:
        self.row = row
        self.counts = np.bincount(row, minlength=count)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])[:count]

    def mean(self, values: np.ndarray) -> np.ndarray:
        """(count, K) means of (M, K) values; 0 where a group is empty."""
        sums = [np.bincount(self.row, column, minlength=len(self.counts)) for column in values.T]
        return np.stack(sums, axis=1) / np.maximum(self.counts, 1)[:, None]

    def quantile(self, values: np.ndarray, fraction: float) -> np.ndarray:
        """(count,) the value below which ``fraction`` of each group lies; 0 where a group is empty."""
        result = np.zeros(len(self.counts))
        filled = np.flatnonzero(self.counts)
        ordered = np.sort(self.row * FAR + values)
        place = self.starts[filled] + np.rint(fraction * (self.counts[filled] - 1)).astype(np.int64)
        result[filled] = ordered[place] - filled * FAR
        return result
