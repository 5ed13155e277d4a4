"""Sine position encoding of the feature levels, as Deformable DETR normalises it."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def whole_encoding(size: tuple[int, int], width: int, device: torch.device) -> Tensor:
    """:func:`sine_encoding` of a level without padding, kept: it is the same for every image.

    Args:
        size: (h, w) of the level.
        width: channels of the encoding.
        device: of the result.

    Returns:
        (1, h, w, width) float32
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # a trace computes it and keeps nothing
        return sine_encoding(torch.ones(1, *size, dtype=torch.bool, device=device), width)
    return _kept(size, width, device)


@lru_cache(maxsize=32)
def _kept(size: tuple[int, int], width: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # a training may use it after a prediction
        return sine_encoding(torch.ones(1, *size, dtype=torch.bool, device=device), width)


def sine_encoding(valid: Tensor, width: int, temperature: float = 10000.0) -> Tensor:
    """Encode the position of each cell inside the valid region.

    Args:
        valid: (B, h, w) bool, False where the image is padding.
        width: channels of the encoding; the first half encodes y, the second x.

    Returns:
        (B, h, w, width) float32
    """
    ones = valid.to(torch.float32)
    rows, columns = ones.cumsum(1), ones.cumsum(2)
    rows = (rows - 0.5) / (rows[:, -1:, :] + 1e-6) * (2 * math.pi)
    columns = (columns - 0.5) / (columns[:, :, -1:] + 1e-6) * (2 * math.pi)
    half = width // 2
    index = torch.arange(half, dtype=torch.float32, device=valid.device)
    frequency = temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / half)
    encoded = []
    for axis in (rows, columns):
        phase = axis[..., None] / frequency  # (B, h, w, half)
        encoded.append(torch.stack([phase[..., 0::2].sin(), phase[..., 1::2].cos()], -1).flatten(-2))
    return torch.cat(encoded, -1)
