"""Predictions (as ``rise predict`` writes them) and truth (label images or COCO JSON) from disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rise_perception.core.errors import DataError
from rise_perception.core.json_files import ANNOTATIONS, read_json
from rise_perception.core.regions import (
    ImagePair,
    Region,
    category_name,
    encode_mask,
    regions_of_map,
)
from rise_perception.data.coco import decode_segmentation
from rise_perception.data.images import find_companion, read_label_map
from rise_perception.evaluation.classes import without_ignored

PREDICTION_SUFFIX = ".instances.json"
TRUTH_KINDS = ("label", "labels", "segm", "mask")


def load_pairs(
    predictions: str | Path, truth: str | Path, ignore: int | None = None
) -> tuple[list[ImagePair], list[str]]:
    """Pairs of all images that have truth, and warnings about those that lack a counterpart.

    Args:
        predictions: folder with the ``NAME.instances.json`` files of ``rise predict``.
        truth: a COCO JSON file, or a folder that holds one, or a folder of label images: for the
            image NAME one of ``NAME.label.png``, ``NAME-label.png``, ``NAME_label.png`` (or labels,
            segm, mask in place of label), the same with ``-color`` taken off the end of NAME, or
            ``NAME.png``.
        ignore: value of a label image where nothing is known; so are the crowds of a COCO file. Predictions
            that lie mostly there do not count.

    An image of a COCO file without a prediction counts as an image in which nothing was found. A
    prediction without truth is left out.

    Raises:
        DataError: a folder or file is missing or broken, sizes differ, or nothing fits together.
    """
    predicted = _load_predictions(Path(predictions))
    truth = Path(truth)
    if truth.resolve() == Path(predictions).resolve():
        raise DataError(f"{truth} holds the predictions themselves; --truth takes the true labels")
    pairs, missing = (
        _with_coco(predicted, truth) if _coco_file(truth) else _with_label_images(predicted, truth, ignore)
    )
    warnings = []
    without_truth = sorted(set(predicted) - {pair.name for pair in pairs})
    if without_truth:
        warnings.append(
            f"{len(without_truth)} predictions have no truth and are left out ({_few(without_truth)})"
        )
    if missing:
        warnings.append(f"{len(missing)} images have no prediction and count as empty ({_few(missing)})")
    if len(missing) == len(pairs):
        raise DataError(
            f"no prediction in {predictions} ({_few(sorted(predicted))}) has truth in {truth}; expected a "
            "COCO JSON file that lists the images, or label images NAME.label.png, NAME-label.png, "
            "NAME.segm.png, NAME.mask.png or NAME.png (a -color at the end of NAME may be missing)"
        )
    return pairs, warnings


def _load_predictions(folder: Path) -> dict[str, ImagePair]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; --pred takes the folder that `rise predict` wrote")
    files = sorted(folder.glob(f"*{PREDICTION_SUFFIX}"))
    if not files:
        raise DataError(
            f"{folder}: no NAME{PREDICTION_SUFFIX} file in it; --pred takes what `rise predict` wrote"
        )
    return {pair.name: pair for pair in map(_load_prediction, files)}


def _load_prediction(path: Path) -> ImagePair:
    content = _load_json(path)
    try:
        height, width = int(content["height"]), int(content["width"])
        regions = []
        for instance in content["instances"]:
            rle = instance["segmentation"]
            if list(rle["size"]) != [height, width]:
                raise DataError(f"{path}: a mask has size {rle['size']}, the image {[height, width]} (h, w)")
            name = str(instance["category"])
            regions.append(Region(category_name(name), rle, float(instance["score"]), name))
        picture, model = Path(content["file"]), str(content.get("model", ""))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: not written by `rise predict`: {error!r}") from None
    name = path.name.removesuffix(PREDICTION_SUFFIX)
    return ImagePair(name, height, width, regions, [], picture if picture.is_file() else None, model)


def _with_label_images(
    predicted: dict[str, ImagePair], folder: Path, ignore: int | None
) -> tuple[list[ImagePair], list[str]]:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such file or folder; --truth takes a COCO JSON file or a folder of label images"
        )
    pairs = []
    for name, pair in predicted.items():
        path = find_companion(folder, name, TRUTH_KINDS)
        if path and not (pair.picture and path.samefile(pair.picture)):
            label_map = read_label_map(path)
            _check_size(pair, label_map.shape[0], label_map.shape[1], str(path))
            pair = replace(pair, truth=regions_of_map(label_map, ignore))
            pairs.append(pair if ignore is None else without_ignored(pair, label_map == ignore))
    return pairs, []


def _with_coco(predicted: dict[str, ImagePair], path: Path) -> tuple[list[ImagePair], list[str]]:
    path = _coco_file(path) or path
    content = _load_json(path)
    try:
        names = {image["id"]: Path(image["file_name"]).stem for image in content["images"]}
        if len(set(names.values())) < len(names):
            raise DataError(
                f"{path}: two images have the same file name; names must be unique to find predictions"
            )
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        pairs = {
            image["id"]: predicted.get(
                names[image["id"]], ImagePair(names[image["id"]], int(image["height"]), int(image["width"]))
            )
            for image in content["images"]
        }
        for image in content["images"]:
            _check_size(
                pairs[image["id"]], int(image["height"]), int(image["width"]), f"{path}: {image['file_name']}"
            )
        truth: dict[int, list[Region]] = {key: [] for key in pairs}
        for annotation in content["annotations"]:
            key = annotation["image_id"]
            where = f"{path}: annotation {annotation.get('id')}"
            mask = decode_segmentation(annotation, pairs[key].height, pairs[key].width, where)
            if annotation.get("iscrowd", 0):
                pairs[key] = without_ignored(pairs[key], mask)
            else:
                name = categories[annotation["category_id"]]
                truth[key].append(Region(category_name(name), encode_mask(mask), name=name))
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: not a COCO instance file: {error!r}") from None
    missing = sorted(name for name in names.values() if name not in predicted)
    return [replace(pair, truth=truth[key]) for key, pair in pairs.items()], missing


def _coco_file(path: Path) -> Path | None:
    """The COCO JSON file that ``path`` is or, as a folder, holds; None for a folder of label images."""
    if path.is_file():
        return path
    found = [p for p in sorted(path.glob("*.json")) if not p.name.endswith(PREDICTION_SUFFIX)]
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise DataError(
            f"{path}: holds several JSON files ({names}); give the one that lists the predicted images"
        )
    return found[0] if found else None


def _load_json(path: Path) -> dict[str, Any]:
    content = read_json(path, ANNOTATIONS, remedy="copy it again", bulk=True)
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, expected an object")
    return content


def _check_size(pair: ImagePair, height: int, width: int, where: str) -> None:
    if (pair.height, pair.width) != (height, width):
        raise DataError(
            f"{where} is {width}x{height}, but the prediction for {pair.name} is {pair.width}x{pair.height}; "
            "predict on the images that the truth belongs to"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
