"""Pseudo-labels: which of the teacher's predictions become targets, and in what form (Sec. 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rise_perception.core.errors import require
from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.boxes import masks_to_boxes
from rise_perception.training.matching import Targets

SELECTORS = ("cascade", "threshold", "quantile", "reversed")
#: Selectors of :mod:`rise_perception.training.learned_choice`; where none is at hand, they are the cascade.
LEARNED = ("policy", "regressor", "random")
#: Pseudo-labels that overlap by more than this (mask intersection over union) show the same object.
SAME_OBJECT = 0.5
#: A prediction with more than this share of its mask on a pasted object is that object, whose mask is known.
ON_PASTED = 0.5
#: Identity of what is not known from pasting; it associates with nothing.
UNKNOWN = -1


@dataclass(frozen=True)
class SelfSupervisionConfig:
    """The self-supervised loss L_u; the defaults are the paper's.

    Attributes:
        selector: ``cascade`` (class threshold, then quantile; Eq. 6), ``threshold`` or ``quantile`` alone,
            ``reversed`` (quantile, then class threshold); or one that learns on labelled images what is worth
            believing: ``policy``, ``regressor``, and as their control ``random``.
        class_threshold: lowest class score at the start and at the end of the training; the paper has
            0.5 and 0.85, for ``threshold`` alone 0.85 and 0.98.
        threshold_every: steps after which the class threshold rises.
        quantile: a0 of the quantile's level p_t = a0 (1 - t/T).
        mask_threshold: a pixel above it belongs to the pseudo-mask (Eq. 7).
        mask_to_box: the pseudo-box bounds the pseudo-mask (Eq. 8), instead of being the predicted box.
        multi_label: keep all overlapping predictions of the dominant class as targets (Multi-Label
            Matching), instead of the best alone.
        teacher: who predicts the pseudo-labels: the ``student`` itself (the paper), or the moving
            ``average`` of its weights.
    """

    selector: str = "cascade"
    class_threshold: tuple[float, float] = (0.5, 0.85)
    threshold_every: int = 1000
    quantile: float = 0.995
    mask_threshold: float = 0.5
    mask_to_box: bool = True
    multi_label: bool = True
    teacher: str = "student"

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_threshold", tuple(self.class_threshold))
        require(
            self.selector in (*SELECTORS, *LEARNED),
            "self_supervision.selector",
            self.selector,
            f"one of {[*SELECTORS, *LEARNED]}",
        )
        require(
            self.teacher in ("student", "average"),
            "self_supervision.teacher",
            self.teacher,
            "student or average",
        )
        shares = all(0 <= s <= 1 for s in self.class_threshold) and len(self.class_threshold) == 2
        require(
            shares, "self_supervision.class_threshold", self.class_threshold, "two scores between 0 and 1"
        )
        for name in ("quantile", "mask_threshold"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"self_supervision.{name}", value, "between 0 and 1")
        require(
            self.threshold_every >= 1, "self_supervision.threshold_every", self.threshold_every, "at least 1"
        )


def class_threshold(config: SelfSupervisionConfig, iteration: int, iterations: int) -> float:
    """The class threshold at a step: equal rises every ``threshold_every`` steps, the last to its end."""
    rises = max((iterations - 1) // config.threshold_every, 1)
    start, end = config.class_threshold
    return start + (end - start) * min(iteration // config.threshold_every, rises) / rises


def quantile_level(config: SelfSupervisionConfig, iteration: int, iterations: int) -> float:
    """p_t = a0 (1 - t/T): at first only the best of the scores pass, at the end all do."""
    return config.quantile * max(1 - iteration / iterations, 0.0)


def select(scores: Tensor, config: SelfSupervisionConfig, iteration: int, iterations: int) -> Tensor:
    """Which predictions of one image are trusted (Eq. 6).

    Args:
        scores: (Q,) class scores in [0, 1].
        config: the selector.
        iteration, iterations: the step t of T.

    Returns:
        (Q,) bool.
    """
    threshold = class_threshold(config, iteration, iterations)
    level = quantile_level(config, iteration, iterations)
    kept = torch.ones_like(scores, dtype=torch.bool)
    if config.selector in ("cascade", "threshold", *LEARNED):
        kept = scores >= threshold
    if config.selector != "threshold" and kept.any():
        kept = kept & (scores >= scores[kept].quantile(level))
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
    choice: Choice | None = None,
) -> list[Targets]:
    """What the teacher sees in the "before" images, joined with the objects that were pasted on them.

    The image's own annotation, if there is one, plays no part.

    Args:
        outputs: the teacher's predictions on B images.
        known: the pasted objects of each; their masks take precedence.
        config: selection and form.
        iteration, iterations: the step t of T.
        choice: selects in place of :func:`select`.

    Returns:
        B targets: the pasted objects first, then the pseudo-labels with the identity :data:`UNKNOWN`. An
        image without any pseudo-label has no target at all: the pasted objects alone would teach that
        everything else is background.
    """
    assert outputs.masks is not None  # only auxiliary outputs have none
    result = []
    for index, pasted in enumerate(known):
        scores, classes = outputs.logits[index].float().sigmoid().max(-1)
        if choice is None:
            kept = select(scores, config, iteration, iterations)
        else:
            kept = choice.select(outputs, index, scores, iteration, iterations)
        query = kept.nonzero().flatten()
        query = query[scores[query].argsort(descending=True)]
        masks = outputs.masks(torch.full_like(query, index), query).float().sigmoid() > config.mask_threshold
        masks, own = without_pasted(masks, pasted.masks)
        kept = own.clone()
        kept[own] = resolve_overlaps(scores[query[own]], classes[query[own]], masks[own], config.multi_label)
        query, masks = query[kept], masks[kept]
        if len(query) == 0:
            result.append(Targets(*(t[:0] for t in (pasted.classes, pasted.boxes, pasted.masks, pasted.ids))))
            continue
        boxes = masks_to_boxes(masks) if config.mask_to_box else outputs.boxes[index, query].float()
        result.append(
            Targets(
                classes=torch.cat([pasted.classes, classes[query]]),
                boxes=torch.cat([pasted.boxes, boxes]),
                masks=torch.cat([pasted.masks, masks]),
                ids=torch.cat([pasted.ids, torch.full_like(query, UNKNOWN)]),
            )
        )
    return result


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
