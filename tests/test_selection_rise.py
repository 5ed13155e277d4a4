"""RISE's unlabelled branch with a selector that learns: it begins as the cascade."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.learned_choice import LearnedChoice, best_overlap
from rise_perception.training.matching import Targets
from rise_perception.training.pseudo_labels import (
    LEARNED,
    UNKNOWN,
    SelfSupervisionConfig,
    pseudo_targets,
    select,
)

SIDE, QUERIES, T = 24, 8, 1000


def outputs_of(scores: Tensor, masks: Tensor) -> QueryOutputs:
    """Predictions on B images with given scores (B, Q) and masks (B, Q, h, w) bool."""
    from rise_perception.training.boxes import masks_to_boxes

    boxes = torch.stack([masks_to_boxes(m) for m in masks])
    return QueryOutputs(
        logits=torch.logit(scores, 1e-4)[..., None],
        boxes=boxes,
        embeddings=torch.zeros(*scores.shape, 4),
        masks=lambda batch, query: torch.where(masks[batch, query], 8.0, -8.0),
    )


def world(count: int, seed: int) -> tuple[QueryOutputs, list[Targets]]:
    """Images whose predictions are right where their mask is square, whatever their score says."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.zeros(count, QUERIES, SIDE, SIDE, dtype=torch.bool)
    known = []
    for image in range(count):
        truth = []
        for query in range(QUERIES):
            y, x = torch.randint(0, SIDE - 8, (2,), generator=generator).tolist()
            if query % 2:
                masks[image, query, y : y + 8, x : x + 8] = True
                truth.append(masks[image, query])
            else:
                spread = torch.arange(8)
                masks[image, query, y + spread, x + spread] = True
        stacked = torch.stack(truth)
        empty = torch.zeros(len(stacked), dtype=torch.int64)
        known.append(Targets(empty, torch.zeros(len(stacked), 4), stacked, empty))
    scores = torch.rand(count, QUERIES, generator=generator) * 0.6 + 0.2
    return outputs_of(scores, masks), known


def nothing_pasted(count: int) -> list[Targets]:
    none = torch.zeros(0, dtype=torch.int64)
    return [Targets(none, torch.zeros(0, 4), torch.zeros(0, SIDE, SIDE, dtype=torch.bool), none)] * count


@pytest.mark.parametrize("selector", ["policy", "regressor"])
def test_before_anything_was_measured_it_is_the_cascade_bit_for_bit(selector):
    outputs, _ = world(3, 0)
    config = SelfSupervisionConfig(selector=selector)
    choice = LearnedChoice(config, 0)
    for iteration in (0, 400, 999):
        learned = pseudo_targets(outputs, nothing_pasted(3), config, iteration, T, choice)
        plain = pseudo_targets(outputs, nothing_pasted(3), SelfSupervisionConfig(), iteration, T)
        for a, b in zip(learned, plain, strict=True):
            for x, y in zip(vars(a).values(), vars(b).values(), strict=True):
                assert (x is None and y is None) or torch.equal(x, y)


@pytest.mark.parametrize("selector", LEARNED)
def test_without_a_learned_choice_the_selector_is_the_cascade(selector):
    scores = torch.rand(50)
    config = SelfSupervisionConfig(selector=selector)
    assert torch.equal(select(scores, config, 300, T), select(scores, SelfSupervisionConfig(), 300, T))


@pytest.mark.parametrize("selector", ["policy", "regressor"])
def test_it_learns_what_a_good_mask_looks_like(selector):
    choice = LearnedChoice(SelfSupervisionConfig(selector=selector), 0)
    for step in range(150):
        outputs, known = world(2, step)
        figures = choice.learn(outputs, known, step / 150)
    assert figures["selector/serves"] == 1.0
    assert figures["selector/precision"] > figures["selector/cascade"]
    outputs, known = world(4, 999)
    right = total = 0
    for image in range(4):
        scores = outputs.logits[image].sigmoid().max(-1).values
        kept = choice.select(outputs, image, scores, 500, T)
        right += int(kept[1::2].sum())
        total += int(kept.sum())
    assert total >= 8
    assert right / total > 0.8


def test_random_chooses_some():
    outputs, _ = world(1, 0)
    choice = LearnedChoice(SelfSupervisionConfig(selector="random"), 0)
    scores = outputs.logits[0].sigmoid().max(-1).values
    kept = torch.stack([choice.select(outputs, 0, scores, 0, T) for _ in range(40)])
    assert 0.3 < kept.float().mean() < 0.7
    assert choice.learn(outputs, [], 0.0) == {}


def test_images_without_truth_teach_that_nothing_is_right():
    outputs, _ = world(2, 0)
    choice = LearnedChoice(SelfSupervisionConfig(selector="policy"), 0)
    figures = choice.learn(outputs, nothing_pasted(2), 0.5)
    assert all(value == value for value in figures.values())
    assert best_overlap(
        torch.ones(2, 3, 3, dtype=torch.bool), torch.zeros(0, 3, 3, dtype=torch.bool)
    ).tolist() == [0, 0]


def test_chosen_predictions_are_unknown_identities():
    outputs, _ = world(1, 0)
    config = SelfSupervisionConfig(selector="random")
    (targets,) = pseudo_targets(outputs, nothing_pasted(1), config, 0, T, LearnedChoice(config, 1))
    assert (targets.ids == UNKNOWN).all()
