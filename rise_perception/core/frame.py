"""One camera frame: what every segmenter sees and every bag reader yields."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rise_perception.core.errors import ImageError


@dataclass(frozen=True)
class CameraIntrinsics:
    """Pinhole intrinsics of a rectified image, in pixels (ROS optical frame: x right, y down, z out).

    Attributes:
        width, height: image size in pixels.
        fx, fy: focal lengths in pixels.
        cx, cy: principal point in pixels, (0, 0) at the centre of the top-left pixel.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def matrix(self) -> np.ndarray:
        """The 3x3 float64 matrix K."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1]], dtype=np.float64)


@dataclass(frozen=True)
class Frame:
    """One colour image, with depth where there is any.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        depth: (H, W) float32, metres along the optical axis, registered to ``image``; 0 where there
            is no measurement. None when the camera has no depth.
        camera: intrinsics of ``image``, or None when unknown.
        stamp: nanoseconds since the epoch of the clock that stamped the frame.
        frame_id: coordinate frame (ROS optical convention).
    """

    image: np.ndarray
    depth: np.ndarray | None = None
    camera: CameraIntrinsics | None = None
    stamp: int = 0
    frame_id: str = "camera_color_optical_frame"

    def __post_init__(self) -> None:
        check_image(self.image)
        if self.depth is not None:
            check_depth(self.depth, self.image)


def check_image(image: np.ndarray) -> None:
    """Raise :class:`ImageError` unless ``image`` is (H, W, 3) uint8 with H, W >= 1."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(
            f"image is {got}; expected a uint8 array of shape (H, W, 3) in RGB order "
            "(rise_perception.data.images.to_rgb8 converts other layouts)"
        )
    if image.shape[0] < 1 or image.shape[1] < 1:
        raise ImageError(f"image has shape {image.shape}: it is empty; give one of at least 1x1 pixels")


def check_depth(depth: np.ndarray, image: np.ndarray) -> None:
    """Raise :class:`ImageError` unless ``depth`` is (H, W) float32 of the size of ``image``."""
    if not isinstance(depth, np.ndarray) or depth.ndim != 2 or depth.dtype != np.float32:
        got = f"{depth.dtype} {depth.shape}" if isinstance(depth, np.ndarray) else type(depth).__name__
        raise ImageError(
            f"depth is {got}; expected a float32 array of shape (H, W) in metres "
            "(rise_perception.data.images.to_metres converts other layouts)"
        )
    if depth.shape != image.shape[:2]:
        raise ImageError(
            f"depth is {depth.shape[1]}x{depth.shape[0]} but the image is {image.shape[1]}x{image.shape[0]}; "
            "register the depth to the colour camera first (for example depth_image_proc's register node)"
        )
