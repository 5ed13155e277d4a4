"""Frames to each other over time, and the depth of one camera seen by another."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rise_perception.core.depth_registration import register_depth
from rise_perception.core.errors import TransformError
from rise_perception.core.frame import CameraIntrinsics
from rise_perception.core.geometry import Location
from rise_perception.core.transforms import HISTORY, MAX_STAMPS, TransformTree

SECOND = 10**9
STILL = (0.0, 0.0, 0.0, 1.0)
QUARTER = (0.0, 0.0, float(np.sqrt(0.5)), float(np.sqrt(0.5)))  # a quarter turn about z


@pytest.fixture
def tree() -> TransformTree:
    """world <- base <- tool <- camera; base stands, the tool moves along x, 1 m a second."""
    tree = TransformTree()
    tree.add("world", "/base", 0, (0, 0, 2), QUARTER, static=True)
    for second in range(4):
        tree.add("base", "tool", second * SECOND, (float(second), 0, 0), STILL)
    tree.add("tool", "camera", 0, (0, 0.5, 0), STILL, static=True)
    return tree


def test_transforms_are_composed_at_the_stamp(tree):
    matrix = tree.lookup("world", "camera", int(1.25 * SECOND))
    np.testing.assert_allclose(matrix @ (0, 0, 0, 1), (-0.5, 1.25, 2, 1), atol=1e-9)
    back = tree.lookup("camera", "world", int(1.25 * SECOND))
    np.testing.assert_allclose(matrix @ back, np.eye(4), atol=1e-9)
    np.testing.assert_array_equal(tree.lookup("/tool", "tool", 77), np.eye(4))
    newest = tree.lookup("world", "tool", 0)
    np.testing.assert_allclose(newest[:3, 3], (0, 3, 2), atol=1e-9)


def test_turns_are_interpolated_as_turns():
    tree = TransformTree()
    tree.add("a", "b", SECOND, (0, 0, 0), STILL)
    tree.add("a", "b", 2 * SECOND, (0, 0, 0), QUARTER)
    turned = Rotation.from_matrix(tree.lookup("a", "b", int(1.5 * SECOND))[:3, :3]).magnitude()
    assert turned == pytest.approx(np.pi / 4)


def test_a_sibling_needs_no_fresh_transform_above_the_common_parent(tree):
    tree.add("tool", "cup", 0, (0, 0, 0.1), STILL, static=True)
    np.testing.assert_allclose(tree.lookup("cup", "camera", 99 * SECOND)[:3, 3], (0, 0.5, -0.1))


@pytest.mark.parametrize(
    ("target", "stamp", "says"),
    [
        (
            "bse",
            SECOND,
            "'bse' is on neither /tf nor /tf_static; there are: base, camera, elsewhere, other, tool",
        ),
        ("other", SECOND, "'other' and 'camera' are not connected"),
        ("world", 5 * SECOND, "'base' <- 'tool' is stale: 2.00 s older than the image"),
        ("world", -SECOND, "'base' <- 'tool' begins 1.00 s after the image"),
    ],
)
def test_what_is_missing_is_named(tree, target, stamp, says):
    tree.add("elsewhere", "other", 0, (0, 0, 0), STILL, static=True)
    with pytest.raises(TransformError) as error:
        tree.lookup(target, "camera", stamp)
    assert says in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        ((np.nan, 0, 0), STILL),
        ((0, 0, 0), (0, 0, 0, 0)),
        ((0, 0, 0), (np.inf, 0, 0, 1)),
        ((0, 0, 0), (9, 9, 9, 9)),
    ],
)
def test_what_is_no_transform_is_refused(values):
    with pytest.raises(TransformError, match="'a' <- 'b'"):
        TransformTree().add("a", "b", 0, *values)


def test_a_loop_ends_and_memory_is_bounded(tree):
    tree.add("camera", "world", 0, (0, 0, 0), STILL, static=True)
    with pytest.raises(TransformError, match="own ancestor"):
        tree.lookup("world", "camera", SECOND)
    busy = TransformTree()
    for number in range(3 * MAX_STAMPS):
        busy.add("a", "b", number * 1000, (0, 0, 0), STILL)
    assert len(busy._links["b"].stamps) == MAX_STAMPS
    busy.add("a", "b", -2 * HISTORY, (7, 0, 0), STILL)  # the clock was set back: a bag begins anew
    np.testing.assert_allclose(busy.lookup("a", "b", -2 * HISTORY)[:3, 3], (7, 0, 0))


def test_a_location_moves_to_another_frame():
    turn = np.eye(4)
    turn[:3, :3], turn[:3, 3] = Rotation.from_quat(QUARTER).as_matrix(), (0, 0, 1)
    here = Location(
        np.array([1.0, 0, 0]), np.array([2.0, 0, 0]), np.eye(3), np.array(STILL), np.array([3.0, 2, 1])
    )
    there = here.moved(turn)
    np.testing.assert_allclose(there.centroid, (0, 1, 1), atol=1e-9)
    np.testing.assert_allclose(there.centre, (0, 2, 1), atol=1e-9)
    np.testing.assert_allclose(there.quaternion, QUARTER)
    np.testing.assert_array_equal(there.size, here.size)


# -- depth of one camera, seen by another --------------------------------------------------------------


def render(camera: CameraIntrinsics, world_from_camera: np.ndarray) -> np.ndarray:
    """Depth of a wall at z = 1 with a plate before it at z = 0.6, 0.3 m square, by rays."""
    v, u = np.mgrid[: camera.height, : camera.width].astype(np.float64)
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1)
    rays = rays @ world_from_camera[:3, :3].T
    eye = world_from_camera[:3, 3]
    depth = (1.0 - eye[2]) / rays[..., 2]
    plate = (0.6 - eye[2]) / rays[..., 2]
    hit = eye + plate[..., None] * rays
    return np.where((np.abs(hit[..., :2]) < 0.15).all(-1), plate, depth).astype(np.float32)


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.3])
def test_registered_depth_is_what_the_other_camera_would_measure(scale):
    camera = CameraIntrinsics(160, 120, 140, 140, 79.5, 59.5)
    target = CameraIntrinsics(
        round(160 * scale), round(120 * scale), 130 * scale, 131 * scale, 81 * scale, 58 * scale
    )
    pose = np.eye(4)  # beside it, turned towards it
    pose[:3, :3] = Rotation.from_euler("yx", [-4, 2], degrees=True).as_matrix()
    pose[:3, 3] = (0.06, -0.01, 0.02)
    registered = register_depth(render(camera, np.eye(4)), camera, target, np.linalg.inv(pose))
    truth = render(target, pose)
    assert registered.shape == truth.shape
    assert registered.dtype == np.float32
    measured = registered > 0
    inner = (
        slice(truth.shape[0] // 8, -truth.shape[0] // 8),
        slice(truth.shape[1] // 6, -truth.shape[1] // 6),
    )
    assert measured[inner].mean() > 0.9  # what is missing lies in the plate's shadow
    error = np.abs(registered - truth)[measured]
    assert np.median(error) < 0.004
    assert (error < 0.02).mean() > 0.95  # the others are at the plate's rim


def test_the_nearest_measurement_wins_and_what_is_behind_is_dropped():
    camera = CameraIntrinsics(2, 1, 1, 1, 0, 0)
    target = CameraIntrinsics(1, 1, 0.4, 0.4, 0, 0)
    depth = np.array([[2.0, 1.0]], np.float32)
    assert register_depth(depth, camera, target, np.eye(4))[0, 0] == 1.0
    away = np.diag([-1.0, 1, -1, 1])
    assert register_depth(depth, camera, target, away)[0, 0] == 0.0
    holes = np.array([[0.0, np.nan]], np.float32)
    assert register_depth(holes, camera, target, np.eye(4))[0, 0] == 0.0
