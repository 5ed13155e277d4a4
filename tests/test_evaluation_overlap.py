"""The peers' metrics against a slow plain reference and against cases worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rise_perception.core.errors import DataError
from rise_perception.evaluation.overlap import OverlapScores, best_ious, mean_scores, overlap_scores


def slow_boundary(mask):
    height, width = mask.shape
    edge = set()
    for y, x in itertools.product(range(height), range(width)):
        for dy, dx in ((0, 1), (1, 0), (1, 1)):
            if y + dy < height and x + dx < width and mask[y, x] != mask[y + dy, x + dx]:
                edge.add((y, x))
    return edge


def slow_scores(prediction, truth):
    """The definitions, pixel by pixel and over every permutation."""
    predicted = [v for v in set(prediction.ravel().tolist()) if v]
    labelled = [v for v in set(truth.ravel().tolist()) if v]
    if not predicted or not labelled:
        p, r = float(not predicted), float(not labelled)
        return (p, r, p * r, p, r, p * r, p * r)

    def hits(i, j):
        return int(((prediction == i) & (truth == j)).sum())

    def pair_f(i, j):
        p, r = hits(i, j) / (prediction == i).sum(), hits(i, j) / (truth == j).sum()
        return 2 * p * r / (p + r) if p + r else 0.0

    size = max(len(predicted), len(labelled))
    padded_p = predicted + [None] * (size - len(predicted))
    padded_t = labelled + [None] * (size - len(labelled))

    def total(order):
        return sum(
            pair_f(i, j) for i, j in zip(order, padded_t, strict=True) if i is not None and j is not None
        )

    best = max(itertools.permutations(padded_p), key=total)
    pairs = [
        (i, j) for i, j in zip(best, padded_t, strict=True) if i is not None and j is not None and hits(i, j)
    ]
    radius = math.ceil(0.003 * math.hypot(*truth.shape))

    def near(pixels, others):
        return sum(any((y - v) ** 2 + (x - u) ** 2 <= radius * radius for v, u in others) for y, x in pixels)

    edges_p = {i: slow_boundary(prediction == i) for i in predicted}
    edges_t = {j: slow_boundary(truth == j) for j in labelled}

    def harmonic(p, r):
        return 2 * p * r / (p + r) if p + r else 0.0

    op = sum(hits(i, j) for i, j in pairs) / (prediction > 0).sum()
    orr = sum(hits(i, j) for i, j in pairs) / (truth > 0).sum()
    bp = sum(near(edges_p[i], edges_t[j]) for i, j in pairs) / sum(map(len, edges_p.values()))
    br = sum(near(edges_t[j], edges_p[i]) for i, j in pairs) / sum(map(len, edges_t.values()))
    f75 = sum(pair_f(i, j) > 0.75 for i, j in pairs) / len(labelled)
    return (op, orr, harmonic(op, orr), bp, br, harmonic(bp, br), f75)


def as_tuple(scores: OverlapScores):
    return tuple(getattr(scores, name) for name in OverlapScores.__dataclass_fields__)


@pytest.mark.parametrize("seed", range(25))
def test_matches_slow_reference_on_random_maps(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(12, 40, 2)
    truth = np.zeros((height, width), np.uint16)
    for label in range(1, rng.integers(2, 7)):
        y, x = rng.integers(0, height - 4), rng.integers(0, width - 4)
        truth[y : y + rng.integers(3, 14), x : x + rng.integers(3, 14)] = 7 * label
    # Shifted, with a merge, a split and a false item: labels deliberately unlike the truth's.
    prediction = np.roll(truth, rng.integers(-2, 3, 2), axis=(0, 1)) * 3
    prediction[prediction == 42] = 21
    prediction[: height // 2][prediction[: height // 2] == 21] = 1000
    prediction[-4:, :5] = 3
    assert as_tuple(overlap_scores(prediction, truth)) == pytest.approx(slow_scores(prediction, truth))


def test_by_hand_half_covered_item_and_a_false_one():
    truth = np.zeros((10, 10), np.uint16)
    truth[0:4, 0:4] = 1  # 16 pixels
    prediction = np.zeros((10, 10), np.uint16)
    prediction[0:4, 0:2] = 5  # 8 pixels, all right
    prediction[8:10, 0:4] = 6  # 8 pixels, all wrong
    scores = overlap_scores(prediction, truth)
    assert scores.overlap_precision == 0.5
    assert scores.overlap_recall == 0.5
    assert scores.overlap_f == 0.5
    assert scores.f75 == 0  # F of the pair is 2 * 8 / (8 + 16) = 2/3
    assert best_ious(prediction, truth) == {1: 0.5}


def test_f75_is_strictly_above():
    truth = np.zeros((8, 8), np.uint16)
    truth[0, 0:5] = 1  # 5 pixels
    prediction = np.zeros((8, 8), np.uint16)
    prediction[0, 0:3] = 1  # 3 of them: F = 6/8 = 0.75 exactly
    assert overlap_scores(prediction, truth).f75 == 0
    prediction[0, 3] = 1  # 4 of 5: F = 8/9
    assert overlap_scores(prediction, truth).f75 == 1


def test_assignment_is_one_to_one():
    truth = np.zeros((4, 20), np.uint16)
    truth[:, :10] = 1
    truth[:, 10:] = 2
    merged = np.ones((4, 20), np.uint16)
    scores = overlap_scores(merged, truth)
    assert scores.overlap_precision == 0.5  # the merged region may claim only one of the two items
    assert scores.overlap_recall == 0.5
    assert best_ious(merged, truth) == {1: 0.5, 2: 0.5}


EMPTY = np.zeros((6, 7), np.uint16)
FULL = np.ones((6, 7), np.uint16)


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (EMPTY, FULL, (1, 0, 0, 1, 0, 0, 0)),  # no prediction
        (FULL, EMPTY, (0, 1, 0, 0, 1, 0, 0)),  # no label
        (EMPTY, EMPTY, (1, 1, 1, 1, 1, 1, 1)),  # neither
        (FULL, FULL, (1, 1, 1, 1, 1, 1, 1)),  # an item without any boundary
    ],
)
def test_conventions_for_empty_maps(prediction, truth, expected):
    assert as_tuple(overlap_scores(prediction, truth)) == expected


def test_identical_maps_with_other_labels_are_perfect():
    rng = np.random.default_rng(1)
    truth = np.kron(rng.integers(0, 6, (6, 8)), np.ones((9, 9), int)).astype(np.uint16)
    renamed = np.where(truth > 0, 60000 + truth, 0).astype(np.uint16)
    assert as_tuple(overlap_scores(renamed, truth)) == (1,) * 7
    assert set(best_ious(renamed, truth).values()) == {1.0}


def test_no_overlap_anywhere_scores_zero():
    truth, prediction = EMPTY.copy(), EMPTY.copy()
    truth[:2, :2] = 1
    prediction[:2, 2:4] = 1  # touches the item: boundaries are near, yet no pixel is shared
    assert as_tuple(overlap_scores(prediction, truth)) == (0,) * 7
    assert best_ious(prediction, truth) == {1: 0.0}


def test_best_iou_of_unlabelled_image_and_without_prediction():
    assert best_ious(FULL, EMPTY) == {}
    assert best_ious(EMPTY, FULL) == {1: 0.0}


def test_size_mismatch_names_both_shapes():
    with pytest.raises(DataError, match=r"\(6, 7\).*\(7, 6\)"):
        overlap_scores(EMPTY, EMPTY.T)


def test_mean_over_images():
    perfect, missed = overlap_scores(FULL, FULL), overlap_scores(EMPTY, FULL)
    mean = mean_scores([perfect, missed])
    assert mean["overlap_precision"] == 1
    assert mean["overlap_recall"] == 0.5
    assert mean_scores([]) == {}
