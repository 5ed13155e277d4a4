"""Multi-scale sampling: two fast forms against plain loops, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rise_perception.network.deformable_attention import (
    DeformableAttention,
    LevelShapes,
    sample_by_grid,
    sample_by_rows,
)

SHAPES: LevelShapes = [(5, 7), (3, 4), (1, 2)]


def sample_by_loops(value: Tensor, shapes: LevelShapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Bilinear sampling written out: cell centres lie at halves, outside is zero."""
    batch, _, heads, dim = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    rows = []
    for b in range(batch):
        for q in range(queries):
            for head in range(heads):
                total = value.new_zeros(dim)
                start = 0
                for level, (h, w) in enumerate(shapes):
                    image = value[b, start : start + h * w, head].reshape(h, w, dim)
                    start += h * w
                    for p in range(points):
                        x = locations[b, q, head, level, p, 0] * w - 0.5
                        y = locations[b, q, head, level, p, 1] * h - 0.5
                        x0, y0 = math.floor(x.item()), math.floor(y.item())
                        for row, fraction_y in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
                            for column, fraction_x in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
                                if 0 <= row < h and 0 <= column < w:
                                    fraction = fraction_x * fraction_y * weights[b, q, head, level, p]
                                    total = total + fraction * image[row, column]
                rows.append(total)
    return torch.stack(rows).view(batch, queries, heads * dim)


def random_arguments() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch, heads, dim, queries, points = 2, 3, 4, 6, 2
    cells = sum(h * w for h, w in SHAPES)
    value = torch.randn(batch, cells, heads, dim, generator=generator, dtype=torch.float64)
    # Half of them inside, the rest on the border, a little outside and far outside.
    locations = torch.rand(
        batch, queries, heads, len(SHAPES), points, 2, generator=generator, dtype=torch.float64
    )
    locations = locations * 1.6 - 0.3
    locations[0, 0, 0] = 25.0
    locations[0, 1, 0] = -25.0
    weights = torch.rand(batch, queries, heads, len(SHAPES), points, generator=generator, dtype=torch.float64)
    return value, locations, weights


@pytest.mark.parametrize("sample", [sample_by_rows, sample_by_grid])
def test_sampling_equals_plain_loops(sample: Callable[..., Tensor]) -> None:
    results = []
    for form in (sample, sample_by_loops):
        arguments = [t.clone().requires_grad_() for t in random_arguments()]
        output = form(arguments[0], SHAPES, arguments[1], arguments[2])
        weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        results.append([output, *torch.autograd.grad((output * weight).sum(), arguments)])
    for name, got, expected in zip(("output", "value", "locations", "weights"), *results, strict=True):
        assert expected.abs().max() > 0.1
        torch.testing.assert_close(got, expected, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("sample", [sample_by_rows, sample_by_grid])
def test_exact_on_cell_centres_and_zero_outside(sample: Callable[..., Tensor]) -> None:
    """One level of 3x4 cells: the centre of each cell gives the cell, one cell off the border gives zero."""
    shapes = [(3, 4)]
    value = torch.arange(1.0, 13.0).view(1, 12, 1, 1)
    y, x = torch.meshgrid(torch.arange(-1, 4), torch.arange(-1, 5), indexing="ij")
    centres = torch.stack([(x.flatten() + 0.5) / 4, (y.flatten() + 0.5) / 3], -1)
    got = sample(value, shapes, centres.view(1, -1, 1, 1, 1, 2), torch.ones(1, len(centres), 1, 1, 1))
    expected = torch.zeros(5, 6)
    expected[1:4, 1:5] = value.view(3, 4)
    torch.testing.assert_close(got.view(5, 6), expected, atol=1e-5, rtol=1e-5)


def test_the_two_forms_agree_in_single_precision_on_a_real_size() -> None:
    torch.manual_seed(0)
    shapes = [(30, 40), (15, 20), (8, 10)]
    attention = DeformableAttention(64, 4, 3, 4)
    for linear in (attention.sampling_offsets, attention.attention_weights):
        torch.nn.init.normal_(linear.weight, std=0.3)
    cells = sum(h * w for h, w in shapes)
    memory, query = torch.randn(2, cells, 64), torch.randn(2, 50, 64)
    reference = torch.rand(2, 50, 3, 4)
    outputs = []
    for sample in (sample_by_rows, sample_by_grid):
        attention.sample = sample
        outputs.append(attention(query, reference, memory, shapes, None))
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-4)


def test_half_precision_has_the_gradients_of_single() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(32, 4, 2, 4)
    torch.nn.init.normal_(attention.attention_weights.weight, std=0.3)
    shapes = [(6, 8), (3, 4)]
    memory, query, reference = torch.randn(2, 60, 32), torch.randn(2, 10, 32), torch.rand(2, 10, 2, 4)
    gradients = []
    for half in (False, True):
        attention.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            attention(query, reference, memory, shapes, None).float().square().sum().backward()
        gradients.append([p.grad.clone() for p in attention.parameters() if p.grad is not None])
    assert len(gradients[1]) == len(gradients[0]) == 8
    for single, half in zip(*gradients, strict=True):
        assert (single - half).norm() < 0.1 * single.norm()


def test_padding_is_never_seen() -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(32, 4, 1, 2)
    memory, query = torch.randn(1, 24, 32), torch.randn(1, 3, 32)
    padding = torch.zeros(1, 24, dtype=torch.bool)
    padding[0, 12:] = True
    reference = torch.full((1, 3, 1, 2), 0.5)
    before = attention(query, reference, memory, [(4, 6)], padding)
    memory[0, 12:] = 1e6
    torch.testing.assert_close(attention(query, reference, memory, [(4, 6)], padding), before)


def test_heads_start_out_looking_around() -> None:
    """Zero weights, so the offsets are the bias: 8 directions, the farthest coordinate one step a point."""
    attention = DeformableAttention(32, 8, 2, 3)
    offsets = attention.sampling_offsets(torch.randn(32)).view(8, 2, 3, 2)
    assert torch.equal(offsets[:, 0], offsets[:, 1])
    for point in range(3):
        torch.testing.assert_close(offsets[:, 0, point].abs().amax(-1), torch.full((8,), point + 1.0))
    assert len({tuple(o) for o in offsets[:, 0, 0].round(decimals=3).tolist()}) == 8
