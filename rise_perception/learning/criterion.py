"""The supervised loss L_s = L_cls + l1 L_box + l2 L_mask (Eq. 1), over all output stages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rise_perception.errors import ConfigError
from rise_perception.learning.boxes import iou_and_giou, to_corners
from rise_perception.learning.matching import MATCHERS, Targets
from rise_perception.network.outputs import QueryOutputs


@dataclass(frozen=True)
class LossConfig:
    """Weights and matching of the supervised loss; the defaults are the paper's.

    Attributes:
        matching: ``optimal_transport`` or ``hungarian``.
        box_weight: l1 of Eq. 1.
        mask_weight: l2 of Eq. 1.
        embedding_weight: l3, of the association loss (Eq. 4).
        masks_per_image: at most this many matched queries per image and stage draw a mask; bounds the
            memory of a crowded scene. They are taken evenly over the matches.
    """

    matching: str = "optimal_transport"
    box_weight: float = 2.0
    mask_weight: float = 1.0
    embedding_weight: float = 0.05
    masks_per_image: int = 100

    def __post_init__(self) -> None:
        if self.matching not in MATCHERS:
            raise ConfigError(f"loss.matching is {self.matching!r}; it must be one of {sorted(MATCHERS)}")
        for name in ("box_weight", "mask_weight", "embedding_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"loss.{name} is {getattr(self, name)}; it must not be negative")
        if self.masks_per_image < 1:
            raise ConfigError(f"loss.masks_per_image is {self.masks_per_image}; it must be at least 1")


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Elementwise sigmoid focal loss; ``targets`` in {0, 1}, both of one shape."""
    score = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = score + targets - 2 * score * targets  # 1 - p_t
    return (alpha * targets + (1 - alpha) * (1 - targets)) * entropy * miss**gamma


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(M, ...) logits and {0, 1} targets -> (M,) 1 - (2 |p t| + 1) / (|p| + |t| + 1)."""
    score, targets = logits.sigmoid().flatten(1), targets.flatten(1)
    return 1 - (2 * (score * targets).sum(1) + 1) / (score.sum(1) + targets.sum(1) + 1)


@dataclass(frozen=True)
class Matches:
    """M matched pairs of a batch; each (M,) int64.

    Attributes:
        batch: index of the image.
        query: index of the query in the image.
        target: index of the object among the image's targets.
    """

    batch: Tensor
    query: Tensor
    target: Tensor


def supervised_loss(
    outputs: QueryOutputs, targets: list[Targets], config: LossConfig
) -> tuple[dict[str, Tensor], Matches]:
    """Eq. 1 summed over the last stage and the auxiliary ones.

    Args:
        outputs: predictions on B images.
        targets: the objects of each of the B images; empty ones are allowed.
        config: weights and matching.

    Returns:
        scalars ``classes``, ``boxes``, ``masks`` (unweighted) and ``total``, and the matches of the last
        stage. Without any object the box and mask terms are zero, attached to the graph.
    """
    zero = outputs.logits.new_zeros(())
    terms = {"classes": zero, "boxes": zero, "masks": zero}
    for stage in [*outputs.auxiliary, outputs]:
        losses, matches = _stage_loss(stage, targets, config)
        terms = {name: terms[name] + losses[name] for name in terms}
    terms["total"] = (
        terms["classes"] + config.box_weight * terms["boxes"] + config.mask_weight * terms["masks"]
    )
    return terms, matches


def _stage_loss(
    stage: QueryOutputs, targets: list[Targets], config: LossConfig
) -> tuple[dict[str, Tensor], Matches]:
    match = MATCHERS[config.matching]
    batch, query, target = [], [], []
    for index, objects in enumerate(targets):
        q, t = match(stage.logits[index], stage.boxes[index], objects)
        batch.append(torch.full_like(q, index))
        query.append(q)
        target.append(t)
    b, q = torch.cat(batch), torch.cat(query)
    count = max(len(q), 1)

    wanted = torch.zeros_like(stage.logits)
    classes = torch.cat([o.classes[t] for o, t in zip(targets, target, strict=True)])
    wanted[b, q, classes] = 1.0
    loss_classes = focal_loss(stage.logits, wanted).sum() / count

    predicted = stage.boxes[b, q]
    true = torch.cat([o.boxes[t] for o, t in zip(targets, target, strict=True)])
    _, giou = iou_and_giou(to_corners(predicted), to_corners(true))
    loss_boxes = ((predicted - true).abs().sum() + (1 - giou).sum()) / count

    drawn = [_evenly(len(t), config.masks_per_image, t.device) for t in target]
    mb = torch.cat([x[k] for x, k in zip(batch, drawn, strict=True)])
    mq = torch.cat([x[k] for x, k in zip(query, drawn, strict=True)])
    logits = stage.masks(mb, mq)
    masks = torch.cat([o.masks[t[k]] for o, t, k in zip(targets, target, drawn, strict=True)]).to(
        logits.dtype
    )
    per_mask = dice_loss(logits, masks) + focal_loss(logits, masks).flatten(1).mean(1)
    # Those that are drawn stand for all that are matched.
    loss_masks = per_mask.sum() / count * (len(q) / max(len(mq), 1))
    losses = {"classes": loss_classes, "boxes": loss_boxes, "masks": loss_masks}
    return losses, Matches(b, q, torch.cat(target))


def _evenly(count: int, most: int, device: torch.device) -> Tensor:
    if count <= most:
        return torch.arange(count, device=device)
    return torch.linspace(0, count - 1, most, device=device).long()
