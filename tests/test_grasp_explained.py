"""Without depth, a change that fits no prediction: which one is gone all the same, or nobody can say."""

from __future__ import annotations

import numpy as np
import pytest
from grasping import HEIGHT, WIDTH, label_map, picture

from benchmarks.grasp_trials import from_label_map
from rise_perception.grasp_learning.capture.episode import Grasp, Observation, Outcome
from rise_perception.grasp_learning.labelling.change import Change
from rise_perception.grasp_learning.labelling.episode_labels import Cause, EpisodeLabels, Verdict
from rise_perception.grasp_learning.labelling.label_episode import label_change
from rise_perception.grasp_learning.labelling.registration import Exposure, Motion

ITEM, NEIGHBOUR = label_map(1) == 1, label_map(2) == 2  # x 20 to 60, and 80 to 120
#: What the grasp uncovered looks like a part of the item, and a shadow went with it: 65 % of the mask.
PART = ITEM & (np.arange(WIDTH) < 46)
SHADOW = np.zeros((HEIGHT, WIDTH), bool)
SHADOW[30:66, 2:20] = True
FAINT, CLEAR = 1.3, 6.0


def labels(
    evidence: np.ndarray,
    added: bool = False,
    measured: bool = False,
    outcome: Outcome = Outcome.SUCCESS,
    target: int = -1,
    predicted: np.ndarray | None = None,
) -> EpisodeLabels:
    """The labels where ``evidence`` (H, W) is what changed: above 1 it is a change."""
    changed, nothing = evidence > 1, np.zeros((HEIGHT, WIDTH), bool)
    change = Change(
        removed=nothing if added else changed,
        added=changed if added else nothing,
        farther=changed & (np.arange(WIDTH) < 30),
        measured=~nothing if measured else nothing,
        same=nothing,
        shadow=nothing,
        compared=~nothing,
        evidence=evidence,
        fraction=float(changed.mean()),
        motion=Motion(np.eye(2, 3), 0.0, 1.0),
        exposure=Exposure(np.ones(3), np.zeros(3), np.ones(256, np.float32), 0.0),
    )
    found = from_label_map(label_map(1, 2, 3) if predicted is None else predicted)
    before = Observation(picture(1, 2, 3, depth=measured), found)
    return label_change(change, before, Grasp("grasp", target, outcome, 2 * 10**9))


def seen(**parts: tuple[np.ndarray, float]) -> np.ndarray:
    """Evidence of regions."""
    evidence = np.zeros((HEIGHT, WIDTH), np.float32)
    for region, strength in parts.values():
        evidence[region] = strength
    return evidence


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.UNKNOWN])
def test_the_one_prediction_that_is_gone_is_the_label(added: bool, outcome: Outcome) -> None:
    """Also where what came to light was taken for what appeared."""
    found = labels(seen(item=(PART, CLEAR), shadow=(SHADOW, FAINT)), added, outcome=outcome)
    assert (found.verdict, found.cause) == (Verdict.CONFIRMED, Cause.AGREES)
    assert found.reason == "one prediction is gone, and no other"
    assert np.array_equal(found.masks[0], ITEM)


def test_nobody_can_say_where_more_than_one_is_gone_or_much_else_changed_clearly() -> None:
    item = (PART, CLEAR)
    for more in ((NEIGHBOUR, CLEAR), (SHADOW, CLEAR)):
        found = labels(seen(item=item, more=more), added=True)
        assert (found.verdict, found.cause) == (Verdict.REJECTED, Cause.AMBIGUOUS)
    assert not labels(seen(item=item), added=True, target=2).teaches  # another one was aimed at
    half = ITEM & (np.arange(WIDTH) < 42)
    assert not labels(seen(item=(half, CLEAR)), added=True).teaches


def test_where_depth_has_told_colour_does_not_overrule_it() -> None:
    assert not labels(seen(item=(PART, CLEAR)), added=True, measured=True).teaches


def test_an_item_that_went_from_here_to_there_has_moved() -> None:
    there = np.zeros((HEIGHT, WIDTH), bool)
    there[5:25, 120:150] = True
    found = labels(seen(item=(PART, CLEAR), there=(there, CLEAR)), added=True, outcome=Outcome.UNKNOWN)
    assert found.verdict == Verdict.MOVED


def test_a_neighbour_that_was_nudged_is_no_part_of_the_item() -> None:
    """Both predictions changed, the second one hardly: not one item that was predicted as two."""
    touching = np.zeros((HEIGHT, WIDTH), np.uint16)
    touching[25:65, 20:60], touching[25:65, 60:90] = 1, 2
    first, second = touching == 1, touching == 2
    nudged = labels(seen(item=(first, CLEAR), nudged=(second, FAINT)), predicted=touching)
    assert nudged.cause != Cause.OVER_SEGMENTED
    both = labels(seen(item=(first, CLEAR), other=(second, CLEAR)), predicted=touching)
    assert (both.verdict, both.cause) == (Verdict.CORRECTED, Cause.OVER_SEGMENTED)


def test_two_neighbours_that_left_together_are_no_item_that_was_predicted_as_two() -> None:
    """One reported, two gone, side by side: together they are less convex than each."""
    corner = np.zeros((HEIGHT, WIDTH), np.uint16)
    corner[25:65, 20:40], corner[50:65, 40:90] = 1, 2
    first, second = corner == 1, corner == 2
    found = labels(seen(item=(first, CLEAR), other=(second, CLEAR)), predicted=corner)
    assert (found.verdict, found.cause) == (Verdict.REJECTED, Cause.AMBIGUOUS)
    assert not found.teaches
