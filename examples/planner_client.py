"""The grasp planner's side: the best item of each frame becomes a pose in the robot's base frame.

python examples/planner_client.py --ros-args -p base_from_camera:="[0.4, 0.0, 0.9, 1.0, 0.0, 0.0, 0.0]"
"""

import contextlib
import math

import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rise_msgs.msg import Instance, InstanceArray
from scipy.spatial.transform import Rotation


class PlannerClient(Node):
    """Publishes grasp_target; base_from_camera is the hand-eye calibration: x y z (m), quaternion x y z w."""

    def __init__(self) -> None:
        super().__init__("planner_client")
        pose = self.declare_parameter("base_from_camera", [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]).value
        self.offset, self.rotation = pose[:3], Rotation.from_quat(pose[3:])
        self.publisher = self.create_publisher(PoseStamped, "grasp_target", 1)
        self.create_subscription(InstanceArray, "segmentation_node/instances", self.plan, 1)

    def plan(self, message: InstanceArray) -> None:
        """Chooses by score, and by the learned probability of success where there is one."""
        items = [i for i in message.instances if i.class_name != "container" and math.isfinite(i.centroid.z)]
        if items:
            self.publisher.publish(self.target(message, max(items, key=value)))

    def target(self, message: InstanceArray, item: Instance) -> PoseStamped:
        """The item's centroid and box axes in the base frame, stamped as its image."""
        centroid, axes = item.centroid, item.box_pose.orientation
        turned = self.rotation * Rotation.from_quat([axes.x, axes.y, axes.z, axes.w])
        pose = PoseStamped()
        pose.header.stamp, pose.header.frame_id = message.header.stamp, "base_link"
        x, y, z = self.rotation.apply([centroid.x, centroid.y, centroid.z]) + self.offset
        pose.pose.position.x, pose.pose.position.y, pose.pose.position.z = float(x), float(y), float(z)
        for name, part in zip("xyzw", turned.as_quat(), strict=True):
            setattr(pose.pose.orientation, name, float(part))
        return pose


def value(item: Instance) -> float:
    """How promising a grasp is."""
    return item.score * (1.0 if math.isnan(item.pick_success) else item.pick_success)


if __name__ == "__main__":
    rclpy.init()
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(PlannerClient())
