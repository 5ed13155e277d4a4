"""Outcomes of grasps become a head that foretells them, and empty ones refute masks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from grasping import episode, label_map, picture

from rise_perception.grasp_learning.capture.episode import Episode, Outcome
from rise_perception.grasp_learning.labelling.episode_labels import Verdict
from rise_perception.grasp_learning.labelling.failures import refuted_mask
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.update.outcomes import (
    GraspOutcome,
    fit_pick_success,
    information,
    outcome_of,
)
from rise_perception.inference.pick_success import FEATURES

BARE = (slice(5, 20), slice(100, 150))


def empty_grasp(target: int) -> Episode:
    """A grasp that took nothing; 9 is a mask on bare ground."""
    predicted = label_map(1, 2, 3)
    predicted[BARE] = 9
    scene = picture(1, 2, 3), picture(1, 2, 3, seed=1)
    return episode(*scene, predicted=predicted, outcome=Outcome.EMPTY, target=target)


def test_an_empty_grasp_refutes_a_mask_where_nothing_stands() -> None:
    grasp = empty_grasp(9)
    labels = label_episode(grasp)
    assert labels.verdict == Verdict.EMPTY
    mask = refuted_mask(grasp, labels)
    assert mask is not None
    assert mask[BARE].all()
    assert mask.sum() == 15 * 50


def test_an_empty_grasp_at_an_item_refutes_nothing() -> None:
    """The cup slipped off; the item is there still."""
    grasp = empty_grasp(1)
    assert refuted_mask(grasp, label_episode(grasp)) is None
    flat = empty_grasp(9)
    before = replace(flat.before, frame=replace(flat.before.frame, depth=None))
    assert refuted_mask(replace(flat, before=before), label_episode(flat)) is None  # nobody knows
    taken = episode(picture(1, 2, 3), picture(2, 3, seed=1))
    assert refuted_mask(taken, label_episode(taken)) is None


def test_every_outcome_at_a_mask_counts_but_what_the_camera_contradicts() -> None:
    taken = episode(picture(1, 2, 3), picture(2, 3, seed=1))
    assert outcome_of(taken, label_episode(taken), "tote").success
    failed = outcome_of(empty_grasp(9), label_episode(empty_grasp(9)), "tote")
    assert not failed.success
    assert failed.features[FEATURES.index("relief")] < 2
    lie = episode(picture(1, 2, 3), picture(1, 2, 3, seed=1))
    assert outcome_of(lie, label_episode(lie), "tote") is None
    nowhere = episode(picture(1, 2, 3), picture(2, 3, seed=1), target=-1)
    assert outcome_of(nowhere, label_episode(nowhere), "tote") is None


def made(count: int, seed: int, tells: bool = True) -> list[GraspOutcome]:
    """Outcomes of which the height of the mask decides, in four totes."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, len(FEATURES) + 8))
    chance = 1 / (1 + np.exp(-(1.0 + 3.0 * features[:, FEATURES.index("relief")] * tells)))
    success = rng.random(count) < chance
    return [
        GraspOutcome(f"tote {k % 4}", row, bool(good))
        for k, (row, good) in enumerate(zip(features, success, strict=True))
    ]


def test_a_head_of_twenty_grasps_already_ranks_others_and_is_calibrated_with_more() -> None:
    others = made(4000, 1)
    features = np.stack([o.features for o in others])
    truth = np.array([o.success for o in others])
    early = fit_pick_success(made(20, 0))(features)
    assert early[truth].mean() > early[~truth].mean() + 0.1
    late = fit_pick_success(made(400, 0))(features)
    for low in np.arange(0, 1, 0.2):
        inside = (late >= low) & (late < low + 0.2)
        assert truth[inside].mean() == pytest.approx(late[inside].mean(), abs=0.1)


def test_a_head_is_worth_something_only_where_it_foretells_other_totes() -> None:
    assert information(made(100, 0)) > 0.05
    assert information(made(100, 0, tells=False)) < 0.0


def test_too_few_outcomes_or_all_alike_give_no_head() -> None:
    assert fit_pick_success([]) is None
    assert fit_pick_success(made(7, 0)) is None
    assert fit_pick_success([replace(o, success=True) for o in made(50, 0)]) is None
    assert np.isnan(information(made(7, 0)))
