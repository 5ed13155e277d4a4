"""From depth to where the instances are: centroids, oriented 3D boxes and the labelled cloud.

Everything is in the camera's optical frame: x right, y down, z away from the camera, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rise_perception.frame import CameraIntrinsics
from rise_perception.instances import Instances

#: Fewer measured pixels than this say nothing about a box.
MIN_POINTS = 10
#: Grid points per bounding box that a box is fitted to; more cost time and change nothing.
MAX_POINTS = 1000
#: Share of the points that may lie beyond each face: flying pixels at the silhouette.
OUTLIERS = 0.01

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
        size: (3,) float64, lengths along these axes.
    """

    centroid: np.ndarray
    centre: np.ndarray
    rotation: np.ndarray
    size: np.ndarray

    def quaternion(self) -> np.ndarray:
        """(4,) float64 x, y, z, w of ``rotation``, w >= 0."""
        return quaternion(self.rotation)


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
    """One :class:`Location` per instance, None where fewer than ``MIN_POINTS`` pixels have depth.

    Args:
        instances: N instances of an image of H x W pixels.
        depth: (H, W) float32 metres, 0 = no measurement.
        camera: intrinsics of that image.
    """
    locations: list[Location | None] = []
    for label, box in zip(instances.labels, instances.boxes.astype(int), strict=True):
        x0, y0, x1, y1 = box.tolist()
        stride = max(1, math.isqrt((y1 - y0) * (x1 - x0) // MAX_POINTS))
        x0, y0 = x0 + stride // 2, y0 + stride // 2  # a grid whose centre is the box's
        window = depth[y0:y1:stride, x0:x1:stride]
        owned = instances.label_map[y0:y1:stride, x0:x1:stride] == label
        v, u = np.nonzero(owned & (window > 0))
        if len(v) < MIN_POINTS:
            locations.append(None)
            continue
        z = window[v, u].astype(np.float64)
        x = (u * stride + (x0 - camera.cx)) / camera.fx * z
        y = (v * stride + (y0 - camera.cy)) / camera.fy * z
        locations.append(_fit(np.stack([x, y, z], axis=1)))
    return locations


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


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """(4,) float64 x, y, z, w with w >= 0 of a proper (3, 3) rotation matrix."""
    from scipy.spatial.transform import Rotation

    q = Rotation.from_matrix(rotation).as_quat()
    return -q if q[3] < 0 else q


def _fit(points: np.ndarray) -> Location:
    """A box along the principal axes of (M, 3) points.

    The extent is taken between quantiles: a few pixels on the silhouette lie metres behind the item,
    and would otherwise give the box its size.
    """
    z = points[:, 2]
    offset = np.abs(z - _median(z))
    kept = points[offset <= max(0.01, 4.0 * _median(offset))]
    centroid = kept.sum(0) / len(kept)
    local = kept - centroid
    axes = np.linalg.eigh(local.T @ local)[1][:, ::-1]  # eigh sorts rising; longest axis first
    # Signs are arbitrary: fix them, so that a still item has a still box.
    first, second = (axis if axis[np.abs(axis).argmax()] > 0 else -axis for axis in (axes[:, 0], axes[:, 1]))
    (a, b, c), (d, e, f) = first.tolist(), second.tolist()
    axes = np.array([[a, d, b * f - c * e], [b, e, c * d - a * f], [c, f, a * e - b * d]])
    local = local @ axes
    local.sort(axis=0)
    cut = int(OUTLIERS * len(local))
    low, high = local[cut], local[-1 - cut]
    return Location(centroid, centroid + axes @ ((low + high) / 2), axes, high - low)


def _median(values: np.ndarray) -> float:
    return float(np.partition(values, len(values) // 2)[len(values) // 2])
