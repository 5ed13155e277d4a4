"""Class-aware figures."""

from __future__ import annotations

import json
import re

import numpy as np
from tiny_data import rectangles

from rise_perception.core.regions import ImagePair, Region, encode_mask
from rise_perception.data.images import write_image
from rise_perception.evaluation.classes import (
    above,
    class_scores,
    confusion,
    sweep,
    without_ignored,
)
from rise_perception.evaluation.coco import coco_scores
from rise_perception.evaluation.counts import Counts, count
from rise_perception.evaluation.worst_cases import aligned

LEFT, RIGHT, BOTH = (4, 4, 40, 40), (48, 4, 84, 40), (4, 4, 84, 40)


def region(box: tuple[int, int, int, int], name: str, score: float = 1.0) -> Region:
    return Region("object", encode_mask(rectangles([box])[0]), score, name)


def pair(predicted: list[Region], truth: list[Region]) -> ImagePair:
    return ImagePair("x", 64, 96, predicted, truth)


def test_swapped_classes_cost_everything_and_only_where_classes_count():
    truth = [region(LEFT, "mug"), region(RIGHT, "box")]
    swapped = [pair([region(LEFT, "box", 0.9), region(RIGHT, "mug", 0.8)], truth)]
    assert coco_scores(swapped).ap50 == 1.0
    assert {name: scores.ap50 for name, scores in class_scores(swapped).items()} == {"box": 0.0, "mug": 0.0}
    found = confusion(swapped)
    assert found.names == ("box", "mug", "(nothing)")
    assert found.counts.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_missed_and_false_objects_have_their_row_and_column():
    found = confusion([pair([region((4, 48, 30, 62), "mug", 0.9)], [region(LEFT, "mug")])])
    assert found.counts.tolist() == [[0, 1], [1, 0]]


def test_found_false_and_merged_are_counted_at_the_threshold():
    truth = [region(LEFT, "mug"), region(RIGHT, "mug")]
    pairs = [pair([region(BOTH, "mug", 0.9), region(LEFT, "mug", 0.4)], truth)]
    assert count(above(pairs, 0.5)) == Counts(1, 2, 1, found=0, merged=1, false=0)
    assert count(above(pairs, 0.0)) == Counts(1, 2, 2, found=1, merged=1, false=0)
    table = {threshold: counts.found for threshold, counts, _ in sweep(pairs)}
    assert table[0.3] == 1
    assert table[0.5] == 0


def test_predictions_on_what_nobody_knows_do_not_count():
    unknown = np.zeros((64, 96), bool)
    unknown[:, 44:] = True
    seen = without_ignored(pair([region(LEFT, "m"), region(RIGHT, "m")], [region(LEFT, "m")]), unknown)
    assert count([seen]).false == 0
    assert count([seen]).found == 1


def test_eval_is_class_aware_and_leaves_out_what_is_not_known(tmp_path, rise):
    image = np.full((64, 96, 3), 90, np.uint8)
    write_image(tmp_path / "x.png", image)
    instances = [region(LEFT, "box", 0.9), region(RIGHT, "mug", 0.8), region((4, 44, 20, 60), "mug", 0.7)]
    content = {
        "file": str(tmp_path / "x.png"),
        "width": 96,
        "height": 64,
        "model": "mine-1234",
        "instances": [{"category": r.name, "score": r.score, "segmentation": r.rle} for r in instances],
    }
    (tmp_path / "pred").mkdir()
    (tmp_path / "pred/x.instances.json").write_text(json.dumps(content))
    entries = [("mug", LEFT, 0), ("box", RIGHT, 0), ("box", (0, 42, 96, 64), 1)]
    truth = {
        "images": [{"id": 1, "file_name": "x.png", "width": 96, "height": 64}],
        "categories": [{"id": 1, "name": "mug"}, {"id": 2, "name": "box"}],
        "annotations": [
            {
                "id": k,
                "image_id": 1,
                "category_id": 1 if name == "mug" else 2,
                "segmentation": region(box, name).rle,
                "iscrowd": crowd,
            }
            for k, (name, box, crowd) in enumerate(entries)
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    asked = ("eval", "--pred", tmp_path / "pred", "--truth", tmp_path / "truth.json")
    status, out, _ = rise(*asked)
    assert status == 0
    assert "box: AP 0.000" in out
    assert "1 images, 2 labelled objects, 2 predicted objects" in out  # the third lies in the crowd
    page = (tmp_path / "pred/evaluation/report.html").read_text()
    assert "mine-1234" in page
    assert "true \\ predicted" in page
    assert "Threshold" in page
    status, out, _ = rise(
        "eval", "--pred", tmp_path / "pred", "--truth", tmp_path / "truth.json", "--agnostic"
    )
    assert "box: AP" not in out
    assert re.search(r"AP50 +1\.000", out)


def test_255_is_an_item_until_it_is_said_that_nothing_is_known_there(tmp_path, rise):
    write_image(tmp_path / "x.png", np.full((64, 96, 3), 90, np.uint8))
    labels = np.zeros((64, 96), np.uint8)
    labels[4:40, 4:40], labels[4:40, 48:84] = 1, 255
    write_image(tmp_path / "labels/x.png", labels)
    found = [region(LEFT, "object", 0.9), region((50, 6, 80, 38), "object", 0.8)]
    content = {
        "file": str(tmp_path / "x.png"),
        "width": 96,
        "height": 64,
        "instances": [{"category": r.name, "score": r.score, "segmentation": r.rle} for r in found],
    }
    (tmp_path / "pred").mkdir()
    (tmp_path / "pred/x.instances.json").write_text(json.dumps(content))
    asked = ("eval", "--pred", tmp_path / "pred", "--truth", tmp_path / "labels")
    assert "2 labelled objects, 2 predicted" in rise(*asked)[1]
    assert "1 labelled objects, 1 predicted" in rise(*asked, "--ignore", 255)[1]


def test_what_finds_an_object_has_its_colour_in_the_worst_cases():
    truth, prediction = np.zeros((8, 8), np.uint16), np.zeros((8, 8), np.uint16)
    truth[:4], truth[4:] = 1, 2
    prediction[:4], prediction[4:, :6], prediction[4:, 6:] = 3, 1, 2
    same = aligned(prediction, truth)
    assert (same[:4] == 1).all()
    assert (same[4:, :6] == 2).all()
    assert (same[4:, 6:] == 3).all()
