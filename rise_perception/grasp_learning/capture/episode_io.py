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
from pycocotools import mask as coco_mask

from rise_perception.core.errors import DataError, RiseError
from rise_perception.core.files import write_text
from rise_perception.core.frame import CameraIntrinsics, Frame
from rise_perception.core.instances import Instances
from rise_perception.data.images import encode_image
from rise_perception.grasp_learning.capture.episode import (
    Calibration,
    Episode,
    Grasp,
    Observation,
    Outcome,
    Phase,
)
from rise_perception.grasp_learning.labelling.episode_labels import Cause, EpisodeLabels, Verdict

EPISODE, LABELS = "episode.json", "labels.json"
FORMAT = 1
SIDES = ("before", "after")
#: Depth is stored in tenths of a millimetre; scenes deeper than 6.5 m in coarser steps.
FINEST_DEPTH = 1e-4
#: No text file of a store is larger; a larger one is not read.
MAX_TEXT_BYTES = 64 << 20


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
        },
        **sides,
        "files": files,
    }
    content = (json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    _write(folder / EPISODE, content)
    return hashlib.sha256(content).hexdigest()


def read_episode(folder: Path) -> Episode:
    """Read and check an episode.

    Raises:
        DataError: a file is missing, damaged, or says what cannot be; the message names it.
    """
    record = _read_json(folder / EPISODE)
    try:
        if record["format"] != FORMAT:
            raise DataError(f"format {record['format']!r} is not {FORMAT}; written by a newer version?")
        digests = {str(name): str(digest) for name, digest in record["files"].items()}
        # Stores are older than sessions, stamps of phases, calibrations, and versions of both sides.
        record["before"].setdefault("model_version", record.get("model_version", ""))
        sides = [_decode_side(folder, name, record[name], digests) for name in SIDES]
        grasp = record["grasp"]
        return Episode(
            sides[0],
            sides[1],
            Grasp(
                str(grasp["grasp_id"]),
                int(grasp["target_id"]),
                Outcome(int(grasp["outcome"])),
                int(grasp["stamp"]),
                {Phase[name]: int(stamp) for name, stamp in grasp.get("stamps", {}).items()},
            ),
            str(record.get("session", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RiseError, cv2.error) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{folder}: not a readable episode: {what}") from None


def write_labels(folder: Path, episode_labels: EpisodeLabels) -> None:
    """Write a episode_labels into an episode's folder, atomically."""
    arrays = {"known": episode_labels.known, "left": episode_labels.left, "appeared": episode_labels.appeared}
    record = {
        "format": FORMAT,
        "verdict": episode_labels.verdict.value,
        "cause": episode_labels.cause.value,
        "reason": episode_labels.reason,
        "size": list(episode_labels.known.shape),
        "masks": [_encode_mask(mask) for mask in episode_labels.masks],
        **{name: _encode_mask(mask) for name, mask in arrays.items()},
        "unmoved": episode_labels.unmoved.tolist(),
        "to_after": episode_labels.to_after.tolist(),
    }
    write_text(folder / LABELS, json.dumps(record, indent=1, allow_nan=False) + "\n")


def read_labels(folder: Path) -> EpisodeLabels:
    """Read a episode_labels.

    Raises:
        DataError: there is none, or it is damaged.
    """
    record = _read_json(folder / LABELS)
    try:
        size = (int(record["size"][0]), int(record["size"][1]))
        masks = [_decode_mask(code, size) for code in record["masks"]]
        episode_labels = EpisodeLabels(
            Verdict(record["verdict"]),
            Cause(record["cause"]),
            str(record["reason"]),
            np.stack(masks) if masks else np.zeros((0, *size), bool),
            _decode_mask(record["known"], size),
            np.array(record["unmoved"], np.uint16),
            np.array(record["to_after"], np.float64).reshape(2, 3),
            _decode_mask(record["left"], size),
            _decode_mask(record["appeared"], size),
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, DataError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise DataError(f"{folder / LABELS}: its labels are not readable: {what}") from None
    return episode_labels


def read_verdict(folder: Path) -> Verdict:
    """The verdict of an episode, without its masks.

    Raises:
        DataError: there is none, or it is damaged.
    """
    try:
        return Verdict(_read_json(folder / LABELS)["verdict"])
    except (KeyError, ValueError) as error:
        raise DataError(f"{folder / LABELS}: no known verdict ({error})") from None


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
        "robot": None if side.robot is None else _encode_mask(side.robot),
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


def _decode_side(folder: Path, name: str, record: dict[str, Any], digests: dict[str, str]) -> Observation:
    size = (int(record["height"]), int(record["width"]))

    def content(kind: str) -> bytes:
        file = f"{name}{kind}"  # never a name out of the JSON: a store may come from anywhere
        data = (folder / file).read_bytes()
        if hashlib.sha256(data).hexdigest() != digests[file]:
            raise DataError(f"{file} is damaged: its checksum differs; delete the episode")
        return data

    def picture(kind: str, flags: int) -> np.ndarray:
        array = cv2.imdecode(np.frombuffer(content(kind), np.uint8), flags)
        if array is None or array.shape[:2] != size:
            raise DataError(f"{name}{kind} is no picture of {size[1]}x{size[0]} pixels")
        return np.asarray(array)

    try:
        image = picture(".png", cv2.IMREAD_COLOR_RGB)
        scale = record["depth_scale"]
        depth = None if scale is None else picture(".depth.png", cv2.IMREAD_UNCHANGED) * np.float32(scale)
        found = record["instances"]
        instances = None
        if found is not None:
            labels = picture(".labels.png", cv2.IMREAD_UNCHANGED)
            embeddings = np.load(io.BytesIO(content(".embeddings.npy")), allow_pickle=False)
            instances = _instances(found, labels, embeddings)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from None
    k = record["camera"]
    camera = (
        None
        if k is None
        else CameraIntrinsics(size[1], size[0], *(float(k[c]) for c in ("fx", "fy", "cx", "cy")))
    )
    frame = Frame(image, depth, camera, int(record["stamp"]), str(record["frame_id"]))
    robot = None if record["robot"] is None else _decode_mask(record["robot"], size)
    version = str(record.get("model_version", ""))
    return Observation(frame, instances, robot, version, _calibration(record.get("calibration")))


def _calibration(record: dict[str, Any] | None) -> Calibration | None:
    if record is None:
        return None
    numbers = (tuple(map(float, record[name])) for name in ("distortion", "rectification", "projection"))
    return Calibration(str(record["distortion_model"]), *numbers)


def _instances(found: dict[str, Any], label_map: np.ndarray, embeddings: np.ndarray) -> Instances:
    made = Instances(
        label_map.astype(np.uint16),
        np.array(found["labels"], np.uint16),
        np.array(found["scores"], np.float32),
        np.array(found["classes"], np.int64),
        np.array(found["boxes"], np.float32).reshape(-1, 4),
        embeddings,
        np.array(found["ids"], np.int64),
        tuple(map(str, found["class_names"])),
    )
    lengths = {len(made.scores), len(made.classes), len(made.boxes), len(made.ids), len(made.embeddings)}
    if lengths - {len(made)} or not set(np.unique(made.label_map)) <= {0, *made.labels.tolist()}:
        raise DataError("its instances contradict each other")
    if not set(made.classes.tolist()) <= set(range(len(made.class_names))):
        raise DataError("an instance has a class without a name")
    return made


def _encode_mask(mask: np.ndarray) -> str:
    return str(coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode("ascii"))


def _decode_mask(counts: str, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of COCO's compressed run lengths; checked, because the decoder trusts them."""
    if min(size) < 1 or size[0] * size[1] > 1 << 28 or _pixels(counts) != size[0] * size[1]:
        raise DataError(f"a mask does not have the {size[1]}x{size[0]} pixels of its picture")
    return coco_mask.decode({"size": list(size), "counts": counts.encode("ascii")}).astype(bool)


def _pixels(counts: str) -> int:
    """How many pixels run lengths in COCO's text form cover; -1 if a run is negative or cut off."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            return -1
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            if runs[-1] < 0:
                return -1
            value, shift = 0, 0
    return -1 if shift else sum(runs)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DataError(f"{path}: larger than {MAX_TEXT_BYTES >> 20} MiB; not written by this package")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"{path}: holds a {type(value).__name__}; expected an object")
    return value


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
