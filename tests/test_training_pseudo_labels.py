"""Pseudo-labels against slow, plain references: selection (Eq. 6), masks and boxes (Eq. 7, 8), matching."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny import mask_targets, query_outputs
from torch import Tensor

from rise_perception.core.errors import ConfigError
from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.boxes import to_centre, to_corners
from rise_perception.training.criterion import LossConfig
from rise_perception.training.matching import Targets
from rise_perception.training.pseudo_labels import (
    SELECTORS,
    UNKNOWN,
    SelfSupervisionConfig,
    class_threshold,
    mask_quality,
    mask_threshold,
    pseudo_targets,
    quantile_level,
    resolve_overlaps,
    select,
    unlabelled_factor,
    warped,
    warped_boxes,
    without_pasted,
)
from rise_perception.training.total_loss import unlabelled_loss

PAPER = SelfSupervisionConfig()
T = 12_000
#: The selectors that the paper compares.
PAPERS = [selector for selector in SELECTORS if selector != "soft"]


# ---- Eq. 6 ----


def test_the_class_threshold_rises_every_1000_steps() -> None:
    values = [class_threshold(PAPER, t, T) for t in range(T)]
    assert values[0] == 0.5
    assert values[-1] == pytest.approx(0.85)
    rises = [t for t in range(1, T) if values[t] != values[t - 1]]
    assert rises == list(range(1000, T, 1000))
    assert np.diff([values[t] for t in rises]) == pytest.approx(0.35 / 11)
    short = [class_threshold(PAPER, t, 600) for t in (0, 599)]  # too short to rise
    assert short == [0.5, 0.5]
    assert class_threshold(PAPER, 5000, 2500) == pytest.approx(0.85)  # past the end it stays


def test_the_quantile_loosens_with_time() -> None:
    """p_t = a0 (1 - t / T)."""
    assert quantile_level(PAPER, 0, T) == pytest.approx(0.995)
    assert quantile_level(PAPER, T // 2, T) == pytest.approx(0.995 / 2)
    assert quantile_level(PAPER, T, T) == quantile_level(PAPER, T + 5, T) == 0


def selected(scores: list[float], selector: str, t: int, total: int) -> list[bool]:
    """Eq. 6 in plain words: sets of scores, sorted; the quantile is the nearest of them."""
    start, end = 0.5, 0.85
    threshold = start + (end - start) * (t // 1000) / ((total - 1) // 1000)

    def above_quantile(kept: list[float]) -> list[float]:
        if not kept:
            return []
        ranked = sorted(kept)
        return [s for s in kept if s >= ranked[round(0.995 * (1 - t / total) * (len(ranked) - 1))]]

    def above_threshold(kept: list[float]) -> list[float]:
        return [s for s in kept if s >= threshold]

    stages = {
        "cascade": [above_threshold, above_quantile],
        "threshold": [above_threshold],
        "quantile": [above_quantile],
        "reversed": [above_quantile, above_threshold],
    }[selector]
    kept = scores
    for stage in stages:
        kept = stage(kept)
    return [s in kept for s in scores]


@pytest.mark.parametrize("selector", PAPERS)
def test_selection_is_the_papers_at_every_step(selector: str) -> None:
    config = SelfSupervisionConfig(selector=selector)
    generator = torch.Generator().manual_seed(0)
    counts = []
    for t in (0, 999, 1000, 3456, 6000, 9100, 11_999):
        scores = torch.rand(60, generator=generator)
        got = select(scores, config, t, T)
        assert got.tolist() == selected(scores.tolist(), selector, t, T), t
        counts.append(int(got.sum()))
    assert 0 < counts[0] < 60
    assert counts[-1] > counts[0] or selector == "threshold"


def test_the_selectors_differ() -> None:
    """Among many bad scores, the quantile of all lets pass what that of the survivors does not."""
    scores = torch.cat([torch.full((50,), 0.1), torch.linspace(0.6, 0.9, 10)])
    kept = {s: int(select(scores, SelfSupervisionConfig(selector=s), 6000, T).sum()) for s in PAPERS}
    assert kept == {"cascade": 4, "threshold": 7, "quantile": 60, "reversed": 7}


@pytest.mark.parametrize("selector", SELECTORS)
def test_scores_that_all_fail_select_nothing(selector: str) -> None:
    low = select(torch.full((9,), 0.01), SelfSupervisionConfig(selector=selector), 6000, T)
    assert low.sum() == (9 if selector == "quantile" else 0)  # of equal scores each is at the quantile
    assert select(torch.zeros(0), SelfSupervisionConfig(selector=selector), 0, T).shape == (0,)


def test_the_lowest_trusted_score_is_not_lost_at_every_step() -> None:
    """A trap: a quantile between two scores lies above the lowest of them at any level above zero."""
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    steps = range(0, T, 100)

    def kept(method: str) -> list[int]:
        config = SelfSupervisionConfig(quantile_method=method, class_threshold=(0.5, 0.5))
        return [int(select(scores, config, t, T).sum()) for t in steps]

    assert max(kept("linear")) == 3
    assert kept("nearest")[0] == kept("lower")[0] - 1 == 1  # 0.995 of the way from the first to the fourth
    for method, fraction in (("nearest", 1 / 6), ("lower", 1 / 3)):
        assert kept(method).count(4) / len(steps) == pytest.approx(fraction, abs=0.02)


def test_one_score_passes_its_own_quantile() -> None:
    assert select(torch.tensor([0.1, 0.7, 0.2]), PAPER, 0, T).tolist() == [False, True, False]


# ---- from predictions to targets ----


def outputs_of(scores: list[list[float]], masks: Tensor, boxes: Tensor | None = None) -> QueryOutputs:
    """One image; (Q, C) scores and (Q, h, w) mask probabilities."""
    if boxes is None:
        boxes = torch.full((len(scores), 4), 0.5)
    logits = torch.tensor(scores).clamp(1e-4, 1 - 1e-4).logit()
    return query_outputs(logits[None], boxes[None], masks.clamp(1e-4, 1 - 1e-4).logit()[None])


def regions(boxes: list[tuple[int, int, int, int]], size: tuple[int, int] = (12, 30)) -> Tensor:
    """(N, h, w) bool from (x0, y0, x1, y1)."""
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


NOTHING = mask_targets(torch.zeros(0, 12, 30, dtype=torch.bool))
#: All that is above 0.5 is trusted.
OPEN: dict[str, Any] = {"selector": "threshold", "class_threshold": (0.5, 0.5)}


def targets_of(outputs: QueryOutputs, known: Targets = NOTHING, **config: Any) -> Targets:
    return pseudo_targets(outputs, [known], SelfSupervisionConfig(**(OPEN | config)), 0, T)[0]


def corners(targets: Targets) -> list[list[float]]:
    return (to_corners(targets.boxes) * torch.tensor([30, 12, 30, 12])).round(decimals=3).tolist()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_pixels_above_the_mask_threshold_form_the_mask(threshold: float) -> None:
    """Eq. 7."""
    probability = torch.zeros(1, 12, 30)
    probability[0, 3, 5:9] = torch.tensor([0.2, 0.4, 0.6, 0.8])
    got = targets_of(outputs_of([[0.9]], probability), mask_threshold=(threshold, threshold))
    assert torch.equal(got.masks, probability > threshold)


def test_mask_to_box_bounds_the_mask_and_knows_x_from_y() -> None:
    """Eq. 8, on masks far from symmetric; without it the predicted boxes stay."""
    masks = regions([(2, 1, 25, 4), (26, 5, 28, 12)]).float()
    boxes = torch.tensor([[0.2, 0.3, 0.1, 0.4], [0.6, 0.7, 0.3, 0.2]])
    outputs = outputs_of([[0.9], [0.8]], masks, boxes)
    assert corners(targets_of(outputs)) == [[2, 1, 25, 4], [26, 5, 28, 12]]
    torch.testing.assert_close(targets_of(outputs, mask_to_box=False).boxes, boxes)


def test_targets_are_classes_of_the_trusted_with_unknown_ids() -> None:
    masks = regions([(0, 0, 5, 5), (8, 0, 12, 5), (15, 0, 20, 5), (22, 0, 28, 5)]).float()
    got = targets_of(outputs_of([[0.1, 0.7], [0.4, 0.3], [0.9, 0.2], [0.2, 0.6]], masks))
    assert got.classes.tolist() == [0, 1, 1]  # the best score first
    assert [b[0] for b in corners(got)] == [15, 0, 22]
    assert got.ids.tolist() == [UNKNOWN] * 3
    assert got.classes.dtype == got.ids.dtype == torch.int64


def test_an_empty_mask_is_no_target() -> None:
    assert len(targets_of(outputs_of([[0.9]], torch.zeros(1, 12, 30)))) == 0


# ---- predictions of the same object ----

#: Four predictions of one object, and one of another.
CROWD = regions([(0, 0, 10, 10), (0, 0, 10, 9), (0, 1, 10, 10), (1, 0, 10, 10), (15, 0, 25, 10)])


def test_multi_label_matching_keeps_all_of_the_dominant_class() -> None:
    """Class 0 leads by its best score, class 1 by the sum: 0.9 against 0.7 + 0.6."""
    scores, classes = torch.tensor([0.9, 0.7, 0.6, 0.55]), torch.tensor([0, 1, 1, 0])
    kept = resolve_overlaps(scores[:3], classes[:3], CROWD[:3], multi_label=True)
    assert kept.tolist() == [False, True, True]
    kept = resolve_overlaps(scores, classes, CROWD[:4], multi_label=True)
    assert kept.tolist() == [True, False, False, True]  # 0.9 + 0.55 against 1.3
    assert resolve_overlaps(scores, classes, CROWD[:4], multi_label=False).tolist() == [True] + [False] * 3


def test_other_objects_are_resolved_apart() -> None:
    scores, classes = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.55]), torch.tensor([0, 0, 1, 0, 1])
    assert resolve_overlaps(scores, classes, CROWD, True).tolist() == [True, True, False, True, True]
    assert resolve_overlaps(scores, classes, CROWD, False).tolist() == [True, False, False, False, True]
    none = resolve_overlaps(scores[:0], classes[:0], CROWD[:0], True)
    assert none.shape == (0,)


def test_overlap_is_intersection_over_union_above_a_half() -> None:
    masks = regions([(0, 0, 10, 6), (0, 0, 10, 3), (5, 0, 15, 6), (1, 0, 10, 5)])
    #       IoU with the first: 1, exactly 0.5, 1/3, 0.75
    kept = resolve_overlaps(
        torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4, dtype=torch.int64), masks, False
    )
    assert kept.tolist() == [True, True, True, False]


def resolved(scores: list[float], classes: list[int], masks: np.ndarray, multi_label: bool) -> set[int]:
    """The same by loops over pixel sets."""
    pixels = [set(map(tuple, np.argwhere(m))) for m in masks]
    left, kept = list(range(len(scores))), set()
    while left:
        best = left[0]
        group = [best] + [
            k for k in left[1:] if len(pixels[best] & pixels[k]) > 0.5 * len(pixels[best] | pixels[k])
        ]
        sums = {c: sum(scores[k] for k in group if classes[k] == c) for c in classes}
        dominant = max(sums, key=lambda c: sums[c])
        kept |= {k for k in group if classes[k] == dominant} if multi_label else {best}
        left = [k for k in left if k not in group]
    return kept


@pytest.mark.parametrize("multi_label", [True, False])
def test_random_crowds_as_by_loops(multi_label: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(15):
        boxes = [(x, y, x + w, y + h) for x, y, w, h in rng.integers([0, 0, 6, 4], [8, 4, 20, 8], (14, 4))]
        masks = regions(boxes)
        scores = torch.from_numpy(np.sort(rng.random(14))[::-1].copy()).float()
        classes = torch.from_numpy(rng.integers(0, 3, 14))
        got = resolve_overlaps(scores, classes, masks, multi_label)
        expected = resolved(scores.tolist(), classes.tolist(), masks.numpy(), multi_label)
        assert set(got.nonzero().flatten().tolist()) == expected


# ---- what was pasted ----


def test_known_masks_of_pasted_objects_take_precedence() -> None:
    pasted = mask_targets(regions([(10, 0, 20, 6)]))
    pasted = Targets(torch.tensor([1]), pasted.boxes, pasted.masks, torch.tensor([77]))
    masks = regions([(10, 0, 19, 6), (16, 0, 26, 6), (0, 6, 8, 12)]).float()
    got = targets_of(outputs_of([[0.9, 0.1], [0.8, 0.1], [0.7, 0.1]], masks), pasted)
    assert got.ids.tolist() == [77, UNKNOWN, UNKNOWN]
    assert got.classes.tolist() == [1, 0, 0]
    # The first prediction was the pasted object; from the second its pixels, and so its box, are cut.
    assert corners(got) == [[10, 0, 20, 6], [20, 0, 26, 6], [0, 6, 8, 12]]
    assert torch.equal(got.masks[0], pasted.masks[0])
    assert not (got.masks[1:] & pasted.masks[0]).any()


def test_what_lies_on_pasted_objects() -> None:
    pasted = regions([(0, 0, 10, 10), (10, 0, 20, 10)])
    masks = regions(
        [(0, 0, 10, 10), (4, 0, 14, 10), (5, 0, 15, 10), (5, 0, 29, 10), (22, 0, 30, 5), (0, 0, 0, 0)]
    )
    cut, own = without_pasted(masks, pasted)
    # On one of them by all, by 60 %, by halves on two (nothing is left), by a part, not at all; empty.
    assert own.tolist() == [False, False, False, True, True, False]
    assert cut[3].sum() == 90
    assert torch.equal(cut[4], masks[4])
    free, all_own = without_pasted(masks[:5], pasted[:0])
    assert torch.equal(free, masks[:5])
    assert all_own.all()


def test_no_pseudo_label_is_no_target_no_loss_and_finite_gradients() -> None:
    """A trap: ground truth, or the pasted objects alone, must not fill in."""
    pasted = mask_targets(regions([(10, 0, 20, 6)]))
    low = torch.full((2, 5, 2), -3.0, requires_grad=True)
    masks = torch.randn(2, 5, 12, 30, requires_grad=True)
    outputs = query_outputs(low, torch.rand(2, 5, 4), masks)
    pseudo = pseudo_targets(outputs.of_images(torch.tensor([0])), [pasted], PAPER, 0, T)
    assert [len(t) for t in pseudo] == [0]
    assert pseudo[0].masks.shape == (0, 12, 30)
    loss = unlabelled_loss(outputs, torch.zeros(2, dtype=torch.bool), pseudo, LossConfig())
    assert loss == 0
    loss.backward()
    assert low.grad is not None
    assert (low.grad == 0).all()


def test_images_are_treated_apart() -> None:
    masks = torch.stack([regions([(0, 0, 5, 5), (8, 0, 12, 5)]), regions([(20, 6, 29, 12), (1, 6, 9, 12)])])
    logits = torch.tensor([[[2.0], [-2.0]], [[-2.0], [2.0]]])
    outputs = query_outputs(logits, torch.rand(2, 2, 4), torch.where(masks, 5.0, -5.0))
    pasted = mask_targets(regions([(15, 0, 18, 5)]))
    got = pseudo_targets(outputs, [NOTHING, pasted], SelfSupervisionConfig(**OPEN), 0, T)
    assert [corners(t) for t in got] == [[[0, 0, 5, 5]], [[15, 0, 18, 5], [1, 6, 9, 12]]]
    assert not any(t.masks.requires_grad or t.boxes.requires_grad for t in got)


def test_autocast_counts_pixels_exactly() -> None:
    """In bfloat16 3000 and 3007 pixels are the same number, and 1500 of 3001 is no half."""
    masks = torch.zeros(2, 100, 100, dtype=torch.bool)
    masks[0].view(-1)[:3001] = True
    masks[1].view(-1)[:1502] = True  # IoU 0.5005
    scores, classes = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.int64)
    pasted = torch.zeros(1, 100, 100, dtype=torch.bool)
    pasted.view(1, -1)[:, :1500] = True  # 0.49983 of the first
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            assert resolve_overlaps(scores, classes, masks, False).tolist() == [True, False]
            assert without_pasted(masks, pasted)[1].tolist() == [True, False]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"selector": "best"}, "selector is 'best'"),
        ({"teacher": "nobody"}, "teacher is 'nobody'"),
        ({"class_threshold": (0.5,)}, "class_threshold"),
        ({"class_threshold": (0.5, 1.5)}, "class_threshold"),
        ({"quantile": 2.0}, "quantile is 2.0"),
        ({"mask_threshold": (0.5, -0.1)}, "mask_threshold is"),
        ({"burn_in": 1.5}, "burn_in is 1.5"),
        ({"trust": "box"}, "trust is 'box'"),
        ({"quantile_method": "higher"}, "quantile_method is 'higher'"),
        ({"threshold_every": 0}, "threshold_every is 0"),
    ],
)
def test_bad_settings_are_named(bad: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=f"self_supervision.{words}"):
        SelfSupervisionConfig(**bad)


# ---- switches beyond the paper's own setting ----


def test_the_mask_threshold_rises_with_the_class_threshold() -> None:
    """The paper's appendix C: 0.5 to 0.85."""
    config = SelfSupervisionConfig(mask_threshold=(0.5, 0.85))
    for t in (0, 999, 1000, 5432, T - 1):
        assert mask_threshold(config, t, T) == class_threshold(PAPER, t, T)
        assert mask_threshold(PAPER, t, T) == 0.5
    probability = torch.zeros(1, 12, 30)
    probability[0, 3, 5:9] = torch.tensor([0.4, 0.6, 0.8, 0.9])
    outputs, areas = outputs_of([[0.99]], probability), []
    for t in (0, T - 1):
        config = SelfSupervisionConfig(**(OPEN | {"mask_threshold": (0.5, 0.85)}))
        areas.append(int(pseudo_targets(outputs, [NOTHING], config, t, T)[0].masks.sum()))
    assert areas == [3, 1]


def test_unlabelled_images_burn_in_and_ramp_up() -> None:
    config = SelfSupervisionConfig(burn_in=0.2, ramp=0.4)
    assert [unlabelled_factor(config, t, 10) for t in range(10)] == pytest.approx(
        [0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    )
    sudden = SelfSupervisionConfig(burn_in=0.5)
    assert [unlabelled_factor(sudden, t, 4) for t in range(4)] == [0, 0, 1, 1]
    assert unlabelled_factor(PAPER, 0, T) == 1


def test_mask_quality_is_the_mean_probability_of_its_pixels() -> None:
    probability = torch.zeros(3, 12, 30)
    probability[0, 2, :3] = torch.tensor([0.9, 0.7, 0.4])
    probability[1, 5, :2] = 1.0
    assert mask_quality(probability, 0.5).tolist() == pytest.approx([0.8, 1.0, 0.0])


def test_trust_by_class_and_mask_prefers_the_sharper_mask() -> None:
    """The better class has the blurred mask: 0.9 x 0.55 against 0.8 x 0.95."""
    masks = regions([(0, 0, 10, 10), (15, 0, 25, 10)]).float() * torch.tensor([0.55, 0.95])[:, None, None]
    outputs = outputs_of([[0.9], [0.8]], masks)
    limit = {"class_threshold": (0.6, 0.6)}
    assert [b[0] for b in corners(targets_of(outputs, **limit))] == [0, 15]
    got = targets_of(outputs, **limit, trust="class_times_mask")
    assert corners(got) == [[15, 0, 25, 10]]


def test_soft_targets_count_by_how_much_they_are_trusted() -> None:
    masks = regions([(0, 0, 5, 10), (8, 0, 14, 10), (16, 0, 22, 10)]).float()
    outputs = outputs_of([[0.9], [0.3], [0.05]], masks * 0.8)
    pasted = mask_targets(regions([(24, 0, 29, 6)]))
    soft: dict[str, Any] = {"selector": "soft", "trust": "class_times_mask"}
    got = targets_of(outputs, pasted, **soft)
    assert [b[0] for b in corners(got)] == [24, 0, 8]  # below the noise is no target
    assert got.weights is not None
    assert got.weights.tolist() == pytest.approx([1.0, 0.72, 0.24])
    assert targets_of(outputs).weights is None


# ---- the student's own geometry ----


def moved(
    scale: float = 1.0, turn: float = 0.0, shift: tuple[float, float] = (0, 0), flip: bool = False
) -> Tensor:
    """A map of fractions, by hand: about the centre, then a shift."""
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    linear = torch.tensor([[cos, -sin], [sin, cos]]) @ torch.diag(torch.tensor([-1.0 if flip else 1.0, 1.0]))
    centre = torch.tensor([0.5, 0.5])
    return torch.cat([linear, (centre - linear @ centre + torch.tensor(shift))[:, None]], 1)


def test_pseudo_masks_and_boxes_move_into_the_students_view() -> None:
    """A trap: labels of x1 on the pixels of x3. A shift by three columns and one row, and a mirror image."""
    masks = regions([(2, 1, 12, 4), (20, 5, 28, 12)])
    boxes = to_centre(torch.tensor([[2, 1, 12, 4], [20, 5, 28, 12]]) / torch.tensor([30, 12, 30, 12]))
    outputs = outputs_of([[0.9], [0.8]], masks.float(), boxes)
    for change, expected in (
        (moved(shift=(3 / 30, 1 / 12)), [[5, 2, 15, 5], [23, 6, 30, 12]]),
        (moved(flip=True), [[18, 1, 28, 4], [2, 5, 10, 12]]),
    ):
        for to_box in (True, False):
            config = SelfSupervisionConfig(**OPEN, mask_to_box=to_box)
            (got,) = pseudo_targets(outputs, [NOTHING], config, 0, T, change[None])
            assert corners(got) == expected
            assert torch.equal(got.masks, regions([tuple(box) for box in np.array(expected, int)]))


def test_what_leaves_the_students_view_is_no_target() -> None:
    outputs = outputs_of([[0.9], [0.8]], regions([(0, 0, 8, 12), (16, 0, 22, 12)]).float())
    (got,) = pseudo_targets(
        outputs, [NOTHING], SelfSupervisionConfig(**OPEN), 0, T, moved(shift=(-0.4, 0))[None]
    )
    assert corners(got) == [[4, 0, 10, 12]]


def test_pasted_objects_are_known_in_the_students_view() -> None:
    """Their masks there take precedence; what the teacher says about them moves onto them and is dropped."""
    masks = regions([(2, 0, 8, 12), (14, 0, 20, 12)]).float()
    pasted = mask_targets(regions([(8, 0, 14, 12)]))  # at columns 2 to 8 of x1
    change = moved(shift=(6 / 30, 0))[None]
    (got,) = pseudo_targets(
        outputs_of([[0.9], [0.8]], masks), [pasted], SelfSupervisionConfig(**OPEN), 0, T, change
    )
    assert corners(got) == [[8, 0, 14, 12], [20, 0, 26, 12]]
    assert got.ids.tolist() == [0, UNKNOWN]


def test_a_turned_box_is_the_box_around_its_corners() -> None:
    box = to_centre(torch.tensor([[0.4, 0.45, 0.6, 0.55]]))
    got = to_corners(warped_boxes(box, moved(turn=math.pi / 2)))
    torch.testing.assert_close(got, torch.tensor([[0.45, 0.4, 0.55, 0.6]]))


def test_autocast_does_not_blur_places() -> None:
    """In bfloat16 a place of 0.7 is off by a pixel of 600."""
    mask = regions([(400, 2, 430, 9)], (12, 600)).float()
    change = moved(1.1, shift=(-0.0712, 0.0))
    box = to_centre(torch.tensor([[400 / 600, 2 / 12, 430 / 600, 9 / 12]]))
    exact = warped(mask, change), warped_boxes(box, change)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(warped(mask, change), exact[0])
        assert torch.equal(warped_boxes(box, change), exact[1])
    assert warped(mask[:0], change).shape == (0, 12, 600)
