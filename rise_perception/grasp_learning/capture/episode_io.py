"""Episodes as files: a folder of PNG and JSON that any tool can open, checked when it is read.

Folders instead of one MCAP: an episode is evicted, copied and compared on its own, a rename makes it whole,
and a picture can be looked at where it lies.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rise_perception.core.config import typed
from rise_perception.core.errors import ConfigError, DataError, RiseError, require
from rise_perception.core.files import read_bounded, write_bytes
from rise_perception.core.frame import CameraIntrinsics, Frame
from rise_perception.core.instances import Instances
from rise_perception.core.json_files import read_json
from rise_perception.core.rle import decode_runs, encode_runs
from rise_perception.data.headers import MAX_PIXELS, check_pixels, load_npy
from rise_perception.data.images import encode_image
from rise_perception.grasp_learning.capture.episode import (
    Calibration,
    Episode,
    Grasp,
    Observation,
    Outcome,
    Phase,
    Referred,
)
from rise_perception.grasp_learning.capture.episode_record import (
    FORMAT,
    SIDES,
    InstancesRecord,
    SideRecord,
    episode_record,
    labels_record,
)
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels, Verdict

EPISODE, LABELS = "episode.json", "labels.json"
#: Depth is stored in tenths of a millimetre; scenes deeper than 6.5 m in coarser steps.
FINEST_DEPTH = 1e-4
#: Bytes of the largest JSON file of an episode: thousands of outlines.
MAX_TEXT_BYTES = 4 << 20
#: Bytes of the largest of its other files, and of all masks of its labels in memory.
MAX_FILE_BYTES, MAX_MASK_BYTES = 8 * MAX_PIXELS, 1 << 30


def write_episode(folder: Path, episode: Episode) -> str:
    """Write an episode into an empty folder, flushed to the disk; returns its digest.

    The digest covers everything in the episode, so that equal episodes have equal digests.

    Raises:
        OSError: the disk is full, or not writable.
    """
    files: dict[str, str] = {}
    sides = {}
    for name in SIDES:
        side: Observation = getattr(episode, name)
        contents, sides[name] = _encode_side(name, side)
        for file, content in contents.items():
            files[file] = hashlib.sha256(content).hexdigest()
            _write(folder / file, content)
    grasp = episode.grasp
    record = {
        "format": FORMAT,
        "session": episode.session,
        "grasp": {
            "grasp_id": grasp.grasp_id,
            "target_id": grasp.target_id,
            "outcome": int(grasp.outcome),
            "stamp": grasp.stamp,
            "stamps": {phase.name: stamp for phase, stamp in grasp.stamps.items()},
            "expression": grasp.expression,
            "referred": int(grasp.referred),
        },
        **sides,
        "files": files,
    }
    content = _text(record, folder / EPISODE)
    episode_record(json.loads(content))  # what cannot be read again is not written
    _write(folder / EPISODE, content)
    return hashlib.sha256(content).hexdigest()


def read_episode(folder: Path) -> Episode:
    """Read and check an episode.

    Raises:
        DataError: a file is missing, damaged, or says what cannot be; the message names it.
    """
    try:
        record = episode_record(_read_json(folder / EPISODE))
        sides = [_decode_side(folder, name, getattr(record, name), record.files) for name in SIDES]
        grasp = record.grasp
        known = Phase.__members__
        for name in grasp.stamps:
            require(name in known, "grasp.stamps", name[:60], f"times of {', '.join(known)}")
        return Episode(
            sides[0],
            sides[1],
            Grasp(
                grasp.grasp_id,
                grasp.target_id,
                Outcome(grasp.outcome),
                grasp.stamp,
                {Phase[name]: at for name, at in grasp.stamps.items()},
                grasp.expression,
                Referred(grasp.referred),
            ),
            record.session,
        )
    except RiseError as error:
        raise DataError(f"{folder}: not a readable episode: {error}; delete it") from None


def write_labels(folder: Path, episode_labels: EpisodeLabels) -> None:
    """Write labels into an episode's folder, atomically."""
    arrays = {"known": episode_labels.known, "removed": episode_labels.removed, "added": episode_labels.added}
    record = {
        "format": FORMAT,
        "verdict": episode_labels.verdict.value,
        "cause": episode_labels.cause.value,
        "reason": episode_labels.reason,
        "size": list(episode_labels.known.shape),
        "masks": [encode_runs(mask) for mask in episode_labels.masks],
        **{name: encode_runs(mask) for name, mask in arrays.items()},
        "unmoved": episode_labels.unmoved.tolist(),
        "to_after": episode_labels.to_after.tolist(),
    }
    write_bytes(folder / LABELS, _text(record, folder / LABELS))


def read_labels(folder: Path) -> EpisodeLabels:
    """Read the labels of an episode.

    Raises:
        DataError: there are none, or they are damaged.
    """
    try:
        record = labels_record(_read_json(folder / LABELS))
        size = record.size
        pixels = size[0] * size[1]
        require(pixels <= MAX_PIXELS, "labels.size", size, f"of at most {MAX_PIXELS} pixels")
        require(
            len(record.masks) * pixels <= MAX_MASK_BYTES,
            "labels.masks",
            f"{len(record.masks)} masks of {size[1]}x{size[0]} pixels",
            f"at most {MAX_MASK_BYTES >> 20} MiB",
        )
        masks = [_decode_mask(code, size) for code in record.masks]
        return EpisodeLabels(
            record.verdict,
            record.cause,
            record.reason,
            np.stack(masks) if masks else np.zeros((0, *size), bool),
            _decode_mask(record.known, size),
            np.array(record.unmoved, np.uint16),
            np.array(record.to_after, np.float64),
            _decode_mask(record.removed, size),
            _decode_mask(record.added, size),
        )
    except RiseError as error:
        raise DataError(
            f"{folder / LABELS}: its labels are not readable: {error}; delete the episode"
        ) from None


def read_verdict(folder: Path) -> Verdict:
    """The verdict of an episode, without its masks.

    Raises:
        DataError: there is none, or it is damaged.
    """
    raw = _read_json(folder / LABELS)
    try:
        verdict: Verdict = typed(raw.get("verdict"), Verdict, "labels.verdict")
    except ConfigError as error:
        raise DataError(f"{folder / LABELS}: {error}; delete the episode") from None
    return verdict


def _encode_side(name: str, side: Observation) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Files and JSON of one side."""
    frame = side.frame
    files = {f"{name}.png": encode_image(frame.image)}
    camera = frame.camera
    record: dict[str, Any] = {
        "stamp": frame.stamp,
        "frame_id": frame.frame_id,
        "height": frame.image.shape[0],
        "width": frame.image.shape[1],
        "camera": None
        if camera is None
        else {"fx": camera.fx, "fy": camera.fy, "cx": camera.cx, "cy": camera.cy},
        "calibration": None if side.calibration is None else dataclasses.asdict(side.calibration),
        "model_version": side.model_version,
        "depth_scale": None,
        "instances": None,
        "robot": None if side.robot is None else encode_runs(side.robot),
    }
    if frame.depth is not None:
        scale = max(FINEST_DEPTH, float(frame.depth.max()) / 65535)
        steps = np.round(frame.depth / np.float32(scale)).clip(0, 65535).astype(np.uint16)
        files[f"{name}.depth.png"] = encode_image(steps)
        record["depth_scale"] = scale
    found = side.instances
    if found is not None:
        files[f"{name}.labels.png"] = encode_image(found.label_map)
        buffer = io.BytesIO()
        np.save(buffer, found.embeddings.astype(np.float32), allow_pickle=False)
        files[f"{name}.embeddings.npy"] = buffer.getvalue()
        names = ("labels", "classes", "ids", "scores", "boxes")
        record["instances"] = {key: getattr(found, key).tolist() for key in names}
        record["instances"]["class_names"] = list(found.class_names)
    return files, record


def _decode_side(folder: Path, name: str, record: SideRecord, digests: dict[str, str]) -> Observation:
    size = record.height, record.width

    def content(kind: str) -> bytes:
        file = f"{name}{kind}"  # never a name out of the JSON: a store may come from anywhere
        data = read_bounded(folder / file, MAX_FILE_BYTES, DataError, "delete the episode")
        if hashlib.sha256(data).hexdigest() != digests.get(file):
            raise DataError(f"{file} is damaged: its checksum differs")
        return data

    def picture(kind: str, flags: int, *dtypes: type) -> np.ndarray:
        data = content(kind)
        if check_pixels(data, f"{name}{kind}") != size:  # before the pixels are decoded
            raise DataError(f"{name}{kind} is no picture of {size[1]}x{size[0]} pixels")
        try:
            array = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error:
            array = None
        channels = 3 if flags == cv2.IMREAD_COLOR_RGB else 1
        if array is None or array.shape[:2] != size or array.size != size[0] * size[1] * channels:
            raise DataError(f"{name}{kind} is no picture of {size[1]}x{size[0]} pixels")
        if array.dtype not in dtypes:
            raise DataError(f"{name}{kind} holds {array.dtype}; expected {dtypes[-1].__name__}")
        return np.asarray(array)

    image = picture(".png", cv2.IMREAD_COLOR_RGB, np.uint8)
    scale = record.depth_scale
    depth = None
    if scale is not None:
        depth = picture(".depth.png", cv2.IMREAD_UNCHANGED, np.uint16) * np.float32(scale)
    instances = None
    if record.instances is not None:
        labels = picture(".labels.png", cv2.IMREAD_UNCHANGED, np.uint8, np.uint16)
        embeddings = load_npy(content(".embeddings.npy"), f"{name}.embeddings.npy")
        instances = _instances(record.instances, labels, embeddings)
    k = record.camera
    camera = None if k is None else CameraIntrinsics(size[1], size[0], k.fx, k.fy, k.cx, k.cy)
    frame = Frame(image, depth, camera, record.stamp, record.frame_id)
    robot = None if record.robot is None else _decode_mask(record.robot, size)
    lens = record.calibration
    calibration = None if lens is None else Calibration(**dataclasses.asdict(lens))
    return Observation(frame, instances, robot, record.model_version, calibration)


def _instances(found: InstancesRecord, label_map: np.ndarray, embeddings: np.ndarray) -> Instances:
    count = len(found.labels)
    if embeddings.ndim != 2 or len(embeddings) != count or embeddings.dtype != np.float32:
        raise DataError(
            f"its embeddings are {embeddings.dtype} {embeddings.shape}; expected ({count}, D) float32"
        )
    if not np.isfinite(embeddings).all():
        raise DataError("its embeddings are not all finite")
    if not set(np.unique(label_map).tolist()) <= {0, *found.labels}:
        raise DataError("its label map holds instances that it does not list")
    return Instances(
        label_map.astype(np.uint16),
        np.array(found.labels, np.uint16),
        np.array(found.scores, np.float32),
        np.array(found.classes, np.int64),
        np.array(found.boxes, np.float32).reshape(-1, 4),
        embeddings,
        np.array(found.ids, np.int64),
        found.class_names,
    )


def _decode_mask(counts: str, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of COCO's compressed runs."""
    try:
        return decode_runs(counts, *size)
    except ValueError as error:
        raise DataError(
            f"a mask does not have the {size[1]}x{size[0]} pixels of its picture ({error})"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    value = read_json(path, MAX_TEXT_BYTES, remedy="delete the episode")
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}, expected a mapping; delete the episode")
    return value


def _text(record: dict[str, Any], where: Path) -> bytes:
    """A record as a file that can be read again."""
    content = (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    if len(content) > MAX_TEXT_BYTES:
        raise DataError(
            f"{where} would have {len(content) >> 10} KiB, at most {MAX_TEXT_BYTES >> 10} are read again: "
            "masks of so many ragged pieces teach nothing"
        )
    return content


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
