"""COCO data sets: what is read, and what is said when a file is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rise_perception.core.errors import DataError, RiseError
from rise_perception.core.rle import decode_runs
from rise_perception.data.coco import CocoDataset, decode_segmentation
from rise_perception.data.images import write_image

CLASSES = ("container", "object")
H, W = 24, 40


def rle(mask: np.ndarray) -> dict[str, Any]:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def rectangle(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """A data set of two images on disk; the returned content is what its annotation file should hold."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        write_image(tmp_path / f"images/{name}.png", rng.integers(0, 255, (H, W, 3), np.uint8))
        write_image(tmp_path / f"depth/{name}.png", np.full((H, W), 1500, np.uint16))
    polygon = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]]
    counts = {"size": [H, W], "counts": [5, 3, H * W - 8]}
    segmentations = [
        (1, 2, rle(rectangle(5, 6, 20, 12))),
        (1, 2, polygon),
        (1, 1, counts),
        (2, 9, rle(rectangle(0, 0, 5, 5))),
    ]
    return {
        "images": [
            {
                "id": i,
                "file_name": f"{n}.png",
                "depth_file": f"{n}.png",
                "depth_scale": 0.001,
                "width": W,
                "height": H,
            }
            for i, n in ((1, "a"), (2, "b"))
        ],
        "categories": [
            {"id": 1, "name": "Container"},
            {"id": 2, "name": "object"},
            {"id": 9, "name": "hand"},
        ],
        "annotations": [
            {"id": 10 + k, "image_id": i, "category_id": c, "segmentation": s, "iscrowd": 0}
            for k, (i, c, s) in enumerate(segmentations)
        ],
    }


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "train.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def refuse(tmp_path: Path, content: Any, *words: str, classes: tuple[str, ...] = CLASSES) -> None:
    path = write(tmp_path, content)
    with pytest.raises(DataError) as error:
        _ = CocoDataset(path, classes)[0]
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_masks_classes_and_depth(tmp_path: Path, content: dict[str, Any]) -> None:
    data = CocoDataset(write(tmp_path, content), CLASSES, with_depth=True)
    assert len(data) == 2
    first, second = data[0], data[1]
    assert first.image.shape == (H, W, 3)
    assert first.depth is not None
    assert first.depth.dtype == np.float32
    np.testing.assert_allclose(first.depth, 1.5)
    assert first.masks.shape == (3, H, W)
    assert first.classes.tolist() == [1, 1, 0]  # names are compared without case
    assert np.array_equal(first.masks[0], rectangle(5, 6, 20, 12))
    assert np.array_equal(first.masks[1], rectangle(2, 3, 12, 9))
    assert np.flatnonzero(first.masks[2].T).tolist() == [5, 6, 7]  # runs go down the columns
    assert first.ids.tolist() == [0, 1, 2]
    assert second.masks.shape == (0, H, W)  # its only object is of a class nobody asked for
    assert CocoDataset(data.path, CLASSES)[0].depth is None


def test_only_the_classes_that_are_asked_for(tmp_path: Path, content: dict[str, Any]) -> None:
    sample = CocoDataset(write(tmp_path, content), ("object",))[0]
    assert sample.classes.tolist() == [0, 0]


def test_crowds_and_empty_masks_are_left_out(tmp_path: Path, content: dict[str, Any]) -> None:
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["segmentation"] = rle(rectangle(0, 0, 0, 0))
    assert CocoDataset(write(tmp_path, content), CLASSES)[0].classes.tolist() == [0]


def test_images_may_lie_beside_the_file(tmp_path: Path, content: dict[str, Any]) -> None:
    for image in (tmp_path / "images").iterdir():
        image.rename(tmp_path / image.name)
    (tmp_path / "images").rmdir()
    assert CocoDataset(write(tmp_path, content), CLASSES)[0].image.shape == (H, W, 3)


def test_a_file_that_is_no_coco(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
        CocoDataset(tmp_path / "nowhere.json", CLASSES)
    refuse(tmp_path, "{", "no valid JSON")
    refuse(tmp_path, "[]", "holds a list")
    refuse(tmp_path, "{}", "no list 'images'")
    refuse(tmp_path, {"images": [], "annotations": 3, "categories": []}, "no list 'annotations'")
    refuse(tmp_path, {"images": [], "annotations": [], "categories": []}, "no category 'container'")


def test_no_images(tmp_path: Path, content: dict[str, Any]) -> None:
    refuse(tmp_path, content | {"images": [], "annotations": []}, "lists no images")


def test_a_missing_category_names_those_that_are_there(tmp_path: Path, content: dict[str, Any]) -> None:
    refuse(tmp_path, content, "'tool'", "hand", "network.classes", classes=("object", "tool"))


@pytest.mark.parametrize(
    ("entries", "key"),
    [
        ("images", "id"),
        ("images", "file_name"),
        ("annotations", "image_id"),
        ("annotations", "category_id"),
        ("categories", "name"),
    ],
)
def test_entries_that_lack_something(tmp_path: Path, content: dict[str, Any], entries: str, key: str) -> None:
    del content[entries][1][key]
    refuse(tmp_path, content, f"{entries}[1] has no {key!r}")


def test_an_annotation_of_an_unknown_image(tmp_path: Path, content: dict[str, Any]) -> None:
    content["annotations"][2]["image_id"] = 77
    refuse(tmp_path, content, "annotation 12", "image 77")


@pytest.mark.parametrize(
    "broken",
    [
        {"size": [H, W], "counts": "garbage!!"},
        {"size": [H, W], "counts": [3, 5000]},
        {"size": [H, W], "counts": [-1, 5]},
        {"size": [H, W], "counts": None},
        {"size": [H, W]},
        {"counts": "a"},
        [],
        [[1.0, 2.0, 3.0]],
        [["a", "b", "c", "d", "e", "f"]],
        None,
        "mask.png",
        {"size": [W, H], "counts": [W * H]},
    ],
)
def test_a_broken_segmentation_names_its_annotation(
    tmp_path: Path, content: dict[str, Any], broken: Any
) -> None:
    content["annotations"][1]["segmentation"] = broken
    refuse(tmp_path, content, "annotation 11")


def test_a_mask_of_another_size_says_both(content: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="here is 40x24, its image is 50x24"):
        decode_segmentation(content["annotations"][0], H, 50, "here")


@pytest.mark.parametrize(
    "broken",
    [
        [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0]],  # an odd count
        [[2.0, 3.0, 12.0, 3.0]],
        [[2.0, 3.0, 1e9, 3.0, 12.0, 9.0]],
        {"size": [H, W], "counts": [1.5, H * W - 1.5]},
        {"size": [H, W], "counts": [2**62, 2**62, 2**62, 2**62]},
        {"size": [H, W], "counts": [10**30]},
        {"size": [H, W], "counts": []},
        {"size": [H, W], "counts": ""},
        {"size": [H, W], "counts": "0P"},  # the last number goes on
        {"size": [H, W], "counts": "\u00e4"},
        {"size": 7, "counts": "0"},
    ],
)
def test_runs_and_polygons_that_cannot_be_drawn(tmp_path: Path, content: dict[str, Any], broken: Any) -> None:
    content["annotations"][1]["segmentation"] = broken
    refuse(tmp_path, content, "annotation 11", "image 1, a.png")


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (23, 31), (300, 400)])
def test_masks_of_any_shape_survive(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for fraction in (0.0, 0.02, 0.5, 0.98, 1.0):
        mask = rng.random(shape) < fraction
        blob = np.zeros(shape, bool)
        blob[shape[0] // 3 : shape[0] // 2, shape[1] // 4 : shape[1] // 2] = True
        for wanted in (mask, blob, ~blob):
            encoded = coco_mask.encode(np.asfortranarray(wanted.astype(np.uint8)))
            assert np.array_equal(decode_runs(encoded["counts"], *shape), wanted)
            assert np.array_equal(decode_runs(encoded["counts"].decode(), *shape), wanted)
            edges = np.flatnonzero(np.diff(wanted.T.ravel(), prepend=False))
            runs = np.diff([0, *edges, wanted.size]).tolist()
            assert np.array_equal(decode_runs(runs, *shape), wanted)


def test_an_annotation_of_an_unknown_category_spoils_its_image_only(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    content["annotations"][0]["category_id"] = 5
    data = CocoDataset(write(tmp_path, content), CLASSES)
    with pytest.raises(DataError, match=r"train\.json: annotation 10 of image 1, a\.png has category 5"):
        data[0]
    assert data[1].name == "b.png"


def test_an_image_of_another_size_than_stated(tmp_path: Path, content: dict[str, Any]) -> None:
    content["images"][1]["width"] = W + 1
    data = CocoDataset(write(tmp_path, content), CLASSES)
    with pytest.raises(DataError, match=r"train\.json: image 2, b\.png is 40x24, the file says 41x24"):
        data[1]
    assert len(data[0].classes) == 3


def test_truncated_pictures_are_data_errors(tmp_path: Path, content: dict[str, Any]) -> None:
    data = CocoDataset(write(tmp_path, content), CLASSES, with_depth=True)
    for folder in ("depth", "images"):
        file = tmp_path / folder / "a.png"
        file.write_bytes(file.read_bytes()[:-30])
        with pytest.raises(DataError, match=rf"image 1, a\.png: .*{folder}/a\.png: the file is cut off"):
            data[0]
    assert data[1].depth is not None


@pytest.mark.parametrize(
    ("entry", "key", "value"),
    [
        ("images", "id", None),
        ("images", "id", [1]),
        ("images", "file_name", 3),
        ("images", "depth_scale", "1 mm"),
        ("images", "width", "wide"),
        ("categories", "id", {}),
        ("annotations", "image_id", [2]),
        ("annotations", "category_id", None),
    ],
)
def test_entries_of_the_wrong_kind(
    tmp_path: Path, content: dict[str, Any], entry: str, key: str, value: Any
) -> None:
    content[entry][1][key] = value
    refuse(tmp_path, content, f"{entry}[1]", key)


def test_two_images_of_one_id(tmp_path: Path, content: dict[str, Any]) -> None:
    content["images"][1]["id"] = 1
    refuse(tmp_path, content, "several images have the id 1")


def test_missing_and_wrong_images_are_named(tmp_path: Path, content: dict[str, Any]) -> None:
    path = write(tmp_path, content)
    write_image(tmp_path / "depth/b.png", np.full((H, W + 1), 1500, np.uint16))
    with pytest.raises(RiseError, match="depth is 41x24 but the image is 40x24"):
        CocoDataset(path, CLASSES, with_depth=True)[1]
    (tmp_path / "depth/b.png").unlink()
    with pytest.raises(RiseError, match=r"b\.png"):
        CocoDataset(path, CLASSES, with_depth=True)[1]
    (tmp_path / "images/b.png").unlink()
    with pytest.raises(RiseError, match=r"b\.png"):
        CocoDataset(path, CLASSES)[1]
    del content["images"][0]["depth_file"]
    with pytest.raises(DataError, match=r"a\.png has no depth_file"):
        CocoDataset(write(tmp_path, content), CLASSES, with_depth=True)[0]
