#!/usr/bin/env python3
"""Keeps MoveIt's planning scene up to date with what the segmentation node sees, as boxes or convex hulls.

    ros2 run rise_perception segmentation_node ...
    python3 examples/moveit_scene.py --ros-args -p hulls:=true

Needs depth (boxes come from it) and moveit_msgs; hulls need Open3D.
"""

from __future__ import annotations

import rclpy
from moveit_msgs.msg import PlanningScene
from rclpy.node import Node
from rise_msgs.msg import InstanceArray
from sensor_msgs.msg import PointCloud2

from rise_perception.data.ros_clouds import organised_cloud
from rise_perception.data.ros_instances import to_instances
from rise_perception.nodes import moveit_messages, qos
from rise_perception.planning.clouds import instance_clouds, scene_cloud
from rise_perception.planning.hulls import convex_hull


class MoveItScene(Node):
    """InstanceArray in, PlanningScene differences out."""

    def __init__(self) -> None:
        super().__init__("moveit_scene")
        self._hulls = self.declare_parameter("hulls", False).value
        self._thickness = self.declare_parameter("thickness", 0.02).value  # metres behind what is seen
        self._cloud: PointCloud2 | None = None
        self._array: InstanceArray | None = None
        self._shown: set[int] = set()
        self._scene = self.create_publisher(PlanningScene, "planning_scene", qos.output())
        self.create_subscription(
            InstanceArray, "segmentation_node/instances", self._on_instances, qos.output()
        )
        if self._hulls:
            self.create_subscription(PointCloud2, "segmentation_node/points", self._on_points, qos.output())

    def _on_points(self, message: PointCloud2) -> None:
        self._cloud = message
        self._publish()

    def _on_instances(self, message: InstanceArray) -> None:
        self._array = message
        self._publish()

    def _publish(self) -> None:
        """Say what changed, once a frame: with hulls, when its cloud has come too."""
        array, cloud = self._array, self._cloud
        if array is None or (self._hulls and (cloud is None or cloud.header.stamp != array.header.stamp)):
            return
        self._array = None
        hulls = {}
        if self._hulls:
            instances = to_instances(array)
            points, colors = organised_cloud(cloud)
            clouds = instance_clouds(scene_cloud(points, colors, instances), instances)
            for identity, part in zip(instances.ids.tolist(), clouds, strict=True):
                if (hull := convex_hull(part, self._thickness)) is not None:
                    hulls[identity] = hull
        seen = {instance.id for instance in array.instances}
        scene = PlanningScene(is_diff=True)
        scene.robot_state.is_diff = True
        scene.world.collision_objects = moveit_messages.collision_objects(array, hulls, self._shown - seen)
        self._shown = seen
        self._scene.publish(scene)


if __name__ == "__main__":
    rclpy.init()
    rclpy.spin(MoveItScene())
