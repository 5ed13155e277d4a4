"""Instances as MoveIt takes them: collision objects for its planning scene, and suction grasps.

`moveit_msgs` is imported on the first call, so that everything else works without MoveIt.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Vector3, Vector3Stamped
from scipy.spatial.transform import Rotation
from shape_msgs.msg import Mesh, MeshTriangle, SolidPrimitive

from rise_perception.core.errors import MissingDependencyError

if TYPE_CHECKING:
    from rise_msgs.msg import InstanceArray

    from rise_perception.planning.hulls import Hull
    from rise_perception.planning.suction import SuctionCandidate

#: Collision objects are named by this and the persistent id.
PREFIX = "rise_"


def moveit_msgs() -> Any:
    """The module ``moveit_msgs.msg``.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import moveit_msgs.msg as module
    except ImportError:
        raise MissingDependencyError(
            "moveit_msgs is not installed; install it with: apt-get install ros-$ROS_DISTRO-moveit-msgs"
        ) from None
    return module


def collision_objects(
    array: InstanceArray, hulls: Mapping[int, Hull] | None = None, gone: Iterable[int] = ()
) -> list[Any]:
    """moveit_msgs/CollisionObject of each instance: its hull where there is one, else its oriented box.

    Args:
        array: with 3D boxes, that is, from a camera with depth.
        hulls: by persistent id, in the array's frame.
        gone: persistent ids of instances that were there before; they are removed.
    """
    messages = moveit_msgs()
    found = []
    for instance in array.instances:
        if not math.isfinite(instance.centroid.z):
            continue  # no depth on it: nobody knows where it is
        item = messages.CollisionObject()
        item.header, item.id = array.header, f"{PREFIX}{instance.id}"
        item.pose.orientation.w = 1.0
        item.operation = messages.CollisionObject.ADD
        hull = (hulls or {}).get(instance.id)
        if hull is not None:
            item.meshes, item.mesh_poses = [_mesh(hull)], [Pose(orientation=Quaternion(w=1.0))]
        else:
            size = instance.box_size
            shape = SolidPrimitive(type=SolidPrimitive.BOX, dimensions=[size.x, size.y, size.z])
            item.primitives, item.primitive_poses = [shape], [instance.box_pose]
        found.append(item)
    for identity in gone:
        item = messages.CollisionObject()
        item.header, item.id = array.header, f"{PREFIX}{identity}"
        item.operation = messages.CollisionObject.REMOVE
        found.append(item)
    return found


def suction_grasps(
    array: InstanceArray,
    candidates: Sequence[SuctionCandidate],
    approach: float = 0.10,
    retreat: float = 0.15,
) -> list[Any]:
    """moveit_msgs/Grasp of suction candidates, in their order.

    The grasp pose is that of a suction cup whose z axis points into the surface; what hangs between cup and
    end effector is the robot description's matter.

    Args:
        array: the instances that the candidates' rows refer to.
        candidates: in the array's frame.
        approach: metres that the cup comes along its axis.
        retreat: metres that it goes back with the item.
    """
    messages = moveit_msgs()
    found = []
    for number, candidate in enumerate(candidates):
        instance = array.instances[candidate.row]
        into = -candidate.normal
        grasp = messages.Grasp()
        grasp.id = f"{PREFIX}{instance.id}_{number}"
        grasp.grasp_pose = PoseStamped(
            header=array.header,
            pose=Pose(position=_point(candidate.position), orientation=_facing(into)),
        )
        grasp.grasp_quality = float(candidate.quality)
        grasp.pre_grasp_approach = _translation(messages, array.header, into, approach)
        grasp.post_grasp_retreat = _translation(messages, array.header, candidate.normal, retreat)
        grasp.allowed_touch_objects = [f"{PREFIX}{instance.id}"]
        found.append(grasp)
    return found


def _mesh(hull: Hull) -> Mesh:
    return Mesh(
        vertices=[_point(vertex) for vertex in hull.vertices],
        triangles=[MeshTriangle(vertex_indices=np.array(triangle, np.uint32)) for triangle in hull.triangles],
    )


def _translation(messages: Any, header: Any, direction: np.ndarray, distance: float) -> Any:
    translation = messages.GripperTranslation()
    x, y, z = (float(value) for value in direction)
    translation.direction = Vector3Stamped(header=header, vector=Vector3(x=x, y=y, z=z))
    translation.desired_distance = distance
    translation.min_distance = distance / 2
    return translation


def _facing(direction: np.ndarray) -> Quaternion:
    """An orientation whose z axis is ``direction``; the turn about it is free and chosen level."""
    helper = np.array([0.0, 1.0, 0.0]) if abs(direction[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
    x = np.cross(helper, direction)
    x /= np.linalg.norm(x)
    axes = np.stack([x, np.cross(direction, x), direction], axis=1)
    x_, y_, z_, w_ = (float(value) for value in Rotation.from_matrix(axes).as_quat())
    return Quaternion(x=x_, y=y_, z=z_, w=w_)


def _point(position: np.ndarray) -> Point:
    x, y, z = (float(value) for value in position)
    return Point(x=x, y=y, z=z)
