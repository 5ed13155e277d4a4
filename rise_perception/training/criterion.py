"""The supervised loss L_s = L_cls + l1 L_box + l2 L_mask (Eq. 1), over all output stages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rise_perception.core.errors import ConfigError
from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.boxes import iou_and_giou, to_corners
from rise_perception.training.distributed import normaliser
from rise_perception.training.matching import MATCHERS, Targets


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, and matching; the defaults are the paper's.

    Attributes:
        matching: ``optimal_transport`` or ``hungarian``.
        box_weight: l1 of Eq. 1.
        mask_weight: l2 of Eq. 1.
        embedding_weight: l3, of the association loss (Eq. 4).
        unlabelled_weight: l4, of the self-supervised loss (Eq. 9).
        masks_per_image: at most this many matched queries per image and stage draw a mask, and stand for
            all; bounds the memory of a crowded scene. They are taken evenly over the matches.
    """

    matching: str = "optimal_transport"
    box_weight: float = 2.0
    mask_weight: float = 1.0
    embedding_weight: float = 0.05
    unlabelled_weight: float = 0.5
    masks_per_image: int = 24

    def __post_init__(self) -> None:
        if self.matching not in MATCHERS:
            raise ConfigError(f"loss.matching is {self.matching!r}; it must be one of {sorted(MATCHERS)}")
        for name in ("box_weight", "mask_weight", "embedding_weight", "unlabelled_weight"):
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
    """M matched pairs of a batch, sorted by image; each (M,) int64.

    Attributes:
        batch: index of the image.
        query: index of the query in the image.
        target: index of the object among the image's targets.
    """

    batch: Tensor
    query: Tensor
    target: Tensor


def match(stage: QueryOutputs, targets: list[Targets], matching: str) -> Matches:
    """Which query of each image learns which of its objects.

    Args:
        stage: predictions on B images.
        targets: the objects of each of the B images.
        matching: a key of :data:`rise_perception.training.matching.MATCHERS`.
    """
    none = torch.zeros(0, dtype=torch.int64, device=stage.logits.device)
    parts = [(none, none, none)]
    for index, objects in enumerate(targets):
        query, target = MATCHERS[matching](stage.logits[index], stage.boxes[index], objects)
        parts.append((torch.full_like(query, index), query, target))
    return Matches(*(torch.cat(column) for column in zip(*parts, strict=True)))


def supervised_loss(outputs: QueryOutputs, targets: list[Targets], config: LossConfig) -> dict[str, Tensor]:
    """Eq. 1 summed over the last stage and the auxiliary ones.

    Args:
        outputs: predictions on B images.
        targets: the objects of each of the B images; empty ones are allowed.
        config: weights and matching.

    Returns:
        scalars ``classes``, ``boxes``, ``masks`` (unweighted) and ``total``. Without any object the box and
        mask terms are zero, attached to the graph.
    """
    zero = outputs.logits.new_zeros(())
    terms = {"classes": zero, "boxes": zero, "masks": zero}
    for stage in [*outputs.auxiliary, outputs]:
        losses = _stage_loss(stage, targets, config)
        terms = {name: terms[name] + losses.get(name, zero) for name in terms}
    terms["total"] = (
        terms["classes"] + config.box_weight * terms["boxes"] + config.mask_weight * terms["masks"]
    )
    return terms


def _stage_loss(stage: QueryOutputs, targets: list[Targets], config: LossConfig) -> dict[str, Tensor]:
    matches = match(stage, targets, config.matching)
    b, q = matches.batch, matches.query
    count = normaliser(len(q), q.device)
    wanted_by = _per_image(b, matches.target, len(targets))

    logits = stage.logits.float()
    wanted = torch.zeros_like(logits)
    wanted[b, q, _joined([o.classes[t] for o, t in zip(targets, wanted_by, strict=True)], b)] = 1.0
    losses = {"classes": focal_loss(logits, wanted).sum() / count}

    predicted = stage.boxes[b, q].float()
    true = _joined([o.boxes[t] for o, t in zip(targets, wanted_by, strict=True)], predicted)
    _, giou = iou_and_giou(to_corners(predicted), to_corners(true))
    losses["boxes"] = ((predicted - true).abs().sum() + (1 - giou).sum()) / count

    if stage.masks is not None:
        drawn, weight = _evenly(b, len(targets), config.masks_per_image)
        logits = stage.masks(b[drawn], q[drawn]).float()
        chosen = _per_image(b[drawn], matches.target[drawn], len(targets))
        masks = _joined([o.masks[t] for o, t in zip(targets, chosen, strict=True)], logits).float()
        per_mask = dice_loss(logits, masks) + focal_loss(logits, masks).flatten(1).mean(1)
        losses["masks"] = (per_mask * weight).sum() / count
    return losses


def _per_image(batch: Tensor, values: Tensor, images: int) -> tuple[Tensor, ...]:
    """Split the values of matches, sorted by image, into those of each image."""
    return values.split(torch.bincount(batch, minlength=images)[:images].tolist())


def _joined(parts: list[Tensor], empty: Tensor) -> Tensor:
    """The parts as one tensor; of no images at all, an ``empty`` one with the right shape."""
    return torch.cat(parts) if parts else empty


def _evenly(batch: Tensor, images: int, most: int) -> tuple[Tensor, Tensor]:
    """Rows of at most ``most`` matches of each image, and how many matches each of them stands for."""
    rows, weights, start = [batch[:0]], [torch.zeros(0, device=batch.device)], 0
    for count in torch.bincount(batch, minlength=images).tolist():
        some = min(count, most)
        rows.append(start + torch.arange(some, device=batch.device) * (count - 1) // max(some - 1, 1))
        weights.append(torch.full((some,), count / max(some, 1), device=batch.device))
        start += count
    return torch.cat(rows), torch.cat(weights)
