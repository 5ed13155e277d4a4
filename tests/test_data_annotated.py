"""The reader of annotated pictures: tolerant where tools differ, exact where a guess would teach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rise_perception.core.errors import DataError
from rise_perception.data.annotated import read_annotated
from rise_perception.data.images import write_image

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def export(
    folder: Path, annotations: list[dict[str, Any]], names: tuple[str, ...] = ("a.png",), **changes: Any
) -> Path:
    content = {
        "images": [
            {"id": f"img-{k}", "file_name": n, "width": 64, "height": 48} for k, n in enumerate(names)
        ],
        "categories": [{"id": 7, "name": "Mug"}, {"id": 3, "name": "box"}, {"id": 1, "name": "tote"}],
        "annotations": annotations,
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "goods.json").write_text(json.dumps(content))
    return folder / "goods.json"


def picture(path: Path, size: tuple[int, int] = (48, 64)) -> None:
    write_image(path, np.full((*size, 3), 90, np.uint8))


def outlined(category: int = 7, image: str = "img-0", **more: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": image, "category_id": category, "segmentation": [SQUARE]} | more


def test_polygons_runs_and_any_ids_are_read_wherever_the_pictures_lie(tmp_path):
    picture(tmp_path / "deep/er/a.png")
    picture(tmp_path / "images/b.png")
    runs = coco_mask.encode(np.asfortranarray(np.pad(np.ones((9, 9), np.uint8), ((5, 34), (5, 50)))))
    file = export(
        tmp_path,
        [
            outlined(),
            outlined(3, "img-1", segmentation={"size": [48, 64], "counts": runs["counts"].decode()}),
            outlined(3, "img-1", segmentation={"size": [48, 64], "counts": [0, 100, 48 * 64 - 100]}),
        ],
        names=("C:\\tool\\project\\er\\a.png", "images/b.png"),
    )
    found = read_annotated(file)
    assert found.classes == ("Mug", "box")  # the tote is in nobody's picture
    assert [p.name for p in found.pictures] == ["deep/er/a.png", "images/b.png"]
    first, second = (p.load(False) for p in found.pictures)
    assert first.masks.sum() == 400
    assert first.classes.tolist() == [0]
    assert sorted(second.masks.sum((1, 2)).tolist()) == [81, 100]
    assert second.classes.tolist() == [1, 1]


def test_the_order_of_annotations_does_not_matter(tmp_path):
    picture(tmp_path / "a.png")
    other = [40, 10, 60, 10, 60, 40]
    entries = [outlined(), outlined(3, segmentation=[other]), outlined(segmentation=[other])]
    read = [read_annotated(export(tmp_path, order)).pictures for order in (entries, entries[::-1])]
    assert read[0] == read[1]


def test_crowds_and_areas_called_ignore_are_not_known(tmp_path):
    picture(tmp_path / "a.png")
    categories = [{"id": 7, "name": "mug"}, {"id": 3, "name": "Ignore"}]
    crowd = outlined(iscrowd=1, segmentation=[[40, 0, 60, 0, 60, 20, 40, 20]])
    file = export(tmp_path, [outlined(), crowd], categories=categories)
    (first,) = read_annotated(file).pictures
    assert len(first.masks) == 1
    assert first.ignored_mask().sum() == 400
    area = outlined(3, segmentation=[[40, 0, 60, 0, 60, 10, 40, 10]])
    found = read_annotated(export(tmp_path, [outlined(), area], categories=categories))
    assert found.classes == ("mug",)
    assert found.pictures[0].ignored_mask().sum() == 200


@pytest.mark.parametrize(
    "place", ["a-depth.png", "depth/a.png", "images/../depth/a-depth.png", "depth/set/a.png"]
)
def test_depth_is_found_by_itself(tmp_path, place):
    inside = "set/" if "set" in place else ""
    picture(tmp_path / f"images/{inside}a.png")
    at = tmp_path / "images" / place if place == "a-depth.png" else tmp_path / place
    at.parent.mkdir(parents=True, exist_ok=True)
    write_image(at.resolve(), np.full((48, 64), 800, np.uint16))
    found = read_annotated(export(tmp_path, [outlined()], names=(f"{inside}a.png",)))
    assert found.has_depth
    depth = found.pictures[0].load(True).depth
    assert depth is not None
    assert np.allclose(depth, 0.8)
    scaled = read_annotated(tmp_path / "goods.json", depth_scale=0.0001).pictures[0].load(True).depth
    assert scaled is not None
    assert np.allclose(scaled, 0.08)


@pytest.mark.parametrize("place", ["x-label.png", "labels/x.png", "mask/x.png"])
def test_a_folder_of_label_maps_is_read_and_255_is_unknown(tmp_path, place):
    picture(tmp_path / "x.png")
    labels = np.zeros((48, 64), np.uint8)
    labels[:10, :10], labels[20:30, :10], labels[:, 60:] = 3, 9, 255
    write_image(tmp_path / place, labels)
    found = read_annotated(tmp_path)
    assert found.classes == ("object",)
    assert len(found.pictures[0].masks) == 2
    assert found.pictures[0].ignored_mask().sum() == 48 * 4


def test_pictures_without_annotations_are_left_out_and_named(tmp_path):
    picture(tmp_path / "a.png")
    found = read_annotated(export(tmp_path, [outlined()], names=("a.png", "nobody-has-it.png")))
    assert len(found.pictures) == 1
    assert "nobody-has-it.png" in found.notes[0]
    assert "--empty" in found.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": []}, "no annotation in any of them"),
        ({"images": [{"id": "img-0", "file_name": "z.png"}]}, "'z.png' is nowhere below"),
        ({"images": [{"id": "img-0", "file_name": "a.png", "width": 640, "height": 480}]}, "640x480.*64x48"),
        ({"annotations": [outlined(segmentation=[[99, 0, 300, 0, 300, 20]])]}, "x 99 to 300 of 64"),
        ({"annotations": [outlined(segmentation=[], bbox=[0, 0, 9, 9])]}, "only a box"),
        ({"annotations": [outlined(iscrowd=1)]}, "only areas to ignore; outline the items"),
        ({"annotations": [outlined(99)]}, "category 99"),
        ({"annotations": [outlined(image="img-5")]}, "'img-5'"),
        ({"annotations": [outlined(segmentation=[[1, 2, 3]])]}, "broken outline"),
        ({"annotations": [outlined(segmentation={"size": [9, 9], "counts": [81]})]}, "9x9"),
        ({"categories": "none"}, "no lists images"),
    ],
)  # fmt: skip
def test_bad_exports_are_named_with_a_remedy(tmp_path, change, message):
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match=message):
        read_annotated(export(tmp_path, **({"annotations": [outlined()]} | change)))


def test_points_a_little_outside_are_cut_off(tmp_path):
    picture(tmp_path / "a.png")
    (found,) = read_annotated(
        export(tmp_path, [outlined(segmentation=[[-2, -2, 66, -2, 66, 50, -2, 50]])])
    ).pictures
    assert found.load(False).masks.all()


def test_missing_folders_and_label_maps_of_another_size_are_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_annotated(tmp_path / "nowhere")
    picture(tmp_path / "x.png")
    with pytest.raises(DataError, match="no label map"):
        read_annotated(tmp_path)
    write_image(tmp_path / "x-label.png", np.ones((10, 12), np.uint8))
    with pytest.raises(DataError, match=r"12x10, its picture x\.png is 64x48"):
        read_annotated(tmp_path)
    with pytest.raises(DataError, match=r"x\.png is no JSON; give the file"):
        read_annotated(tmp_path / "x.png")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="no JSON"):
        read_annotated(tmp_path / "deep.json")


def test_200_pictures_are_read_and_one_more_is_refused_with_the_remedy(tmp_path):
    names = tuple(f"{k:03d}.png" for k in range(201))
    for name in names:
        picture(tmp_path / name)
    outlines = [outlined(image=f"img-{k}") for k in range(201)]
    assert len(read_annotated(export(tmp_path, outlines[:200], names[:200])).pictures) == 200
    remedy = "201 annotated pictures; `rise teach` is for at most 200, `rise train` for more"
    with pytest.raises(DataError, match=remedy):
        read_annotated(export(tmp_path, outlines, names))
