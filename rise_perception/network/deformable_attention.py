"""Multi-scale deformable attention in pure PyTorch, with no compiled operator of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csc_matrix
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

#: Height and width of each feature level, as Python integers so that they are constants in an export.
LevelShapes = list[tuple[int, int]]
#: (value, shapes, locations, weights) -> samples, as :func:`sample_by_grid`.
Sampler = Callable[[Tensor, LevelShapes, Tensor, Tensor], Tensor]


def sample_by_grid(value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples over all levels and points (Deformable DETR, Eq. 3).

    The form for GPUs and for export: one ``grid_sample`` per level.

    Args:
        value: (B, S, heads, d) with S the sum of h*w over ``shapes``.
        shapes: height and width of each of the L levels.
        locations: (B, Q, heads, L, P, 2), x and y in [0, 1] over the level; outside samples zero.
        weights: (B, Q, heads, L, P), summing to one over L and P.

    Returns:
        (B, Q, heads * d)
    """
    batch, _, heads, dim = value.shape
    queries = locations.shape[1]
    # Queries last: the sum over points then runs over long contiguous rows. Level by level, so that no
    # runtime has to hold all samples at once.
    grids = (2.0 * locations - 1.0).permute(0, 2, 3, 4, 1, 5).flatten(0, 1)  # (B*heads, L, P, Q, 2)
    weights = weights.permute(0, 2, 3, 4, 1).flatten(0, 1)[:, None]  # (B*heads, 1, L, P, Q)
    total = value.new_zeros(())
    for level, part in enumerate(value.split([h * w for h, w in shapes], dim=1)):
        h, w = shapes[level]
        image = part.permute(0, 2, 3, 1).reshape(batch * heads, dim, h, w)
        # (B*heads, d, P, Q)
        sampled = F.grid_sample(
            image, grids[:, level], mode="bilinear", padding_mode="zeros", align_corners=False
        )
        total = total + (sampled * weights[:, :, level]).sum(2)
    return total.view(batch, heads * dim, queries).transpose(1, 2)


def sample_by_rows(value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The same as :func:`sample_by_grid`, for CPUs: one fused weighted gather of rows.

    ``grid_sample`` strides through memory once per channel; here each bilinear corner is one contiguous
    row of d values, summed by ``embedding_bag``. Forward and backward take about a third of the time.
    """
    batch, _, heads, dim = value.shape
    # A border of zeros on each level stands in for everything outside, so that no corner needs a test.
    padded, starts, rows = [], [], 0
    for part, (h, w) in zip(value.split([h * w for h, w in shapes], dim=1), shapes, strict=True):
        bordered = F.pad(part.view(batch, h, w, heads * dim), (0, 0, 1, 1, 1, 1))
        padded.append(bordered.flatten(1, 2))
        starts.append(rows)
        rows += (h + 2) * (w + 2)
    table = torch.cat(padded, 1).view(batch * rows * heads, dim)

    extent = locations.new_tensor([(w, h) for h, w in shapes])[:, None]  # (L, 1, 2)
    position = torch.minimum((locations * extent - 0.5).clamp(min=-1.0), extent)
    corner = torch.minimum(position.detach().floor(), extent - 1.0)
    fraction = position - corner  # (B, Q, heads, L, P, 2)
    pitch = extent[..., 0] + 2.0  # (L, 1)
    # Row numbers are exact in float64 and cheap; the +1 steps over the border.
    cell = (corner[..., 1].double() + 1.0) * pitch + corner[..., 0] + 1.0
    base = torch.arange(batch, device=value.device)[:, None, None, None, None] * rows
    base = base + torch.tensor(starts, device=value.device)[:, None]
    index = (base + cell.long()) * heads + torch.arange(heads, device=value.device)[:, None, None]
    step_y = (pitch.long() * heads).expand_as(index)
    indices = torch.stack([index, index + heads, index + step_y, index + step_y + heads], -1)
    x, y = fraction[..., 0], fraction[..., 1]
    low, high = weights * (1.0 - y), weights * y
    corner_weights = torch.stack([low * (1.0 - x), low * x, high * (1.0 - x), high * x], -1)
    table = table.to(corner_weights.dtype)  # under autocast, half precision and single
    bags = batch * locations.shape[1] * heads
    gather = _WeightedRows.apply if torch.is_grad_enabled() and table.requires_grad else _weighted_rows
    summed = gather(table, indices.view(bags, -1), corner_weights.view(bags, -1))
    return summed.view(batch, -1, heads * dim)


def _weighted_rows(table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Rows (R, d) of a table, N bags of K of them (N, K) int64, their weights (N, K) -> (N, d) sums."""
    return F.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")


class _WeightedRows(torch.autograd.Function):
    """:func:`_weighted_rows` with a gradient of its own.

    ``embedding_bag`` sorts all indices to add up the gradient of the table: a fifth of a step on a CPU.
    As a sparse matrix, known column by column, times the gradient of the sums it needs no sorting.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, indices, weights)
        return _weighted_rows(table, indices, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:
        table, indices, weights = ctx.saved_tensors
        with torch.enable_grad():
            own = weights.detach().requires_grad_()
            sums = _weighted_rows(table.detach(), indices, own)
            (of_weights,) = torch.autograd.grad(sums, own, gradient)
        starts = np.arange(0, indices.numel() + 1, indices.shape[1])
        shape = (len(table), len(indices))
        corners = csc_matrix((_array(weights).ravel(), indices.flatten().numpy(), starts), shape)
        of_table = torch.from_numpy(corners @ _array(gradient))
        return of_table.to(table.dtype), None, of_weights


def _array(values: Tensor) -> np.ndarray:
    """Values as NumPy, which has no bfloat16."""
    values = values.detach()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def sample_levels(value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """:func:`sample_by_rows` on a CPU, :func:`sample_by_grid` elsewhere; arguments as there."""
    sample = sample_by_rows if value.device.type == "cpu" else sample_by_grid
    return sample(value, shapes, locations, weights)


class DeformableAttention(nn.Module):
    """Attention of each query to ``points`` sampled positions per head and level."""

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        #: How the memory is sampled; an export sets :func:`sample_by_grid`.
        self.sample: Sampler = sample_levels
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        # Each head starts out looking in its own direction, each point one step further out.
        angles = torch.arange(self.heads, dtype=torch.float32) * (2.0 * math.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        directions = directions / directions.abs().max(-1, keepdim=True).values
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        bias = directions[:, None, None, :] * steps[None, None, :, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self, query: Tensor, reference: Tensor, memory: Tensor, shapes: LevelShapes, padding: Tensor | None
    ) -> Tensor:
        """Attend from Q queries to the memory.

        Args:
            query: (B, Q, width), content plus position.
            reference: (B, Q, L, 2) centres, or (B, Q, L, 4) boxes (cx, cy, w, h), in [0, 1] per level.
            memory: (B, S, width), the flattened levels.
            shapes: height and width of each level.
            padding: (B, S) bool, True where the memory is padding; or None.

        Returns:
            (B, Q, width)
        """
        batch, queries, _ = query.shape
        value = self.value_proj(memory)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        value = value.view(batch, memory.shape[1], self.heads, -1)
        layout = (batch, queries, self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).view(*layout, 2)
        weights = self.attention_weights(query).view(batch, queries, self.heads, -1).softmax(-1).view(layout)
        centre = reference[:, :, None, :, None, :2]  # (B, Q, 1, L, 1, 2)
        if reference.shape[-1] == 2:
            extent = torch.tensor([(w, h) for h, w in shapes], dtype=query.dtype, device=query.device)
            locations = centre + offsets / extent[:, None, :]
        else:
            locations = centre + offsets / self.points * reference[:, :, None, :, None, 2:] * 0.5
        return self.output_proj(self.sample(value, shapes, locations, weights))
