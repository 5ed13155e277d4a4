"""COCO JSON data sets, with depth where images name a ``depth_file``: the tote world, ARMBench, any other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch.utils.data import Dataset

from rise_perception.data.images import read_depth, read_image
from rise_perception.errors import DataError
from rise_perception.frame import check_depth

#: What the entries of each list of an annotation file must have.
_NEEDED = {
    "images": ("id", "file_name"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id"),
}


@dataclass(frozen=True)
class LabelledImage:
    """One image with its true instances.

    Attributes:
        name: the image's ``file_name``.
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres, 0 = none; or None.
        masks: (N, H, W) bool.
        classes: (N,) int64, index into the data set's ``classes``.
        ids: (N,) int64, unique within the image.
    """

    name: str
    image: np.ndarray
    depth: np.ndarray | None
    masks: np.ndarray
    classes: np.ndarray
    ids: np.ndarray


class CocoDataset(Dataset[LabelledImage]):
    """Images and masks of one COCO annotation file.

    Images lie in ``images/`` beside the file (or directly beside it), depth maps in ``depth/``.

    Args:
        annotations: the JSON file.
        classes: names of the categories to read, in the order of the class indices; others are left out.
            Names are compared without case, so that ARMBench's "Object" is "object".
        with_depth: read the depth maps; an image without one is an error that names it.

    Raises:
        DataError: the file is missing, is no COCO JSON, has no image, or lacks a wanted category.
    """

    def __init__(self, annotations: str | Path, classes: tuple[str, ...], with_depth: bool = False) -> None:
        self.path = Path(annotations)
        self.classes = classes
        self.with_depth = with_depth
        content = _read(self.path)
        wanted = {name.lower(): index for index, name in enumerate(classes)}
        self._class_of = {
            c["id"]: wanted[c["name"].lower()] for c in content["categories"] if c["name"].lower() in wanted
        }
        missing = [name for index, name in enumerate(classes) if index not in self._class_of.values()]
        if missing:
            there = sorted(c["name"] for c in content["categories"])
            raise DataError(
                f"{self.path} has no category {missing[0]!r}; it has {there}: change network.classes"
            )
        self.images: list[dict[str, Any]] = content["images"]
        if not self.images:
            raise DataError(f"{self.path} lists no images; generate or copy the data set again")
        self._annotations: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        for annotation in content["annotations"]:
            if annotation["image_id"] not in self._annotations:
                raise DataError(
                    f"{self.path}: annotation {annotation.get('id')} belongs to image "
                    f"{annotation['image_id']}, which the file does not list; repair or remove it"
                )
            if annotation["category_id"] in self._class_of and not annotation.get("iscrowd", 0):
                self._annotations[annotation["image_id"]].append(annotation)
        folder = self.path.parent
        self._image_folder = folder / "images" if (folder / "images").is_dir() else folder
        self._depth_folder = folder / "depth"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> LabelledImage:
        entry = self.images[index]
        image = read_image(self._image_folder / entry["file_name"])
        depth = None
        if self.with_depth:
            if "depth_file" not in entry:
                raise DataError(
                    f"{self.path}: image {entry['file_name']} has no depth_file; set network.input to rgb to "
                    "train on this data set"
                )
            depth = read_depth(self._depth_folder / entry["depth_file"], entry.get("depth_scale", 0.001))
            check_depth(depth, image)
        height, width = image.shape[:2]
        masks, classes = [], []
        for annotation in self._annotations[entry["id"]]:
            mask = decode_segmentation(
                annotation, height, width, f"{self.path}: annotation {annotation.get('id')}"
            )
            if mask.any():
                masks.append(mask)
                classes.append(self._class_of[annotation["category_id"]])
        return LabelledImage(
            name=entry["file_name"],
            image=image,
            depth=depth,
            masks=np.stack(masks) if masks else np.zeros((0, height, width), bool),
            classes=np.array(classes, np.int64),
            ids=np.arange(len(classes)),
        )


def decode_segmentation(annotation: dict[str, Any], height: int, width: int, where: str) -> np.ndarray:
    """Decode polygons, uncompressed RLE or compressed RLE of one annotation.

    Returns:
        (height, width) bool.

    Raises:
        DataError: the segmentation is missing, broken or of another size; the message starts with ``where``.
    """
    segmentation = annotation.get("segmentation")
    if not isinstance(segmentation, (list, dict)):
        raise DataError(f"{where} has no segmentation; remove it, or give a polygon or an RLE")
    try:
        if isinstance(segmentation, list):
            rle = coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
        elif isinstance(segmentation["counts"], list):
            rle = coco_mask.frPyObjects(segmentation, height, width)
        else:
            rle = segmentation
        mask = coco_mask.decode(rle).astype(bool)
        if mask.sum() != coco_mask.area(rle):
            # pycocotools leaves what the runs do not reach uninitialised.
            raise ValueError("its runs end before the image does")
    except Exception as error:  # pycocotools raises bare ones
        raise DataError(f"{where} has a broken segmentation ({error!r}); repair or remove it") from error
    if mask.shape != (height, width):
        raise DataError(
            f"{where} is {mask.shape[1]}x{mask.shape[0]}, its image is {width}x{height}; repair or remove it"
        )
    return mask


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; `rise scenes` makes a data set, or give another annotation file"
        )
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no JSON: {error}; copy or generate it again") from error
    if not isinstance(content, dict):
        raise DataError(
            f"{path} holds a {type(content).__name__}; a COCO file is a mapping with images and annotations"
        )
    for key, needed in _NEEDED.items():
        if not isinstance(content.get(key), list):
            raise DataError(f"{path} has no list {key!r}; it is no COCO annotation file")
        for index, entry in enumerate(content[key]):
            missing = [name for name in needed if not isinstance(entry, dict) or name not in entry]
            if missing:
                raise DataError(f"{path}: {key}[{index}] has no {missing[0]!r}; repair or remove it")
    return content
