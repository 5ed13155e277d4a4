"""Instances to messages: rise_msgs always, vision_msgs where it is installed."""

from __future__ import annotations

import math
from array import array
from typing import Any

import numpy as np
from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
from rise_msgs.msg import Instance, InstanceArray
from sensor_msgs.msg import Image, PointCloud2, PointField, RegionOfInterest
from std_msgs.msg import Header

from rise_perception.core.geometry import POINT, Location
from rise_perception.core.instances import Instances
from rise_perception.data import ros_images

_FIELD_TYPES = {"<f4": PointField.FLOAT32, "<u4": PointField.UINT32, "<u2": PointField.UINT16}


def image(header: Header, values: np.ndarray, encoding: str) -> Image:
    """A sensor_msgs/Image holding ``values``, (H, W) or (H, W, C) in the layout of ``encoding``."""
    return ros_images.fill(Image(header=header), values, encoding)


def instance_array(
    header: Header,
    label_map: Image,
    instances: Instances,
    locations: list[Location | None] | None,
    model_version: str,
) -> InstanceArray:
    """The InstanceArray of one frame; latency_ms is left for the moment of publishing.

    Args:
        header: of the colour image.
        label_map: the label map as a message.
        instances: N instances.
        locations: N locations, None where an instance has too little depth; None without depth.
        model_version: of the model that made them.
    """
    message = InstanceArray(header=header, label_map=label_map, model_version=model_version)
    rows = zip(
        instances.labels.tolist(),
        instances.ids.tolist(),
        instances.classes.tolist(),
        instances.scores.tolist(),
        instances.pick_success.tolist(),
        instances.boxes.astype(np.int64).tolist(),
        instances.areas().tolist(),
        instances.embeddings.astype(np.float32),
        locations if locations is not None else [None] * len(instances),
        strict=True,
    )
    for label, identity, kind, score, success, (x0, y0, x1, y1), area, embedding, location in rows:
        row = Instance(
            label=label,
            id=identity,
            class_name=instances.class_names[kind],
            score=score,
            bbox=RegionOfInterest(x_offset=x0, y_offset=y0, width=x1 - x0, height=y1 - y0),
            area=area,
            centroid=Point(x=math.nan, y=math.nan, z=math.nan),
            pick_success=success,
            embedding=array("f", embedding.tobytes()),
        )
        if location is not None:
            row.centroid = _point(location.centroid)
            row.box_pose = box_pose(location)
            row.box_size = Vector3(**dict(zip("xyz", location.size.tolist(), strict=True)))
        message.instances.append(row)
    return message


def box_pose(location: Location) -> Pose:
    """Centre and axes of a 3D box."""
    orientation = Quaternion(**dict(zip("xyzw", location.quaternion.tolist(), strict=True)))
    return Pose(position=_point(location.centre), orientation=orientation)


def cloud(header: Header, points: np.ndarray) -> PointCloud2:
    """An organised PointCloud2 of a structured array (H, W) of dtype ``POINT``; colour as RViz expects it."""
    fields = []
    for name in POINT.names or ():
        kind, offset = POINT[name], POINT.fields[name][1]  # type: ignore[index]
        # By convention the packed colour is declared as a float, whose bits it occupies.
        datatype = PointField.FLOAT32 if name == "rgb" else _FIELD_TYPES[kind.str]
        fields.append(PointField(name=name, offset=offset, datatype=datatype, count=1))
    height, width = points.shape
    return PointCloud2(
        header=header,
        height=height,
        width=width,
        fields=fields,
        is_bigendian=False,
        point_step=POINT.itemsize,
        row_step=POINT.itemsize * width,
        data=ros_images.byte_array(points),
        is_dense=False,
    )


def target_mask(instances: Instances, target: int | None) -> np.ndarray:
    """(H, W) uint8: 255 where the instance with id ``target`` is, otherwise 0."""
    label = instances.labels[instances.ids == target] if target is not None else []
    if len(label) == 0:
        return np.zeros(instances.label_map.shape, np.uint8)
    return (instances.label_map == label[0]).astype(np.uint8) * np.uint8(255)


def vision_messages() -> Any | None:
    """The module vision_msgs.msg, or None where it is not installed."""
    try:
        import vision_msgs.msg
    except ImportError:
        return None
    return vision_msgs.msg


def detections(
    vision: Any, header: Header, instances: Instances, locations: list[Location | None] | None
) -> Any:
    """vision_msgs/Detection2DArray: box, class, score; id is the persistent id; pose with depth."""
    message = vision.Detection2DArray(header=header)
    for index, (x0, y0, x1, y1) in enumerate(instances.boxes.tolist()):
        detection = vision.Detection2D(header=header, id=str(int(instances.ids[index])))
        detection.bbox.center.position.x = (x0 + x1) / 2
        detection.bbox.center.position.y = (y0 + y1) / 2
        detection.bbox.size_x = x1 - x0
        detection.bbox.size_y = y1 - y0
        result = vision.ObjectHypothesisWithPose()
        result.hypothesis.class_id = str(int(instances.classes[index]))  # the key of the LabelInfo's map
        result.hypothesis.score = float(instances.scores[index])
        if locations is not None and (location := locations[index]) is not None:
            result.pose.pose = box_pose(location)
        detection.results.append(result)
        message.detections.append(detection)
    return message


def detections_3d(
    vision: Any, header: Header, instances: Instances, locations: list[Location | None] | None
) -> Any:
    """vision_msgs/Detection3DArray of the instances that have a place; ids and classes as in 2D."""
    message = vision.Detection3DArray(header=header)
    for index, location in enumerate(locations or []):
        if location is None:
            continue
        detection = vision.Detection3D(header=header, id=str(int(instances.ids[index])))
        detection.bbox.center = box_pose(location)
        detection.bbox.size = Vector3(**dict(zip("xyz", location.size.tolist(), strict=True)))
        result = vision.ObjectHypothesisWithPose()
        result.hypothesis.class_id = str(int(instances.classes[index]))
        result.hypothesis.score = float(instances.scores[index])
        result.pose.pose = detection.bbox.center
        detection.results.append(result)
        message.detections.append(detection)
    return message


def label_info(vision: Any, header: Header, class_names: tuple[str, ...], threshold: float) -> Any:
    """vision_msgs/LabelInfo: the names of the classes and the score from which instances are given.

    It maps ``class_id`` of the detections. The label map holds instances, not classes: its values are
    ``Instance.label`` of the InstanceArray of the same stamp.
    """
    classes = [vision.VisionClass(class_id=index, class_name=name) for index, name in enumerate(class_names)]
    return vision.LabelInfo(header=header, class_map=classes, threshold=threshold)


def vision_info(
    vision: Any, header: Header, model_version: str, label_info_topic: str, database_version: int
) -> Any:
    """vision_msgs/VisionInfo; ``database_version`` counts up with each model that becomes active."""
    return vision.VisionInfo(
        header=header,
        method=model_version,
        database_location=label_info_topic,
        database_version=database_version,
    )


def _point(values: np.ndarray) -> Point:
    x, y, z = values.tolist()
    return Point(x=x, y=y, z=z)
