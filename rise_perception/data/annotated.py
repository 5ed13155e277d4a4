"""A handful of annotated pictures as a labelling tool leaves them: COCO, or pictures with label maps.

The reader is tolerant where tools differ (ids, folders, unused categories, polygons or runs, points a little
outside) and strict where a guess would teach something wrong: each refusal names the thing and the remedy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from rise_perception.core.errors import DataError, ImageError
from rise_perception.core.frame import check_depth
from rise_perception.core.regions import CONTAINERS, OBJECT, encode_mask
from rise_perception.data.annotated_coco import coco_export, read_coco
from rise_perception.data.coco import LabelledImage
from rise_perception.data.images import find_companion, read_depth, read_image, read_label_map
from rise_perception.data.picture_search import find_depth, picture_files

#: Kinds of label maps, and the folders that hold maps of the same name as their pictures.
LABEL_KINDS = ("label", "labels", "segm", "mask", "masks")
#: In a label map: pixels of which nothing is known.
IGNORED = 255
#: The identity of the area of which nothing is known; it is above those of any object.
IGNORED_ID = 999_999
#: More pictures than this are a data set, and `rise train` is the command for it.
MOST_PICTURES = 200


@dataclass(frozen=True)
class AnnotatedPicture:
    """One picture with its annotations.

    Attributes:
        name: unique among the pictures.
        path: the picture.
        size: its height and width.
        masks: COCO RLE of each object.
        classes: index into the set's classes of each object.
        ignored: COCO RLE of the area of which nothing is known; None where everything is.
        depth: the depth map; None where there is none.
        depth_scale: metres that 1 means in it; None is the default of its type.
    """

    name: str
    path: Path
    size: tuple[int, int]
    masks: tuple[dict[str, Any], ...]
    classes: tuple[int, ...]
    ignored: dict[str, Any] | None = None
    depth: Path | None = None
    depth_scale: float | None = None

    def ignored_mask(self) -> np.ndarray:
        """(H, W) bool."""
        return np.zeros(self.size, bool) if self.ignored is None else _decode(self.ignored)

    def load(self, with_depth: bool) -> LabelledImage:
        """The picture with its objects, numbered from 0; no depth unless ``with_depth``.

        Raises:
            DataError: picture or depth cannot be read, or has another size than its annotation.
        """
        try:
            image = read_image(self.path)
            depth = None
            if with_depth and self.depth is not None:
                depth = read_depth(self.depth, self.depth_scale)
                check_depth(depth, image)
        except ImageError as error:
            raise DataError(str(error)) from error
        if with_depth and depth is None:
            raise DataError(f"{self.path} has no depth; give {self.path.stem}-depth.png, or --no-depth")
        masks = np.zeros((len(self.masks), *self.size), bool)
        for mask, rle in zip(masks, self.masks, strict=True):
            mask[:] = _decode(rle)
        return LabelledImage(
            self.name, image, depth, masks, np.array(self.classes, np.int64), np.arange(len(masks))
        )


@dataclass(frozen=True)
class AnnotatedSet:
    """Annotated pictures.

    Attributes:
        path: where they come from.
        classes: names of the classes that occur, containers first.
        pictures: those with annotations, by name.
        notes: what was left out, one sentence each.
    """

    path: Path
    classes: tuple[str, ...]
    pictures: tuple[AnnotatedPicture, ...]
    notes: tuple[str, ...] = ()

    @property
    def containers(self) -> tuple[str, ...]:
        """Those of the classes that hold items."""
        return tuple(name for name in self.classes if name.lower() in CONTAINERS)

    @property
    def has_depth(self) -> bool:
        """Whether every picture has depth."""
        return all(picture.depth is not None for picture in self.pictures)


def read_annotated(path: str | Path, depth_scale: float | None = None) -> AnnotatedSet:
    """Read a COCO export, or a folder of pictures with label maps of the same name.

    A folder that holds one COCO file anywhere in it is that export. Depth is found by itself: ``X-depth.png``
    beside ``X.png``, or ``X.png`` or ``X-depth.png`` in a folder ``depth`` beside it or beside its folder.

    Args:
        path: the JSON file, or the folder.
        depth_scale: metres that 1 means in a depth map; None takes the file's ``depth_scale``, or millimetres
            for integers and metres for floats.

    Raises:
        DataError: nothing there, no annotation, no picture found, sizes that differ, an annotation outside
            its picture, more than :data:`MOST_PICTURES` pictures.
    """
    path = Path(path)
    export = coco_export(path)
    if export is None and not path.is_dir():
        raise DataError(
            f"{path} does not exist; give the COCO JSON file that your labelling tool exports, or a folder "
            "of pictures with label maps of the same name"
        )
    found = _read_export(export, path) if export else _read_label_maps(path)
    if not found.pictures:
        raise DataError(
            f"{path} has pictures but no annotation in any of them; outline the items of at least one"
        )
    if not any(p.masks for p in found.pictures):
        raise DataError(f"{path} outlines only areas to ignore; outline the items of at least one picture")
    if len(found.pictures) > MOST_PICTURES:
        raise DataError(
            f"{path} has {len(found.pictures)} annotated pictures; `rise teach` is for at most "
            f"{MOST_PICTURES}, `rise train` for more"
        )
    root = path if path.is_dir() else path.parent
    pictures = [
        p if p.depth else replace(p, depth=find_depth(p.path, root)) for p in map(_sorted, found.pictures)
    ]
    if depth_scale is not None:
        pictures = [replace(p, depth_scale=depth_scale) for p in pictures]
    return replace(found, path=path, pictures=tuple(pictures))


def _sorted(picture: AnnotatedPicture) -> AnnotatedPicture:
    """With its objects in an order of their own: in which order they were drawn must not matter."""
    pairs = sorted(zip(picture.classes, picture.masks, strict=True), key=lambda p: (p[0], p[1]["counts"]))
    return replace(picture, classes=tuple(p[0] for p in pairs), masks=tuple(p[1] for p in pairs))


def _read_export(export: Path, path: Path) -> AnnotatedSet:
    """The pictures of a COCO export."""
    root = path if path.is_dir() else path.parent
    content = read_coco(export, root)
    names = sorted({a.category for p in content.pictures for a in p.annotations if not a.ignored})
    classes = _class_order(names)
    pictures = []
    for entry in content.pictures:
        height, width = entry.size
        masks, kinds = [], []
        ignored = np.zeros((height, width), bool)
        for annotation in entry.annotations:
            if annotation.ignored:
                ignored |= annotation.mask
            else:
                masks.append(encode_mask(annotation.mask))
                kinds.append(classes.index(annotation.category))
        pictures.append(
            AnnotatedPicture(
                entry.name,
                entry.path,
                entry.size,
                tuple(masks),
                tuple(kinds),
                encode_mask(ignored) if ignored.any() else None,
                entry.depth,
                entry.depth_scale,
            )
        )
    return AnnotatedSet(path, classes, tuple(pictures), content.notes)


def _class_order(names: list[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=lambda name: (name.lower() not in CONTAINERS, name)))


def _read_label_maps(folder: Path) -> AnnotatedSet:
    files = picture_files(folder)
    maps: list[tuple[Path, Path]] = []
    without = []
    for picture in files:
        found = _label_map_of(picture, folder)
        if found is None:
            without.append(picture)
        else:
            maps.append((picture, found))
    if not files:
        raise DataError(
            f"{folder} holds no picture and no COCO JSON file; give the folder with your pictures"
        )
    if not maps:
        raise DataError(
            f"{folder} has {len(files)} pictures and no label map; expected {files[0].stem}-label.png (or "
            f"label, segm, mask with . - _) beside {files[0].name}, or labels/{files[0].stem}.png"
        )
    pictures = []
    empty = []
    for picture, map_path in maps:
        try:
            labels = read_label_map(map_path)
            size = read_image(picture).shape[:2]
        except ImageError as error:
            raise DataError(str(error)) from error
        if labels.shape != size:
            raise DataError(
                f"{map_path} is {labels.shape[1]}x{labels.shape[0]}, its picture {picture.name} is "
                f"{size[1]}x{size[0]}; export the label map at the picture's size"
            )
        values = [v for v in np.unique(labels).tolist() if v not in (0, IGNORED)]
        name = picture.relative_to(folder).as_posix()
        if not values:
            empty.append(name)
            continue
        ignored = labels == IGNORED
        pictures.append(
            AnnotatedPicture(
                name,
                picture,
                (size[0], size[1]),
                tuple(encode_mask(labels == value) for value in values),
                (0,) * len(values),
                encode_mask(ignored) if ignored.any() else None,
            )
        )
    notes = []
    if without:
        notes.append(_left_out(without[0].name, len(without), "no label map"))
    if empty:
        notes.append(_left_out(empty[0], len(empty), "an empty label map"))
    return AnnotatedSet(folder, (OBJECT,), tuple(pictures), tuple(notes))


def _left_out(first: str, count: int, why: str) -> str:
    more = f" and {count - 1} more" if count > 1 else ""
    return f"{first}{more} left out: {why} (pictures without items belong to --empty)"


def _label_map_of(picture: Path, root: Path) -> Path | None:
    beside = find_companion(picture.parent, picture.stem, LABEL_KINDS)
    if beside and not beside.samefile(picture):
        return beside
    for above in (picture.parent, *picture.parent.parents):
        for kind in LABEL_KINDS:
            below = picture.parent.relative_to(above).parts
            for place in (above.joinpath(kind, *below), above.joinpath(kind, *below[1:])):
                found = find_companion(place, picture.stem, LABEL_KINDS)
                if found and not found.samefile(picture):
                    return found
        if above.resolve() == root.resolve():
            break
    return None


def downscaled_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool at another height and width, nearest."""
    small = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(small > 0)


def _decode(rle: dict[str, Any]) -> np.ndarray:
    return np.asarray(coco_mask.decode(rle)).astype(bool)
