"""From a pair of messages to a frame: the one place where both nodes make one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rise_perception.core.errors import RiseError
from rise_perception.core.frame import Frame, check_depth
from rise_perception.data import ros_images
from rise_perception.inference.pairing import Pair
from rise_perception.nodes.inputs import CameraInputs


class FrameReader:
    """Reads frames; what is wrong with depth or CameraInfo costs these, and not the frame.

    Args:
        inputs: the camera.
        report: told what was left out, and why.
    """

    def __init__(self, inputs: CameraInputs, report: Callable[[str], None]) -> None:
        self._inputs, self._report = inputs, report

    def read(self, pair: Pair) -> Frame:
        """The frame of a pair.

        Raises:
            ImageError: the colour image makes no sense.
        """
        image = ros_images.to_rgb8(pair.color)
        camera = self._inputs.camera(image.shape[1], image.shape[0])
        return Frame(image, self._depth(pair, image), camera, pair.stamp, pair.color.header.frame_id)

    def _depth(self, pair: Pair, image: np.ndarray) -> np.ndarray | None:
        if pair.depth is None:
            return None
        try:
            depth = ros_images.to_depth(pair.depth)
            check_depth(depth, image)
        except RiseError as error:
            self._report(f"depth ignored: {error}")
            return None
        return depth
