"""One grasp as the camera saw it: the frames before and after, what was predicted, what the robot says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np

from rise_perception.core.errors import DataError
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances


class Phase(IntEnum):
    """Phases of a grasp, with the numbers of rise_msgs/GraspEvent."""

    BEFORE = 0
    CLOSED = 1
    LIFTED = 2
    AFTER = 3
    ABORTED = 4


class Outcome(IntEnum):
    """What the robot believes that it did, with the numbers of rise_msgs/GraspEvent."""

    UNKNOWN = 0
    SUCCESS = 1
    EMPTY = 2
    DOUBLE = 3
    DROPPED = 4


class Referred(IntEnum):
    """Whether what was aimed at is what a sentence meant, with the numbers of rise_msgs/GraspEvent."""

    UNKNOWN = 0
    RIGHT = 1
    WRONG = 2


#: Longest sentence that is kept.
MAX_EXPRESSION = 300


@dataclass(frozen=True)
class Grasp:
    """One attempt.

    Attributes:
        grasp_id: unique for the attempt.
        target_id: persistent id of the instance that was aimed at, -1 = unknown.
        outcome: as the robot reports it.
        stamp: nanoseconds, of the event that ended it.
        stamps: nanoseconds of the phases that were announced.
        expression: the sentence that the target was chosen by; empty for none.
        referred: whether the item is the one that the sentence meant, as somebody who knows has reported. It
            says nothing about the item's outline, nor does the outline say anything about it.
    """

    grasp_id: str
    target_id: int = -1
    outcome: Outcome = Outcome.UNKNOWN
    stamp: int = 0
    stamps: dict[Phase, int] = field(default_factory=dict)
    expression: str = ""
    referred: Referred = Referred.UNKNOWN


@dataclass(frozen=True)
class Calibration:
    """What a CameraInfo says beside the intrinsics K, which belong to the frame.

    Attributes:
        distortion_model: as ROS names it, for example ``plumb_bob``.
        distortion: its coefficients D.
        rectification: the 3x3 matrix R, row by row.
        projection: the 3x4 matrix P, row by row.

    Raises:
        DataError: a matrix has another size, or something is no finite number.
    """

    distortion_model: str
    distortion: tuple[float, ...]
    rectification: tuple[float, ...]
    projection: tuple[float, ...]

    def __post_init__(self) -> None:
        sizes = len(self.rectification), len(self.projection)
        values = (*self.distortion, *self.rectification, *self.projection)
        if sizes != (9, 12) or not np.isfinite(values).all():
            raise DataError(
                f"a calibration has an R of {sizes[0]} and a P of {sizes[1]} numbers, or one that is not "
                "finite; expected 9 and 12, as in a CameraInfo"
            )

    @classmethod
    def of(cls, info: Any) -> Calibration:
        """That of a sensor_msgs/CameraInfo, out of a node or out of a bag."""
        numbers = (tuple(map(float, matrix)) for matrix in (info.d, info.r, info.p))
        return cls(str(info.distortion_model), *numbers)


@dataclass(frozen=True)
class Observation:
    """One side of an episode.

    Attributes:
        frame: the frame that was taken.
        instances: what the segmentation node found in it; None if nothing came.
        robot: (H, W) bool, pixels that show the robot; None where that is not known.
        model_version: of the model that found the instances; empty without instances.
        calibration: of the camera, beside ``frame.camera``; None where that is not known.
    """

    frame: Frame
    instances: Instances | None = None
    robot: np.ndarray | None = None
    model_version: str = ""
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        size = self.frame.image.shape[:2]
        if self.instances is not None and self.instances.label_map.shape != size:
            raise DataError(
                f"label map is {self.instances.label_map.shape}, its frame {size}: not of one frame"
            )
        if self.robot is not None and (self.robot.shape != size or self.robot.dtype != np.bool_):
            raise DataError(
                f"robot mask is {self.robot.dtype} {self.robot.shape}; expected bool {size}, as its frame"
            )


@dataclass(frozen=True)
class Episode:
    """What is kept of one grasp: everything that is needed to learn from it later or elsewhere.

    Attributes:
        before, after: the scene without and with what the grasp did to it.
        grasp: what the robot says.
        session: letters and digits that the episodes of one recording share, apart from all others; empty
            for a camera that runs on, whose episodes only time tells apart.
    """

    before: Observation
    after: Observation
    grasp: Grasp
    session: str = ""

    def __post_init__(self) -> None:
        first, second = self.before.frame, self.after.frame
        if first.image.shape != second.image.shape:
            raise DataError(
                f"frames before ({first.image.shape[1]}x{first.image.shape[0]}) and after "
                f"({second.image.shape[1]}x{second.image.shape[0]}) differ in size; "
                "do not change the camera's resolution during a grasp"
            )
        if not re.fullmatch("[A-Za-z0-9]{0,32}", self.session):
            raise DataError(f"session {self.session[:40]!r}; expected at most 32 letters and digits")
        if second.stamp < first.stamp:
            raise DataError(
                f"the frame after ({second.stamp} ns) is older than the frame before ({first.stamp} ns)"
            )

    @property
    def model_version(self) -> str:
        """Of the model that predicted what was to be grasped: of the frame before."""
        return self.before.model_version
