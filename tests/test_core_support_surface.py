"""The support surface: found below items, and heights above it."""

from __future__ import annotations

import numpy as np
import pytest

from rise_perception.core.support_surface import fit_support_surface, relief


def tilted(height: int = 120, width: int = 160, noise: float = 0.001) -> np.ndarray:
    """A table that leans, 0.8 to 1.1 m away: its inverse depth is linear in the pixels."""
    y, x = np.mgrid[:height, :width]
    depth = 1 / (0.95 + 0.0012 * y + 0.0008 * x)
    return (depth + np.random.default_rng(0).normal(0, noise, depth.shape)).astype(np.float32)


def test_items_stand_up_by_what_they_are_high_and_the_table_by_nothing() -> None:
    depth = tilted()
    depth[20:60, 20:70] -= 0.05
    depth[70:110, 80:150] -= 0.02
    depth[0:10] = 0
    plane = fit_support_surface(depth)
    assert plane is not None
    heights = relief(depth, plane)
    assert np.median(heights[20:60, 20:70]) == pytest.approx(50, abs=1)
    assert np.median(heights[70:110, 80:150]) == pytest.approx(20, abs=1)
    assert np.median(heights[62:68]) == pytest.approx(0, abs=0.5)
    assert np.isnan(heights[:10]).all()


def test_the_table_is_found_although_items_cover_most_of_it() -> None:
    depth = tilted()
    rng = np.random.default_rng(1)
    for _ in range(25):
        y, x = rng.integers(0, 100), rng.integers(0, 130)
        depth[y : y + 20, x : x + 30] -= rng.uniform(0.02, 0.08)
    heights = relief(depth, fit_support_surface(depth))
    bare = np.abs(depth - tilted()) < 1e-6
    assert bare.mean() < 0.55
    assert np.median(heights[bare]) == pytest.approx(0, abs=1)


def test_without_depth_or_without_any_plane_there_is_no_surface() -> None:
    assert fit_support_surface(np.zeros((120, 160), np.float32)) is None
    assert fit_support_surface(np.full((120, 160), np.nan, np.float32)) is None
    cloud = np.random.default_rng(0).uniform(0.3, 3.0, (120, 160)).astype(np.float32)
    assert fit_support_surface(cloud) is None


def test_equal_pictures_give_equal_planes() -> None:
    assert fit_support_surface(tilted()).tolist() == fit_support_surface(tilted()).tolist()
