"""The COCO export of a labelling tool, as it comes: any ids, any folders, polygons or run lengths."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from rise_perception.core.errors import DataError, ImageError
from rise_perception.core.rle import decode_runs
from rise_perception.data.images import read_image
from rise_perception.data.picture_search import PictureFinder

#: An annotation file larger than this is none of a handful of pictures.
MOST_BYTES = 512 * 2**20
#: A polygon may leave its picture by this many pixels: tools round, and let the hand slip over the border.
SLIP = 4.0
#: Categories of these names are areas of which nothing is known.
IGNORE_NAMES = ("ignore", "ignored", "void", "unlabelled", "unlabeled", "don't care")


@dataclass(frozen=True)
class Annotation:
    """One outlined object: its category's name, mask (H, W) bool, and whether it is an area to ignore."""

    category: str
    mask: np.ndarray = field(repr=False)
    ignored: bool


@dataclass(frozen=True)
class ExportedPicture:
    """A picture of an export that has annotations."""

    name: str
    path: Path
    size: tuple[int, int]
    annotations: tuple[Annotation, ...]
    depth: Path | None
    depth_scale: float | None


@dataclass(frozen=True)
class Export:
    """The annotated pictures of an export, and sentences about what was left out."""

    pictures: tuple[ExportedPicture, ...]
    notes: tuple[str, ...]


def coco_export(path: Path) -> Path | None:
    """The COCO file that ``path`` is, or that lies in the folder ``path``; None where there is none.

    Raises:
        DataError: a file that is no COCO JSON, or a folder that holds several.
    """
    if path.is_file():
        _content(path)
        return path
    if not path.is_dir():
        return None
    found = []
    for candidate in sorted(path.rglob("*.json"))[:200]:
        try:
            _content(candidate)
        except DataError:
            continue
        found.append(candidate)
    if len(found) > 1:
        raise DataError(f"{path} holds {len(found)} COCO files ({found[0].name}, {found[1].name}); give one")
    return found[0] if found else None


def read_coco(path: Path, root: Path) -> Export:
    """Read an export; pictures are looked for below ``root``.

    Raises:
        DataError: what is wrong, with the picture's or the annotation's name and a remedy.
    """
    content = _content(path)
    names = _category_names(path, content)
    by_image: dict[str, list[dict[str, Any]]] = {}
    entries: dict[str, dict[str, Any]] = {}
    for index, entry in enumerate(content["images"]):
        if not isinstance(entry, dict) or "id" not in entry or not isinstance(entry.get("file_name"), str):
            raise DataError(f"{path}: images[{index}] has no id or no file_name; export the project again")
        key = str(entry["id"])
        if key in entries:
            raise DataError(f"{path}: two images have the id {key}; export the project again")
        entries[key] = entry
    for index, annotation in enumerate(content["annotations"]):
        if not isinstance(annotation, dict) or str(annotation.get("image_id")) not in entries:
            image = annotation.get("image_id") if isinstance(annotation, dict) else annotation
            raise DataError(
                f"{path}: annotation {index} belongs to image {image!r}, which the file does not list; "
                "export the project again"
            )
        by_image.setdefault(str(annotation["image_id"]), []).append(annotation)
    finder = PictureFinder(root)
    pictures = []
    for key, entry in entries.items():
        if key in by_image:
            pictures.append(_picture(path, root, finder, entry, by_image[key], names))
    twice = {p.path for p in pictures if sum(q.path == p.path for q in pictures) > 1}
    if twice:
        raise DataError(f"{path}: two images are the picture {min(twice)}; remove one")
    pictures.sort(key=lambda p: p.name)  # an export's order is an accident of the tool
    left = [e["file_name"] for k, e in entries.items() if k not in by_image]
    notes = []
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        notes.append(
            f"{left[0]}{more} left out: no annotation (pictures without items belong to --empty, others to "
            "--unlabelled)"
        )
    return Export(tuple(pictures), tuple(notes))


def _content(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MOST_BYTES:
        raise DataError(f"{path} has {path.stat().st_size >> 20} MB; that is no export of a few pictures")
    try:
        content = json.loads(path.read_bytes())
    except UnicodeDecodeError:
        raise DataError(
            f"{path} is no JSON; give the file that your labelling tool exports as COCO, or a folder of "
            "pictures with label maps"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}); export it again, as COCO") from None
    lists = isinstance(content, dict) and all(
        isinstance(content.get(k), list) for k in ("images", "annotations", "categories")
    )
    if not lists:
        raise DataError(
            f"{path} has no lists images, annotations and categories; export from your tool as COCO "
            "(instance segmentation)"
        )
    return dict(content)


def _category_names(path: Path, content: dict[str, Any]) -> dict[str, str]:
    """Category id, as text -> name; names that differ only by case or spaces are one class."""
    names: dict[str, str] = {}
    first: dict[str, str] = {}
    for index, category in enumerate(content["categories"]):
        if not isinstance(category, dict) or "id" not in category or "name" not in category:
            raise DataError(f"{path}: categories[{index}] has no id or no name; export the project again")
        name = str(category["name"]).strip() or f"class {category['id']}"
        names[str(category["id"])] = first.setdefault(name.lower(), name)
    return names


def _picture(
    path: Path,
    root: Path,
    finder: PictureFinder,
    entry: dict[str, Any],
    annotations: list[dict[str, Any]],
    names: dict[str, str],
) -> ExportedPicture:
    try:
        picture = finder.find(entry["file_name"])
        height, width = read_image(picture).shape[:2]
    except (DataError, ImageError) as error:
        raise DataError(f"{path}: {error}") from error
    stated = entry.get("width") or width, entry.get("height") or height
    if tuple(stated) != (width, height):
        raise DataError(
            f"{path}: {entry['file_name']} is annotated at {stated[0]}x{stated[1]}, but {picture} is "
            f"{width}x{height}; give the picture that was annotated"
        )
    found = []
    for annotation in annotations:
        where = f"{path}: annotation {annotation.get('id')} of {entry['file_name']}"
        category = names.get(str(annotation.get("category_id")))
        if category is None:
            raise DataError(
                f"{where} has category {annotation.get('category_id')!r}, which the file does not define; "
                "export the project again"
            )
        mask = _mask(annotation, height, width, where)
        ignored = bool(annotation.get("iscrowd", 0)) or category.lower() in IGNORE_NAMES
        found.append(Annotation(category, mask, ignored))
    depth, scale = None, None
    if isinstance(entry.get("depth_file"), str):
        depth = next(
            (p for p in (root / "depth" / entry["depth_file"], root / entry["depth_file"]) if p.is_file()),
            None,
        )
        if depth is None:
            raise DataError(
                f"{path}: {entry['file_name']} names the depth {entry['depth_file']!r}, which is neither in "
                f"{root / 'depth'} nor in {root}; copy it there, or give --no-depth"
            )
        scale = float(entry.get("depth_scale", 0.001))
    name = picture.relative_to(root).as_posix() if picture.is_relative_to(root) else picture.name
    return ExportedPicture(name, picture, (height, width), tuple(found), depth, scale)


def _mask(annotation: dict[str, Any], height: int, width: int, where: str) -> np.ndarray:
    """(height, width) bool from polygons or run lengths."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        what = "only a box" if annotation.get("bbox") else "no outline"
        raise DataError(f"{where} has {what}; outline the item with a polygon or a mask, or remove it")
    try:
        if isinstance(segmentation, dict):
            size = [int(n) for n in segmentation["size"]]
            if size != [height, width]:
                raise DataError(
                    f"{where} is {size[1]}x{size[0]}, its picture {width}x{height}; export it again"
                )
            mask = decode_runs(segmentation["counts"], height, width)
        else:
            mask = _polygons(segmentation, height, width, where)
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{where} has a broken outline ({error!r}); draw it again, or remove it") from error
    if not mask.any():
        raise DataError(f"{where} covers no pixel; draw it again, or remove it")
    return mask


def _polygons(polygons: Any, height: int, width: int, where: str) -> np.ndarray:
    if polygons and not isinstance(polygons[0], (list, tuple)):
        polygons = [polygons]  # some tools leave the outer list away
    drawn = []
    for polygon in polygons:
        points = np.array(polygon, np.float64)
        if points.ndim == 2 and points.shape[1] == 2:
            points = points.ravel()  # [[x, y], ...]
        if points.ndim != 1 or points.size < 6 or points.size % 2 or not np.isfinite(points).all():
            raise ValueError("a polygon is x0, y0, x1, y1, ... of at least three points")
        x, y = points[::2], points[1::2]
        outside = max(-x.min(), x.max() - width, -y.min(), y.max() - height)
        if outside > SLIP:
            raise DataError(
                f"{where} lies outside its picture: x {x.min():.0f} to {x.max():.0f} of {width}, y "
                f"{y.min():.0f} to {y.max():.0f} of {height}; give the picture as annotated, or draw again"
            )
        points[::2], points[1::2] = x.clip(0, width), y.clip(0, height)
        drawn.append(points.tolist())
    if not drawn:
        raise ValueError("there is no polygon")
    return decode_runs(coco_mask.merge(coco_mask.frPyObjects(drawn, height, width))["counts"], height, width)
