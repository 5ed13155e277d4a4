"""Which query learns which object: optimal transport in its SimOTA form, or Hungarian matching.

Matching happens once per image and output stage, without gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from rise_perception.training.boxes import iou_and_giou, to_corners

#: Weight of the GIoU in the cost of optimal transport (Sec. 3.1).
GIOU_WEIGHT = 3.0
#: Added where a query's centre is not both inside the object's box and near its centre.
OUTSIDE_PENALTY = 100.0
#: Added where it is in neither: such a query serves an object only when no other is left.
FAR_PENALTY = 10_000.0
#: "Near" is this fraction of the image's side.
CENTRE_RADIUS = 2.5 / 32
#: How many of an object's best IoUs decide how many queries it gets.
TOP_IOUS = 10


@dataclass(frozen=True)
class Targets:
    """Objects of one image, in the network's input.

    Attributes:
        classes: (N,) int64.
        boxes: (N, 4) float32 centre x, centre y, width, height, fractions of the input.
        masks: (N, h, w) bool at a quarter of the input size.
        ids: (N,) int64, identity of each object across the views of one scene.
        weights: (N,) float32 in [0, 1], how much each object counts in the losses; None: all of them fully.
    """

    classes: Tensor
    boxes: Tensor
    masks: Tensor
    ids: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device) -> Targets:
        """The same on another device."""
        weights = None if self.weights is None else self.weights.to(device)
        classes, boxes, masks, ids = (t.to(device) for t in (self.classes, self.boxes, self.masks, self.ids))
        return Targets(classes, boxes, masks, ids, weights)

    def of(self, rows: Tensor) -> Targets:
        """Some of the objects: (n,) int64 or (N,) bool."""
        rows = rows.to(self.classes.device)
        weights = None if self.weights is None else self.weights[rows]
        return Targets(self.classes[rows], self.boxes[rows], self.masks[rows], self.ids[rows], weights)


class Matcher(Protocol):
    """Assigns queries to the objects of one image."""

    def __call__(self, logits: Tensor, boxes: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        """Match Q queries with N objects.

        Args:
            logits: (Q, C) class logits.
            boxes: (Q, 4) centre boxes, fractions of the input.
            targets: the N objects.

        Returns:
            query and object indices, (M,) int64 each; a query appears at most once.
        """
        ...


def focal_class_cost(logits: Tensor, classes: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """(Q, C) logits, (N,) classes -> (Q, N): what the focal loss gains by calling query i class j."""
    scores = logits.float().sigmoid()[:, classes]
    positive = alpha * (1 - scores) ** gamma * -(scores + 1e-8).log()
    negative = (1 - alpha) * scores**gamma * -(1 - scores + 1e-8).log()
    return positive - negative


@torch.no_grad()
def match_optimal_transport(logits: Tensor, boxes: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
    """SimOTA: an object takes as many queries as its best IoUs add up to; see :class:`Matcher`.

    cost = focal class cost - 3 GIoU + penalties for centres outside box or centre region. A query wanted
    by several objects goes to the cheapest; every object keeps at least one as long as queries last.
    """
    count, queries = len(targets), len(boxes)
    if count == 0:
        empty = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return empty, empty
    corners = to_corners(targets.boxes)
    iou, giou = iou_and_giou(to_corners(boxes.float())[:, None], corners[None])  # (Q, N)
    centre = boxes[:, None, :2].float()
    in_box = ((centre > corners[None, :, :2]) & (centre < corners[None, :, 2:])).all(-1)
    near = ((centre - targets.boxes[None, :, :2]).abs() < CENTRE_RADIUS).all(-1)
    cost = focal_class_cost(logits, targets.classes) - GIOU_WEIGHT * giou
    cost = cost + OUTSIDE_PENALTY * ~(in_box & near) + FAR_PENALTY * ~(in_box | near)

    ious = iou.topk(min(TOP_IOUS, queries), dim=0).values.sum(0)
    wanted = ious.int().clamp(min=1, max=queries)  # (N,)
    # Rank of each query for each object; the `wanted` cheapest are taken.
    rank = cost.argsort(0).argsort(0)
    taken = rank < wanted
    # A query serves one object: the one it serves most cheaply.
    contested = taken.sum(1) > 1
    cheapest = torch.where(taken, cost, torch.inf).argmin(1)
    taken[contested] = False
    taken[contested, cheapest[contested]] = True
    # An object that lost all its queries takes the cheapest that is free or that another can spare.
    for index in (~taken.any(0)).nonzero().flatten().tolist():
        spare = taken.sum(0)[taken.int().argmax(1)] > 1
        available = ~taken.any(1) | spare
        if not available.any():
            break  # more objects than queries
        cheapest = torch.where(available, cost[:, index], torch.inf).argmin()
        taken[cheapest] = False
        taken[cheapest, index] = True
    query, target = taken.nonzero(as_tuple=True)
    return query, target


#: Weights of focal class cost, L1 and GIoU in the cost of Hungarian matching, as in Deformable DETR.
HUNGARIAN_COST = (2.0, 5.0, 2.0)


@torch.no_grad()
def match_hungarian(
    logits: Tensor, boxes: Tensor, targets: Targets, weights: tuple[float, ...] = HUNGARIAN_COST
) -> tuple[Tensor, Tensor]:
    """One query per object with the least total cost, as in Deformable DETR; see :class:`Matcher`.

    cost = focal class cost + L1 - GIoU, weighted. With more objects than queries some stay without.
    """
    if len(targets) == 0:
        empty = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return empty, empty
    _, giou = iou_and_giou(to_corners(boxes.float())[:, None], to_corners(targets.boxes)[None])
    distance = (boxes[:, None].float() - targets.boxes[None]).abs().sum(-1)
    classes, l1, overlap = weights
    cost = classes * focal_class_cost(logits, targets.classes) + l1 * distance - overlap * giou
    query, target = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(query, device=boxes.device), torch.as_tensor(target, device=boxes.device)


#: Matchers by the name that a configuration gives.
MATCHERS: dict[str, Matcher] = {"optimal_transport": match_optimal_transport, "hungarian": match_hungarian}
