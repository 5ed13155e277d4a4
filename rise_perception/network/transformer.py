"""Deformable encoder and decoder layers (post-norm, as in Deformable DETR)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from rise_perception.network.config import NetworkConfig
from rise_perception.network.deformable_attention import DeformableAttention, LevelShapes


class FeedForward(nn.Module):
    """Two linear layers with ReLU, residual and LayerNorm."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.feedforward)
        self.fc2 = nn.Linear(config.feedforward, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)"""
        hidden = self.dropout(torch.relu(self.fc1(x)))
        return self.norm(x + self.dropout(self.fc2(hidden)))


class EncoderLayer(nn.Module):
    """Every memory token attends to sampled tokens of all levels."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(config.width, config.heads, config.levels, config.points)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.feedforward = FeedForward(config)

    def forward(
        self, memory: Tensor, position: Tensor, reference: Tensor, shapes: LevelShapes, padding: Tensor | None
    ) -> Tensor:
        """(B, S, width) -> (B, S, width)"""
        attended = self.self_attn(memory + position, reference, memory, shapes, padding)
        return self.feedforward(self.norm(memory + self.dropout(attended)))


class DecoderLayer(nn.Module):
    """Queries attend to each other, then to the memory."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(config.width, config.heads, config.dropout, batch_first=True)
        self.self_norm = nn.LayerNorm(config.width)
        self.cross_attn = DeformableAttention(config.width, config.heads, config.levels, config.points)
        self.cross_norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.feedforward = FeedForward(config)

    def forward(
        self,
        query: Tensor,
        position: Tensor,
        reference: Tensor,
        memory: Tensor,
        shapes: LevelShapes,
        padding: Tensor | None,
    ) -> Tensor:
        """(B, Q, width) -> (B, Q, width)"""
        key = query + position
        attended, _ = self.self_attn(key, key, query, need_weights=False)
        query = self.self_norm(query + self.dropout(attended))
        attended = self.cross_attn(query + position, reference, memory, shapes, padding)
        query = self.cross_norm(query + self.dropout(attended))
        return self.feedforward(query)


class MLP(nn.Module):
    """``layers`` linear layers with ReLU between them."""

    def __init__(self, inputs: int, hidden: int, outputs: int, layers: int) -> None:
        super().__init__()
        sizes = [inputs] + [hidden] * (layers - 1) + [outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)"""
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)


def encoder_reference(shapes: LevelShapes, valid_ratios: Tensor) -> Tensor:
    """Centre of every memory token as a fraction of each level's valid region.

    Args:
        shapes: height and width of the L levels.
        valid_ratios: (B, L, 2), valid fraction of the width and of the height.

    Returns:
        (B, S, L, 2), x and y; scaled per target level so that padding is stepped over.
    """
    points = []
    for level, (h, w) in enumerate(shapes):
        y = (torch.arange(h, dtype=valid_ratios.dtype, device=valid_ratios.device) + 0.5) / h
        x = (torch.arange(w, dtype=valid_ratios.dtype, device=valid_ratios.device) + 0.5) / w
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(1, h * w, 2)
        points.append(grid / valid_ratios[:, None, level])
    return torch.cat(points, 1)[:, :, None] * valid_ratios[:, None]


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) with x clamped to [eps, 1 - eps] on either side."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))
