"""What an episode's JSON files may hold, as typed records: nothing in them is trusted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rise_perception.core.config import build_config
from rise_perception.core.errors import DataError, require
from rise_perception.grasp_learning.capture.episode import MAX_EXPRESSION, Outcome, Referred
from rise_perception.grasp_learning.labelling.episode_labels import Cause, Verdict

FORMAT = 1
SIDES = ("before", "after")
#: Nanoseconds of the latest stamp: what fits a ROS time, about the year 2106.
LATEST = (2**32) * 10**9 - 1
#: Metres per unit of depth: from a micrometre to ten metres.
DEPTH_SCALES = (1e-6, 10.0)


@dataclass(frozen=True)
class CameraRecord:
    """Pinhole intrinsics, in pixels."""

    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        for name in ("fx", "fy"):
            require(getattr(self, name) > 0, f"camera.{name}", getattr(self, name), "above 0")


@dataclass(frozen=True)
class CalibrationRecord:
    """See :class:`.episode.Calibration`, which checks it."""

    distortion_model: str
    distortion: tuple[float, ...]
    rectification: tuple[float, ...]
    projection: tuple[float, ...]


@dataclass(frozen=True)
class InstancesRecord:
    """Rows of what was predicted, one value of each list an instance."""

    labels: tuple[int, ...]
    classes: tuple[int, ...]
    ids: tuple[int, ...]
    scores: tuple[float, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.labels)
        for name in ("classes", "ids", "scores", "boxes"):
            length = len(getattr(self, name))
            require(length == count, f"instances.{name}", f"{length} values", f"{count}, as many as labels")
        require(len(set(self.labels)) == count, "instances.labels", self.labels[:20], "all different")
        for label in self.labels:
            require(0 < label <= 0xFFFF, "instances.labels", label, "between 1 and 65535")
        for kind in self.classes:
            known = len(self.class_names)
            require(0 <= kind < known, "instances.classes", kind, f"an index into the {known} class_names")


@dataclass(frozen=True)
class SideRecord:
    """One side of an episode, beside its pictures."""

    stamp: int
    frame_id: str
    height: int
    width: int
    camera: CameraRecord | None
    depth_scale: float | None
    instances: InstancesRecord | None
    robot: str | None
    calibration: CalibrationRecord | None = None
    model_version: str = ""

    def __post_init__(self) -> None:
        require(0 <= self.stamp <= LATEST, "stamp", self.stamp, f"nanoseconds between 0 and {LATEST}")
        for name in ("height", "width"):
            side = getattr(self, name)
            require(1 <= side <= 1 << 15, name, side, f"pixels between 1 and {1 << 15}")
        if self.depth_scale is not None:
            least, most = DEPTH_SCALES
            fits = least <= self.depth_scale <= most
            require(fits, "depth_scale", self.depth_scale, f"metres per unit between {least} and {most}")


@dataclass(frozen=True)
class GraspRecord:
    """What the robot said."""

    grasp_id: str
    target_id: int
    outcome: int
    stamp: int
    stamps: dict[str, int] = field(default_factory=dict)
    expression: str = ""
    referred: int = 0

    def __post_init__(self) -> None:
        length = len(self.expression)
        require(length <= MAX_EXPRESSION, "grasp.expression", length, f"{MAX_EXPRESSION} characters at most")
        require(self.referred in set(Referred), "grasp.referred", self.referred, "one of GraspEvent's")
        for stamp in (self.stamp, *self.stamps.values()):
            require(0 <= stamp <= LATEST, "grasp.stamp", stamp, f"nanoseconds between 0 and {LATEST}")
        require(self.outcome in set(Outcome), "grasp.outcome", self.outcome, "one of GraspEvent's")
        require(self.target_id >= -1, "grasp.target_id", self.target_id, "an instance's id, or -1")


@dataclass(frozen=True)
class EpisodeRecord:
    """``episode.json``; the checksums in ``files`` are those of the pictures beside it."""

    format: int
    grasp: GraspRecord
    before: SideRecord
    after: SideRecord
    files: dict[str, str]
    session: str = ""

    def __post_init__(self) -> None:
        require(self.format == FORMAT, "format", self.format, f"{FORMAT}; a newer version wrote it")


@dataclass(frozen=True)
class LabelsRecord:
    """``labels.json``; masks are COCO's compressed runs."""

    format: int
    verdict: Verdict
    cause: Cause
    reason: str
    size: tuple[int, int]
    masks: tuple[str, ...]
    known: str
    removed: str
    added: str
    unmoved: tuple[int, ...]
    to_after: tuple[tuple[float, float, float], tuple[float, float, float]]

    def __post_init__(self) -> None:
        require(self.format == FORMAT, "format", self.format, f"{FORMAT}; a newer version wrote it")
        for side in self.size:
            require(1 <= side <= 1 << 15, "size", self.size, f"[height, width] between 1 and {1 << 15}")
        for label in self.unmoved:
            require(0 <= label <= 0xFFFF, "unmoved", label, "a label between 0 and 65535")


def episode_record(raw: Any) -> EpisodeRecord:
    """The record in what ``episode.json`` holds, also one of an older store.

    Raises:
        ConfigError: a field is unknown, missing, of the wrong kind or out of range.
        DataError: it is no mapping.
    """
    if not isinstance(raw, dict):
        raise DataError(f"it holds a {type(raw).__name__}; expected a mapping")
    # Stores are older than versions of both sides: there was one, of the frame before.
    version = raw.pop("model_version", "")
    before = raw.get("before")
    if isinstance(before, dict):
        before.setdefault("model_version", version)
    made: EpisodeRecord = build_config(EpisodeRecord, raw, "episode")
    return made


def labels_record(raw: Any) -> LabelsRecord:
    """The record in what ``labels.json`` holds, also one of an older store.

    Raises:
        ConfigError: a field is unknown, missing, of the wrong kind or out of range.
        DataError: it is no mapping.
    """
    if not isinstance(raw, dict):
        raise DataError(f"it holds a {type(raw).__name__}; expected a mapping")
    for older, name in (("left", "removed"), ("appeared", "added")):
        if older in raw:
            raw.setdefault(name, raw.pop(older))
    made: LabelsRecord = build_config(LabelsRecord, raw, "labels")
    return made
