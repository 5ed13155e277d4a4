"""Labels against the two frames: what left is gone, and what stayed speaks against whoever says otherwise."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from grasping import HEIGHT, WIDTH, episode, label_map, picture

from rise_perception.core.frame import Frame
from rise_perception.grasp_learning.capture.episode import Episode, Observation
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.labelling.removal_evidence import (
    MAX_BESIDE,
    MIN_GONE,
    MIN_LABELS,
    Removal,
    difference,
    removals,
    systematic_removal_fault,
)

ITEM = label_map(1) == 1


def grasp(depth: bool = True) -> tuple[Episode, EpisodeLabels]:
    """Item 1 of three leaves; the label is the analysis's own."""
    seen = episode(picture(1, 2, 3, depth=depth), picture(2, 3, seed=1, depth=depth))
    return seen, label_episode(seen)


def evidence(mask: np.ndarray, depth: bool = True) -> Removal:
    seen, labels = grasp(depth)
    (found,) = removals(seen, replace(labels, masks=mask[None]))
    return found


@pytest.mark.parametrize("depth", [True, False])
def test_an_item_that_left_is_gone_and_nothing_beside_it(depth: bool) -> None:
    seen, labels = grasp(depth)
    (found,) = removals(seen, labels)
    assert found.gone > 0.9
    assert found.beside < 0.1
    assert not found.contradicted
    assert systematic_removal_fault([found] * MIN_LABELS) == ""


def test_bare_ground_and_an_item_that_stayed_are_contradicted() -> None:
    bare = np.zeros((HEIGHT, WIDTH), bool)
    bare[5:20, 110:150] = True
    for mask in (bare, label_map(2) == 2):
        assert evidence(mask).contradicted
    fault = systematic_removal_fault([evidence(bare)] * 3 + [evidence(ITEM)] * 5)
    assert fault == "much of what 3 of 8 labels hold has stayed: too large, or elsewhere"
    assert systematic_removal_fault([evidence(bare)] * 2 + [evidence(ITEM)] * 6) == ""
    assert systematic_removal_fault([evidence(bare)] * (MIN_LABELS - 1)) == ""


def test_labels_that_hold_more_than_what_left_are_told_together() -> None:
    """A dilated label, one with its neighbour, and one beside its place: each holds what has stayed."""
    grown = cv2.dilate(ITEM.astype(np.uint8), np.ones((17, 17), np.uint8)) > 0
    merged = ITEM | (label_map(3) == 3)
    shifted = np.roll(ITEM, (12, 12), (0, 1))
    for mask in (grown, merged, shifted):
        found = evidence(mask)
        assert found.gone < MIN_GONE
        fault = systematic_removal_fault([found] * MIN_LABELS)
        assert "6 of 6 labels hold has stayed: too large, or elsewhere" in fault


def test_labels_that_hold_a_part_of_what_left_are_told_together() -> None:
    half = ITEM & (np.arange(WIDTH) < 40)
    found = evidence(half)
    assert found.gone > 0.9
    assert found.beside > MAX_BESIDE
    assert "they hold a part" in systematic_removal_fault([found] * MIN_LABELS)


def test_light_noise_and_a_shifted_camera_are_no_removal() -> None:
    seen, _ = grasp()

    def altered(frame: Frame) -> Frame:
        darker = np.clip(frame.image * 0.8, 0, 255).astype(np.uint8)
        shift = np.array([[1, 0, 3], [0, 1, -2]], np.float64)
        return replace(
            frame,
            image=cv2.warpAffine(darker, shift, (WIDTH, HEIGHT)),
            depth=cv2.warpAffine(frame.depth, shift, (WIDTH, HEIGHT), flags=cv2.INTER_NEAREST),
        )

    moved = replace(seen, after=Observation(altered(seen.after.frame)))
    to_after = np.array([[1, 0, 3], [0, 1, -2]], np.float64)
    differs = difference(moved, to_after) > 1
    assert differs[ITEM].mean() > 0.9
    far = cv2.dilate(ITEM.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    assert differs[far].mean() < 0.05


def test_where_the_robot_is_nothing_is_compared() -> None:
    seen, labels = grasp()
    hidden = replace(seen, after=replace(seen.after, robot=ITEM))
    (found,) = removals(hidden, labels)
    assert found.contradicted
    everywhere = replace(seen, after=replace(seen.after, robot=np.ones_like(ITEM)))
    assert not difference(everywhere, labels.to_after).any()


def test_without_a_label_there_is_no_evidence() -> None:
    seen, labels = grasp()
    assert removals(seen, replace(labels, masks=np.zeros((0, HEIGHT, WIDTH), bool))) == []
