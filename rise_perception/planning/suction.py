"""Suction candidates: the largest flat spots of an instance's mask, with their outward normals.

Coordinates are the camera's optical frame, metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rise_perception.core.instances import Instances
from rise_perception.planning.clouds import open3d

#: Planes that an instance is searched for, at most: three faces of a box are seen at once.
MAX_PLANES = 3
#: A plane has to explain this fraction of the points that are left.
MIN_FRACTION = 0.15
#: Fewer points than this carry no plane.
MIN_POINTS = 30
RANSAC_ITERATIONS = 200


@dataclass(frozen=True)
class SuctionCandidate:
    """A place for a suction cup.

    Attributes:
        row: of the instance.
        position: (3,) float64, where the cup's centre touches.
        normal: (3,) float64 unit vector out of the surface, towards the camera.
        radius: metres from there to the rim of the flat spot.
        coverage: fraction of the cup's disc that lies on the spot, in [0, 1].
        quality: coverage times the instance's score: what candidates are ranked by.
    """

    row: int
    position: np.ndarray
    normal: np.ndarray
    radius: float
    coverage: float
    quality: float


def suction_candidates(
    points: np.ndarray,
    instances: Instances,
    cup_radius: float = 0.012,
    flatness: float = 0.002,
    min_coverage: float = 0.7,
    seed: int = 0,
) -> list[SuctionCandidate]:
    """Flat spots that hold a suction cup, the best first.

    Open3D's plane segmentation finds the faces of each instance; in each face the point that is farthest
    from its rim is proposed.

    Args:
        points: (H, W, 3) float32, one a pixel, NaN where nothing was measured.
        instances: of the same H x W image.
        cup_radius: metres.
        flatness: metres that a point may be away from its plane.
        min_coverage: candidates of which less of the disc lies on the spot are left out.
        seed: of the plane segmentation.

    Raises:
        MissingDependencyError: no Open3D.
    """
    o3d = open3d()
    o3d.utility.random.seed(seed)
    found: list[SuctionCandidate] = []
    for row in range(len(instances)):
        x0, y0, x1, y1 = instances.boxes[row].astype(int)
        box = np.s_[y0:y1, x0:x1]
        mask = (instances.label_map[box] == instances.labels[row]) & np.isfinite(points[box][..., 2])
        for normal, face in _faces(points[box], mask, flatness, o3d):
            spot = _spot(points[box], face, normal, cup_radius)
            if spot is not None and spot[2] >= min_coverage:
                position, radius, coverage = spot
                score = float(instances.scores[row])
                found.append(SuctionCandidate(row, position, normal, radius, coverage, coverage * score))
    return sorted(found, key=lambda candidate: -candidate.quality)


def _faces(
    points: np.ndarray, mask: np.ndarray, flatness: float, o3d: object
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Planes of a masked window: outward normal and (h, w) bool of the pixels on each."""
    faces = []
    left = mask.copy()
    total = int(mask.sum())
    for _ in range(MAX_PLANES):
        rows, columns = np.nonzero(left)
        if len(rows) < max(MIN_POINTS, MIN_FRACTION * total):
            break
        cloud = o3d.geometry.PointCloud(  # type: ignore[attr-defined]
            o3d.utility.Vector3dVector(points[rows, columns].astype(np.float64))  # type: ignore[attr-defined]
        )
        plane, inliers = cloud.segment_plane(flatness, 3, RANSAC_ITERATIONS)
        if len(inliers) < max(MIN_POINTS, MIN_FRACTION * total):
            break
        face = np.zeros_like(mask)
        face[rows[inliers], columns[inliers]] = True
        normal = np.asarray(plane[:3], np.float64)
        normal /= np.linalg.norm(normal)
        if normal @ points[face].mean(0) > 0:  # the camera is at the origin
            normal = -normal
        faces.append((normal, face))
        left &= ~face
    return faces


def _spot(
    points: np.ndarray, face: np.ndarray, normal: np.ndarray, cup_radius: float
) -> tuple[np.ndarray, float, float] | None:
    """The point of a face farthest from its rim: position, distance to the rim, coverage of the cup."""
    # Single pixels without a measurement are no hole in the surface.
    solid = cv2.morphologyEx(face.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    distance = cv2.distanceTransform(
        cv2.copyMakeBorder(solid, 1, 1, 1, 1, cv2.BORDER_CONSTANT), cv2.DIST_L2, 5
    )
    distance = np.where(face, distance[1:-1, 1:-1], 0)
    if not distance.any():
        return None
    y, x = map(int, np.unravel_index(int(distance.argmax()), distance.shape))
    centre = points[y, x].astype(np.float64)
    along = points[face].astype(np.float64) - centre
    offset = np.linalg.norm(along - np.outer(along @ normal, normal), axis=1)
    # Area of a pixel on the face: its size at this distance, stretched by the tilt.
    near = offset < max(cup_radius, 1e-3)
    pixel = _pixel_area(points, face, y, x, normal)
    coverage = min(1.0, float(near.sum()) * pixel / (np.pi * max(cup_radius, 1e-3) ** 2))
    # The shorter way across a tilted pixel, so that the radius is never too large.
    radius = float(distance[y, x]) * np.sqrt(pixel * _cosine(centre, normal))
    return centre, float(radius), coverage


def _cosine(centre: np.ndarray, normal: np.ndarray) -> float:
    return float(abs(normal @ centre) / np.linalg.norm(centre))


def _pixel_area(points: np.ndarray, face: np.ndarray, y: int, x: int, normal: np.ndarray) -> float:
    """Square metres of the face that one pixel shows around (y, x)."""
    top, bottom = max(0, y - 3), min(face.shape[0], y + 4)
    left, right = max(0, x - 3), min(face.shape[1], x + 4)
    window, on = points[top:bottom, left:right].astype(np.float64), face[top:bottom, left:right]
    steps = []
    for axis in (0, 1):
        both = np.logical_and(
            on.take(range(1, on.shape[axis]), axis), on.take(range(on.shape[axis] - 1), axis)
        )
        difference = np.diff(window, axis=axis)[both]
        if not len(difference):
            return 0.0
        steps.append(np.median(difference, axis=0))
    return float(abs(np.cross(steps[0], steps[1]) @ normal))
