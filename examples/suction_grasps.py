#!/usr/bin/env python3
"""Publishes moveit_msgs/Grasp for a suction cup: the flat spots of the items that are seen, the best first.

    python3 examples/suction_grasps.py --ros-args -p cup_radius:=0.015

Needs ~/points of the segmentation node (a camera with depth), moveit_msgs and Open3D.
"""

from __future__ import annotations

import rclpy
from moveit_msgs.msg import Grasp
from rclpy.node import Node
from rise_msgs.msg import InstanceArray
from sensor_msgs.msg import PointCloud2

from rise_perception.data.ros_clouds import organised_cloud
from rise_perception.data.ros_instances import to_instances
from rise_perception.nodes import moveit_messages, qos
from rise_perception.planning.suction import suction_candidates


class SuctionGrasps(Node):
    """InstanceArray and its cloud in, one Grasp a candidate out."""

    def __init__(self) -> None:
        super().__init__("suction_grasps")
        self._cup_radius = self.declare_parameter("cup_radius", 0.012).value  # metres
        self._most = self.declare_parameter("most", 10).value
        self._cloud: PointCloud2 | None = None
        self._array: InstanceArray | None = None
        self._grasps = self.create_publisher(Grasp, "grasps", qos.events())
        self.create_subscription(
            InstanceArray, "segmentation_node/instances", self._on_instances, qos.output()
        )
        self.create_subscription(PointCloud2, "segmentation_node/points", self._on_points, qos.output())

    def _on_points(self, message: PointCloud2) -> None:
        self._cloud = message
        self._publish()

    def _on_instances(self, message: InstanceArray) -> None:
        self._array = message
        self._publish()

    def _publish(self) -> None:
        """Publish the grasps of a frame when its instances and its cloud are both there."""
        array, cloud = self._array, self._cloud
        if array is None or cloud is None or cloud.header.stamp != array.header.stamp:
            return
        self._array = None
        points, _ = organised_cloud(cloud)
        candidates = suction_candidates(points, to_instances(array), self._cup_radius)[: self._most]
        for grasp in moveit_messages.suction_grasps(array, candidates):
            self._grasps.publish(grasp)


if __name__ == "__main__":
    rclpy.init()
    rclpy.spin(SuctionGrasps())
