"""The grasp segmenter's network: what left and what moved, and how well a mask shows one item that left.

A U-Net whose first layer halves the picture and whose last one doubles it again, so that outlines keep the
picture's pixels at the cost of half the size. A head judges masks that are given to it: the network's own, a
part of it, or an instance network's prediction.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Height and width of the input.
SIZE = (240, 320)
#: Channels of the input, see :mod:`.inputs`.
CHANNELS = 16
#: Most parameters.
MAX_PARAMETERS = 400_000
_WIDTHS = (24, 40, 64, 96)
_SCALARS = 6


class GraspSegmenter(nn.Module):
    """From two frames of a grasp to masks.

    Group norms, so that it does the same in training and at inference, whatever the batch.
    """

    def __init__(self) -> None:
        super().__init__()
        sources = (CHANNELS, *_WIDTHS[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(_block(a, b, 2), *([_block(b, b, 1)] if level else []))
            for level, (a, b) in enumerate(zip(sources, _WIDTHS, strict=True))
        )
        upward = zip(_WIDTHS[:0:-1], _WIDTHS[-2::-1], strict=True)
        self.up = nn.ModuleList(_block(a + b, b, 1) for a, b in upward)
        self.head = nn.Conv2d(_WIDTHS[0], 8, 3, padding=1)
        self.enlarge = nn.PixelShuffle(2)
        self.judge = nn.Sequential(
            nn.Linear(2 * _WIDTHS[0] + 2 * _WIDTHS[1] + 2 * _WIDTHS[-1] + _SCALARS, 64),
            nn.ReLU(inplace=True),
            nn.Linear(64, 1),
        )

    def forward(self, pairs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and what :meth:`quality` needs.

        Args:
            pairs: (B, 16, H, W) float32 of :func:`.inputs.make_input`; H and W multiples of 16.

        Returns:
            (B, 2, H, W) logits that a pixel of the frame before shows something that left, and something that
            moved; and maps (B, C, H / 2, W / 2), (B, C, H / 4, W / 4), (B, C, H / 16, W / 16).
        """
        maps = []
        x = pairs
        for block in self.down:
            x = block(x)
            maps.append(x)
        deepest, decoded = x, []
        for block, skip in zip(self.up, maps[-2::-1], strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = block(torch.cat([x, skip], 1))
            decoded.append(x)
        return self.enlarge(self.head(x)), [x, decoded[-2], deepest]

    def quality(self, maps: list[Tensor], left: Tensor, masks: Tensor) -> Tensor:
        """How well masks show exactly one item that left.

        Args:
            maps: of :meth:`forward`.
            left: (B, 1, H / 2, W / 2) probability that something left.
            masks: (B, K, H / 2, W / 2) float32 in [0, 1].

        Returns:
            (B, K) logits of the intersection over union with that item.
        """
        wide = F.max_pool2d(masks, 5, 1, 2)
        ring = (wide - masks).clamp(0, 1)
        fine, middle, deep = (m.float() for m in maps)
        half, eighth = (F.avg_pool2d(masks, f) for f in (2, 8))
        total = left.sum((2, 3)).clamp(min=1)
        inside = _mean(left, masks)[..., 0]
        parts = [
            _mean(fine, masks),
            _mean(fine, ring),
            _mean(middle, half),
            _spread(middle, half),
            _mean(deep, eighth),
            deep.mean((2, 3))[:, None].expand(-1, masks.shape[1], -1),
            inside[..., None],
            _mean(left, ring),
            _mean(4 * left * (1 - left), masks),
            _mean(4 * left * (1 - left), wide),
            (left * masks).sum((2, 3))[..., None] / total[..., None],
            (masks.sum((2, 3)) / 1000 + 1e-3).log()[..., None] / 3,
        ]
        logits: Tensor = self.judge(torch.cat(parts, 2))[..., 0]
        return logits


def _mean(values: Tensor, masks: Tensor) -> Tensor:
    """(B, K, C) mean of (B, C, h, w) within each of (B, K, h, w)."""
    area = masks.sum((2, 3)).clamp(min=1e-3)
    return torch.einsum("bchw,bkhw->bkc", values, masks) / area[..., None]


def _spread(values: Tensor, masks: Tensor) -> Tensor:
    """(B, K, C) deviation of (B, C, h, w) within each of (B, K, h, w)."""
    squared = _mean(values * values, masks) - _mean(values, masks) ** 2
    return squared.clamp(min=1e-6).sqrt()


def _block(source: int, target: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(source, target, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(8, target),
        nn.ReLU(inplace=True),
    )
