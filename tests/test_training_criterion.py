"""Losses: each term against a plain or library reference, and what the whole must keep (Eq. 1, 3, 4, 8)."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from tiny import box_targets, mask_targets, query_outputs, shake, tiny_config
from torch import Tensor

from rise_perception.core.errors import ConfigError
from rise_perception.network.outputs import QueryOutputs
from rise_perception.network.rise import RiseNetwork
from rise_perception.training.association import association_loss
from rise_perception.training.boxes import iou_and_giou, masks_to_boxes, to_centre, to_corners
from rise_perception.training.criterion import (
    PARTS,
    LossConfig,
    Matches,
    dice_loss,
    focal_loss,
    mask_iou,
    match,
    quality_focal_loss,
    supervised_loss,
)
from rise_perception.training.matching import Targets, match_hungarian


def test_focal_loss_is_torchvisions() -> None:
    logits = torch.randn(7, 3, requires_grad=True)
    targets = torch.randint(0, 2, (7, 3)).float()
    expected = torchvision.ops.sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2)
    torch.testing.assert_close(focal_loss(logits, targets), expected)
    assert focal_loss(torch.tensor([60.0, -60.0]), torch.tensor([0.0, 1.0])).isfinite().all()


def test_quality_focal_loss_is_least_where_the_score_is_the_quality() -> None:
    quality = torch.tensor([0.0, 0.3, 0.8, 1.0])
    logits = torch.linspace(-9, 9, 1801)[:, None]
    losses = quality_focal_loss(logits.expand(-1, 4), quality.expand(1801, -1))
    best = logits[losses.argmin(0), 0].sigmoid()
    torch.testing.assert_close(best, quality, atol=0.01, rtol=0)
    # By hand: score 0.5, quality 1: 0.5^2 * ln 2.
    assert quality_focal_loss(torch.zeros(1), torch.ones(1)).item() == pytest.approx(0.25 * math.log(2))


def test_mask_iou_by_hand() -> None:
    logits = torch.tensor([[[2.0, 2.0], [-2.0, -2.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    targets = torch.tensor([[[True, False], [True, False]], [[False, False], [False, False]]])
    torch.testing.assert_close(mask_iou(logits, targets), torch.tensor([1 / 3, 0.0]))


def test_with_quality_a_score_learns_how_well_its_mask_fits() -> None:
    with pytest.raises(ConfigError, match="classification"):
        LossConfig(classification="best")
    torch.manual_seed(0)
    none, whole = torch.zeros(1, dtype=torch.int64), torch.zeros(1, 8, 8, dtype=torch.bool)
    whole[0, 2:6, 2:6] = True
    targets = [Targets(none, torch.tensor([[0.5, 0.5, 0.5, 0.5]]), whole, none)]
    half = torch.full((8, 8), -5.0)
    half[2:6, 2:4] = 5.0  # half of the object: an IoU of 0.5
    logits = torch.zeros(1, 1, 1, requires_grad=True)
    boxes = torch.tensor([[[0.5, 0.5, 0.5, 0.5]]])
    outputs = QueryOutputs(logits, boxes, None, lambda batch, query: half.expand(len(batch), 8, 8))
    supervised_loss(outputs, targets, LossConfig(classification="quality"))["classes"].backward()
    assert logits.grad is not None
    assert logits.grad.abs().item() < 1e-6, "a score of 0.5 is right for an IoU of 0.5"
    logits.grad = None
    supervised_loss(outputs, targets, LossConfig())["classes"].backward()
    assert logits.grad.item() < -0.01, "with focal loss it rises whatever the mask"


def test_dice_loss_by_hand() -> None:
    logits = torch.tensor([[[100.0, 100.0], [-100.0, -100.0]], [[0.0, 0.0], [0.0, 0.0]]])
    targets = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    expected = torch.tensor([1 - (2 * 1 + 1) / (2 + 2 + 1), 1 - (0 + 1) / (2 + 0 + 1)])
    torch.testing.assert_close(dice_loss(logits, targets), expected)


def test_iou_and_giou_are_torchvisions() -> None:
    a, b = torch.rand(6, 4), torch.rand(5, 4)
    a[:, 2:] += a[:, :2]
    b[:, 2:] += b[:, :2]
    iou, giou = iou_and_giou(a[:, None], b[None])
    torch.testing.assert_close(iou, torchvision.ops.box_iou(a, b), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(giou, torchvision.ops.generalized_box_iou(a, b), atol=1e-5, rtol=1e-5)
    zero = torch.zeros(1, 4)
    assert all(x.isfinite().all() for x in iou_and_giou(zero, zero))


def test_box_round_trip() -> None:
    boxes = torch.rand(9, 4)
    torch.testing.assert_close(to_centre(to_corners(boxes)), boxes)


def test_masks_to_boxes_knows_rows_from_columns() -> None:
    """Mask-to-Box (Eq. 8) on a mask far from symmetric: rows are y, columns x."""
    masks = torch.zeros(3, 10, 40, dtype=torch.bool)
    masks[0, 2:5, 30:38] = True
    masks[1, 9, 0] = True
    corners = to_corners(masks_to_boxes(masks))
    torch.testing.assert_close(corners[0], torch.tensor([30 / 40, 2 / 10, 38 / 40, 5 / 10]))
    torch.testing.assert_close(corners[1], torch.tensor([0.0, 9 / 10, 1 / 40, 1.0]))
    assert (masks_to_boxes(masks)[2] == 0).all()
    assert masks_to_boxes(masks[:0]).shape == (0, 4)


# ---- the whole of Eq. 1 ----


def random_outputs(batch: int, seed: int = 0, auxiliary: int = 0, size: int = 16) -> QueryOutputs:
    generator = torch.Generator().manual_seed(seed)

    def stage() -> QueryOutputs:
        logits = torch.randn(batch, 12, 2, generator=generator).requires_grad_()
        boxes = (torch.rand(batch, 12, 4, generator=generator) * 0.4 + 0.2).requires_grad_()
        masks = torch.randn(batch, 12, size, size, generator=generator).requires_grad_()
        return query_outputs(logits, boxes, masks)

    outputs = stage()
    outputs.auxiliary = [stage() for _ in range(auxiliary)]
    return outputs


TARGETS = [
    box_targets([[0.3, 0.4, 0.2, 0.3], [0.7, 0.6, 0.3, 0.2]], [1, 0]),
    box_targets([]),
    box_targets([[0.5, 0.5, 0.6, 0.1]], [1]),
]


def test_every_term_by_hand() -> None:
    """One-to-one matching, so that each term is a short sum."""
    outputs = random_outputs(3)
    losses = supervised_loss(outputs, TARGETS, LossConfig(matching="hungarian"))
    matched = [match_hungarian(outputs.logits[i], outputs.boxes[i], t) for i, t in enumerate(TARGETS)]
    count = 3
    classes, boxes, masks = 0.0, 0.0, 0.0
    for image, (query, target) in enumerate(matched):
        wanted = torch.zeros(12, 2)
        for q, t in zip(query.tolist(), target.tolist(), strict=True):
            wanted[q, TARGETS[image].classes[t]] = 1
            got, true = outputs.boxes[image, q], TARGETS[image].boxes[t]
            giou = torchvision.ops.generalized_box_iou(to_corners(got)[None], to_corners(true)[None])[0, 0]
            boxes += (got - true).abs().sum() + 1 - giou
            logits = outputs.masks(torch.tensor([image]), torch.tensor([q]))[0]
            truth = TARGETS[image].masks[t].float()
            p = logits.sigmoid()
            masks += 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
            masks += torchvision.ops.sigmoid_focal_loss(logits, truth).mean()
        classes += torchvision.ops.sigmoid_focal_loss(outputs.logits[image], wanted, reduction="sum")
    torch.testing.assert_close(losses["classes"], classes / count)
    torch.testing.assert_close(losses["boxes"], boxes / count, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses["masks"], masks / count)
    total = classes + 2 * boxes + masks
    torch.testing.assert_close(losses["total"], total / count, atol=1e-5, rtol=1e-5)


def test_the_sums_are_logged_in_their_parts() -> None:
    losses = supervised_loss(random_outputs(3, auxiliary=1), TARGETS, LossConfig())
    torch.testing.assert_close(losses["boxes/l1"] + losses["boxes/giou"], losses["boxes"].detach())
    torch.testing.assert_close(losses["masks/dice"] + losses["masks/focal"], losses["masks"].detach())
    assert all(losses[name] > 0 and not losses[name].requires_grad for name in PARTS)


def test_weights_of_targets_scale_what_they_teach() -> None:
    """Of a target that counts for nothing only the background around it is learned."""
    outputs, t = random_outputs(1), TARGETS[0]

    def losses(*weights: float) -> dict[str, Tensor]:
        weighted = Targets(t.classes, t.boxes, t.masks, t.ids, torch.tensor(weights))
        return supervised_loss(outputs, [weighted], LossConfig("hungarian"))

    plain = supervised_loss(outputs, [t], LossConfig("hungarian"))
    whole, half, none = losses(1, 1), losses(0.5, 0.5), losses(0, 0)
    for name in ("classes", "boxes", "masks", "total"):
        torch.testing.assert_close(whole[name], plain[name])
        torch.testing.assert_close(half[name], (whole[name] + none[name]) / 2)
    assert none["boxes"] == none["masks"] == 0
    assert 0 < none["classes"] < whole["classes"]
    first, second = losses(1, 0), losses(0, 1)
    for name in ("boxes", "masks"):
        torch.testing.assert_close(first[name] + second[name], whole[name])
    assert t.to(torch.device("cpu")).weights is None
    some = Targets(t.classes, t.boxes, t.masks, t.ids, torch.tensor([0.3, 0.6])).of(
        torch.tensor([False, True])
    )
    assert (some.ids.tolist(), some.to(torch.device("cpu")).weights) == ([1], torch.tensor([0.6]))


def test_the_cost_of_hungarian_matching_is_configured() -> None:
    """With the L1 alone each object gets the query with the nearest box."""
    outputs = random_outputs(1)
    pairs = match(outputs, TARGETS[:1], LossConfig("hungarian", hungarian_cost=(0.0, 1.0, 0.0)))
    distance = (outputs.boxes[0][:, None] - TARGETS[0].boxes[None]).abs().sum(-1)
    assert pairs.query[pairs.target.argsort()].tolist() == distance.argmin(0).tolist()
    expected = match_hungarian(outputs.logits[0], outputs.boxes[0], TARGETS[0])
    assert match(outputs, TARGETS[:1], LossConfig("hungarian")).query.tolist() == expected[0].tolist()


def test_matches_of_some_images_are_numbered_anew() -> None:
    matches = match(random_outputs(3), TARGETS, LossConfig())
    some = matches.of_images(torch.tensor([1, 2]))
    third = matches.batch == 2
    assert set(some.batch.tolist()) == {1}
    assert some.query.tolist() == matches.query[third].tolist()
    assert some.target.tolist() == matches.target[third].tolist()


def test_auxiliary_stages_count_like_the_last() -> None:
    outputs = random_outputs(3, auxiliary=2)
    alone = [
        supervised_loss(QueryOutputs(s.logits, s.boxes, None, s.masks), TARGETS, LossConfig())
        for s in [*outputs.auxiliary, outputs]
    ]
    losses = supervised_loss(outputs, TARGETS, LossConfig())
    for name in ("classes", "boxes", "masks", "total"):
        torch.testing.assert_close(losses[name], sum(x[name] for x in alone))


def test_a_stage_without_masks_has_no_mask_loss() -> None:
    outputs = random_outputs(3, auxiliary=1)
    first, last = outputs.auxiliary[0], QueryOutputs(outputs.logits, outputs.boxes, None, outputs.masks)
    first.masks = None
    both, alone = (supervised_loss(o, TARGETS, LossConfig()) for o in (outputs, last))
    assert both["masks"] == alone["masks"]
    assert both["boxes"] > alone["boxes"]


def test_some_of_the_images_are_predicted_as_before() -> None:
    outputs = random_outputs(3, auxiliary=1)
    some = outputs.of_images(torch.tensor([0, 2]))
    losses = supervised_loss(some, [TARGETS[0], TARGETS[2]], LossConfig())
    # The image without objects adds nothing but background.
    whole = supervised_loss(outputs, TARGETS, LossConfig())
    for name in ("boxes", "masks"):
        torch.testing.assert_close(losses[name], whole[name])
    assert losses["classes"] < whole["classes"]


def test_matches_name_image_query_and_object() -> None:
    matches = match(random_outputs(3), TARGETS, LossConfig())
    assert matches.batch.tolist() == sorted(matches.batch.tolist())
    assert set(matches.batch.tolist()) == {0, 2}
    for b, t in zip(matches.batch.tolist(), matches.target.tolist(), strict=True):
        assert t < len(TARGETS[b])


@pytest.mark.parametrize("matching", ["optimal_transport", "hungarian"])
@pytest.mark.parametrize("selection", ["learned", "dense"])
def test_empty_targets_teach_classes_only(matching: str, selection: str) -> None:
    torch.manual_seed(0)
    network = RiseNetwork(tiny_config(query_selection=selection))
    outputs = network(torch.randn(2, 3, 64, 96))
    empty = [mask_targets(torch.zeros(0, 16, 24, dtype=torch.bool))] * 2
    losses = supervised_loss(outputs, empty, LossConfig(matching=matching))
    matches = match(outputs, empty, LossConfig(matching))
    assert len(matches.query) == 0
    assert losses["boxes"] == losses["masks"] == 0
    assert losses["classes"] > 0
    losses["total"] = losses["total"] + association_loss(outputs.embeddings, matches, empty)
    losses["total"].backward()
    gradients = {n: p.grad for n, p in network.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in gradients.values())
    assert gradients["class_heads.1.weight"].abs().sum() > 0
    assert gradients["mask_head.controller.layers.0.weight"].abs().sum() == 0


def test_more_objects_than_queries_is_finite() -> None:
    boxes = [[0.1 + 0.05 * i, 0.5, 0.1, 0.2] for i in range(16)]
    outputs = random_outputs(1)
    losses = supervised_loss(outputs, [box_targets(boxes)], LossConfig())
    assert len(match(outputs, [box_targets(boxes)], LossConfig()).query) == 12
    assert losses["total"].isfinite()


def test_permuting_objects_changes_nothing() -> None:
    outputs, order = random_outputs(3), [1, 0]
    t = TARGETS[0]
    shuffled = [Targets(*(x[order] for x in (t.classes, t.boxes, t.masks, t.ids))), *TARGETS[1:]]
    got, expected = (supervised_loss(outputs, targets, LossConfig()) for targets in (shuffled, TARGETS))
    for name in expected:
        torch.testing.assert_close(got[name], expected[name])


def test_a_perfect_prediction_costs_almost_nothing() -> None:
    targets = [TARGETS[0]]
    logits = torch.full((1, 2, 2), -20.0)
    logits[0, 0, 1] = logits[0, 1, 0] = 20.0
    masks = torch.where(targets[0].masks[None], 20.0, -20.0)
    losses = supervised_loss(query_outputs(logits, targets[0].boxes[None], masks), targets, LossConfig())
    assert losses["total"] < 1e-3


def test_masks_per_image_bounds_what_is_drawn_not_what_it_weighs() -> None:
    outputs = random_outputs(1)
    drawn: list[int] = []
    decode = outputs.masks

    def counting(batch: Tensor, query: Tensor, /) -> Tensor:
        drawn.append(len(query))
        return torch.zeros_like(decode(batch, query))

    outputs.masks = counting
    boxes = [[0.2 + 0.1 * i, 0.5, 0.12, 0.3] for i in range(6)]
    values = [
        supervised_loss(outputs, [box_targets(boxes)], LossConfig(matching="hungarian", masks_per_image=most))
        for most in (100, 3)
    ]
    assert drawn == [6, 3]
    torch.testing.assert_close(values[0]["masks"], values[1]["masks"])  # alike masks: three stand for six


@pytest.mark.parametrize(
    "bad",
    [{"matching": "none"}, {"box_weight": -1.0}, {"masks_per_image": 0}, {"hungarian_cost": (2.0, 5.0)}],
)
def test_bad_weights_are_named(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"loss.{next(iter(bad))}"):
        LossConfig(**bad)  # type: ignore[arg-type]


# ---- Eq. 4 ----


def association_by_loops(embeddings: Tensor, matches: Matches, targets: list[Targets]) -> Tensor:
    """Eq. 4 as it is printed: for each anchor, the sum over its positives and negatives."""
    rows = list(zip(matches.batch.tolist(), matches.query.tolist(), matches.target.tolist(), strict=True))
    losses = []
    for b, q, t in rows:
        if b % 2:
            continue
        other = [(q2, targets[b + 1].ids[t2].item()) for b2, q2, t2 in rows if b2 == b + 1]
        identity = targets[b].ids[t].item()
        positives = [q2 for q2, i in other if i == identity]
        negatives = [q2 for q2, i in other if i != identity]
        if not positives:
            continue
        total = torch.zeros(())
        for k_plus in positives:
            for k_minus in negatives:
                z = embeddings[b, q]
                total = total + math.e ** (z @ embeddings[b + 1, k_minus] - z @ embeddings[b + 1, k_plus])
        losses.append(torch.log(1 + total))
    return torch.stack(losses).mean() if losses else torch.zeros(())


def views(ids: list[list[int]], queries: list[list[tuple[int, int]]]) -> tuple[list[Targets], Matches]:
    """Targets with these ids, and matches given as (query, object) for each image."""
    targets = []
    for image in ids:
        t = box_targets([[0.5, 0.5, 0.1, 0.1]] * len(image))
        targets.append(Targets(t.classes, t.boxes, t.masks, torch.tensor(image, dtype=torch.int64)))
    rows = [(b, q, t) for b, image in enumerate(queries) for q, t in image]
    return targets, Matches(*(torch.tensor([r[i] for r in rows], dtype=torch.int64) for i in range(3)))


def test_association_equals_the_double_sum() -> None:
    torch.manual_seed(0)
    targets, matches = views(
        [[7, 8, 9], [9, 7, 5], [1], [1], [2, 3], []],
        [
            [(0, 0), (3, 0), (1, 1), (2, 2)],
            [(5, 0), (4, 0), (0, 1), (1, 2)],
            [(0, 0)],
            [(2, 0)],
            [(0, 0), (1, 1)],
            [],
        ],
    )
    values, gradients = [], []
    embeddings = torch.randn(6, 6, 4)
    for form in (association_loss, association_by_loops):
        z = embeddings.clone().requires_grad_()
        loss = form(z, matches, targets)
        values.append(loss)
        gradients.append(torch.autograd.grad(loss, z)[0])
    assert values[1] > 0.1
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_association_pulls_together_and_survives_large_embeddings() -> None:
    targets, matches = views([[1, 2], [1, 2]], [[(0, 0), (1, 1)], [(0, 0), (1, 1)]])
    apart = torch.eye(2).repeat(2, 1, 1) * 100
    assert association_loss(apart, matches, targets) < 1e-6
    swapped = torch.stack([apart[0], apart[1].flip(0)]).requires_grad_()
    loss = association_loss(swapped, matches, targets)
    assert loss.isfinite()
    assert loss > 1000
    loss.backward()
    assert swapped.grad is not None
    assert swapped.grad.isfinite().all()


def test_association_under_autocast_is_in_full_precision() -> None:
    targets, matches = views([[1, 2], [1, 2]], [[(0, 0), (1, 1)], [(0, 0), (1, 1)]])
    z = torch.randn(2, 2, 64, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        loss = association_loss(z, matches, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, association_loss(z, matches, targets))


@pytest.mark.parametrize(
    ("ids", "queries"),
    [
        ([[], []], [[], []]),
        ([[1], []], [[(0, 0)], []]),
        ([[1], [2]], [[(0, 0)], [(1, 0)]]),
        ([[1], [1]], [[(0, 0)], [(1, 0)]]),  # nothing to tell it from
    ],
)
def test_association_without_pairs_is_zero_with_a_gradient(
    ids: list[list[int]], queries: list[list[tuple[int, int]]]
) -> None:
    targets, matches = views(ids, queries)
    z = torch.randn(2, 3, 4, requires_grad=True)
    loss = association_loss(z, matches, targets)
    loss.backward()
    assert loss == 0
    assert z.grad is not None
    assert (z.grad == 0).all()


def test_the_network_learns_from_all_terms() -> None:
    """Every parameter of the network gets a gradient from a labelled pair of views."""
    for selection, stride in (("learned", 8), ("dense", 4)):
        torch.manual_seed(0)
        network = RiseNetwork(tiny_config(query_selection=selection, mask_stride=stride))
        shake(network, 0.02)
        outputs = network(torch.randn(2, 3, 64, 96))
        masks = torch.zeros(3, 16, 24, dtype=torch.bool)
        masks[0, 2:7, 3:9] = masks[1, 8:14, 12:20] = masks[2, 1:4, 15:22] = True
        targets = [mask_targets(masks)] * 2
        losses = supervised_loss(outputs, targets, LossConfig())
        matches = match(outputs, targets, LossConfig())
        (losses["total"] + association_loss(outputs.embeddings, matches, targets)).backward()
        silent = [n for n, p in network.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
        assert not silent
