"""Instances as MoveIt takes them.

moveit_msgs is not on the package index: without it, stand-ins hold exactly the fields of its published
definitions, so that a wrong name fails; with it, the same tests fill the real messages.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
import types
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
from geometry_msgs.msg import Pose, PoseStamped, Vector3Stamped
from rise_msgs.msg import Instance, InstanceArray
from std_msgs.msg import Header
from test_planning import CAMERA, scene

from rise_perception.core.errors import DataError, MissingDependencyError
from rise_perception.core.geometry import labelled_cloud, locate
from rise_perception.data.ros_clouds import organised_cloud
from rise_perception.nodes import messages, moveit_messages
from rise_perception.planning.clouds import instance_clouds, organised_points, scene_cloud
from rise_perception.planning.hulls import Hull
from rise_perception.planning.suction import SuctionCandidate

ROOT = Path(__file__).resolve().parents[1]
HAS_MOVEIT = importlib.util.find_spec("moveit_msgs") is not None


def stand_in(name: str, **fields: type) -> type:
    """A message class with these fields alone."""

    def init(self: object) -> None:
        for key, kind in fields.items():
            object.__setattr__(self, key, kind())

    def assign(self: object, key: str, value: object) -> None:
        if key not in fields:
            raise AttributeError(f"{name} has no field {key!r}")
        object.__setattr__(self, key, value)

    return type(name, (), {"__init__": init, "__setattr__": assign, "ADD": b"\x00", "REMOVE": b"\x01"})


@pytest.fixture
def moveit(monkeypatch: pytest.MonkeyPatch) -> None:
    if HAS_MOVEIT:
        return
    translation = stand_in(
        "GripperTranslation", direction=Vector3Stamped, desired_distance=float, min_distance=float
    )
    module = types.ModuleType("moveit_msgs.msg")
    module.GripperTranslation = translation  # type: ignore[attr-defined]
    module.CollisionObject = stand_in(  # type: ignore[attr-defined]
        "CollisionObject", header=Header, pose=Pose, id=str, type=object, primitives=list,
        primitive_poses=list, meshes=list, mesh_poses=list, planes=list, plane_poses=list,
        subframe_names=list, subframe_poses=list, operation=bytes,
    )  # fmt: skip
    module.Grasp = stand_in(  # type: ignore[attr-defined]
        "Grasp", id=str, pre_grasp_posture=object, grasp_posture=object, grasp_pose=PoseStamped,
        grasp_quality=float, pre_grasp_approach=translation, post_grasp_retreat=translation,
        post_place_retreat=translation, max_contact_force=float, allowed_touch_objects=list,
    )  # fmt: skip
    package = types.ModuleType("moveit_msgs")
    package.msg = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "moveit_msgs", package)
    monkeypatch.setitem(sys.modules, "moveit_msgs.msg", module)


def seen() -> InstanceArray:
    frame, found = scene()
    header = Header(frame_id="cam")
    label_map = messages.image(header, found.label_map, "mono16")
    return messages.instance_array(header, label_map, found, locate(found, frame.depth, CAMERA), "m-1")


@pytest.mark.usefixtures("moveit")
def test_every_item_with_depth_becomes_a_box_and_what_left_is_removed() -> None:
    array = seen()
    array.instances.append(Instance(id=33, centroid=messages.Point(x=np.nan, y=np.nan, z=np.nan)))
    objects = moveit_messages.collision_objects(array, gone=[7])
    assert [item.id for item in objects] == ["rise_11", "rise_22", "rise_7"]
    box = objects[1].primitives[0]
    assert box.type == box.BOX
    assert 0.03 < max(box.dimensions) < 0.09  # a ball of 4 cm radius, half of which is seen
    assert objects[1].primitive_poses[0].position.z == pytest.approx(0.68, abs=0.02)
    assert (objects[0].operation, objects[2].operation) == (b"\x00", b"\x01")
    assert not objects[2].primitives
    assert objects[0].header.frame_id == "cam"


@pytest.mark.usefixtures("moveit")
def test_a_hull_replaces_the_box() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)
    hull = Hull(corners, np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]]))
    first = moveit_messages.collision_objects(seen(), {11: hull})[0]
    assert not first.primitives
    mesh = first.meshes[0]
    assert [[p.x, p.y, p.z] for p in mesh.vertices] == corners.tolist()
    assert [list(t.vertex_indices) for t in mesh.triangles] == hull.triangles.tolist()


@pytest.mark.usefixtures("moveit")
@pytest.mark.parametrize("normal", [(0, 0, -1), (0, -1, 0), (0.6, 0, -0.8)])
def test_the_cup_points_into_the_surface_and_retreats_out_of_it(normal: tuple[float, float, float]) -> None:
    from scipy.spatial.transform import Rotation

    candidate = SuctionCandidate(0, np.array([0.1, 0.2, 0.5]), np.array(normal, float), 0.02, 1.0, 0.9)
    grasp = moveit_messages.suction_grasps(seen(), [candidate])[0]
    turn = grasp.grasp_pose.pose.orientation
    axes = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
    np.testing.assert_allclose(axes[:, 2], -np.array(normal), atol=1e-9)
    assert np.linalg.det(axes) == pytest.approx(1)
    away = grasp.post_grasp_retreat.direction.vector
    np.testing.assert_allclose([away.x, away.y, away.z], normal)
    assert grasp.allowed_touch_objects == ["rise_11"]
    assert grasp.id == "rise_11_0"


def test_a_published_cloud_is_read_back_pixel_by_pixel() -> None:
    frame, found = scene()
    message = messages.cloud(Header(), labelled_cloud(frame.image, frame.depth, CAMERA, found.label_map))
    points, colors = organised_cloud(message)
    np.testing.assert_array_equal(points, organised_points(frame))
    np.testing.assert_array_equal(colors, frame.image)
    clouds = instance_clouds(scene_cloud(points, colors, found), found)
    assert len(clouds[1]) == (found.label_map == 2).sum()
    message.point_step = 16
    with pytest.raises(DataError, match="not one of"):
        organised_cloud(message)


def test_without_moveit_the_remedy_is_named() -> None:
    if HAS_MOVEIT:
        pytest.skip("moveit_msgs is installed")
    with pytest.raises(MissingDependencyError, match="apt-get install"):
        moveit_messages.collision_objects(seen())


@pytest.mark.slow
def test_the_files_of_grasp_generators_are_written_by_the_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("open3d")
    import cv2

    frame, _ = scene()
    noisy = np.random.default_rng(0).integers(0, 255, frame.image.shape, np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), noisy)
    cv2.imwrite(str(tmp_path / "a-depth.png"), np.rint(frame.depth * 1000).astype(np.uint16))
    command = ["x", str(tmp_path / "a.png"), str(tmp_path / "a-depth.png")]
    monkeypatch.setattr(
        sys, "argv", [*command, "--camera", "150,150,79.5,59.5", "--out", str(tmp_path / "o")]
    )
    runpy.run_path(str(ROOT / "examples/grasp_generator_files.py"), run_name="__main__")
    assert "objects of" in capsys.readouterr().out
    with np.load(tmp_path / "o/scene.npz") as data:
        np.testing.assert_allclose(data["depth"], frame.depth, atol=6e-4)
