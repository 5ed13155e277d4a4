"""The surface that items lie on, from one depth picture, and how far each pixel stands above it.

Open3D would segment the plane as well, but from points, which need intrinsics that a segmenter lacks. A plane
is linear in the pixel coordinates of an image of inverse depth, so that a few NumPy lines fit it there.
"""

from __future__ import annotations

import numpy as np

#: Planes that are tried, pixels that vote, and the band around a plane, as a fraction of the distance.
TRIALS, VOTERS, BAND = 300, 3000, 0.006
#: Of this many valid depth pixels at least a plane is fitted, and of this fraction of them it consists.
MIN_PIXELS, MIN_FRACTION = 500, 0.1
#: Rounds of least squares on the pixels within the band.
ROUNDS = 3


def fit_support_surface(depth: np.ndarray) -> np.ndarray | None:
    """The largest plane in a depth picture; None where there is none.

    Equal pictures give equal planes.

    Args:
        depth: (H, W) float32 metres, 0 or NaN = none.

    Returns:
        (3,) float64 a, b, c of 1 / z = a x + b y + c in pixels and 1 / metres.
    """
    valid = (depth > 0) & np.isfinite(depth)
    rows, columns = np.nonzero(valid)
    if len(rows) < MIN_PIXELS:
        return None
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(rows), min(VOTERS, len(rows)), replace=False)
    y, x = rows[chosen], columns[chosen]
    inverse = 1.0 / depth[y, x].astype(np.float64)
    points = np.stack([x, y, np.ones(len(x))], 1).astype(np.float64)
    triples = rng.integers(0, len(points), (TRIALS, 3))
    corners = points[triples]
    # Three pixels on one line span no plane.
    good = np.abs(np.linalg.det(corners)) > 1e-3 * depth.size
    planes = np.linalg.solve(corners[good], inverse[triples[good]][..., None])[..., 0]
    if not len(planes):
        return None
    band = BAND * inverse
    votes = (np.abs(planes @ points.T - inverse) < band).sum(1)
    plane = planes[int(votes.argmax())]
    for _ in range(ROUNDS):
        near = np.abs(points @ plane - inverse) < band
        if near.sum() < MIN_FRACTION * len(points):
            return None
        plane = np.linalg.lstsq(points[near], inverse[near], rcond=None)[0]
    return np.asarray(plane)


def relief(depth: np.ndarray, plane: np.ndarray) -> np.ndarray:
    """How much nearer than the support surface each pixel is.

    Args:
        depth: (H, W) float32 metres, 0 or NaN = none.
        plane: of :func:`fit_support_surface`.

    Returns:
        (H, W) float32 millimetres along the optical axis; NaN without depth.
    """
    height, width = depth.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    a, b, c = plane.astype(np.float32)
    surface = 1.0 / np.maximum(a * x + b * y + c, np.float32(1e-3))
    return np.where((depth > 0) & np.isfinite(depth), (surface - depth) * 1000, np.float32(np.nan))
