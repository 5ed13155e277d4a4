"""The validation gate: what passes, what does not, and how the held-out interactions are counted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from grasping import episode, picture
from squares import SIZE, instances_of, square
from tiny_data import write_data

from rise_perception.core.errors import ConfigError
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.labelling.label_propagation import ItemMask
from rise_perception.grasp_learning.update.gate import (
    AnchorFigures,
    GateConfig,
    Measured,
    chance_of_no_gain,
    gate_candidate,
    measure,
    measure_anchors,
    qualities,
)
from rise_perception.network.checkpoint import load_model, save_model

GATE = GateConfig(max_anchor_drop=0.02, min_gain=0.05, min_heldout=4)


def measured(ap: float, heldout: list[float], false_masks: float = 1.0, scenes: str = "aabbccdd") -> Measured:
    """Figures of a model whose witnesses come from scenes of one letter each."""
    return Measured(
        AnchorFigures(ap, false_masks, 1.0, 0.0), np.array(heldout), tuple(scenes[: len(heldout)])
    )


def judged(
    anchors: tuple[float, float], before: list[float], after: list[float], looks: int = 1
) -> tuple[bool, str]:
    serving = measured(anchors[0], before)
    result = gate_candidate(serving, measured(anchors[1], after), serving.anchors, GATE, looks)
    return result.accepted, result.reason


def test_a_candidate_that_gains_and_keeps_the_anchors_passes_with_its_figures() -> None:
    accepted, reason = judged((0.70, 0.69), [0.2, 0.4, 0.3, 0.5], [0.6, 0.7, 0.8, 0.7])
    assert accepted
    assert reason == (
        "anchors AP 0.700 -> 0.690, false masks per anchor 1.00 -> 1.00, held-out quality 0.350 -> 0.700 "
        "over 4 items of 2 scenes, chance of no gain 0.0002"
    )


def test_a_candidate_with_more_false_masks_on_the_anchors_is_refused() -> None:
    serving = measured(0.7, [0.2] * 4, 2.0)
    assert gate_candidate(serving, measured(0.7, [0.9] * 4, 2.2), serving.anchors, GATE).accepted
    refused = gate_candidate(serving, measured(0.7, [0.9] * 4, 2.4), serving.anchors, GATE)
    assert "more than 2.30 false masks on an anchor" in refused.reason
    assert refused.forgets


def test_hand_checked_frames_must_not_drop_below_the_better_of_first_and_serving_model() -> None:
    serving, candidate = measured(0.7, [0.2] * 4), measured(0.7, [0.9] * 4)
    passed = gate_candidate(serving, candidate, serving.anchors, GATE, checked=(0.60, 0.595))
    assert passed.accepted
    assert passed.reason.endswith("AP on hand-checked frames 0.600 -> 0.595")
    for fell in (0.58, float("nan")):
        refused = gate_candidate(serving, candidate, serving.anchors, GATE, checked=(0.60, fell))
        assert not refused.accepted
        assert refused.forgets  # on the way back to the first model it may pass
        assert "the hand-checked frames drop by more than 0.01" in refused.reason


def test_what_may_be_luck_is_told_by_scenes_and_not_by_items() -> None:
    """Sixteen items that won are one witness when they lay in one tote, and that tote alone won."""
    gain = np.array([0.3] * 16 + [-0.02] * 8)
    apart = chance_of_no_gain(gain, [str(k) for k in range(24)])
    together = chance_of_no_gain(gain, ["a"] * 16 + ["b"] * 4 + ["c"] * 4)
    assert apart < 0.001
    assert together > 0.02
    assert chance_of_no_gain(np.array([np.nan] * 4), "aabb") == 1.0


def test_every_candidate_since_a_promotion_needs_more_evidence() -> None:
    spent = [GATE.chance(k) for k in range(1, 200)]
    assert sum(spent) < GATE.significance
    assert spent == sorted(spent, reverse=True)
    before, after = [0.5] * 8, [0.8, 0.7, 0.6, 0.55, 0.7, 0.6, 0.40, 0.45]
    assert judged((0.7, 0.7), before, after)[0]
    accepted, reason = judged((0.7, 0.7), before, after, looks=9)
    assert not accepted
    assert "may be luck (allowed 0.0008)" in reason


@pytest.mark.parametrize(
    ("anchors", "before", "after", "why"),
    [
        ((0.70, 0.67), [0.2] * 4, [0.9] * 4, "the anchors drop by more than 0.02"),
        ((0.70, 0.80), [0.5] * 4, [0.54] * 4, "do not improve by 0.05"),
        ((0.70, 0.80), [0.5] * 4, [0.4] * 4, "do not improve"),
        ((0.70, 0.70), [0.5] * 4, [0.5, 0.5, 0.5, 0.9], "may be luck"),
        ((0.70, 0.70), [0.5] * 3, [0.9] * 3, "3 held-out items of 2 scenes cannot judge"),
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
    gate = GateConfig(max_anchor_drop=0.25, min_gain=0.25, min_heldout=2, min_scenes=1)
    serving = measured(0.75, [0.25, 0.5])
    assert gate_candidate(serving, measured(0.5, [0.5, 0.75]), serving.anchors, gate).accepted


@pytest.mark.parametrize(
    ("name", "value"),
    [("min_gain", -0.1), ("max_anchor_drop", float("nan")), ("significance", 0.0), ("min_heldout", 1)],
)
def test_a_gate_that_lets_everything_through_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"gate.{name}"):
        GateConfig(**{name: value})  # type: ignore[arg-type]


def test_many_updates_together_lose_no_more_than_one_may_and_can_go_on() -> None:
    """The anchors are judged against the first model: what was lost before is no budget that is used up."""
    serving, candidate = measured(0.695, [0.2, 0.4, 0.3, 0.5]), measured(0.683, [0.6, 0.7, 0.8, 0.7])
    base = AnchorFigures(0.70, 1.0, 1.0, 0.0)
    assert gate_candidate(serving, candidate, base, GATE).accepted
    refused = gate_candidate(serving, candidate, AnchorFigures(0.71, 1.0, 1.0, 0.0), GATE)
    assert not refused.accepted
    assert "below 0.710" in refused.reason


def test_quality_is_that_of_the_item_that_is_best_in_overlap_times_score_and_no_container() -> None:
    label_map = np.zeros(SIZE, np.uint16)
    label_map[square(5, 5)] = 1  # the item, whole
    label_map[square(20, 20, 10)] = 2
    label_map[25:30, 20:30] = 3  # half of the next item goes to another one
    masks = np.stack([square(5, 5), square(20, 20), square(25, 45)])
    seen = instances_of(label_map)  # with scores 0.9, 0.7 and 0.5
    assert qualities(masks, seen, seen.scores) == pytest.approx([0.9, 0.5 * 0.7, 0.0])
    bold = dataclasses.replace(seen, scores=np.array([0.9, 0.2, 0.8], np.float32))
    assert qualities(masks, bold, bold.scores)[1] == pytest.approx(0.5 * 0.8)
    found = dataclasses.replace(seen, class_names=("object", "tote"), classes=np.array([1, 0, 0]))
    assert qualities(masks, found, found.scores)[0] == 0.0
    assert qualities(masks, instances_of(np.zeros(SIZE, np.uint16)), np.zeros(0)) == [0.0] * 3


def with_containers(folder: Path) -> Path:
    data = write_data(folder)
    content = data.read_text().replace('"name": "object"', '"name": "Object"')
    data.write_text(content.replace('"categories": [', '"categories": [{"id": 9, "name": "container"}, '))
    return data


def test_models_are_measured_on_the_same_labels(
    tmp_path: Path, tiny_model: Path, tiny_depth_model: Path
) -> None:
    """A model that needs depth scores nothing on an episode without, and is not left out."""
    data = with_containers(tmp_path)
    flat = episode(picture(1, 2, 3, depth=False), picture(2, 3, seed=1, depth=False))
    deep = episode(picture(1, 2, 3), picture(2, 3, seed=1))
    known = []
    for number, e in enumerate((flat, deep)):
        (mask,) = label_episode(e).masks
        known.append((e, [ItemMask.of(f"item {number}", mask)], {}, "tote"))
    anchors = measure_anchors(tiny_depth_model, data)
    colour = measure(tiny_model, anchors, known)
    depth = measure(tiny_depth_model, anchors, known)
    assert len(colour.heldout) == len(depth.heldout) == 2
    # One item in two frames is one witness, with the mean of both.
    (image, (item,), _, scene), (other, *_) = known
    twice = measure(tiny_depth_model, anchors, [(image, [item], {}, scene), (other, [item], {}, scene)])
    assert twice.heldout.tolist() == pytest.approx([depth.heldout.mean()])
    assert depth.heldout[0] == 0.0
    assert 0 <= depth.anchor_ap <= 1
    # Who finds nothing on a refuted mask is right; no witness is both.
    bare = np.zeros(image.before.frame.image.shape[:2], bool)
    bare[:3, :3] = True
    refuted = measure(tiny_depth_model, anchors, [(image, [], {"wall": bare}, scene)] * 2)
    assert refuted.heldout.tolist() == [1.0]  # one wall in two frames


def test_bolder_scores_win_nothing(tmp_path: Path, tiny_model: Path) -> None:
    """All class logits half a unit higher: the same model, and the gate's figures say so."""
    data = with_containers(tmp_path)
    network, card = load_model(tiny_model)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "class" in name and name.endswith("bias"):
                parameter.add_(0.5)
    save_model(tmp_path / "bold", network, card)
    seen = episode(picture(1, 2, 3), picture(2, 3, seed=1))
    (mask,) = label_episode(seen).masks
    known = [(seen, [ItemMask.of("item", mask)], {}, "tote")]
    heldout = []
    for folder in (tiny_model, tmp_path / "bold"):
        heldout.append(measure(folder, measure_anchors(folder, data), known).heldout_mean)
    assert heldout[1] == pytest.approx(heldout[0], abs=0.003)
