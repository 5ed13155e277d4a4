"""Instances to messages and back."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rise_msgs", reason="rise_msgs is not built; `make venv` builds it")

from std_msgs.msg import Header

from rise_perception.core.geometry import Location
from rise_perception.core.instances import Instances
from rise_perception.data.ros_instances import to_instances
from rise_perception.nodes import messages


@pytest.fixture
def found() -> Instances:
    label_map = np.zeros((20, 30), np.uint16)
    label_map[2:8, 3:9], label_map[10:20, 20:30] = 5, 60000
    return Instances(
        label_map=label_map,
        labels=np.array([60000, 5], np.uint16),
        scores=np.array([0.9, 0.4], np.float32),
        classes=np.array([1, 0]),
        boxes=np.array([[20, 10, 30, 20], [3, 2, 9, 8]], np.float32),
        embeddings=np.arange(8, dtype=np.float32).reshape(2, 4),
        ids=np.array([2**40, 7]),
        class_names=("container", "object"),
    )


def build(instances: Instances, locations: list[Location | None] | None) -> object:
    header = Header(frame_id="camera")
    label_map = messages.image(header, instances.label_map, "mono16")
    return messages.instance_array(header, label_map, instances, locations, "model-1")


def test_instances_survive_the_message(found):
    back = to_instances(build(found, None))
    for name in ("label_map", "labels", "scores", "boxes", "embeddings", "ids"):
        np.testing.assert_array_equal(getattr(back, name), getattr(found, name), err_msg=name)
    names = [back.class_names[i] for i in back.classes]
    assert names == ["object", "container"]


def test_no_instance_is_a_message_too():
    empty = Instances.empty(4, 6, dim=16)
    message = build(empty, [])
    assert message.instances == []
    back = to_instances(message)
    assert len(back) == 0
    assert back.embeddings.shape == (0, 0)
    assert back.label_map.shape == (4, 6)


def test_boxes_with_and_without_depth(found):
    turned = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    quaternion = np.array([0, 0, np.sqrt(0.5), np.sqrt(0.5)])
    there = Location(
        np.array([1.0, 2, 3]), np.array([4.0, 5, 6]), turned, quaternion, np.array([0.3, 0.2, 0.1])
    )
    first, second = build(found, [there, None]).instances
    assert (first.centroid.x, first.box_pose.position.y, first.box_size.z) == (1.0, 5.0, 0.1)
    assert first.box_pose.orientation.z == pytest.approx(np.sqrt(0.5))
    assert first.area == 100
    assert (first.bbox.x_offset, first.bbox.y_offset, first.bbox.width, first.bbox.height) == (20, 10, 10, 10)
    assert np.isnan(second.centroid.z)
    assert second.box_size.x == 0
    assert second.box_pose.orientation.w == 1


def test_the_target_is_followed_by_id(found):
    mask = messages.target_mask(found, 7)
    np.testing.assert_array_equal(mask == 255, found.label_map == 5)
    assert mask.dtype == np.uint8
    assert not messages.target_mask(found, 8).any()
    assert not messages.target_mask(found, None).any()


class StandIn:
    """The fields of a vision_msgs message, for machines without vision_msgs (it is not on PyPI)."""

    def __init__(self, **fields: object) -> None:
        self.results, self.detections = [], []
        self.bbox = SimpleNamespace(center=SimpleNamespace(position=SimpleNamespace()))
        self.hypothesis, self.pose = SimpleNamespace(), SimpleNamespace()
        self.__dict__.update(fields)


KINDS = (
    "Detection2D",
    "Detection2DArray",
    "Detection3D",
    "Detection3DArray",
    "LabelInfo",
    "VisionClass",
    "VisionInfo",
)


def test_detections_and_infos_of_vision_msgs(found):
    vision = messages.vision_messages() or SimpleNamespace(
        **dict.fromkeys((*KINDS, "ObjectHypothesisWithPose"), StandIn)
    )
    made = messages.detections(vision, Header(), found, None)
    assert [d.id for d in made.detections] == [str(2**40), "7"]
    box = made.detections[1].bbox
    assert (box.center.position.x, box.center.position.y, box.size_x, box.size_y) == (6, 5, 6, 6)
    assert made.detections[0].results[0].hypothesis.class_id == "1"
    turned = Location(
        np.array([1.0, 2, 3]),
        np.array([4.0, 5, 6]),
        np.eye(3),
        np.array([0.0, 0, 0, 1]),
        np.array([3.0, 2, 1]),
    )
    (placed,) = messages.detections_3d(vision, Header(frame_id="base"), found, [None, turned]).detections
    assert (placed.id, placed.header.frame_id) == ("7", "base")
    assert (placed.bbox.center.position.x, placed.bbox.size.x) == (4.0, 3.0)
    assert placed.results[0].hypothesis.class_id == "0"
    assert messages.detections_3d(vision, Header(), found, None).detections == []
    classes = messages.label_info(vision, Header(), found.class_names, 0.5).class_map
    assert [(c.class_id, c.class_name) for c in classes] == [(0, "container"), (1, "object")]
    assert messages.vision_info(vision, Header(), "model-1", "/cell/label_info", 3).database_version == 3
