"""Pseudo-labels: which of the teacher's predictions become targets, and in what form (Sec. 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rise_perception.core.errors import require
from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.boxes import masks_to_boxes, to_centre, to_corners
from rise_perception.training.matching import Targets

SELECTORS = ("cascade", "threshold", "quantile", "reversed", "soft")
#: Selectors of :mod:`rise_perception.training.learned_choice`; where none is at hand, they are the cascade.
LEARNED = ("policy", "regressor", "random")
#: What ``soft`` takes for noise: predictions that are trusted less are no target.
LEAST_TRUST = 0.1
#: Of this many predictions of an image, the best by class, the masks are rated.
RATED = 100
#: Pseudo-labels that overlap by more than this (mask intersection over union) show the same object.
SAME_OBJECT = 0.5
#: A prediction with more than this fraction of its mask on a pasted object is that object, whose mask is
#: known.
ON_PASTED = 0.5
#: Identity of what is not known from pasting; it associates with nothing.
UNKNOWN = -1


@dataclass(frozen=True)
class SelfSupervisionConfig:
    """The self-supervised loss L_u; the defaults are the paper's.

    Attributes:
        selector: ``cascade`` (class threshold, then quantile; Eq. 6), ``threshold`` or ``quantile`` alone,
            ``reversed`` (quantile, then class threshold), or ``soft``: no threshold, every target counts in
            the loss by how much it is trusted. Others learn on labelled images what is worth believing:
            ``policy``, ``regressor``, and as their control ``random``.
        trust: what is compared with the thresholds: the ``class`` score (the paper), or ``class_times_mask``,
            that score times the mask's quality, the mean probability of its pixels.
        class_threshold: lowest class score at the start and at the end of the training; the paper has
            0.5 and 0.85, for ``threshold`` alone 0.85 and 0.98.
        threshold_every: steps after which the class threshold rises.
        quantile: a0 of the quantile's level p_t = a0 (1 - t/T).
        quantile_method: the quantile is the ``nearest`` score, or the next ``lower`` one; ``linear`` lies
            between two scores, so that the lowest of them never passes, however few they are.
        mask_threshold: a pixel above it belongs to the pseudo-mask (Eq. 7), at the start and at the end of
            the training; it rises with the class threshold. The paper has 0.5 throughout, and in its
            appendix C 0.5 and 0.85.
        mask_to_box: the pseudo-box bounds the pseudo-mask (Eq. 8), instead of being the predicted box.
        multi_label: keep all overlapping predictions of the dominant class as targets (Multi-Label
            Matching), instead of the best alone: one target per object.
        teacher: who predicts the pseudo-labels: the ``student`` itself (the paper), or the moving
            ``average`` of its weights.
        burn_in: fraction of the training before unlabelled images teach.
        ramp: fraction of the training, from there on, over which the weight of L_u rises to its value.
    """

    selector: str = "cascade"
    class_threshold: tuple[float, float] = (0.5, 0.85)
    threshold_every: int = 1000
    trust: str = "class"
    quantile: float = 0.995
    quantile_method: str = "nearest"
    mask_threshold: tuple[float, float] = (0.5, 0.5)
    mask_to_box: bool = True
    multi_label: bool = True
    teacher: str = "student"
    burn_in: float = 0.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (
            ("selector", (*SELECTORS, *LEARNED)),
            ("trust", ("class", "class_times_mask")),
            ("quantile_method", ("nearest", "lower", "linear")),
            ("teacher", ("student", "average")),
        ):
            value = getattr(self, name)
            require(value in known, f"self_supervision.{name}", value, f"one of {list(known)}")
        for name in ("class_threshold", "mask_threshold"):
            pair = tuple(getattr(self, name))
            object.__setattr__(self, name, pair)
            valid = len(pair) == 2 and all(0 <= fraction <= 1 for fraction in pair)
            require(valid, f"self_supervision.{name}", pair, "two scores between 0 and 1")
        for name in ("quantile", "burn_in", "ramp"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"self_supervision.{name}", value, "between 0 and 1")
        require(
            self.threshold_every >= 1, "self_supervision.threshold_every", self.threshold_every, "at least 1"
        )


def class_threshold(config: SelfSupervisionConfig, iteration: int, iterations: int) -> float:
    """The class threshold at a step: equal rises every ``threshold_every`` steps, the last to its end."""
    return _risen(config.class_threshold, config, iteration, iterations)


def mask_threshold(config: SelfSupervisionConfig, iteration: int, iterations: int) -> float:
    """The mask threshold at a step; it rises with the class threshold."""
    return _risen(config.mask_threshold, config, iteration, iterations)


def _risen(
    ends: tuple[float, float], config: SelfSupervisionConfig, iteration: int, iterations: int
) -> float:
    rises = max((iterations - 1) // config.threshold_every, 1)
    return ends[0] + (ends[1] - ends[0]) * min(iteration // config.threshold_every, rises) / rises


def unlabelled_factor(config: SelfSupervisionConfig, iteration: int, iterations: int) -> float:
    """What multiplies the weight of L_u at a step: 0 during the burn-in, then a linear rise to 1."""
    since = iteration / iterations - config.burn_in
    if since < 0:
        return 0.0
    return min(1.0, since / config.ramp) if config.ramp else 1.0


def quantile_level(config: SelfSupervisionConfig, iteration: int, iterations: int) -> float:
    """p_t = a0 (1 - t/T): at first only the best of the scores pass, at the end all do."""
    return config.quantile * max(1 - iteration / iterations, 0.0)


def select(scores: Tensor, config: SelfSupervisionConfig, iteration: int, iterations: int) -> Tensor:
    """Which predictions of one image are trusted (Eq. 6).

    Args:
        scores: (Q,) how much each is trusted, in [0, 1].
        config: the selector.
        iteration, iterations: the step t of T.

    Returns:
        (Q,) bool.
    """
    if config.selector == "soft":
        return scores >= LEAST_TRUST
    threshold = class_threshold(config, iteration, iterations)
    level = quantile_level(config, iteration, iterations)
    kept = torch.ones_like(scores, dtype=torch.bool)
    if config.selector in ("cascade", "threshold", *LEARNED):
        kept = scores >= threshold
    if config.selector != "threshold" and kept.any():
        limit = scores[kept].quantile(level, interpolation=config.quantile_method)
        kept = kept & (scores >= limit)
    if config.selector == "reversed":
        kept = kept & (scores >= threshold)
    return kept


class Choice(Protocol):
    """Selects predictions by more than their scores."""

    def select(
        self, outputs: QueryOutputs, image: int, scores: Tensor, iteration: int, iterations: int
    ) -> Tensor:
        """(Q,) bool, which predictions of an image are believed."""


@torch.no_grad()
def pseudo_targets(
    outputs: QueryOutputs,
    known: list[Targets],
    config: SelfSupervisionConfig,
    iteration: int,
    iterations: int,
    to_strong: Tensor | None = None,
    choice: Choice | None = None,
) -> list[Targets]:
    """What the teacher sees in the "before" images, joined with the objects that were pasted on them.

    The image's own annotation, if there is one, plays no part.

    Args:
        outputs: the teacher's predictions on B images.
        known: the pasted objects of each, as they are in the student's view; their masks take precedence.
        config: selection and form.
        iteration, iterations: the step t of T.
        to_strong: (B, 2, 3) float32, where a point of the teacher's view is in the student's, in fractions of
            the input; None where both have one geometry.
        choice: selects in place of :func:`select`.

    Returns:
        B targets in the student's views: the pasted objects first, then the pseudo-labels with the identity
        :data:`UNKNOWN`. An image without any pseudo-label has no target at all: the pasted objects alone
        would teach that everything else is background.
    """
    limit = mask_threshold(config, iteration, iterations)
    result = []
    for index, pasted in enumerate(known):
        scores, classes = outputs.logits[index].float().sigmoid().max(-1)
        if config.trust == "class_times_mask":
            scores = scores * _mask_qualities(outputs, index, scores, limit)
        if choice is None:
            trusted = select(scores, config, iteration, iterations)
        else:
            trusted = choice.select(outputs, index, scores, iteration, iterations)
        query = trusted.nonzero().flatten()
        query = query[scores[query].argsort(descending=True)]
        probabilities = _probabilities(outputs, index, query)
        boxes = outputs.boxes[index, query].float()
        if to_strong is not None:
            probabilities = warped(probabilities, to_strong[index])
            boxes = warped_boxes(boxes, to_strong[index])
        masks, own = without_pasted(probabilities > limit, pasted.masks)
        kept = own.clone()
        kept[own] = resolve_overlaps(scores[query[own]], classes[query[own]], masks[own], config.multi_label)
        query, masks = query[kept], masks[kept]
        if len(query) == 0:
            result.append(pasted.of(query))
            continue
        boxes = masks_to_boxes(masks) if config.mask_to_box else boxes[kept]
        weights = None
        if config.selector == "soft":
            weights = torch.cat([torch.ones(len(pasted), device=scores.device), scores[query]])
        result.append(
            Targets(
                classes=torch.cat([pasted.classes, classes[query]]),
                boxes=torch.cat([pasted.boxes, boxes]),
                masks=torch.cat([pasted.masks, masks]),
                ids=torch.cat([pasted.ids, torch.full_like(query, UNKNOWN)]),
                weights=weights,
            )
        )
    return result


def _probabilities(outputs: QueryOutputs, index: int, query: Tensor) -> Tensor:
    """(M, h, w) float32 mask probabilities of queries (M,) of one image."""
    assert outputs.masks is not None  # only auxiliary outputs have none
    return outputs.masks(torch.full_like(query, index), query).float().sigmoid()


def _mask_qualities(outputs: QueryOutputs, index: int, scores: Tensor, limit: float) -> Tensor:
    """(Q,) qualities of the masks of one image; zero for those beyond the best :data:`RATED` by class."""
    best = scores.topk(min(RATED, len(scores))).indices
    quality = mask_quality(_probabilities(outputs, index, best), limit)
    return torch.zeros_like(scores).index_put((best,), quality)


def mask_quality(probabilities: Tensor, limit: float) -> Tensor:
    """(N, h, w) -> (N,) mean probability of the pixels above ``limit``; zero for a mask without any."""
    inside = (probabilities > limit).float()
    return (probabilities * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)


def warped(layers: Tensor, matrix: Tensor) -> Tensor:
    """Layers of one view as they are in another; zero where the other sees what the first does not.

    Args:
        layers: (N, h, w) float32.
        matrix: (2, 3) float32, where a point of the first view is in the other, in fractions of the layers'
            width and height.
    """
    if len(layers) == 0:
        return layers
    back = torch.linalg.inv(matrix[:, :2].double())
    shift = -back @ matrix[:, 2].double()
    # The same for coordinates from -1 to 1.
    theta = torch.cat([back, (back.sum(1) + 2 * shift - 1)[:, None]], 1).float()
    with torch.autocast(layers.device.type, enabled=False):  # places need more than half precision
        grid = torch.nn.functional.affine_grid(theta[None], [1, *layers.shape], align_corners=False)
        return torch.nn.functional.grid_sample(layers[None], grid, align_corners=False)[0]


def warped_boxes(boxes: Tensor, matrix: Tensor) -> Tensor:
    """(N, 4) centre boxes of one view -> the boxes around them in another, cut at its border."""
    x0, y0, x1, y1 = to_corners(boxes).unbind(-1)
    points = torch.stack([torch.stack([x, y], -1) for x in (x0, x1) for y in (y0, y1)])  # (4, N, 2)
    with torch.autocast(boxes.device.type, enabled=False):
        points = (points @ matrix[:, :2].T + matrix[:, 2]).clamp(0, 1)
    return to_centre(torch.cat([points.amin(0), points.amax(0)], -1))


def without_pasted(masks: Tensor, pasted: Tensor) -> tuple[Tensor, Tensor]:
    """Pseudo-masks without the pixels of pasted objects, and which of them are objects of their own.

    Args:
        masks: (N, h, w) bool, predicted.
        pasted: (K, h, w) bool, known.

    Returns:
        (N, h, w) bool, and (N,) bool: False for what lies mostly on one pasted object, or has no pixel left.
    """
    area = masks.sum((1, 2))
    on = _common_pixels(masks, pasted)
    is_pasted = (on > ON_PASTED * area[:, None]).any(1)
    masks = masks & ~pasted.any(0)
    return masks, ~is_pasted & masks.any(2).any(1)


def resolve_overlaps(scores: Tensor, classes: Tensor, masks: Tensor, multi_label: bool) -> Tensor:
    """Which of the predictions that show the same object stay.

    The best prediction and all that overlap it form a group. Multi-Label Matching keeps those of the group's
    dominant class, the one with the largest sum of scores; otherwise the best alone stays.

    Args:
        scores: (N,) falling.
        classes: (N,) int64.
        masks: (N, h, w) bool.
        multi_label: Multi-Label Matching.

    Returns:
        (N,) bool.
    """
    both = _common_pixels(masks, masks)
    area = masks.sum((1, 2))
    same = both > SAME_OBJECT * (area[:, None] + area[None] - both)
    kept = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    left = torch.ones_like(kept)
    for best in range(len(scores)):
        if not left[best]:
            continue
        group = same[best] & left
        group[best] = True  # an empty mask overlaps nothing, not even itself
        left &= ~group
        if multi_label:
            dominant = torch.bincount(classes[group], weights=scores[group].float()).argmax()
            kept |= group & (classes == dominant)
        else:
            kept[best] = True
    return kept


def _common_pixels(a: Tensor, b: Tensor) -> Tensor:
    """(N, h, w) and (K, h, w) bool -> (N, K) float32 counts."""
    # Half precision, which autocast would choose, cannot count that far.
    with torch.autocast(a.device.type, enabled=False):
        return a.flatten(1).float() @ b.flatten(1).float().T
