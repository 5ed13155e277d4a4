"""Box arithmetic on normalised boxes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def to_corners(boxes: Tensor) -> Tensor:
    """(..., 4) centre x, centre y, width, height -> x0, y0, x1, y1."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def to_centre(corners: Tensor) -> Tensor:
    """(..., 4) x0, y0, x1, y1 -> centre x, centre y, width, height."""
    low, high = corners[..., :2], corners[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Tight boxes of masks, as fractions of the mask's width and height (the paper's Eq. 8).

    Args:
        masks: (N, H, W) bool; x runs along the last axis, y along the one before.

    Returns:
        (N, 4) float32 centre x, centre y, width, height; an empty mask has width and height 0.
    """
    _, height, width = masks.shape
    columns, rows = masks.any(1), masks.any(2)  # (N, W), (N, H)
    corners = []
    for present, size in ((columns, width), (rows, height)):
        index = torch.arange(size, device=masks.device)
        first = torch.where(present, index, size).amin(1)
        last = torch.where(present, index + 1, 0).amax(1)
        empty = ~present.any(1)
        corners.append((first.masked_fill(empty, 0) / size, last.masked_fill(empty, 0) / size))
    (x0, x1), (y0, y1) = corners
    return to_centre(torch.stack([x0, y0, x1, y1], -1).float())


def fraction_on(boxes: Tensor, mask: Tensor) -> Tensor:
    """(Q, 4) centre boxes and (h, w) bool -> (Q,) float32: the fraction of each box that lies on the mask."""
    sums = nn.functional.pad(mask.to(boxes.device, torch.float32).cumsum(0).cumsum(1), (1, 0, 1, 0))
    size = torch.tensor([mask.shape[1], mask.shape[0]] * 2, device=boxes.device)
    x0, y0, x1, y1 = (to_corners(boxes).clamp(0, 1) * size).round().long().unbind(1)
    inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    return inside / ((x1 - x0) * (y1 - y0)).clamp(min=1)


def iou_and_giou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Pairwise or elementwise (by broadcasting) IoU and generalised IoU of corner boxes.

    Args:
        a, b: (..., 4) x0, y0, x1, y1, broadcastable against each other.

    Returns:
        IoU in [0, 1] and GIoU in [-1, 1], of the broadcast shape.
    """
    area_a = (a[..., 2:] - a[..., :2]).clamp(min=0).prod(-1)
    area_b = (b[..., 2:] - b[..., :2]).clamp(min=0).prod(-1)
    overlap = (
        (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    )
    union = area_a + area_b - overlap
    hull = (
        (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    )
    eps = 1e-7
    iou = overlap / (union + eps)
    return iou, iou - (hull - union) / (hull + eps)
