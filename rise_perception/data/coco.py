"""COCO JSON data sets, with depth where images name a ``depth_file``: the tote world, ARMBench, any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch.utils.data import Dataset

from rise_perception.core.errors import DataError, ImageError
from rise_perception.core.frame import check_depth
from rise_perception.core.json_files import ANNOTATIONS, read_json
from rise_perception.core.rle import decode_runs
from rise_perception.data.images import read_depth, read_image
from rise_perception.data.splits import Key, Part

#: What the entries of each list of an annotation file must have.
_NEEDED = {
    "images": ("id", "file_name"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id"),
}
#: Kinds of an image entry's fields; those that are not needed may be missing.
_KINDS: dict[str, tuple[type, ...]] = {
    "id": (int, str),
    "file_name": (str,),
    "width": (int, float),
    "height": (int, float),
    "depth_file": (str,),
    "depth_scale": (int, float),
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
        ids: (N,) int64, unique within the image; an object keeps its id in later frames of its scene.
    """

    name: str
    image: np.ndarray
    depth: np.ndarray | None
    masks: np.ndarray
    classes: np.ndarray
    ids: np.ndarray

    @classmethod
    def unlabelled(cls, name: str, image: np.ndarray, depth: np.ndarray | None) -> LabelledImage:
        """An image of which nothing more is known: masks are (0, H, W)."""
        none = np.zeros(0, np.int64)
        return cls(name, image, depth, np.zeros((0, *image.shape[:2]), bool), none, none)


class CocoImages(Dataset[LabelledImage]):
    """The images of one COCO file, without a look at annotations or categories, which may be missing.

    Images lie in ``images/`` beside the file (or directly beside it), depth maps in ``depth/``.

    Args:
        annotations: the JSON file.
        with_depth: read the depth maps; an image without one is an error that names it.
        part: the images to take; None takes all.

    Raises:
        DataError: the file is missing, is no COCO JSON, has no image or one twice, or the part is of another
            file. Reading an image: it or its depth is missing, broken, or of another size than stated.
    """

    def __init__(self, annotations: str | Path, with_depth: bool = False, part: Part | None = None) -> None:
        self._open(annotations, with_depth)
        self._take(_read(self.path, ("images",))["images"], part)

    def _open(self, annotations: str | Path, with_depth: bool) -> None:
        self.path = Path(annotations)
        self.with_depth = with_depth
        folder = self.path.parent
        self._image_folder = folder / "images" if (folder / "images").is_dir() else folder
        self._depth_folder = folder / "depth"

    def _take(self, images: list[dict[str, Any]], part: Part | None) -> None:
        if not images:
            raise DataError(f"{self.path} lists no images; generate or copy the data set again")
        #: Id and file name of every image in the file.
        self.keys: list[Key] = [(image["id"], image["file_name"]) for image in images]
        twice = [identity for identity, count in Counter(i for i, _ in self.keys).items() if count > 1]
        if twice:
            raise DataError(f"{self.path}: several images have the id {twice[0]!r}; repair or remove them")
        self.images = [images[k] for k in part.select(self.path, self.keys)] if part else images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> LabelledImage:
        image, depth = self._read_image(index)
        return LabelledImage.unlabelled(self.images[index]["file_name"], image, depth)

    def picture_paths(self) -> list[Path]:
        """The image files, in order."""
        return [self._image_folder / entry["file_name"] for entry in self.images]

    def after(self, index: int) -> LabelledImage | None:
        """None: a COCO file does not say which images follow on each other."""
        return None

    def _read_image(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        entry = self.images[index]
        where = f"{self.path}: image {entry['id']}, {entry['file_name']}"
        try:
            image = read_image(self._image_folder / entry["file_name"])
            height, width = image.shape[:2]
            if (entry.get("width", width), entry.get("height", height)) != (width, height):
                raise DataError(
                    f"{where} is {width}x{height}, the file says {entry.get('width')}x{entry.get('height')}; "
                    "copy the image again, or repair the file"
                )
            if not self.with_depth:
                return image, None
            if "depth_file" not in entry:
                raise DataError(
                    f"{where} has no depth_file; set network.input to rgb to train on this data set"
                )
            depth = read_depth(self._depth_folder / entry["depth_file"], entry.get("depth_scale", 0.001))
            check_depth(depth, image)
        except ImageError as error:
            raise DataError(f"{where}: {error}") from error
        return image, depth


class CocoDataset(CocoImages):
    """Images and masks of one COCO annotation file.

    Args:
        annotations: the JSON file.
        classes: names of the categories to read, in the order of the class indices; others are left out.
            Names are compared without case, so that ARMBench's "Object" is "object".
        with_depth: read the depth maps; an image without one is an error that names it.
        part: the images to take; None takes all. The annotations of others are not kept.

    Raises:
        DataError: as :class:`CocoImages`; the file lacks a wanted category, or an annotation belongs to no
            image. Reading an image: an annotation of it is broken, or of a category the file does not define.
    """

    def __init__(
        self,
        annotations: str | Path,
        classes: tuple[str, ...],
        with_depth: bool = False,
        part: Part | None = None,
    ) -> None:
        self._open(annotations, with_depth)
        self.classes = classes
        content = _read(self.path, tuple(_NEEDED))
        wanted = {name.lower(): index for index, name in enumerate(classes)}
        names = {c["id"]: str(c["name"]) for c in content["categories"]}
        #: Class index of each category of the file; None where nobody asked for it.
        self._class_of = {identity: wanted.get(name.lower()) for identity, name in names.items()}
        missing = [name for index, name in enumerate(classes) if index not in self._class_of.values()]
        if missing:
            raise DataError(
                f"{self.path} has no category {missing[0]!r}; it has {sorted(names.values())}: change "
                "network.classes"
            )
        self._take(content["images"], part)
        self._annotations: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        self._collect(content["annotations"])

    def _collect(self, annotations: Iterable[dict[str, Any]]) -> None:
        """Keep what is needed of this part's annotations; broken ones show when their image is read."""
        listed = {identity for identity, _ in self.keys}
        for annotation in annotations:
            image = annotation["image_id"]
            if image not in listed:
                raise DataError(
                    f"{self.path}: annotation {annotation.get('id')} belongs to image "
                    f"{image}, which the file does not list; repair or remove it"
                )
            category = annotation["category_id"]
            needed = self._class_of.get(category, 0) is not None and not annotation.get("iscrowd", 0)
            if needed and image in self._annotations:
                self._annotations[image].append(
                    {
                        "id": annotation.get("id"),
                        "category_id": category,
                        "segmentation": annotation.get("segmentation"),
                    }
                )

    def __getitem__(self, index: int) -> LabelledImage:
        image, depth = self._read_image(index)
        height, width = image.shape[:2]
        entry = self.images[index]
        annotations = self._annotations[entry["id"]]
        masks = np.zeros((len(annotations), height, width), bool)
        classes = np.zeros(len(annotations), np.int64)
        for k, annotation in enumerate(annotations):
            where = f"{self.path}: annotation {annotation['id']} of image {entry['id']}, {entry['file_name']}"
            category = self._class_of.get(annotation["category_id"])
            if category is None:
                raise DataError(
                    f"{where} has category {annotation['category_id']}, which the file does not define; "
                    "repair or remove it"
                )
            classes[k] = category
            masks[k] = decode_segmentation(annotation, height, width, where)
        seen = masks.any((1, 2))
        if not seen.all():
            masks, classes = masks[seen], classes[seen]
        return LabelledImage(entry["file_name"], image, depth, masks, classes, np.arange(len(classes)))


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
            return decode_runs(_polygon_runs(segmentation, height, width), height, width)
        size, counts = segmentation["size"], segmentation["counts"]
        if list(size) == [height, width]:
            return decode_runs(counts, height, width)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{where} has a broken segmentation ({error!r}); repair or remove it") from error
    raise DataError(
        f"{where} is {'x'.join(map(str, reversed(size)))}, its image is {width}x{height}; repair or remove it"
    )


def _polygon_runs(polygons: list[Any], height: int, width: int) -> bytes:
    """Compressed runs of the pixels inside any of the polygons; ValueError for one that cannot be drawn."""
    reach = 2 * max(height, width)
    for polygon in polygons:
        points = np.array(polygon)
        if points.dtype.kind not in "iuf" or points.ndim != 1 or points.size < 6 or points.size % 2:
            raise ValueError("a polygon is a list x0, y0, x1, y1, ... of at least three points")
        if not (np.abs(points) <= reach).all():  # drawing takes time and memory by its length
            raise ValueError("a polygon lies outside the image")
    if not polygons:
        raise ValueError("there is no polygon")
    return coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))["counts"]


def _read(path: Path, lists: tuple[str, ...]) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"{path} does not exist; `rise scenes` makes a data set, or give another annotation file"
        )
    content = read_json(path, ANNOTATIONS, remedy="copy or generate it again", bulk=True)
    if not isinstance(content, dict):
        raise DataError(
            f"{path} holds a {type(content).__name__}; a COCO file is a mapping with images and annotations"
        )
    for key in lists:
        if not isinstance(content.get(key), list):
            raise DataError(f"{path} has no list {key!r}; it is no COCO annotation file")
        for index, entry in enumerate(content[key]):
            for name in _NEEDED[key]:
                if not isinstance(entry, dict) or name not in entry:
                    raise DataError(f"{path}: {key}[{index}] has no {name!r}; repair or remove it")
                if not isinstance(entry[name], (int, str)):
                    raise DataError(
                        f"{path}: {key}[{index}] has the {name} {entry[name]!r}; repair or remove it"
                    )
    for index, entry in enumerate(content["images"]):
        for name, kinds in _KINDS.items():
            if name in entry and not isinstance(entry[name], kinds):
                raise DataError(
                    f"{path}: images[{index}] has the {name} {entry[name]!r}; repair or remove it"
                )
    return content
