"""The encoders that turn feature levels into the memory: deformable attention, or the light hybrid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rise_perception.network.config import NetworkConfig
from rise_perception.network.deformable_attention import LevelShapes
from rise_perception.network.transformer import EncoderLayer, FeedForward, encoder_reference

#: 3x3 convolutions of a :class:`FusionBlock`.
FUSION_DEPTH = 3


class DeformableEncoder(nn.ModuleList):
    """Layers of deformable attention among the tokens of all levels (Deformable DETR)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(EncoderLayer(config) for _ in range(config.encoder_layers))

    def forward(
        self, memory: Tensor, position: Tensor, ratios: Tensor, shapes: LevelShapes, padding: Tensor | None
    ) -> Tensor:
        """Mix the tokens of all levels.

        Args:
            memory: (B, S, width), the flattened levels from fine to coarse.
            position: (B, S, width), encoding of each token's place and level.
            ratios: (B, L, 2), valid fraction of each level's width and height.
            shapes: height and width of the L levels.
            padding: (B, S) bool, True where a token is padding; None where none is.

        Returns:
            (B, S, width)
        """
        reference = encoder_reference(shapes, ratios)
        for layer in self:
            memory = layer(memory, position, reference, shapes, padding)
        return memory


class HybridEncoder(nn.Module):
    """Self-attention within the coarsest level, convolutions across levels (after RT-DETR's hybrid encoder).

    Full attention is cheap where tokens are few, and what it finds is carried to the finer levels by a
    top-down pass (FPN), and back by a bottom-up pass (PAN). Unlike RT-DETR's, each level adds what it hears
    to what it is, as a layer of attention does: trained from scratch, that is worth a point of AP.

    Padding is set to zero first, so that a convolution meets at the picture's border what it meets at the
    input's; attention leaves it out.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        width, steps = config.width, config.levels - 1
        self.layers = nn.ModuleList(SelfAttentionLayer(config) for _ in range(config.encoder_layers))
        self.lateral = nn.ModuleList(conv_norm(width, width, 1) for _ in range(steps))
        self.top_down = nn.ModuleList(FusionBlock(width) for _ in range(steps))
        self.shrink = nn.ModuleList(conv_norm(width, width, 3, stride=2) for _ in range(steps))
        self.bottom_up = nn.ModuleList(FusionBlock(width) for _ in range(steps))

    def forward(
        self, memory: Tensor, position: Tensor, ratios: Tensor, shapes: LevelShapes, padding: Tensor | None
    ) -> Tensor:
        """See :meth:`DeformableEncoder.forward`; the same tokens come out."""
        if padding is not None:
            memory = memory.masked_fill(padding[..., None], 0.0)
        sizes = [h * w for h, w in shapes]
        parts = list(memory.split(sizes, dim=1))
        coarsest = None if padding is None else padding[:, -sizes[-1] :]
        for layer in self.layers:
            parts[-1] = layer(parts[-1], position[:, -sizes[-1] :], coarsest)
        # (B, width, h, w), from fine to coarse
        maps = [p.transpose(1, 2).unflatten(2, s) for p, s in zip(parts, shapes, strict=True)]
        for level in range(len(maps) - 2, -1, -1):
            above = self.lateral[level](maps[level + 1])
            above = F.interpolate(above, size=shapes[level], mode="nearest")
            maps[level] = maps[level] + self.top_down[level](maps[level], above)
        for level in range(len(maps) - 1):
            h, w = shapes[level + 1]
            # Backbones round odd sizes up or down; this convolution rounds up.
            below = self.shrink[level](maps[level])[..., :h, :w]
            maps[level + 1] = maps[level + 1] + self.bottom_up[level](maps[level + 1], below)
        return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)


class SelfAttentionLayer(nn.Module):
    """Every token of one level attends to all others of it."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(config.width, config.heads, config.dropout, batch_first=True)
        self.norm = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.feedforward = FeedForward(config)

    def forward(self, tokens: Tensor, position: Tensor, padding: Tensor | None) -> Tensor:
        """(B, s, width) -> (B, s, width); no token attends to ``padding`` (B, s)."""
        key = tokens + position
        attended, _ = self.attention(key, key, tokens, key_padding_mask=padding, need_weights=False)
        return self.feedforward(self.norm(tokens + self.dropout(attended)))


class FusionBlock(nn.Module):
    """Joins two maps of one level: a cross-stage partial block, where one branch goes past the 3x3s."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.past = conv_norm(2 * width, width, 1)
        self.through = conv_norm(2 * width, width, 1)
        self.deep = nn.ModuleList(conv_norm(width, width, 3) for _ in range(FUSION_DEPTH))
        # Without ReLU: what is added may have either sign.
        self.join = conv_norm(2 * width, width, 1)[:2]

    def forward(self, own: Tensor, other: Tensor) -> Tensor:
        """(B, width, h, w) twice -> (B, width, h, w)"""
        both = torch.cat([own, other], 1)
        deep = self.through(both)
        for layer in self.deep:
            deep = deep + layer(deep)
        return self.join(torch.cat([self.past(both), deep], 1))


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm (which an export folds into it) and ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
