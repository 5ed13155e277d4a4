"""CameraInfo messages: to intrinsics of the image that came, and from intrinsics."""

from __future__ import annotations

import math

import numpy as np
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from rise_perception.core.errors import DataError
from rise_perception.core.frame import CameraIntrinsics

#: No lens has a focal length beyond this, in pixels, and no principal point lies further outside.
FARTHEST = 1e6


def is_rectified(topic: str) -> bool:
    """True for a topic that is named as a rectified image, as image_proc and the camera drivers do."""
    parts = topic.rstrip("/").split("/")
    if parts[-1] in ("compressed", "compressedDepth"):
        parts.pop()
    return "rect" in parts or "rect" in parts[-1]


def image_size(info: CameraInfo) -> tuple[int, int]:
    """Width and height of the images that a CameraInfo is of, after its region of interest and binning."""
    width, height = info.roi.width or info.width, info.roi.height or info.height
    return width // max(1, info.binning_x), height // max(1, info.binning_y)


def intrinsics(info: CameraInfo, width: int, height: int, rectified: bool) -> CameraIntrinsics:
    """Intrinsics of an image.

    K and P hold for the full resolution; the region of interest and binning are applied here. A camera that
    tells the size of its images as they are, binned or not, is taken at its word.

    Args:
        info: of the image.
        width, height: of the image.
        rectified: P instead of K; points are then in the rectified frame, as depth_image_proc's are.

    Raises:
        DataError: of another size, uncalibrated, or with values that no camera has.
    """
    binning_x, binning_y, x, y = 1, 1, 0, 0
    if image_size(info) == (width, height):
        binning_x, binning_y = max(1, info.binning_x), max(1, info.binning_y)
        x, y = info.roi.x_offset, info.roi.y_offset
    elif (info.width, info.height) != (width, height):
        size = "x".join(map(str, image_size(info)))
        raise DataError(f"is of {size} pixels and the image of {width}x{height}")
    name, matrix = "K", np.asarray(info.k, np.float64).reshape(3, 3)
    if rectified and info.p[0] != 0:
        name, matrix = "P", np.asarray(info.p, np.float64).reshape(3, 4)
    fx, fy, cx, cy = matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]
    if not fx and not fy:
        raise DataError(f"has no calibration ({name} is zero); calibrate the camera")
    for where, value, low in (
        ("fx", fx, 1e-3),
        ("fy", fy, 1e-3),
        ("cx", cx, -FARTHEST),
        ("cy", cy, -FARTHEST),
    ):
        if not math.isfinite(value) or not low <= value <= FARTHEST:
            raise DataError(f"has {where} = {value:g} in {name}, which no camera has; calibrate the camera")
    return CameraIntrinsics(
        width=width,
        height=height,
        fx=float(fx / binning_x),
        fy=float(fy / binning_y),
        cx=float((cx - x) / binning_x),
        cy=float((cy - y) / binning_y),
    )


def camera_info(header: Header, camera: CameraIntrinsics) -> CameraInfo:
    """The message of pictures that are undistorted already."""
    matrix = camera.matrix()
    return CameraInfo(
        header=header,
        width=camera.width,
        height=camera.height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=matrix.ravel().tolist(),
        r=np.eye(3).ravel().tolist(),
        p=np.hstack([matrix, np.zeros((3, 1))]).ravel().tolist(),
    )
