"""The examples run as they are, against real nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; `make venv` installs it")

from geometry_msgs.msg import PoseStamped
from rise_msgs.msg import Instance, InstanceArray
from ros_graph import RELIABLE, Graph, header_of, stamp_of

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
#: A camera that looks down from 0.9 m, turned half around the base's x axis.
BASE_FROM_CAMERA = "[0.4, 0.1, 0.9, 1.0, 0.0, 0.0, 0.0]"


@pytest.mark.slow
def test_the_planner_client_gets_poses_in_the_base_frame(tmp_path: Path, tiny_model: Path, scene) -> None:
    graph = Graph(tmp_path)
    command = [sys.executable, str(EXAMPLES / "planner_client.py"), "--ros-args"]
    client = subprocess.Popen([*command, "-p", f"base_from_camera:={BASE_FROM_CAMERA}"], env=graph.env)
    try:
        graph.start("segmentation_node", {"model": str(tiny_model), **RELIABLE})
        targets = graph.listen("/grasp_target", PoseStamped)
        graph.wait(lambda: graph.node.count_publishers("/grasp_target"), "the planner client")
        answers: dict[int, InstanceArray] = {}

        def answered() -> (
            PoseStamped | None
        ):  # what comes before node and client have found each other is lost
            stamp = (len(answers) + 1) * 10**9
            answers[stamp] = graph.segment(*scene, stamp)
            graph.spin(0.2)
            return targets[-1] if targets else None

        target = graph.wait(answered, "a grasp target")
        found = answers[stamp_of(target)]
        assert target.header.frame_id == "base_link"
        best = max((i for i in found.instances if np.isfinite(i.centroid.z)), key=lambda i: i.score)
        expected = (0.4 + best.centroid.x, 0.1 - best.centroid.y, 0.9 - best.centroid.z)
        assert (target.pose.position.x, target.pose.position.y, target.pose.position.z) == pytest.approx(
            expected
        )
        rotation = target.pose.orientation
        assert np.hypot(np.hypot(rotation.x, rotation.y), np.hypot(rotation.z, rotation.w)) == pytest.approx(
            1
        )

        # Two certain items, of which grasps have taught something; a container and one without depth.
        publisher = graph.node.create_publisher(InstanceArray, "/segmentation_node/instances", 5)
        graph.wait(lambda: publisher.get_subscription_count() >= 1, "the planner client's subscription")
        items = [
            instance("object", 0.9, 0.1, 0.5),
            instance("object", 0.6, 0.8, 0.7),
            instance("object", 1.0, np.nan, np.nan),
            instance("container", 1.0, np.nan, 0.6),
        ]
        later = 10**12
        publisher.publish(InstanceArray(header=header_of(later), instances=items))
        target = graph.wait(lambda: targets[-1] if stamp_of(targets[-1]) == later else None, "its target")
        assert target.pose.position.z == pytest.approx(0.9 - 0.7)
    finally:
        client.terminate()
        assert client.wait(30) in (0, -15)
        graph.close()


def instance(name: str, score: float, success: float, distance: float) -> Instance:
    item = Instance(class_name=name, score=score, pick_success=success)
    item.centroid.z = distance
    return item
