"""From a pair of messages to a frame: the one place where both nodes make one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rise_perception.core.depth_registration import register_depth
from rise_perception.core.errors import ImageError, RiseError
from rise_perception.core.frame import CameraIntrinsics, Frame, check_depth
from rise_perception.data import ros_images
from rise_perception.inference.pairing import Pair
from rise_perception.nodes.camera_parameters import DEPTH_INFO
from rise_perception.nodes.inputs import CameraInputs
from rise_perception.nodes.transforms import Transforms


class FrameReader:
    """Reads frames; what is wrong with depth or CameraInfo costs these, and not the frame.

    Depth of a camera of its own, in another frame or of another size, is registered to the colour image when
    that camera's CameraInfo comes in.

    Args:
        inputs: the camera.
        transforms: from the depth camera to the colour camera.
        report: told what was left out, and why.
    """

    def __init__(self, inputs: CameraInputs, transforms: Transforms, report: Callable[[str], None]) -> None:
        self._inputs, self._transforms, self._report = inputs, transforms, report

    def read(self, pair: Pair) -> Frame:
        """The frame of a pair.

        Raises:
            ImageError: the colour image makes no sense.
        """
        image = ros_images.to_rgb8(pair.color)
        camera = self._inputs.camera(image.shape[1], image.shape[0])
        depth = None
        if pair.depth is not None:
            try:
                depth = self._depth(pair, image, camera)
            except RiseError as error:
                self._report(f"depth ignored: {error}")
        return Frame(image, depth, camera, pair.stamp, pair.color.header.frame_id)

    @property
    def info(self) -> Any:
        """The CameraInfo message of the colour image, None before the first."""
        return self._inputs.info

    def _depth(self, pair: Pair, image: np.ndarray, camera: CameraIntrinsics | None) -> np.ndarray:
        depth = ros_images.to_depth(pair.depth)
        if self._is_registered(pair, depth, image):
            try:
                check_depth(depth, image)
            except ImageError as error:
                raise ImageError(f"{error}, or remap {DEPTH_INFO}: then it is registered here") from None
            return depth
        if camera is None:
            raise ImageError("it has to be registered to the colour image, whose camera info is missing")
        own = self._inputs.depth_camera(depth.shape[1], depth.shape[0])
        target, source = pair.color.header.frame_id, pair.depth.header.frame_id
        return register_depth(depth, own, camera, self._transforms.lookup(target, source, pair.stamp))

    def _is_registered(self, pair: Pair, depth: np.ndarray, image: np.ndarray) -> bool:
        """Whether depth is of the colour camera, or is to be taken as such for want of better knowledge."""
        if not self._inputs.has_depth_info:
            return True
        same_frame = pair.depth.header.frame_id == pair.color.header.frame_id
        return same_frame and depth.shape == image.shape[:2]
