"""Grasps as annotations: what was taken has outlined itself, and the emptied tote is the background.

The frame before a grasp shows what this grasp and the later ones took; those are its items. What else differs
from the emptied tote is an area of which nothing is known, however large it is, except for shadows: these are
background, and have to be taught as such. All of it becomes the COCO file and the folder of empty pictures
that a person would have given.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rise_perception.core.errors import DataError
from rise_perception.core.files import write_json
from rise_perception.core.frame import Frame
from rise_perception.core.regions import OBJECT, encode_mask
from rise_perception.data.annotated import MOST_PICTURES
from rise_perception.data.images import write_image
from rise_perception.grasp_learning.capture.episode import Episode
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels
from rise_perception.grasp_learning.labelling.label_propagation import known_items, same_scene
from rise_perception.inference.reference import STALE, Reference, median_frame

ANNOTATIONS, EMPTY = "episodes.json", "empty"
#: An item of which a smaller fraction differs from the emptied tote is no certain one.
DIFFERS = 0.5
#: Around an item so many pixels are neither known nor unknown: its soft edge and its shadow.
EDGE = 3
#: Regions that differ and are smaller than this fraction of the picture are noise.
SPECK = 2e-4
#: A tote's last frame shows the emptied one when it differs from the median of all by no more than this
#: fraction of the picture: the smallest items are larger.
EMPTIED = 1e-3
#: From so many totes on the median of their last frames shows an emptied one, whatever was left in some.
ENOUGH_TOTES = 3
#: What is nearer than the emptied tote by less metres than this, and this fraction of the distance, is flat.
FLAT_DEPTH, FLAT_FRACTION = 0.006, 0.008
#: A shadow scales a colour by a factor in between, and leaves its hue: the rest of the change is at most so
#: many of 255.
SHADOW_SCALE, SHADOW_HUE = (0.2, 1.0), 15.0


@dataclass(frozen=True)
class FromGrasps:
    """What grasps have annotated.

    Attributes:
        annotations: the COCO file.
        empty: folder of pictures of the emptied tote.
        pictures, items: how many.
        grasps: that are in the store, and
        silent: those of them before which no item is certain: they give no picture.
    """

    annotations: Path
    empty: Path
    pictures: int
    items: int
    grasps: int
    silent: int


@dataclass(frozen=True)
class _Annotated:
    """A frame with its items and with what is not known, (N, H, W) and (H, W) bool."""

    name: str
    frame: Frame
    items: np.ndarray
    unknown: np.ndarray


def annotate_from_grasps(store: EpisodeStore, out: Path) -> FromGrasps:
    """Write annotations and empty pictures of the cell in which the grasps of a store were made.

    Args:
        store: of one cell, whose camera did not move.
        out: folder; what an earlier call wrote there is replaced.

    Raises:
        DataError: no episode, none that shows an item for certain, or no picture of an emptied tote.
    """
    entries = store.entries()
    if not entries:
        raise DataError(f"{store.root} holds no episode; let the robot pick with the interaction node first")
    last = _last_frames(store, entries)
    emptied = median_frame(last)
    reference = Reference.of([emptied])
    empty = [emptied, *(f for f in last if reference.changed(f.image, f.depth).mean() <= EMPTIED)]
    found = _annotated(store, entries, emptied)
    if not found:
        raise DataError(
            f"{store.root}: none of {len(entries)} grasps shows an item for certain against the emptied "
            "tote; see `rise episodes` for the reasons, or annotate pictures by hand"
        )
    silent = len(entries) - len(found)
    step = np.linspace(0, len(found) - 1, min(len(found), MOST_PICTURES)).round().astype(int)
    found = [found[k] for k in step]
    with_depth = all(f.depth is not None for f in (*empty, *(a.frame for a in found)))
    shutil.rmtree(out, ignore_errors=True)
    for number, frame in enumerate(empty):
        _write(out / EMPTY, out / EMPTY, f"{number:03d}", "-depth", frame, with_depth)
    for annotated in found:
        _write(out / "images", out / "depth", annotated.name, "", annotated.frame, with_depth)
    write_json(out / ANNOTATIONS, _coco(found))
    count = sum(len(a.items) for a in found)
    return FromGrasps(out / ANNOTATIONS, out / EMPTY, len(found), count, len(entries), silent)


def _last_frames(store: EpisodeStore, entries: Sequence[Entry]) -> list[Frame]:
    """The frame after the last grasp of each tote."""
    last: list[tuple[Episode, EpisodeLabels]] = []
    for _, episode, labels in _read(store, entries):
        if last and same_scene(last[-1], (episode, labels)):
            last[-1] = episode, labels
        else:
            last.append((episode, labels))
    sizes = {episode.after.frame.image.shape for episode, _ in last}
    if len(sizes) > 1:
        raise DataError(f"{store.root} has frames of {len(sizes)} sizes; give the store of one camera")
    if len(last) < ENOUGH_TOTES:
        seen = [e.after.instances for e, _ in last]
        if not any(found is not None and len(found) == 0 for found in seen):
            raise DataError(
                f"{store.root} is of {len(last)} totes, none of them seen empty at the end; pick at least "
                f"{ENOUGH_TOTES} totes empty, or annotate pictures by hand"
            )
        last = [pair for pair, found in zip(last, seen, strict=True) if found is not None and len(found) == 0]
    return [episode.after.frame for episode, _ in last]


def _read(store: EpisodeStore, entries: Sequence[Entry]) -> Any:
    for entry in entries:
        try:
            yield entry, *store.read(entry)
        except DataError:  # damaged, or evicted meanwhile
            continue


def _annotated(store: EpisodeStore, entries: Sequence[Entry], emptied: Frame) -> list[_Annotated]:
    reference = Reference.of([emptied])
    known = known_items(store, entries)
    found = []
    for entry, episode, _ in _read(store, entries):
        frame = episode.before.frame
        changed = reference.changed(frame.image, frame.depth)
        masks = [item.unpacked() for item in known[entry.id].before] if entry.id in known else []
        items = [mask for mask in masks if changed[mask].mean() >= DIFFERS]
        if not items:
            continue
        covered = np.any(items, axis=0)
        side = 2 * EDGE + 1
        around = cv2.dilate(covered.astype(np.uint8), np.ones((side, side), np.uint8)) > 0
        unknown = _without_specks(changed & ~around & ~_shadows(frame, emptied))
        if episode.before.robot is not None:
            unknown |= episode.before.robot
        if unknown.mean() > STALE:  # another place, or a camera that was moved
            continue
        found.append(_Annotated(entry.id, frame, np.stack(items), unknown))
    return found


def _shadows(frame: Frame, emptied: Frame) -> np.ndarray:
    """(H, W) bool, where a frame shows the emptied tote, only darker; nowhere without depth in both."""
    if frame.depth is None or emptied.depth is None:
        return np.zeros(frame.image.shape[:2], bool)
    both = (frame.depth > 0) & (emptied.depth > 0)
    flat = both & (emptied.depth - frame.depth < FLAT_DEPTH + FLAT_FRACTION * emptied.depth)
    lit, seen = (cv2.GaussianBlur(f.image, (5, 5), 0).astype(np.float32) for f in (emptied, frame))
    scale = (lit * seen).sum(2) / np.maximum((lit * lit).sum(2), 1)
    hue = np.abs(seen - scale[..., None] * lit).max(2)
    return flat & (scale > SHADOW_SCALE[0]) & (scale < SHADOW_SCALE[1]) & (hue < SHADOW_HUE)


def _without_specks(mask: np.ndarray) -> np.ndarray:
    _, labels, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    large = statistics[:, cv2.CC_STAT_AREA] >= SPECK * mask.size
    large[0] = False
    return np.asarray(large[labels])


def _write(pictures: Path, depths: Path, name: str, kind: str, frame: Frame, with_depth: bool) -> None:
    write_image(pictures / f"{name}.png", frame.image)
    if with_depth and frame.depth is not None:
        millimetres = np.where(frame.depth <= 65.535, frame.depth * 1000, 0).round().astype(np.uint16)
        write_image(depths / f"{name}{kind}.png", millimetres)


def _coco(found: Sequence[_Annotated]) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, annotated in enumerate(found, 1):
        height, width = annotated.unknown.shape
        images.append({"id": number, "file_name": f"{annotated.name}.png", "width": width, "height": height})
        masks = [(mask, 0) for mask in annotated.items]
        if annotated.unknown.any():
            masks.append((annotated.unknown, 1))
        for mask, crowd in masks:
            note = {"image_id": number, "category_id": 1, "segmentation": encode_mask(mask), "iscrowd": crowd}
            annotations.append({"id": len(annotations) + 1, **note})
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": OBJECT}]}
