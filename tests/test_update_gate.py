"""The validation gate: what passes, what does not, and how the held-out interactions are counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from grasping import episode, picture
from squares import SIZE, instances_of, square
from tiny_data import write_data

from rise_perception.core.errors import ConfigError
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.labelling.label_propagation import ItemMask
from rise_perception.grasp_learning.update.gate import (
    GateConfig,
    Measured,
    gate_candidate,
    measure,
    qualities,
)

GATE = GateConfig(max_anchor_drop=0.02, min_gain=0.05, certainty=1.0, min_heldout=4)


def judged(anchors: tuple[float, float], before: list[float], after: list[float]) -> tuple[bool, str]:
    serving = Measured(anchors[0], 0.6, np.array(before))
    result = gate_candidate(serving, Measured(anchors[1], 0.5, np.array(after)), GATE)
    return result.accepted, result.reason


def test_a_candidate_that_gains_and_keeps_the_anchors_passes_with_its_figures() -> None:
    accepted, reason = judged((0.70, 0.69), [0.2, 0.4, 0.3, 0.5], [0.6, 0.7, 0.8, 0.7])
    assert accepted
    assert reason == "anchors AP 0.700 -> 0.690, held-out quality 0.350 -> 0.700 over 4 items, ± 0.065"


def test_what_is_bolder_on_the_anchors_as_well_has_to_win_more() -> None:
    before, after = np.array([0.40, 0.42, 0.38, 0.40]), np.array([0.48, 0.50, 0.46, 0.48])
    serving = Measured(0.7, 0.5, before)
    assert gate_candidate(serving, Measured(0.7, 0.5, after), GATE).accepted
    assert gate_candidate(serving, Measured(0.7, 0.4, after), GATE).accepted  # more timid than it needs to be
    refused = gate_candidate(serving, Measured(0.7, 0.6, after), GATE)
    assert not refused.accepted
    assert "held-out quality 0.400 -> 0.400 over 4 items" in refused.reason
    assert not gate_candidate(Measured(0.0, 0.0, before), Measured(0.0, 0.1, after), GATE).accepted


@pytest.mark.parametrize(
    ("anchors", "before", "after", "why"),
    [
        ((0.70, 0.67), [0.2] * 4, [0.9] * 4, "the anchors drop by more than 0.02"),
        ((0.70, 0.80), [0.5] * 4, [0.54] * 4, "do not improve by 0.05"),
        ((0.70, 0.80), [0.5] * 4, [0.4] * 4, "do not improve"),
        ((0.70, 0.70), [0.5] * 4, [0.5, 0.5, 0.5, 0.9], "may be luck"),
        ((0.70, 0.70), [0.5] * 3, [0.9] * 3, "3 held-out items cannot judge"),
        ((0.70, float("nan")), [0.2] * 4, [0.9] * 4, "the anchors drop"),
        ((0.70, 0.70), [0.2] * 4, [float("nan")] * 4, "do not improve"),
    ],
)
def test_what_does_not_pass(
    anchors: tuple[float, float], before: list[float], after: list[float], why: str
) -> None:
    accepted, reason = judged(anchors, before, after)
    assert not accepted
    assert why in reason


def test_the_limit_itself_passes() -> None:
    gate = GateConfig(max_anchor_drop=0.25, min_gain=0.25, min_heldout=2)
    before, after = np.array([0.25, 0.5]), np.array([0.5, 0.75])
    assert gate_candidate(Measured(0.75, 0.5, before), Measured(0.5, 0.5, after), gate).accepted


@pytest.mark.parametrize(
    "values", [{"min_gain": -0.1}, {"max_anchor_drop": float("nan")}, {"certainty": -1.0}, {"min_heldout": 1}]
)
def test_a_gate_that_lets_everything_through_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"gate.{next(iter(values))}"):
        GateConfig(**values)  # type: ignore[arg-type]


def test_many_updates_together_lose_no_more_than_one_may() -> None:
    before, after = np.array([0.2, 0.4, 0.3, 0.5]), np.array([0.6, 0.7, 0.8, 0.7])
    serving, candidate = Measured(0.695, 0.5, before), Measured(0.678, 0.5, after)
    assert gate_candidate(serving, candidate, GATE).accepted
    assert gate_candidate(serving, candidate, GATE, 0.697).accepted
    refused = gate_candidate(serving, candidate, GATE, 0.70)
    assert not refused.accepted
    assert "below 0.700" in refused.reason


def test_quality_is_that_of_the_item_that_is_best_in_overlap_times_score_and_no_container() -> None:
    label_map = np.zeros(SIZE, np.uint16)
    label_map[square(5, 5)] = 1  # the item, whole
    label_map[square(20, 20, 10)] = 2
    label_map[25:30, 20:30] = 3  # half of the next item goes to another one
    masks = np.stack([square(5, 5), square(20, 20), square(25, 45)])
    seen = instances_of(label_map)  # with scores 0.9, 0.7 and 0.5
    assert qualities(masks, seen) == pytest.approx([0.9, 0.5 * 0.7, 0.0])
    bold = dataclasses.replace(seen, scores=np.array([0.9, 0.2, 0.8], np.float32))
    assert qualities(masks, bold)[1] == pytest.approx(0.5 * 0.8)
    found = dataclasses.replace(seen, class_names=("object", "tote"), classes=np.array([1, 0, 0]))
    assert qualities(masks, found)[0] == 0.0
    assert qualities(masks, instances_of(np.zeros(SIZE, np.uint16))) == [0.0] * 3


def test_models_are_measured_on_the_same_labels(
    tmp_path: Path, tiny_model: Path, tiny_depth_model: Path
) -> None:
    """A model that needs depth scores nothing on an episode without, and is not left out."""
    data = write_data(tmp_path)
    content = data.read_text().replace('"name": "object"', '"name": "Object"')
    data.write_text(content.replace('"categories": [', '"categories": [{"id": 9, "name": "container"}, '))
    flat = episode(picture(1, 2, 3, depth=False), picture(2, 3, seed=1, depth=False))
    deep = episode(picture(1, 2, 3), picture(2, 3, seed=1))
    episode_labels = []
    for number, e in enumerate((flat, deep)):
        (mask,) = label_episode(e).masks
        episode_labels.append((e, [ItemMask.of(f"item {number}", mask)]))
    colour = measure(tiny_model, data, episode_labels)
    depth = measure(tiny_depth_model, data, episode_labels)
    assert len(colour.heldout) == len(depth.heldout) == 2
    # One item in two frames is one witness, with the mean of both.
    (image, (item,)), (other, _) = episode_labels
    twice = measure(tiny_depth_model, data, [(image, [item]), (other, [item])])
    assert twice.heldout.tolist() == pytest.approx([depth.heldout.mean()])
    assert depth.heldout[0] == 0.0
    assert 0 <= colour.anchor_ap <= 1
