"""Matching: optimal transport against a plain reference, Hungarian against brute force, and invariants."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tiny import box_targets
from torch import Tensor

from rise_perception.training.boxes import iou_and_giou, to_corners
from rise_perception.training.matching import MATCHERS, Targets, match_hungarian, match_optimal_transport

Pairs = set[tuple[int, int]]


def pairs(matched: tuple[Tensor, Tensor]) -> Pairs:
    return set(zip(matched[0].tolist(), matched[1].tolist(), strict=True))


def random_problem(seed: int, queries: int = 40, objects: int = 6) -> tuple[Tensor, Tensor, Targets]:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(objects, 2, generator=generator) * 0.8 + 0.1
    side = torch.rand(objects, 2, generator=generator) * 0.3 + 0.05
    targets = box_targets(
        torch.cat([centre, side], -1).tolist(),
        torch.randint(0, 2, (objects,), generator=generator).tolist(),
    )
    # Some queries close to objects, the rest anywhere.
    near = torch.randint(0, objects, (queries,), generator=generator)
    boxes = targets.boxes[near] + torch.randn(queries, 4, generator=generator) * 0.05
    boxes[::3, :2] = torch.rand(len(boxes[::3]), 2, generator=generator)
    return torch.randn(queries, 2, generator=generator) * 2, boxes.clamp(0.02, 0.98), targets


def plain_class_cost(logit: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)


def optimal_transport_by_loops(logits: Tensor, boxes: Tensor, targets: Targets) -> Pairs:
    """SimOTA as the method describes it, one object after the other."""
    queries, objects = len(boxes), len(targets)
    costs = [[0.0] * objects for _ in range(queries)]
    ious = [[0.0] * objects for _ in range(queries)]
    for q, t in itertools.product(range(queries), range(objects)):
        x, y = boxes[q, :2].tolist()
        cx, cy, w, h = targets.boxes[t].tolist()
        iou, giou = iou_and_giou(to_corners(boxes[q]), to_corners(targets.boxes[t]))
        ious[q][t] = iou.item()
        cost = plain_class_cost(logits[q, targets.classes[t]].item()) - 3 * giou.item()
        in_box = abs(x - cx) < w / 2 and abs(y - cy) < h / 2
        near = abs(x - cx) < 2.5 / 32 and abs(y - cy) < 2.5 / 32
        if not (in_box and near):
            cost += 100
        if not (in_box or near):
            cost += 10_000
        costs[q][t] = cost
    wish: dict[int, set[int]] = {q: set() for q in range(queries)}
    for t in range(objects):
        best = sorted((ious[q][t] for q in range(queries)), reverse=True)[:10]
        wanted = max(1, int(sum(best)))
        for q in sorted(range(queries), key=lambda q, t=t: costs[q][t])[:wanted]:
            wish[q].add(t)
    owner = {q: min(ts, key=lambda t, q=q: costs[q][t]) for q, ts in wish.items() if ts}
    for t in range(objects):
        if t not in owner.values():
            counts = {other: list(owner.values()).count(other) for other in owner.values()}
            free = [q for q in range(queries) if q not in owner or counts[owner[q]] > 1]
            owner[min(free, key=lambda q, t=t: costs[q][t])] = t
    return set(owner.items())


@pytest.mark.parametrize("seed", range(12))
def test_optimal_transport_equals_the_plain_form(seed: int) -> None:
    logits, boxes, targets = random_problem(seed)
    expected = optimal_transport_by_loops(logits, boxes, targets)
    assert pairs(match_optimal_transport(logits, boxes, targets)) == expected
    assert len(expected) > len(targets)  # some objects get several queries


@pytest.mark.parametrize("seed", range(4))
def test_hungarian_is_the_cheapest_assignment(seed: int) -> None:
    logits, boxes, targets = random_problem(seed, queries=6, objects=4)
    cost = torch.zeros(6, 4)
    for q, t in itertools.product(range(6), range(4)):
        _, giou = iou_and_giou(to_corners(boxes[q]), to_corners(targets.boxes[t]))
        distance = (boxes[q] - targets.boxes[t]).abs().sum()
        cost[q, t] = 2 * plain_class_cost(logits[q, targets.classes[t]].item()) + 5 * distance - 2 * giou
    best = min(
        itertools.permutations(range(6), 4),
        key=lambda order: sum(cost[q, t].item() for t, q in enumerate(order)),
    )
    assert pairs(match_hungarian(logits, boxes, targets)) == {(q, t) for t, q in enumerate(best)}


@pytest.mark.parametrize("name", sorted(MATCHERS))
class TestInvariants:
    def test_no_object_matches_nothing(self, name: str) -> None:
        query, target = MATCHERS[name](torch.randn(5, 2), torch.rand(5, 4), box_targets([]))
        assert query.shape == target.shape == (0,)
        assert query.dtype == target.dtype == torch.int64

    def test_one_object_gets_the_query_that_shows_it(self, name: str) -> None:
        logits, boxes = torch.zeros(4, 2), torch.tensor([[0.1, 0.1, 0.1, 0.1]]).repeat(4, 1)
        boxes[2] = torch.tensor([0.6, 0.5, 0.2, 0.3])
        targets = box_targets([[0.6, 0.5, 0.2, 0.3]], [1])
        assert pairs(MATCHERS[name](logits, boxes, targets)) == {(2, 0)}

    def test_the_class_decides_between_equal_boxes(self, name: str) -> None:
        boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2]]).repeat(2, 1)
        logits = torch.tensor([[4.0, -4.0], [-4.0, 4.0]])
        for label, expected in ((0, 0), (1, 1)):
            targets = box_targets([[0.5, 0.5, 0.1, 0.1]], [label])
            assert pairs(MATCHERS[name](logits, boxes, targets)) == {(expected, 0)}

    @pytest.mark.parametrize("seed", range(6))
    def test_a_query_serves_one_object_and_each_object_is_served(self, name: str, seed: int) -> None:
        logits, boxes, targets = random_problem(seed, queries=9, objects=8)
        query, target = MATCHERS[name](logits, boxes, targets)
        assert len(set(query.tolist())) == len(query)
        assert set(target.tolist()) == set(range(8))

    def test_more_objects_than_queries_use_every_query_once(self, name: str) -> None:
        logits, boxes, targets = random_problem(0, queries=3, objects=7)
        query, target = MATCHERS[name](logits, boxes, targets)
        assert sorted(query.tolist()) == [0, 1, 2]
        assert len(set(target.tolist())) == 3

    def test_twins_fraction_the_queries(self, name: str) -> None:
        """Two objects in one place want the same query: the other takes another one."""
        logits, boxes, _ = random_problem(1, queries=6)
        targets = box_targets([[0.5, 0.5, 0.2, 0.2]] * 2)
        _, target = MATCHERS[name](logits, boxes, targets)
        assert set(target.tolist()) == {0, 1}

    def test_the_order_of_objects_does_not_matter(self, name: str) -> None:
        logits, boxes, targets = random_problem(3)
        order = [4, 0, 5, 1, 3, 2]
        shuffled = Targets(*(t[order] for t in (targets.classes, targets.boxes, targets.masks, targets.ids)))
        got = {(q, order[t]) for q, t in pairs(MATCHERS[name](logits, boxes, shuffled))}
        assert got == pairs(MATCHERS[name](logits, boxes, targets))

    def test_degenerate_boxes_are_matched(self, name: str) -> None:
        targets = box_targets([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
        _, target = MATCHERS[name](torch.randn(4, 2), torch.zeros(4, 4), targets)
        assert set(target.tolist()) == {0, 1}


def test_a_query_outside_serves_only_when_no_other_is_left() -> None:
    targets = box_targets([[0.25, 0.25, 0.2, 0.2]])
    logits = torch.tensor([[9.0], [-9.0]])
    boxes = torch.tensor([[0.75, 0.25, 0.9, 0.4], [0.26, 0.26, 0.05, 0.05]])
    assert pairs(match_optimal_transport(logits, boxes, targets)) == {(1, 0)}
    assert pairs(match_optimal_transport(logits[:1], boxes[:1], targets)) == {(0, 0)}


def test_a_large_well_covered_object_gets_several_queries() -> None:
    targets = box_targets([[0.5, 0.5, 0.4, 0.4]])
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4]]).repeat(20, 1)
    query, _ = match_optimal_transport(torch.randn(20, 1), boxes, targets)
    assert len(query) in (9, 10)  # the sum of the ten best IoUs, each 1 up to rounding
