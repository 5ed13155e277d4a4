"""Organised clouds as the segmentation node publishes them, read from a sensor_msgs/PointCloud2."""

from __future__ import annotations

from typing import Any

import numpy as np

from rise_perception.core.errors import DataError
from rise_perception.core.geometry import POINT


def organised_cloud(message: Any) -> tuple[np.ndarray, np.ndarray]:
    """Points and colours of ``~/points``, one a pixel.

    Args:
        message: a PointCloud2 whose points have the fields of
            :data:`rise_perception.core.geometry.POINT` at its offsets.

    Returns:
        (H, W, 3) float32 metres, NaN where nothing was measured; (H, W, 3) uint8 RGB.

    Raises:
        DataError: another layout, or fewer bytes than it says.
    """
    offsets = {field.name: field.offset for field in message.fields}
    expected = {name: POINT.fields[name][1] for name in POINT.names or ()}  # type: ignore[index]
    height, width = message.height, message.width
    if offsets != expected or message.point_step != POINT.itemsize or message.is_bigendian:
        raise DataError(f"a cloud with the fields {sorted(offsets)} is not one of the segmentation node's")
    data = np.frombuffer(message.data, np.uint8)
    if message.row_step != width * POINT.itemsize or data.size != height * message.row_step:
        raise DataError(f"a cloud of {width}x{height} points comes with {data.size} bytes")
    cloud = data.view(POINT).reshape(height, width)
    points = np.stack([cloud["x"], cloud["y"], cloud["z"]], axis=-1)
    packed = cloud["rgb"]
    colors = np.stack([packed >> 16 & 255, packed >> 8 & 255, packed & 255], axis=-1).astype(np.uint8)
    return points, colors
