"""From query outputs to instances: one owner per pixel, aligned to the image, duplicates and noise gone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import query_outputs

from rise_perception.core.instances import Instances
from rise_perception.core.letterbox import Letterbox
from rise_perception.inference.decoding import draw_queries
from rise_perception.inference.postprocess import TOP_K, to_instances
from rise_perception.network.config import NetworkConfig
from rise_perception.network.outputs import QueryOutputs

INPUT = (240, 320)
CELLS = (60, 80)
NETWORK = NetworkConfig(image_size=INPUT)
Rectangle = tuple[float, float, float, float]


def outputs_of(
    rectangles: list[Rectangle], scores: list[float], classes: list[int] | None = None
) -> QueryOutputs:
    """Queries whose masks are rectangles (x0, y0, x1, y1, fractions of the input), exact within a cell."""
    count = len(rectangles)
    logits = torch.full((1, count, 2), -9.0)
    boxes = torch.zeros(1, count, 4)
    masks = torch.zeros(1, count, *CELLS)
    x, y = (torch.arange(CELLS[1]) + 0.5) / CELLS[1], (torch.arange(CELLS[0]) + 0.5) / CELLS[0]
    for i, (x0, y0, x1, y1) in enumerate(rectangles):
        logits[0, i, (classes or [1] * count)[i]] = float(np.log(scores[i] / (1 - scores[i])))
        boxes[0, i] = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
        # The distance to the rim in cells, steep: linear where it crosses zero.
        inside_x = torch.minimum(x - x0, x1 - x) * CELLS[1]
        inside_y = torch.minimum(y - y0, y1 - y) * CELLS[0]
        masks[0, i] = 12 * torch.minimum(inside_y[:, None], inside_x[None])
    return query_outputs(logits, boxes, masks)


def run(
    outputs: QueryOutputs, size: tuple[int, int] = (480, 640), threshold: float = 0.3, **network: Any
) -> Instances:
    config = NetworkConfig(image_size=INPUT, **network)
    found = to_instances(draw_queries(outputs, threshold), Letterbox(size, INPUT), config, threshold)
    check(found, size)
    return found


def check(found: Instances, size: tuple[int, int]) -> None:
    """What always holds."""
    count = len(found)
    assert found.label_map.shape == size
    assert found.label_map.dtype == np.uint16
    assert found.labels.tolist() == list(range(1, count + 1))
    assert set(np.unique(found.label_map)) - {0} == set(found.labels.tolist())
    assert found.labels.dtype == np.uint16
    assert found.scores.dtype == np.float32
    assert found.classes.dtype == found.ids.dtype == np.int64
    assert found.ids.tolist() == found.labels.tolist()
    assert found.boxes.dtype == found.embeddings.dtype == np.float32
    assert found.embeddings.shape == (count, 4)
    assert (np.diff(found.scores) <= 0).all()
    for i in range(count):
        rows, columns = np.nonzero(found.mask(i))
        assert found.boxes[i].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_nothing_is_an_empty_result() -> None:
    for outputs, threshold in ((outputs_of([], []), 0.3), (outputs_of([(0.1, 0.1, 0.5, 0.5)], [0.2]), 0.3)):
        found = run(outputs, threshold=threshold)
        assert len(found) == 0
        assert not found.label_map.any()
        assert found.class_names == ("container", "object")


@pytest.mark.parametrize(
    "size", [(480, 640), (240, 320), (481, 637), (120, 160), (333, 517), (600, 300), (2048, 2448)]
)
def test_masks_lie_on_their_pixels(size: tuple[int, int]) -> None:
    """A rectangle comes back within a pixel, or a fifth of a cell where cells are larger than pixels."""
    box = Letterbox(size, INPUT)
    content = box.content[0] / INPUT[0], box.content[1] / INPUT[1]
    wanted = (0.22, 0.31, 0.83, 0.64)  # in fractions of the image
    rectangle = (
        wanted[0] * content[1],
        wanted[1] * content[0],
        wanted[2] * content[1],
        wanted[3] * content[0],
    )
    found = run(outputs_of([rectangle], [0.9]), size)
    expected = np.array(wanted) * [size[1], size[0], size[1], size[0]]
    cell = 4 * max(size[0] / box.content[0], size[1] / box.content[1])
    assert np.abs(found.boxes[0] - expected).max() < max(1.0, 0.2 * cell)
    area = (expected[2] - expected[0]) * (expected[3] - expected[1])
    assert found.areas()[0] == pytest.approx(area, rel=0.05)


@pytest.mark.parametrize("size", [(1, 1), (37, 5), (1, 500), (700, 2)])
def test_odd_images(size: tuple[int, int]) -> None:
    content = Letterbox(size, INPUT).content
    whole = (0.0, 0.0, content[1] / INPUT[1], content[0] / INPUT[0])
    found = run(outputs_of([whole], [0.9]), size)
    if min(content) > 8:  # narrower than two cells there is no mask to speak of
        assert (found.label_map == 1).mean() > 0.9


def test_the_better_owns_the_overlap() -> None:
    left, right = (0.1, 0.2, 0.55, 0.8), (0.4, 0.2, 0.9, 0.8)
    for scores, owner in (([0.9, 0.6], 0), ([0.6, 0.9], 1)):
        found = run(outputs_of([left, right], scores))
        assert len(found) == 2
        assert found.label_map[240, 304] == 1
        best = found.boxes[0]
        assert abs(best[0] - (left, right)[owner][0] * 640) < 2  # the better comes first, and whole
        assert abs(best[2] - (left, right)[owner][2] * 640) < 2


def test_duplicates_of_a_better_one_go() -> None:
    found = run(
        outputs_of([(0.2, 0.2, 0.6, 0.6), (0.21, 0.2, 0.62, 0.6), (0.7, 0.7, 0.9, 0.9)], [0.7, 0.9, 0.5])
    )
    assert len(found) == 2
    assert found.scores[0] == pytest.approx(0.9, abs=0.02)


def test_a_part_of_a_better_one_goes() -> None:
    """Its IoU with the whole is small, but it owns nothing of its own."""
    assert len(run(outputs_of([(0.1, 0.1, 0.9, 0.9), (0.3, 0.3, 0.5, 0.5)], [0.9, 0.8]))) == 1


@pytest.mark.parametrize(("hidden", "stays"), [(0.4, True), (0.6, False)])
def test_what_better_ones_mostly_hide_goes(hidden: float, stays: bool) -> None:
    """Also when no single one hides it: two cover a side each."""
    half = hidden * 0.6 / 2
    rectangles = [(0.0, 0.1, 0.2 + half, 0.4), (0.8 - half, 0.1, 1.0, 0.4), (0.2, 0.1, 0.8, 0.4)]
    assert len(run(outputs_of(rectangles, [0.9, 0.8, 0.7]))) == (3 if stays else 2)


def test_a_small_one_on_top_of_a_large_one_stays() -> None:
    found = run(outputs_of([(0.1, 0.1, 0.9, 0.9), (0.3, 0.3, 0.5, 0.5)], [0.8, 0.9]))
    assert len(found) == 2
    assert found.label_map[190, 256] == 1
    assert found.label_map[100, 100] == 2


def test_containers_lie_below_and_compete_with_their_kind_only() -> None:
    tote, item, other = (0.05, 0.05, 0.95, 0.95), (0.3, 0.3, 0.5, 0.5), (0.06, 0.05, 0.95, 0.95)
    found = run(outputs_of([tote, item, other], [0.95, 0.6, 0.7], [0, 1, 0]))
    assert found.classes.tolist() == [0, 1]
    assert found.label_map[190, 256] == 2  # the item, although it scores less
    assert found.label_map[100, 100] == 1


def test_low_and_ragged_ones_are_dropped() -> None:
    outputs = outputs_of([(0.1, 0.1, 0.4, 0.4), (0.6, 0.6, 0.9, 0.9)], [0.5, 0.5])
    sharp = outputs.masks
    outputs.masks = lambda b, q: torch.where(
        (q == 1)[:, None, None], sharp(b, q).clamp(max=0.05), sharp(b, q)
    )
    found = run(outputs, threshold=0.4)
    assert len(found) == 1  # the second's pixels are all but undecided: 0.5 * 0.5 < 0.4
    assert found.boxes[0][0] < 100


def test_noise_of_a_cell_is_no_instance() -> None:
    cell = 1 / CELLS[1]
    assert len(run(outputs_of([(10.05 * cell, 0.5, 10.95 * cell, 0.512)], [0.9]))) == 0


def test_strays_outside_the_box_are_cut_off() -> None:
    outputs = outputs_of([(0.2, 0.2, 0.5, 0.5)], [0.9])
    exact = outputs.masks

    def with_stray(batch: torch.Tensor, query: torch.Tensor, /) -> torch.Tensor:
        masks = exact(batch, query).clone()
        masks[:, 50:55, 70:78] = 9.0
        return masks

    outputs.masks = with_stray
    assert np.abs(run(outputs).boxes[0] - np.array([0.2 * 640, 0.2 * 480, 0.5 * 640, 0.5 * 480])).max() < 2


def test_only_the_best_queries_are_drawn() -> None:
    rng = np.random.default_rng(0)
    corners = [(0.045 * column, 0.06 * row) for row in range(15) for column in range(20)]
    outputs = outputs_of(
        [(x, y, x + 0.05, y + 0.05) for x, y in corners], rng.uniform(0.4, 0.99, 3 * TOP_K).tolist()
    )
    drawn: list[int] = []
    decode = outputs.masks

    def counting(batch: torch.Tensor, query: torch.Tensor, /) -> torch.Tensor:
        drawn.extend(query.tolist())
        return decode(batch, query)

    outputs.masks = counting
    found = run(outputs)
    assert len(drawn) == TOP_K
    best = outputs.logits[0].max(-1).values.topk(TOP_K).indices
    assert set(drawn) == set(best.tolist())
    assert 0 < len(found) <= TOP_K


def test_a_box_that_repeats_a_better_one_is_not_drawn() -> None:
    outputs = outputs_of([(0.1, 0.1, 0.5, 0.5), (0.11, 0.1, 0.5, 0.5), (0.2, 0.2, 0.4, 0.4)], [0.8, 0.9, 0.7])
    drawn = draw_queries(outputs, 0.3)
    assert drawn.probability.tolist() == pytest.approx([0.9, 0.7])
    assert drawn.masks.shape[0] == 2


def test_embeddings_stay_with_their_instances() -> None:
    outputs = outputs_of([(0.1, 0.1, 0.3, 0.3), (0.11, 0.1, 0.3, 0.3), (0.6, 0.6, 0.9, 0.9)], [0.7, 0.8, 0.9])
    found = run(outputs)
    assert outputs.embeddings is not None
    np.testing.assert_array_equal(found.embeddings, outputs.embeddings[0, [2, 1]].numpy())


def test_masks_come_out_the_same_for_any_order_of_queries() -> None:
    rng = np.random.default_rng(1)
    low = rng.uniform(0, 0.7, (25, 2))
    size = rng.uniform(0.05, 0.3, (25, 2))
    rectangles = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(low, size, strict=True)]
    scores = np.linspace(0.35, 0.99, 25)
    order = rng.permutation(25)
    first = run(outputs_of(rectangles, scores.tolist()))
    second = run(outputs_of([rectangles[i] for i in order], scores[order].tolist()))
    assert len(first) > 5
    assert np.array_equal(first.label_map, second.label_map)
