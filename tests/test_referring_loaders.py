"""Public referring data sets, tiny and in their real layouts; and the tote world's own sentences."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from rise_perception.core.errors import DataError
from rise_perception.core.regions import encode_mask
from rise_perception.data.images import write_image
from rise_perception.referring.loaders import RefCocoPairs, open_pairs

H, W = 24, 32


def put(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, picture)


def put_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def picture() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, depth in millimetres, and a label map with the items 3 and 7."""
    image = np.full((H, W, 3), 90, np.uint8)
    labels = np.zeros((H, W), np.uint8)
    labels[2:10, 3:12], labels[12:20, 15:30] = 3, 7
    return image, np.full((H, W), 800, np.uint16), labels


@pytest.fixture
def ocid_vlg(tmp_path, picture):
    image, depth, labels = picture
    sequence = "ARID20/table/top/seq05"
    for folder, content in (("rgb", image), ("depth", depth), ("seg_mask_instances_combi", labels)):
        put(tmp_path / sequence / folder / "result_1.png", content)
    entry = {"image_filename": f"{sequence},result_1.png", "question": "the red cup", "answer": 7,
             "box": [15, 12, 15, 8]}  # fmt: skip
    return put_json(tmp_path / "refer/unique/train_expressions.json", {"data": [entry]})


@pytest.fixture
def ocid_ref(tmp_path, picture):
    image, depth, labels = picture
    for folder, content in (("rgb", image), ("depth", depth), ("label", labels)):
        put(tmp_path / "ARID20/floor/seq02" / folder / "a.png", content)
    entry = {"scene_path": "ARID20/floor/seq02/rgb/a.png", "scene_instance": "a_7", "sentence": "the box",
             "bbox": [15, 12, 15, 8]}  # fmt: skip
    return put_json(tmp_path / "train_expressions_ref.json", {"1": entry})


@pytest.fixture
def roborefit(tmp_path, picture):
    image, depth, labels = picture
    put(tmp_path / "final/rgb/1.png", image)
    put(tmp_path / "final/depth/1.png", depth)
    put(tmp_path / "final/mask/1.png", (labels == 7).astype(np.uint8) * 255)
    entry = {"text": "the bottle", "rgb_path": "final\\rgb\\1.png", "depth_path": "final\\depth\\1.png",
             "mask_path": "final\\mask\\1.png", "bbox": [15, 12, 30, 20]}  # fmt: skip
    return put_json(tmp_path / "roborefit_train.json", [entry])


@pytest.fixture
def refcoco(tmp_path, picture):
    image, _, labels = picture
    put(tmp_path / "refcoco/images/1.png", image)
    notes = [{"id": 11, "image_id": 5, "category_id": 1, "segmentation": encode_mask(labels == 7)}]
    images = [{"id": 5, "file_name": "1.png", "height": H, "width": W}]
    put_json(tmp_path / "refcoco/instances.json", {"images": images, "annotations": notes, "categories": []})
    refs = [
        {"ref_id": 1, "image_id": 5, "ann_id": 11, "split": "testA",
         "sentences": [{"sent": "the cup"}, {"sent": "right one"}]},
        {"ref_id": 2, "image_id": 5, "ann_id": 11, "split": "train", "sentences": [{"sent": "it"}]},
    ]  # fmt: skip
    return put_json(tmp_path / "refcoco/refs(unc).json", refs)


@pytest.mark.parametrize(
    ("name", "sentence", "has_depth"),
    [
        ("ocid_vlg", "the red cup", True),
        ("ocid_ref", "the box", True),
        ("roborefit", "the bottle", True),
        ("refcoco", "the cup", False),
    ],
)
def test_a_data_set_gives_image_depth_sentence_and_mask(name, sentence, has_depth, request, picture):
    data = open_pairs(request.getfixturevalue(name))
    pair = data.pairs[0]
    assert pair.sentence == sentence
    shown = data[pair.image]
    assert np.array_equal(shown.image, picture[0])
    assert (shown.depth is not None) == has_depth
    if shown.depth is not None:
        assert shown.depth[0, 0] == pytest.approx(0.8)
    (label,) = pair.labels
    assert np.array_equal(shown.masks[label], picture[2] == 7)
    assert shown.kinds == {}  # nobody says the kinds


def test_refcoco_has_splits_and_several_sentences(refcoco):
    assert [pair.sentence for pair in RefCocoPairs(refcoco, "testA").pairs] == ["the cup", "right one"]
    assert len(open_pairs(refcoco).pairs) == 3
    with pytest.raises(DataError, match="no reference of the split 'testC'"):
        RefCocoPairs(refcoco, "testC")


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("ocid_vlg", lambda c: c["data"][0].pop("answer"), "has no 'answer'"),
        ("ocid_vlg", lambda c: c["data"][0].update(answer="7"), "has the answer '7'"),
        ("ocid_vlg", lambda c: c["data"][0].update(image_filename="x.png"), "not 'sequence,name'"),
        ("ocid_vlg", lambda c: c.pop("data"), "no list 'data'"),
        ("ocid_ref", lambda c: c["1"].update(scene_instance="cup"), "no number"),
        ("roborefit", lambda c: c[0].pop("mask_path"), "has no 'mask_path'"),
        ("roborefit", lambda c: c.clear(), "no list of entries"),
        ("refcoco", lambda c: c[0].update(ann_id=99), "instances.json has not"),
    ],
)
def test_what_is_missing_is_named(name, change, reason, request):
    path = request.getfixturevalue(name)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=reason):
        open_pairs(path)


def test_a_missing_label_of_an_image_is_named(ocid_vlg):
    content = json.loads(ocid_vlg.read_text())
    content["data"][0]["answer"] = 9
    ocid_vlg.write_text(json.dumps(content))
    with pytest.raises(DataError, match="has no item 9"):
        open_pairs(ocid_vlg)[0]


def test_a_path_that_leads_out_of_the_data_set_is_refused(roborefit):
    content = json.loads(roborefit.read_text())
    content[0]["rgb_path"] = "..\\..\\etc\\passwd"
    roborefit.write_text(json.dumps(content))
    with pytest.raises(DataError, match="leads out of"):
        open_pairs(roborefit)[0]


def test_masks_of_another_size_are_named(ocid_vlg, tmp_path):
    file = next(tmp_path.rglob("seg_mask_instances_combi/*.png"))
    cv2.imwrite(str(file), np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="differ in size"):
        open_pairs(ocid_vlg)[0]


@pytest.mark.parametrize("content", ["{", "[" * 50_000, ""])
def test_a_file_that_is_no_json_is_named(content, tmp_path):
    path = tmp_path / "roborefit_train.json"
    path.write_text(content)
    with pytest.raises(DataError, match="no JSON"):
        open_pairs(path)


def test_unknown_files_are_named(tmp_path):
    with pytest.raises(DataError, match="no known file of sentences"):
        open_pairs(tmp_path / "data.txt")
    with pytest.raises(DataError, match="cannot be read"):
        open_pairs(tmp_path / "roborefit_x.json")


# ---- the tote world's own form


@pytest.fixture
def own(tmp_path, picture):
    image, depth, labels = picture
    put(tmp_path / "images/train/0.png", image)
    put(tmp_path / "depth/train/0.png", depth)
    put(tmp_path / "labels/train/0.png", labels.astype(np.uint16))
    images = [{"id": 1, "file_name": "train/0.png", "depth_file": "train/0.png", "depth_scale": 0.001}]
    notes = [{"image_id": 1, "label": 3, "kind": "mug"}, {"image_id": 1, "label": 7, "kind": "lump"},
             {"image_id": 1, "label": 0}]  # fmt: skip
    put_json(tmp_path / "train.json", {"images": images, "annotations": notes, "categories": []})

    def write(*lines: object) -> Path:
        path = tmp_path / "train.sentences.jsonl"
        path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
        return path

    return write


def line(**changes: object) -> dict[str, object]:
    return {"file_name": "train/0.png", "sentence": "the cup", "label": 3, **changes}


def test_sentences_of_ones_own(own):
    data = open_pairs(own(line(), line(label=None), line(label=None, labels=[3, 7])))
    assert [pair.labels for pair in data.pairs] == [(3,), (), (3, 7)]
    shown = data[0]
    assert shown.kinds == {3: "cup", 7: ""}
    assert set(shown.masks) == {3, 7}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("{", "line 2: no JSON"),
        ("[1]", "line 2: no mapping"),
        ({"file_name": "train/0.png", "sentence": "the cup"}, "line 2 has no 'label'"),
        (line(label=9), "no item with the label 9"),
        (line(file_name="x.png"), "'x.png' is not in the COCO file"),
        (line(sentence=4), "sentence is 4"),
        (line(labels=["3"]), "whole numbers"),
        ("z" * 70_000, "line 2: longer than"),
    ],
)
def test_a_broken_line_is_named(wrong, reason, own):
    with pytest.raises(DataError, match=reason):
        open_pairs(own(line(), wrong))


def test_no_sentence_is_an_error(own):
    with pytest.raises(DataError, match="holds no sentence"):
        open_pairs(own(""))
