"""Depth to centroids, boxes and cloud, against scenes whose geometry is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rise_perception.core import geometry
from rise_perception.core.frame import CameraIntrinsics
from rise_perception.core.instances import Instances

CAMERA = CameraIntrinsics(width=320, height=240, fx=300.0, fy=310.0, cx=150.0, cy=125.0)


def instances_of(label_map: np.ndarray) -> Instances:
    labels = np.unique(label_map[label_map > 0]).astype(np.uint16)
    boxes = []
    for label in labels:
        v, u = np.nonzero(label_map == label)
        boxes.append([u.min(), v.min(), u.max() + 1, v.max() + 1])
    count = len(labels)
    return Instances(
        label_map=label_map,
        labels=labels,
        scores=np.ones(count, np.float32),
        classes=np.zeros(count, np.int64),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        embeddings=np.zeros((count, 0), np.float32),
        ids=labels.astype(np.int64),
    )


def render_rectangle(centre, rotation, size) -> tuple[np.ndarray, np.ndarray]:
    """(label map, depth) of a flat rectangle: its plane cut with every pixel's ray."""
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u, float)], -1)
    normal = rotation[:, 2]
    z = (normal @ centre) / (rays @ normal)
    local = (rays * z[..., None] - centre) @ rotation
    inside = (np.abs(local[..., 0]) <= size[0] / 2) & (np.abs(local[..., 1]) <= size[1] / 2)
    return inside.astype(np.uint16), np.where(inside, z, 1.5).astype(np.float32)


@pytest.mark.parametrize("angles", [(0, 0, 0), (0, 0, 35), (25, -15, 70)])
def test_box_of_a_tilted_rectangle(angles):
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    centre, size = np.array([0.05, -0.03, 0.8]), (0.24, 0.10)
    label_map, depth = render_rectangle(centre, rotation, size)
    (found,) = geometry.locate(instances_of(label_map), depth, CAMERA)
    np.testing.assert_allclose(found.centre, centre, atol=0.006)
    np.testing.assert_allclose(found.centroid, centre, atol=0.01)
    np.testing.assert_allclose(found.size, [*size, 0], atol=0.012)
    assert abs(found.rotation[:, 0] @ rotation[:, 0]) > 0.995
    assert abs(found.rotation[:, 2] @ rotation[:, 2]) > 0.995
    np.testing.assert_allclose(found.rotation @ found.rotation.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    np.testing.assert_allclose(Rotation.from_quat(found.quaternion).as_matrix(), found.rotation, atol=1e-9)


def test_flying_pixels_do_not_blow_up_the_box():
    label_map, depth = render_rectangle(np.array([0, 0, 0.8]), np.eye(3), (0.2, 0.1))
    clean = geometry.locate(instances_of(label_map), depth, CAMERA)[0]
    v, u = np.nonzero(label_map)
    flying = np.random.default_rng(0).choice(len(v), len(v) // 50, replace=False)
    depth[v[flying], u[flying]] = 1.5
    dirty = geometry.locate(instances_of(label_map), depth, CAMERA)[0]
    np.testing.assert_allclose(dirty.size, clean.size, atol=0.005)
    np.testing.assert_allclose(dirty.centroid, clean.centroid, atol=0.005)


def test_neighbours_holes_and_missing_depth():
    label_map = np.zeros((240, 320), np.uint16)
    label_map[20:60, 20:80], label_map[100:180, 200:300], label_map[200:230, 10:40] = 3, 7, 9
    depth = np.full((240, 320), 0.5, np.float32)
    depth[label_map == 7] = 0.9
    depth[100:180, 200:240] = 0
    depth[label_map == 9] = 0
    depth[200, 10:15] = 0.7  # too few to say anything
    near, far, blind = geometry.locate(instances_of(label_map), depth, CAMERA)
    assert near.centroid[2] == pytest.approx(0.5)
    assert far.centroid[2] == pytest.approx(0.9)
    assert far.centroid[0] == pytest.approx((269.5 - CAMERA.cx) / CAMERA.fx * 0.9, abs=0.005)
    assert blind is None
    empty = Instances.empty(240, 320)
    assert geometry.locate(empty, depth, CAMERA) == []


def test_a_still_item_has_a_still_box_under_noise():
    label_map, depth = render_rectangle(np.array([0, 0, 0.8]), np.eye(3), (0.2, 0.1))
    rng = np.random.default_rng(0)
    found = [
        geometry.locate(
            instances_of(label_map), depth + rng.normal(0, 0.001, depth.shape).astype(np.float32), CAMERA
        )[0]
        for _ in range(5)
    ]
    for other in found[1:]:
        assert (found[0].rotation[:, 0] @ other.rotation[:, 0]) > 0.99
        np.testing.assert_allclose(other.size, found[0].size, atol=0.006)


def test_points_and_cloud_keep_every_pixel_in_its_place():
    depth = np.zeros((240, 320), np.float32)
    depth[10, 20], depth[200, 300] = 0.5, 2.0
    points = geometry.backproject(depth, CAMERA)
    assert np.isnan(points).all(-1).sum() == depth.size - 2
    np.testing.assert_allclose(points[200, 300], [(300 - 150) / 300 * 2, (200 - 125) / 310 * 2, 2], rtol=1e-6)
    image = np.zeros((240, 320, 3), np.uint8)
    image[10, 20] = (1, 2, 3)
    label_map = np.zeros((240, 320), np.uint16)
    label_map[10, 20] = 65535
    cloud = geometry.labelled_cloud(image, depth, CAMERA, label_map)
    assert cloud.shape == (240, 320)
    assert cloud.dtype.itemsize == 20
    assert cloud["z"][10, 20] == 0.5
    assert cloud["rgb"][10, 20] == 0x010203
    assert cloud["label"][10, 20] == 65535
    assert np.isnan(cloud["x"][0, 0])
