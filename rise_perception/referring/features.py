"""Referring data made ready once: images segmented, instances measured, cut out and matched to the truth."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rise_perception.core.errors import DataError
from rise_perception.core.files import atomic_write
from rise_perception.core.instances import Instances
from rise_perception.inference.segmenter import Segmenter
from rise_perception.language.things import Things
from rise_perception.language.vocabulary import KINDS
from rise_perception.referring.crops import CHANNELS, SIZE, cut_crops
from rise_perception.referring.pairs import Pair, ReferringData, ReferringImage
from rise_perception.referring.scene import Scene, grid_size, make_scene, on_grid

#: An instance is an item when they overlap by this much (intersection over union).
SAME = 0.5
#: Kind of an item whose kind has no name.
NAMELESS = len(KINDS)
#: True items with fewer pixels are not shown to the crop encoder.
_VISIBLE = 120
_VERSION = 1


@dataclass(frozen=True)
class Truth:
    """What is known of the items of one image.

    Attributes:
        ids: (T,) int64, of the items whose masks are known.
        overlap: (N, T) float32, intersection over union of each instance with each item.
        masks: (T, h, w) uint8 on the scene's grid, as in :class:`~rise_perception.referring.scene.Scene`.
        areas: (T,) float32, pixels.
    """

    ids: np.ndarray
    overlap: np.ndarray
    masks: np.ndarray
    areas: np.ndarray

    def instances_of(self, labels: tuple[int, ...]) -> tuple[int, ...]:
        """The instances that are the items ``labels``; items that were not found have none."""
        found = []
        for label in labels:
            column = np.flatnonzero(self.ids == label)
            if len(column) and len(self.overlap):
                row = int(self.overlap[:, column[0]].argmax())
                if self.overlap[row, column[0]] >= SAME:
                    found.append(row)
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Features:
    """A data set, ready to learn from: scenes, their truth, and the pairs."""

    scenes: list[Scene]
    truths: list[Truth]
    pairs: list[Pair]


def compute_features(data: ReferringData, segmenter: Segmenter, cache: Path) -> Features:
    """Segment and measure every image of a data set, or read what an earlier call has left in ``cache``."""
    identity = _identity(data, segmenter)
    path = cache / f"{identity}.npz"
    if path.exists():
        return _read(path, list(data.pairs))
    scenes, truths = [], []
    for index in tqdm(range(len(data.names)), desc="segmenting", unit="img", smoothing=0.05):
        picture = data[index]
        instances = segmenter(picture.image, picture.depth)
        scenes.append(make_scene(picture.image, picture.depth, instances))
        truths.append(find_truth(picture, instances))
    _write(path, scenes, truths)
    return Features(scenes, truths, list(data.pairs))


def find_truth(picture: ReferringImage, instances: Instances) -> Truth:
    """Match the instances of an image with its known items."""
    ids = list(picture.masks)
    height, width = picture.image.shape[:2]
    grid = grid_size(width, height)
    overlap = np.zeros((len(instances), len(ids)), np.float32)
    areas = np.zeros(len(ids), np.float32)
    masks = np.zeros((len(ids), grid[1], grid[0]), np.uint8)
    owned = instances.areas()
    row_of = np.full(int(instances.label_map.max(initial=0)) + 1, -1)
    row_of[instances.labels.astype(np.int64)] = np.arange(len(instances))
    for column, item in enumerate(ids):
        mask = picture.masks[item]
        areas[column] = mask.sum()
        masks[column] = on_grid(mask, grid)
        common = np.bincount(instances.label_map[mask], minlength=len(row_of))[1:]
        for row in np.unique(row_of[1:][common > 0]):
            both = common[int(instances.labels[row]) - 1]
            overlap[row, column] = both / (owned[row] + areas[column] - both)
    return Truth(np.array(ids, np.int64), overlap, masks, areas)


def true_crops(data: ReferringData) -> tuple[np.ndarray, np.ndarray]:
    """Crops of the items whose mask and kind are known; no segmenter is asked.

    Returns:
        (M, 6, 48, 48) uint8 and (M,) int64 kinds, NAMELESS for one without a name.
    """
    numbers = tqdm(range(len(data.names)), desc="cutting out", unit="img", smoothing=0.05)
    crops, kinds = zip(*(true_crops_of(data[index]) for index in numbers), strict=True)
    return np.concatenate(crops), np.concatenate(kinds)


def true_crops_of(picture: ReferringImage) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`true_crops`, of one image."""
    crops, kinds = [np.zeros((0, CHANNELS, SIZE, SIZE), np.uint8)], []
    shown = {i: m for i, m in picture.masks.items() if i in picture.kinds and m.sum() >= _VISIBLE}
    for item, mask in shown.items():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.array([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]], np.float32)
        one = np.array([1], np.uint16)
        crops.append(cut_crops(picture.image, picture.depth, mask.astype(np.uint16), one, box))
        kinds.append(KINDS.index(picture.kinds[item]) if picture.kinds[item] else NAMELESS)
    return np.concatenate(crops), np.array(kinds, np.int64)


def _identity(data: ReferringData, segmenter: Segmenter) -> str:
    facts = [_VERSION, segmenter.version, list(data.names), str(getattr(data, "path", ""))]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


_PER_THING = ("boxes", "centres", "areas", "depths", "near", "colours")


def _write(path: Path, scenes: list[Scene], truths: list[Truth]) -> None:
    """All scenes in one file of plain arrays; what differs in length lies end to end."""
    lengths = [
        [len(s), len(t.ids), s.things.width, s.things.height] for s, t in zip(scenes, truths, strict=True)
    ]
    arrays: dict[str, Any] = {"sizes": np.array(lengths, np.int64).reshape(-1, 4)}
    for name in _PER_THING:
        arrays[name] = np.concatenate([getattr(s.things, name) for s in scenes])
    for name in ("crops", "embeddings", "scores"):
        arrays[name] = np.concatenate([getattr(s, name) for s in scenes])
    arrays["contact"] = np.concatenate([s.things.contact.ravel() for s in scenes])
    arrays["masks"] = np.concatenate([s.masks.ravel() for s in scenes])
    arrays["picture"] = np.concatenate([s.picture.ravel() for s in scenes])
    for name in ("ids", "areas"):
        arrays[f"true_{name}"] = np.concatenate([getattr(t, name) for t in truths])
    arrays["true_masks"] = np.concatenate([t.masks.ravel() for t in truths])
    arrays["overlap"] = np.concatenate([t.overlap.ravel() for t in truths])
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)


def _read(path: Path, pairs: list[Pair]) -> Features:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        sizes = arrays.pop("sizes")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"cached features {path} are damaged ({error}); remove the file") from error
    at = dict.fromkeys(arrays, 0)

    def take(name: str, count: int) -> np.ndarray:
        at[name] += count
        return arrays[name][at[name] - count : at[name]]

    scenes, truths = [], []
    for n, t, width, height in sizes.tolist():
        w, h = grid_size(width, height)
        measured = {name: take(name, n) for name in _PER_THING}
        contact = take("contact", n * n).reshape(n, n)
        things = Things(**measured, contact=contact, kinds=None, width=width, height=height)
        crops, embeddings, scores = (take(name, n) for name in ("crops", "embeddings", "scores"))
        masks = take("masks", n * h * w).reshape(n, h, w)
        picture = take("picture", 4 * h * w).reshape(4, h, w)
        scenes.append(Scene(things, crops, embeddings, scores, masks, picture))
        ids, areas = take("true_ids", t), take("true_areas", t)
        overlap = take("overlap", n * t).reshape(n, t)
        truths.append(Truth(ids, overlap, take("true_masks", t * h * w).reshape(t, h, w), areas))
    return Features(scenes, truths, pairs)
