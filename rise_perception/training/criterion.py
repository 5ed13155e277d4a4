"""The supervised loss L_s = L_cls + l1 L_box + l2 L_mask (Eq. 1), over all output stages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from rise_perception.core.errors import ConfigError, require
from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.boxes import iou_and_giou, to_corners
from rise_perception.training.distributed import normaliser
from rise_perception.training.matching import (
    HUNGARIAN_COST,
    MATCHERS,
    Matcher,
    Targets,
    match_hungarian,
)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, and matching; the defaults are the paper's.

    Attributes:
        matching: ``optimal_transport`` or ``hungarian``.
        classification: ``focal``: a matched query learns the score 1; ``quality``: it learns the IoU of its
            mask (of its box, in a network without masks) with its object, so that scores rank the masks.
        box_weight: l1 of Eq. 1.
        mask_weight: l2 of Eq. 1.
        embedding_weight: l3, of the association loss (Eq. 4).
        unlabelled_weight: l4, of the self-supervised loss (Eq. 9).
        masks_per_image: at most this many matched queries per image and stage draw a mask, and stand for
            all; bounds the memory of a crowded scene. They are taken evenly over the matches.
        hungarian_cost: weights of class cost, L1 and GIoU where ``matching`` is ``hungarian``.
    """

    matching: str = "optimal_transport"
    box_weight: float = 2.0
    mask_weight: float = 1.0
    embedding_weight: float = 0.05
    unlabelled_weight: float = 0.5
    masks_per_image: int = 24
    hungarian_cost: tuple[float, float, float] = HUNGARIAN_COST
    classification: str = "focal"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hungarian_cost", tuple(self.hungarian_cost))
        valid = len(self.hungarian_cost) == 3 and min(self.hungarian_cost) >= 0
        require(valid, "loss.hungarian_cost", self.hungarian_cost, "three weights, none negative")
        if self.matching not in MATCHERS:
            raise ConfigError(f"loss.matching is {self.matching!r}; it must be one of {sorted(MATCHERS)}")
        if self.classification not in ("focal", "quality"):
            raise ConfigError(
                f"loss.classification is {self.classification!r}; it must be 'focal' or 'quality'"
            )
        for name in ("box_weight", "mask_weight", "embedding_weight", "unlabelled_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"loss.{name} is {getattr(self, name)}; it must not be negative")
        if self.masks_per_image < 1:
            raise ConfigError(f"loss.masks_per_image is {self.masks_per_image}; it must be at least 1")

    @property
    def matcher(self) -> Matcher:
        """What assigns queries to objects."""
        if self.matching == "hungarian":
            return partial(match_hungarian, weights=self.hungarian_cost)
        return MATCHERS[self.matching]


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Elementwise sigmoid focal loss; ``targets`` in {0, 1}, both of one shape."""
    score = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = score + targets - 2 * score * targets  # 1 - p_t
    return (alpha * targets + (1 - alpha) * (1 - targets)) * entropy * miss**gamma


def quality_focal_loss(logits: Tensor, targets: Tensor, beta: float = 2.0) -> Tensor:
    """Elementwise quality focal loss; ``targets`` in [0, 1], both of one shape (Li et al., 2020)."""
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (targets - logits.sigmoid()).abs() ** beta * entropy


@torch.no_grad()
def mask_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """(M, h, w) mask logits and bool targets -> (M,) IoU of what is above 0 with the target."""
    drawn, true = logits.flatten(1) > 0, targets.flatten(1).bool()
    return (drawn & true).sum(1) / (drawn | true).sum(1).clamp(min=1)


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

    def of_images(self, images: Tensor) -> Matches:
        """The pairs of some of the images.

        Args:
            images: (b,) int64, rising indices of images, which are numbered anew from 0.
        """
        rows = torch.isin(self.batch, images)
        batch = torch.searchsorted(images, self.batch[rows])
        return Matches(batch, self.query[rows], self.target[rows])


def match(stage: QueryOutputs, targets: list[Targets], config: LossConfig) -> Matches:
    """Which query of each image learns which of its objects.

    Args:
        stage: predictions on B images.
        targets: the objects of each of the B images.
        config: says how.
    """
    none = torch.zeros(0, dtype=torch.int64, device=stage.logits.device)
    parts = [(none, none, none)]
    for index, objects in enumerate(targets):
        query, target = config.matcher(stage.logits[index], stage.boxes[index], objects)
        parts.append((torch.full_like(query, index), query, target))
    return Matches(*(torch.cat(column) for column in zip(*parts, strict=True)))


#: What the two sums of Eq. 1 are made of; without gradient, for the log.
PARTS = ("boxes/l1", "boxes/giou", "masks/dice", "masks/focal")


def supervised_loss(
    outputs: QueryOutputs, targets: list[Targets], config: LossConfig, matches: Matches | None = None
) -> dict[str, Tensor]:
    """Eq. 1 summed over the last stage and the auxiliary ones.

    Args:
        outputs: predictions on B images.
        targets: the objects of each of the B images; empty ones are allowed.
        config: weights and matching.
        matches: of the last stage, where they are known already.

    Returns:
        scalars ``classes``, ``boxes``, ``masks`` (unweighted), ``total``, and, without gradient, those of
        :data:`PARTS`. Without any object the box and mask terms are zero, attached to the graph.
    """
    zero = outputs.logits.new_zeros(())
    terms = dict.fromkeys(("classes", "boxes", "masks", *PARTS), zero)
    for stage in [*outputs.auxiliary, outputs]:
        known = matches if stage is outputs and matches is not None else match(stage, targets, config)
        losses = _stage_loss(stage, targets, config, known)
        terms = {name: terms[name] + losses.get(name, zero) for name in terms}
    terms["total"] = (
        terms["classes"] + config.box_weight * terms["boxes"] + config.mask_weight * terms["masks"]
    )
    return terms


def _stage_loss(
    stage: QueryOutputs, targets: list[Targets], config: LossConfig, matches: Matches
) -> dict[str, Tensor]:
    b, q = matches.batch, matches.query
    count = normaliser(len(q), q.device)
    wanted_by = _per_image(b, matches.target, len(targets))

    logits = stage.logits.float()
    wanted = torch.zeros_like(logits)
    column = _joined([o.classes[t] for o, t in zip(targets, wanted_by, strict=True)], b)
    predicted = stage.boxes[b, q].float()
    true = _joined([o.boxes[t] for o, t in zip(targets, wanted_by, strict=True)], predicted)
    iou, giou = iou_and_giou(to_corners(predicted), to_corners(true))
    if config.classification == "focal":
        wanted[b, q, column] = 1.0
        classes = focal_loss(logits, wanted)
    else:
        wanted[b, q, column] = _quality(stage, matches, targets, wanted_by, iou)
        classes = quality_focal_loss(logits, wanted)
    weight = _joined([_weights(o)[t] for o, t in zip(targets, wanted_by, strict=True)], b)
    if any(o.weights is not None for o in targets):
        classes = classes.index_put((b, q), classes[b, q] * weight[:, None])
    losses = {"classes": classes.sum() / count}

    l1 = ((predicted - true).abs() * weight[:, None]).sum()
    overlap = ((1 - giou) * weight).sum()
    losses["boxes"] = (l1 + overlap) / count
    losses |= {"boxes/l1": l1.detach() / count, "boxes/giou": overlap.detach() / count}

    if stage.masks is not None:
        drawn, scale = _evenly(b, len(targets), config.masks_per_image)
        scale = scale * weight[drawn]
        logits = stage.masks(b[drawn], q[drawn]).float()
        chosen = _per_image(b[drawn], matches.target[drawn], len(targets))
        masks = _joined([o.masks[t] for o, t in zip(targets, chosen, strict=True)], logits).float()
        dice, focal = dice_loss(logits, masks), focal_loss(logits, masks).flatten(1).mean(1)
        losses["masks"] = ((dice + focal) * scale).sum() / count
        losses["masks/dice"] = (dice * scale).sum().detach() / count
        losses["masks/focal"] = (focal * scale).sum().detach() / count
    return losses


def _weights(targets: Targets) -> Tensor:
    """(N,) float32: how much each object counts."""
    if targets.weights is None:
        return torch.ones(len(targets), device=targets.classes.device)
    return targets.weights


@torch.no_grad()
def _quality(
    stage: QueryOutputs,
    matches: Matches,
    targets: list[Targets],
    wanted_by: tuple[Tensor, ...],
    box_iou: Tensor,
) -> Tensor:
    """(M,) how well each match draws its object."""
    if stage.masks is None:
        return box_iou.detach().clamp(0, 1)
    drawn = stage.masks(matches.batch, matches.query).float()
    masks = _joined([o.masks[t] for o, t in zip(targets, wanted_by, strict=True)], drawn)
    return mask_iou(drawn, masks)


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
