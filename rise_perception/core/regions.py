"""One image's predicted and true regions side by side, as compact run-length masks (COCO RLE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from scipy.ndimage import find_objects

from rise_perception.core.instances import Instances
from rise_perception.core.rle import decode_runs, encode_runs

CONTAINER = "container"  # a tote or bin: real, easy to find, and no item to pick
CONTAINERS = ("container", "tote", "bin")
OBJECT = "object"


@dataclass(frozen=True)
class Region:
    """One instance: its kind, score (1 for truth) and mask as COCO RLE with ``counts`` a str.

    ``category`` is ``object`` or ``container``; ``name`` is what the model or the annotation calls its class,
    empty where nobody says.
    """

    category: str
    rle: dict[str, Any]
    score: float = 1.0
    name: str = ""

    @property
    def is_object(self) -> bool:
        """False for the container the objects lie in."""
        return self.category != CONTAINER


@dataclass(frozen=True)
class ImagePair:
    """What was predicted and what is true for one image of ``height`` x ``width`` pixels.

    ``picture`` is the image file, where it is known, and ``model`` the version of the model that predicted.
    """

    name: str
    height: int
    width: int
    predicted: list[Region] = field(default_factory=list)
    truth: list[Region] = field(default_factory=list)
    picture: Path | None = None
    model: str = ""

    def predicted_map(self) -> np.ndarray:
        """(H, W) uint16 label map of the predicted objects (containers left out); value i + 1 is object i."""
        return paint([r.rle for r in self.predicted if r.is_object], self.height, self.width)

    def truth_map(self) -> np.ndarray:
        """(H, W) uint16 label map of the true objects (containers left out); value i + 1 is object i."""
        return paint([r.rle for r in self.truth if r.is_object], self.height, self.width)


def category_name(name: str) -> str:
    """The data sets' names ("Tote", "Object") as this package's "container" or "object"."""
    return CONTAINER if name.lower() in CONTAINERS else OBJECT


def regions_of(instances: Instances) -> list[Region]:
    """The instances of a segmenter's result, in their order."""
    names = [instances.class_names[index] for index in instances.classes]
    rles = encode_label_map(instances.label_map, instances.labels)
    return [
        Region(category_name(name), rle, float(score), name)
        for name, rle, score in zip(names, rles, instances.scores, strict=True)
    ]


def regions_of_map(label_map: np.ndarray, ignore: int | None = None) -> list[Region]:
    """One object region for each value of an (H, W) integer label map but 0 and ``ignore``."""
    labels = np.flatnonzero(np.bincount(label_map.ravel()))
    labels = labels[(labels > 0) & (labels != (0 if ignore is None else ignore))]
    return [Region(OBJECT, rle) for rle in encode_label_map(label_map, labels)]


def encode_label_map(label_map: np.ndarray, labels: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
    """COCO RLE (``size`` [h, w], ``counts`` str) of the pixels of each of ``labels``, all of which occur."""
    height, width = label_map.shape
    columns = np.asfortranarray(label_map)  # RLE runs down the columns: turn the map once, not every mask
    boxes = find_objects(label_map.astype(np.int32))
    rles = []
    for label in labels:
        # Only the columns that the label touches are looked at; those before and after are one run each.
        span = boxes[int(label) - 1][1]
        pixels = (columns[:, span] == label).ravel(order="F")
        changes = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
        counts = np.diff(
            np.concatenate([[0] * (1 + int(pixels[0])), changes, [pixels.size]])
        ).tolist()  # background first
        counts[0] += span.start * height
        after = (width - span.stop) * height
        if pixels[-1] and after:
            counts.append(after)
        else:
            counts[-1] += after
        rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
        rles.append({"size": [height, width], "counts": rle["counts"].decode("ascii")})
    return rles


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """COCO RLE (``size`` [h, w], ``counts`` str) of an (H, W) bool mask."""
    return {"size": list(mask.shape), "counts": encode_runs(mask)}


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two (H, W) bool masks; 0 where both are empty."""
    return float((a & b).sum() / max(1, (a | b).sum()))


def paint(rles: Sequence[dict[str, Any]], height: int, width: int) -> np.ndarray:
    """(H, W) uint16 label map with value i + 1 where RLE i is set; where they overlap, the first wins."""
    label_map = np.zeros((height, width), np.uint16)
    for index in reversed(range(len(rles))):
        label_map[decode_runs(rles[index]["counts"], height, width)] = index + 1
    return label_map


def instances_json(instances: Instances) -> dict[str, Any]:
    """Instances in COCO's conventions, ready for JSON.

    Returns:
        ``{"categories": [{"id", "name"}], "instances": [{"id", "label", "category", "category_id", "score",
        "bbox" [x, y, w, h], "area", "segmentation" (RLE)}]}``; ``label`` is the value in the label map.
    """
    areas = instances.areas().tolist()
    rows = []
    for row, rle in enumerate(encode_label_map(instances.label_map, instances.labels)):
        x0, y0, x1, y1 = instances.boxes[row].tolist()
        kind = int(instances.classes[row])
        rows.append(
            {
                "id": int(instances.ids[row]),
                "label": int(instances.labels[row]),
                "category": instances.class_names[kind],
                "category_id": kind + 1,
                "score": round(float(instances.scores[row]), 5),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": areas[row],
                "segmentation": rle,
            }
        )
    categories = [{"id": kind + 1, "name": name} for kind, name in enumerate(instances.class_names)]
    return {"categories": categories, "instances": rows}
