"""Messages to write into bags, made without ROS (objects of the :mod:`typestore`'s types).

Stamps are nanoseconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rise_perception.core.frame import CameraIntrinsics, Frame
from rise_perception.core.geometry import Location, locate
from rise_perception.core.instances import Instances
from rise_perception.data.typestore import typestore


def header(stamp: int, frame_id: str) -> Any:
    """A std_msgs/Header."""
    time = _make("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
    return _make("std_msgs/msg/Header", stamp=time, frame_id=frame_id)


def image_message(array: np.ndarray, encoding: str, stamp: int, frame_id: str) -> Any:
    """A sensor_msgs/Image; ``array`` is (H, W) or (H, W, C) in the layout that ``encoding`` names."""
    array = np.ascontiguousarray(array)
    return _make(
        "sensor_msgs/msg/Image",
        header=header(stamp, frame_id),
        height=array.shape[0],
        width=array.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=array.strides[0],
        data=array.reshape(-1).view(np.uint8),
    )


def camera_info_message(camera: CameraIntrinsics, stamp: int, frame_id: str) -> Any:
    """A sensor_msgs/CameraInfo of a rectified image (no distortion)."""
    matrix = camera.matrix()
    return _make(
        "sensor_msgs/msg/CameraInfo",
        header=header(stamp, frame_id),
        height=camera.height,
        width=camera.width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=matrix.ravel(),
        r=np.eye(3).ravel(),
        p=np.hstack([matrix, np.zeros((3, 1))]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=_region(0, 0, 0, 0),
    )


def instance_array_message(instances: Instances, frame: Frame, model_version: str, latency_ms: float) -> Any:
    """A rise_msgs/InstanceArray of a frame; centroids and 3D boxes where it has depth and camera."""
    locations: list[Location | None] = [None] * len(instances)
    if frame.depth is not None and frame.camera is not None:
        locations = locate(instances, frame.depth, frame.camera)
    areas = instances.areas()
    return _make(
        "rise_msgs/msg/InstanceArray",
        header=header(frame.stamp, frame.frame_id),
        label_map=image_message(instances.label_map, "mono16", frame.stamp, frame.frame_id),
        instances=[
            _instance(instances, row, int(areas[row]), location) for row, location in enumerate(locations)
        ],
        model_version=model_version,
        latency_ms=latency_ms,
    )


def _instance(instances: Instances, row: int, area: int, location: Location | None) -> Any:
    x0, y0, x1, y1 = (int(value) for value in instances.boxes[row])
    nowhere = np.full(3, np.nan)
    rotation = np.array([0.0, 0.0, 0.0, 1.0]) if location is None else location.quaternion
    return _make(
        "rise_msgs/msg/Instance",
        label=int(instances.labels[row]),
        id=int(instances.ids[row]),
        class_name=instances.class_names[instances.classes[row]],
        score=float(instances.scores[row]),
        bbox=_region(x0, y0, x1 - x0, y1 - y0),
        area=area,
        centroid=_vector("Point", nowhere if location is None else location.centroid),
        box_pose=_make(
            "geometry_msgs/msg/Pose",
            position=_vector("Point", np.zeros(3) if location is None else location.centre),
            orientation=_make(
                "geometry_msgs/msg/Quaternion", **dict(zip("xyzw", rotation.tolist(), strict=True))
            ),
        ),
        box_size=_vector("Vector3", np.zeros(3) if location is None else location.size),
        pick_success=float(instances.pick_success[row]),
        embedding=instances.embeddings[row].astype(np.float32),
    )


def _region(x: int, y: int, width: int, height: int) -> Any:
    return _make(
        "sensor_msgs/msg/RegionOfInterest",
        x_offset=x,
        y_offset=y,
        width=width,
        height=height,
        do_rectify=False,
    )


def _vector(kind: str, values: np.ndarray) -> Any:
    return _make(f"geometry_msgs/msg/{kind}", **dict(zip("xyz", values.tolist(), strict=True)))


def _make(name: str, **fields: Any) -> Any:
    return typestore().types[name](**fields)
