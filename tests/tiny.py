"""A tiny network, targets and outputs for the tests of network, learning and runtime."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rise_perception.network.config import NetworkConfig
from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.boxes import masks_to_boxes
from rise_perception.training.matching import Targets


def tiny_config(**changes: Any) -> NetworkConfig:
    """The network in its smallest working form."""
    values: dict[str, Any] = {
        "backbone": "resnet18",
        "backbone_args": {"channels": [16, 16, 16, 16], "layers": [1, 1, 1, 1]},
        "frozen_norm": False,
        "image_size": (64, 96),
        "levels": 3,
        "width": 32,
        "heads": 4,
        "points": 2,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "feedforward": 32,
        "dropout": 0.0,
        "queries": 10,
        "embedding": 8,
    }
    return NetworkConfig(**(values | changes))


def shake(module: torch.nn.Module, amount: float = 0.05) -> None:
    """Move every parameter off its initial value, so that no zero hides a term."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * amount)


def box_targets(boxes: list[list[float]], classes: list[int] | None = None, size: int = 16) -> Targets:
    """Targets whose masks fill their boxes (centre x, centre y, width, height)."""
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    cell = (torch.arange(size) + 0.5) / size
    low, high = corners[:, :2] - corners[:, 2:] / 2, corners[:, :2] + corners[:, 2:] / 2
    in_x = (cell > low[:, :1]) & (cell < high[:, :1])
    in_y = (cell > low[:, 1:]) & (cell < high[:, 1:])
    count = len(corners)
    return Targets(
        classes=torch.tensor(classes or [0] * count, dtype=torch.int64),
        boxes=corners,
        masks=in_y[:, :, None] & in_x[:, None],
        ids=torch.arange(count),
    )


def mask_targets(masks: Tensor) -> Targets:
    """Targets around given masks (N, h, w)."""
    count = len(masks)
    zeros = torch.zeros(count, dtype=torch.int64)
    return Targets(zeros, masks_to_boxes(masks), masks, torch.arange(count))


def query_outputs(logits: Tensor, boxes: Tensor, masks: Tensor, dim: int = 4) -> QueryOutputs:
    """Outputs whose mask logits (B, Q, h, w) are given."""
    embeddings = torch.randn(*logits.shape[:2], dim)
    return QueryOutputs(logits, boxes, embeddings, lambda batch, query: masks[batch, query])
