"""Labelled point clouds: of the scene, of each instance, and as PLY or PCD files.

Points are in the camera's optical frame: x right, y down, z away from the camera, metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rise_perception.core.errors import DataError, MissingDependencyError
from rise_perception.core.files import atomic_write
from rise_perception.core.frame import Frame
from rise_perception.core.geometry import backproject
from rise_perception.core.instances import Instances

#: Formats that :func:`write_cloud` writes.
FORMATS = ("ply", "pcd")


@dataclass(frozen=True)
class Cloud:
    """M measured points.

    Attributes:
        points: (M, 3) float32 metres, camera optical frame.
        colors: (M, 3) uint8 RGB.
        labels: (M,) uint16, value in the label map; 0 is background.
    """

    points: np.ndarray
    colors: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.points)


def open3d() -> Any:
    """The ``open3d`` module.

    Raises:
        MissingDependencyError: it is not installed, or one of its system libraries is missing.
    """
    try:
        import open3d as module
    except (ImportError, OSError) as error:
        raise MissingDependencyError(
            f"Open3D cannot be loaded ({error}); install it with: pip install 'open3d>=0.18' and "
            "apt-get install libusb-1.0-0 libgl1 libgomp1"
        ) from None
    return module


def organised_points(frame: Frame) -> np.ndarray:
    """(H, W, 3) float32 points of a frame, one a pixel; NaN where nothing was measured.

    Raises:
        DataError: the frame has no depth, or no camera.
    """
    if frame.depth is None:
        raise DataError("the frame has no depth; a cloud needs a depth image registered to the colour image")
    if frame.camera is None:
        raise DataError("the frame has no camera intrinsics; a cloud needs them (fx, fy, cx, cy in pixels)")
    return backproject(frame.depth, frame.camera)


def scene_cloud(points: np.ndarray, image: np.ndarray, instances: Instances) -> Cloud:
    """All measured points of a frame.

    Args:
        points: (H, W, 3) float32, as :func:`organised_points` gives them.
        image: (H, W, 3) uint8 RGB.
        instances: of that image.
    """
    measured = np.isfinite(points[..., 2])
    return Cloud(points[measured], image[measured], instances.label_map[measured])


def instance_clouds(scene: Cloud, instances: Instances) -> list[Cloud]:
    """The cloud of each instance, in their order; empty where nothing was measured."""
    order = np.argsort(scene.labels, kind="stable")
    rising = scene.labels[order]
    start = np.searchsorted(rising, instances.labels, "left")
    stop = np.searchsorted(rising, instances.labels, "right")
    chosen = [order[a:b] for a, b in zip(start, stop, strict=True)]
    return [Cloud(scene.points[rows], scene.colors[rows], scene.labels[rows]) for rows in chosen]


def write_cloud(path: str | Path, cloud: Cloud) -> None:
    """Write a PLY or PCD file (by the suffix) with positions, colours and a ``label`` for each point.

    Raises:
        DataError: another suffix, or an empty cloud, which neither format's readers accept.
        MissingDependencyError: no Open3D.
    """
    path = Path(path)
    if path.suffix.lower().lstrip(".") not in FORMATS:
        raise DataError(f"{path}: clouds are written as .{' or .'.join(FORMATS)}; give such a name")
    if not len(cloud):
        raise DataError(f"{path}: the cloud is empty; is there any depth?")
    o3d = open3d()
    tensor = o3d.core.Tensor
    content = o3d.t.geometry.PointCloud(tensor(np.ascontiguousarray(cloud.points, np.float32)))
    content.point.colors = tensor(np.ascontiguousarray(cloud.colors, np.uint8))
    content.point.label = tensor(cloud.labels.astype(np.int32)[:, None])
    with atomic_write(path) as temporary:
        if not o3d.t.io.write_point_cloud(str(temporary), content):
            raise DataError(f"{path}: Open3D could not write the cloud; is the disk full?")
