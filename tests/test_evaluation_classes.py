"""Class-aware figures."""

from __future__ import annotations

import numpy as np
from tiny_data import rectangles

from rise_perception.core.regions import ImagePair, Region, encode_mask
from rise_perception.evaluation.classes import (
    above,
    class_scores,
    confusion,
    count,
    sweep,
    without_ignored,
)
from rise_perception.evaluation.coco import coco_scores

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
    assert count(pairs, 0.5).__dict__ == {"items": 2, "found": 0, "false": 1, "merged": 1}
    assert count(pairs, 0.0).__dict__ == {"items": 2, "found": 1, "false": 1, "merged": 1}
    assert [len(p.predicted) for p in above(pairs, 0.5)] == [1]
    table = {threshold: counts.found for threshold, counts, _ in sweep(pairs)}
    assert table[0.3] == 1
    assert table[0.5] == 0


def test_predictions_on_what_nobody_knows_do_not_count():
    unknown = np.zeros((64, 96), bool)
    unknown[:, 44:] = True
    seen = without_ignored(pair([region(LEFT, "m"), region(RIGHT, "m")], [region(LEFT, "m")]), unknown)
    assert count([seen]).false == 0
    assert count([seen]).found == 1
