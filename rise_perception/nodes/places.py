"""Where instances may be, and in which frame that is told: workspace and target frame of the node."""

from __future__ import annotations

import numpy as np

from rise_perception.core.errors import DataError, RiseError, TransformError
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.inference.workspace import (
    FrameBox,
    ImagePolygon,
    Workspace,
    keep_inside,
    parse_workspace,
)
from rise_perception.nodes.diagnostics import WARN, Condition
from rise_perception.nodes.transforms import Transforms


class Places:
    """Applies the parameters ``workspace`` and ``target_frame``.

    Args:
        transforms: by which frames are found.
    """

    def __init__(self, transforms: Transforms) -> None:
        self._transforms = transforms
        self._workspace: Workspace | None = None
        self._text = self._problem = ""
        self.target_frame = ""

    def set(self, workspace: str, target_frame: str) -> None:
        """Takes the parameters' values, which hold from the next frame on."""
        if workspace != self._text:
            self._workspace, self._text = parse_workspace(workspace), workspace
        if target_frame != self.target_frame:
            self.target_frame, self._problem = target_frame, ""

    @property
    def needs_transforms(self) -> bool:
        """True when /tf has to be listened to."""
        return bool(self.target_frame) or isinstance(self._workspace, FrameBox)

    def restrict(self, frame: Frame, instances: Instances) -> tuple[Instances, np.ndarray | None]:
        """The instances inside the workspace, and (H, W) bool, what is outside; None without a workspace.

        Raises:
            RiseError: it cannot be told what is inside. Nothing is better than masks of a wall.
        """
        workspace = self._workspace
        if workspace is None:
            return instances, None
        if isinstance(workspace, ImagePolygon):
            outside = workspace.outside(*instances.label_map.shape)
            return keep_inside(instances, outside), outside
        try:
            if frame.depth is None or frame.camera is None:
                missing = "depth" if frame.depth is None else "camera info"
                raise DataError(f"a box in space needs {missing}, and there is none")
            there = self._transforms.lookup(workspace.frame, frame.frame_id, frame.stamp)
        except RiseError as error:
            raise DataError(f"the workspace cannot be applied and the frame is left out: {error}") from error
        outside = workspace.outside(frame.depth, frame.camera, there)
        return keep_inside(instances, outside, frame.depth > 0), outside

    def target_from_camera(self, frame: Frame) -> np.ndarray | None:
        """(4, 4) maps points of the camera to the target frame; None, and a condition says why, otherwise."""
        if not self.target_frame or frame.depth is None:
            return None
        try:
            there = self._transforms.lookup(self.target_frame, frame.frame_id, frame.stamp)
        except TransformError as error:
            self._problem = str(error)
            return None
        self._problem = ""
        return there

    def conditions(self) -> list[Condition]:
        """What is wrong with the target frame."""
        if not self._problem:
            return []
        return [(WARN, f"nothing is placed in target_frame {self.target_frame!r}: {self._problem}", {})]
