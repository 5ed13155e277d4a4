"""Persistent ids (Eq. 3): kept over frames, never used twice, forgotten when the clock jumps back."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from rise_perception.core.instances import Instances
from rise_perception.inference.tracker import MEMORY, Tracker, bi_softmax

SECOND = 1_000_000_000


def sight(*items: int, noise: float = 0.0, seed: int = 0) -> Instances:
    """A frame that shows these items; each has its own embedding."""
    rng = np.random.default_rng(seed)
    count = len(items)
    embeddings = np.zeros((count, 32), np.float32)
    for row, item in enumerate(items):
        embeddings[row, item] = 8.0
    labels = np.arange(1, count + 1)
    return Instances(
        label_map=np.zeros((4, 4), np.uint16),
        labels=labels.astype(np.uint16),
        scores=np.linspace(0.9, 0.5, count).astype(np.float32),
        classes=np.zeros(count, np.int64),
        boxes=np.zeros((count, 4), np.float32),
        embeddings=(embeddings + rng.normal(0, noise, embeddings.shape)).astype(np.float32),
        ids=labels.astype(np.int64),
    )


def test_bi_softmax_equals_plain_loops() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (4, 6)).astype(np.float32), rng.normal(0, 1, (5, 6)).astype(np.float32)
    got = bi_softmax(a, b)
    for i in range(4):
        for j in range(5):
            e = math.exp(float(a[i] @ b[j]))
            forward = e / sum(math.exp(float(a[i] @ b[k])) for k in range(5))
            backward = e / sum(math.exp(float(a[k] @ b[j])) for k in range(4))
            assert got[i, j] == pytest.approx((forward + backward) / 2, rel=1e-5)
    np.testing.assert_allclose(bi_softmax(b, a), got.T)
    assert np.isfinite(bi_softmax(a * 1e4, b * 1e4)).all()


def test_ids_persist_in_any_order_and_with_noise() -> None:
    tracker = Tracker()
    first = tracker.update(sight(3, 5, 9), 0).ids.tolist()
    assert sorted(first) == [1, 2, 3]
    for frame, order in enumerate(([9, 3, 5], [5, 9, 3], [3, 5, 9])):
        ids = tracker.update(sight(*order, noise=0.4, seed=frame), (frame + 1) * SECOND).ids.tolist()
        assert dict(zip(order, ids, strict=True)) == dict(zip([3, 5, 9], first, strict=True))


def test_newcomers_get_new_ids_and_leavers_keep_theirs_for_a_while() -> None:
    tracker = Tracker()
    a, b, c = tracker.update(sight(1, 2, 3), 0).ids
    assert tracker.update(sight(1, 3), 1).ids.tolist() == [a, c]
    with_new = tracker.update(sight(1, 4, 3, 2), 2).ids.tolist()
    assert [with_new[0], with_new[2], with_new[3]] == [a, c, b]
    assert with_new[1] not in (a, b, c)
    for frame in range(MEMORY + 2):
        tracker.update(sight(1, 3), 3 + frame)
    assert tracker.update(sight(1, 2, 3), 1000).ids.tolist()[1] not in (a, b, c, with_new[1])


def test_ids_are_unique_within_a_frame() -> None:
    """Two alike instances cannot both take the track that they resemble."""
    tracker = Tracker()
    tracker.update(sight(1, 2), 0)
    ids = tracker.update(sight(1, 1, 2), 1).ids.tolist()
    assert len(set(ids)) == 3


def test_the_clock_jumping_back_resets_but_never_reuses_ids() -> None:
    tracker = Tracker()
    before = tracker.update(sight(1, 2), 10 * SECOND).ids.tolist()
    assert tracker.update(sight(1, 2), 10 * SECOND).ids.tolist() == before  # the same stamp is no jump
    after = tracker.update(sight(1, 2), 9 * SECOND).ids.tolist()
    assert not set(before) & set(after)
    assert tracker.update(sight(2, 1), 9 * SECOND + 1).ids.tolist() == after[::-1]
    tracker.reset()
    assert not set(tracker.update(sight(1), 0).ids.tolist()) & set(before + after)


def test_empty_frames_are_no_gap() -> None:
    tracker = Tracker()
    assert tracker.update(sight(), 0).ids.shape == (0,)
    first = tracker.update(sight(1, 2), 1).ids.tolist()
    assert len(tracker.update(sight(), 2)) == 0
    assert tracker.update(sight(2, 1), 3).ids.tolist() == first[::-1]


def test_embeddings_follow_slow_changes() -> None:
    tracker = Tracker()
    start, end = sight(1, 2), sight(11, 12)
    ids = tracker.update(start, 0).ids.tolist()
    for step in range(1, 21):
        fraction = step / 20
        mixed = (1 - fraction) * start.embeddings + fraction * end.embeddings
        assert tracker.update(dataclasses.replace(start, embeddings=mixed), step).ids.tolist() == ids


def test_the_given_instances_are_left_as_they_are() -> None:
    tracker = Tracker()
    tracker.update(sight(5, 6, 7), 0)
    given = sight(7, 5)
    result = tracker.update(given, 1)
    assert given.ids.tolist() == [1, 2]
    assert result.ids.tolist() == [3, 1]
    assert result.label_map is given.label_map


def test_one_after_one_is_the_same_by_definition() -> None:
    """Eq. 3 compares candidates with each other; with one on either side there is nothing to compare."""
    tracker = Tracker()
    assert tracker.update(sight(1), 0).ids.tolist() == tracker.update(sight(2), 1).ids.tolist()
