"""Convex hulls of instances, as collision objects for motion planning (camera optical frame, metres)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rise_perception.planning.clouds import Cloud, open3d

#: Fewer points than this enclose no volume worth planning around.
MIN_POINTS = 10
#: Points farther than this many median deviations from the median depth are flying pixels of the mask's rim.
OUTLIER_DEVIATIONS = 4.0
#: Metres within which no depth counts as an outlier.
OUTLIER_FLOOR = 0.01


@dataclass(frozen=True)
class Hull:
    """A closed triangle mesh.

    Attributes:
        vertices: (V, 3) float64 metres.
        triangles: (F, 3) int64 rows of ``vertices``.
    """

    vertices: np.ndarray
    triangles: np.ndarray


def convex_hull(cloud: Cloud, thickness: float = 0.0) -> Hull | None:
    """The convex hull of the visible surface; None where too little was measured.

    Args:
        cloud: of one instance.
        thickness: metres by which the surface is extended away from the camera: what is not seen of an item
            lies behind what is seen of it.

    Raises:
        MissingDependencyError: no Open3D.
    """
    points = cloud.points.astype(np.float64)
    if len(points) < MIN_POINTS:
        return None
    offset = np.abs(points[:, 2] - np.median(points[:, 2]))
    points = points[offset <= max(OUTLIER_FLOOR, OUTLIER_DEVIATIONS * float(np.median(offset)))]
    if thickness > 0:
        points = np.concatenate([points, points + np.array([0.0, 0.0, thickness])])
    if len(points) < MIN_POINTS or np.linalg.matrix_rank(points - points.mean(0), tol=1e-6) < 3:
        return None  # a plane or a line: no volume
    o3d = open3d()
    mesh, _ = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points)).compute_convex_hull()
    return Hull(np.asarray(mesh.vertices, np.float64), np.asarray(mesh.triangles, np.int64))
