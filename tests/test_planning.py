"""What grasp planners take: clouds, hulls, suction candidates, files; on a scene of known geometry."""

from __future__ import annotations

import numpy as np
import pytest

from rise_perception.core.errors import DataError
from rise_perception.core.frame import CameraIntrinsics, Frame
from rise_perception.core.geometry import backproject
from rise_perception.core.instances import Instances
from rise_perception.data.camera_file import read_camera
from rise_perception.planning.clouds import instance_clouds, organised_points, scene_cloud, write_cloud
from rise_perception.planning.exports import write_contact_graspnet, write_object_clouds
from rise_perception.planning.hulls import convex_hull
from rise_perception.planning.suction import suction_candidates

CAMERA = CameraIntrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)


def plane(point: tuple[float, float, float], normal: tuple[float, float, float]) -> np.ndarray:
    """(H, W) float32 depth of a plane."""
    v, u = np.mgrid[:120, :160]
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u, float)], -1)
    return (np.dot(point, normal) / (rays @ np.array(normal))).astype(np.float32)


def scene() -> tuple[Frame, Instances]:
    """Ground at 0.8 m; a tilted plate (label 1) and a sphere of 4 cm (label 2)."""
    depth = plane((0, 0, 0.8), (0, 0, 1))
    labels = np.zeros((120, 160), np.uint16)
    tilted = plane((-0.15, 0, 0.6), (0.5, 0, 0.8660254))
    labels[30:90, 20:70] = 1
    depth[labels == 1] = tilted[labels == 1]
    v, u = np.mgrid[:120, :160]
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u, float)], -1)
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    centre = np.array([0.15, 0.0, 0.7])
    along = rays @ centre
    inside = 0.04**2 - (centre @ centre - along**2)
    ball = inside > 0
    labels[ball] = 2
    depth[ball] = ((along - np.sqrt(np.maximum(inside, 0)))[..., None] * rays)[ball][:, 2]
    boxes = []
    for label in (1, 2):
        rows, columns = np.nonzero(labels == label)
        boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    image = np.zeros((120, 160, 3), np.uint8)
    image[labels == 1] = (255, 0, 0)
    found = Instances(
        labels, np.array([1, 2], np.uint16), np.array([0.9, 0.8], np.float32), np.zeros(2, np.int64),
        np.array(boxes, np.float32), np.zeros((2, 0), np.float32), np.array([11, 22]),
    )  # fmt: skip
    return Frame(image, depth, CAMERA), found


def test_each_instance_has_its_own_points_and_colours():
    frame, found = scene()
    points = organised_points(frame)
    clouds = instance_clouds(scene_cloud(points, frame.image, found), found)
    for label, cloud in zip((1, 2), clouds, strict=True):
        assert len(cloud) == (found.label_map == label).sum()
        assert (cloud.labels == label).all()
    assert (clouds[0].colors == (255, 0, 0)).all()
    np.testing.assert_allclose(np.linalg.norm(clouds[1].points - [0.15, 0, 0.7], axis=1), 0.04, atol=1e-4)


def test_unmeasured_pixels_are_in_no_cloud():
    frame, found = scene()
    depth = frame.depth.copy()
    depth[found.label_map == 2] = 0
    holes = Frame(frame.image, depth, CAMERA)
    cloud = scene_cloud(organised_points(holes), holes.image, found)
    assert len(instance_clouds(cloud, found)[1]) == 0
    assert np.isfinite(cloud.points).all()


@pytest.mark.parametrize(
    ("change", "said"), [({"depth": None}, "no depth"), ({"camera": None}, "intrinsics")]
)
def test_a_frame_without_depth_or_camera_is_named(change, said):
    frame, _ = scene()
    given = {"depth": frame.depth, "camera": frame.camera, **change}
    with pytest.raises(DataError, match=said):
        organised_points(Frame(frame.image, **given))


@pytest.mark.parametrize("suffix", ["ply", "pcd"])
def test_clouds_are_read_back_with_labels_and_colours(tmp_path, suffix):
    o3d = pytest.importorskip("open3d")
    frame, found = scene()
    cloud = scene_cloud(organised_points(frame), frame.image, found)
    write_cloud(tmp_path / f"c.{suffix}", cloud)
    read = o3d.t.io.read_point_cloud(str(tmp_path / f"c.{suffix}"))
    np.testing.assert_allclose(read.point.positions.numpy(), cloud.points, atol=1e-6)
    np.testing.assert_array_equal(read.point.colors.numpy(), cloud.colors)
    np.testing.assert_array_equal(read.point.label.numpy()[:, 0], cloud.labels)


def test_a_cloud_of_another_format_or_without_points_is_refused(tmp_path):
    frame, found = scene()
    cloud = scene_cloud(organised_points(frame), frame.image, found)
    with pytest.raises(DataError, match=r"\.ply or \.pcd"):
        write_cloud(tmp_path / "c.obj", cloud)
    with pytest.raises(DataError, match="empty"):
        write_cloud(tmp_path / "c.ply", instance_clouds(cloud, Instances.empty(120, 160))[0:1] or type(cloud)(
            cloud.points[:0], cloud.colors[:0], cloud.labels[:0]
        ))  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_suction_candidates_lie_on_the_plate_and_look_at_the_camera():
    pytest.importorskip("open3d")
    frame, found = scene()
    candidates = suction_candidates(organised_points(frame), found, cup_radius=0.015)
    best = candidates[0]
    assert best.row == 0
    np.testing.assert_allclose(best.normal, [-0.5, 0, -0.8660254], atol=0.02)
    assert abs(np.dot(best.position - [-0.15, 0, 0.6], [0.5, 0, 0.8660254])) < 0.002
    # 60 rows of 4 mm at 0.6 m: the rim is 12 cm away at most.
    assert 0.06 < best.radius < 0.13
    assert best.coverage > 0.9
    # A ball of 4 cm has no spot that is flat to half a millimetre over a cup of 1.5 cm.
    strict = suction_candidates(organised_points(frame), found, cup_radius=0.015, flatness=0.0005)
    assert {candidate.row for candidate in strict} == {0}


def test_a_hull_encloses_the_visible_surface():
    pytest.importorskip("open3d")
    frame, found = scene()
    clouds = instance_clouds(scene_cloud(organised_points(frame), frame.image, found), found)
    ball = convex_hull(clouds[1])
    assert ball is not None
    assert np.linalg.norm(ball.vertices - [0.15, 0, 0.7], axis=1).max() < 0.0401
    assert convex_hull(clouds[0]) is None  # a plane has no volume
    plate = convex_hull(clouds[0], thickness=0.02)
    assert plate is not None
    assert plate.triangles.max() < len(plate.vertices)


def test_contact_graspnet_reads_metres_camera_and_one_value_an_instance(tmp_path):
    frame, found = scene()
    write_contact_graspnet(tmp_path / "scene.npz", frame, found)
    with np.load(tmp_path / "scene.npz", allow_pickle=False) as data:
        assert set(data.files) == {"depth", "K", "segmap", "rgb"}
        np.testing.assert_array_equal(data["depth"], frame.depth)
        np.testing.assert_array_equal(data["K"], CAMERA.matrix())
        np.testing.assert_array_equal(np.unique(data["segmap"]), [0, 1, 2])
        np.testing.assert_array_equal(data["rgb"][..., ::-1], frame.image)
    with pytest.raises(DataError, match=r"\.npz"):
        write_contact_graspnet(tmp_path / "scene.npy", frame, found)


def test_object_clouds_are_named_by_id(tmp_path):
    o3d = pytest.importorskip("open3d")
    frame, found = scene()
    files = write_object_clouds(tmp_path, frame, found)
    assert [file.name for file in files] == ["object_11.ply", "object_22.ply"]
    assert (tmp_path / "scene.ply").is_file()
    assert len(o3d.io.read_point_cloud(str(files[0])).points) == (found.label_map == 1).sum()


def test_a_camera_is_four_numbers_or_a_calibration_file(tmp_path):
    assert read_camera("150,150,79.5,59.5", 160, 120) == CAMERA
    file = tmp_path / "camera.yaml"
    file.write_text(
        "image_width: 320\nimage_height: 240\n"
        "camera_matrix: {rows: 3, cols: 3, data: [300, 0, 159.5, 0, 300, 119.5, 0, 0, 1]}\n"
    )
    assert read_camera(str(file), 160, 120) == CAMERA
    with_p = (
        file.read_text() + "projection_matrix: {rows: 3, cols: 4, data: [200,0,9,0, 0,210,8,0, 0,0,1,0]}\n"
    )
    file.write_text(with_p)
    camera = read_camera(str(file), 320, 240)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (200, 210, 9, 8)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("1,2,3", "four numbers"),
        ("0,150,80,60", "impossible"),
        ("nan,150,80,60", "impossible"),
        ("150,150,8000,60", "far outside"),
        ("missing.yaml", "No such file"),
    ],
)
def test_a_camera_that_cannot_be_is_refused(given, said):
    with pytest.raises(DataError, match=said):
        read_camera(given, 160, 120)


@pytest.mark.parametrize(
    "text", ["[]", "{image_width: 160}", "a: [", "camera_matrix: {data: [1]}", "- " * 9000]
)
def test_a_file_that_is_no_calibration_is_named(tmp_path, text):
    file = tmp_path / "camera.yaml"
    file.write_text(text)
    with pytest.raises(DataError, match=r"camera\.yaml"):
        read_camera(str(file), 160, 120)


def test_points_and_depth_agree():
    frame, _ = scene()
    np.testing.assert_allclose(organised_points(frame), backproject(frame.depth, CAMERA))
