"""The instance bank: what is cut out, first in first out, a function of the position alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tiny_data import cut_out, labelled, rectangles

from rise_perception.data.coco import LabelledImage
from rise_perception.synthesis.bank import InstanceBank, SeededBank
from rise_perception.synthesis.cut_out import BORDER, RING, cut_outs


def numbered(count: int) -> list:
    return [cut_out(np.ones((8, 8), bool), category=n) for n in range(count)]


def content(bank: InstanceBank) -> list[int]:
    return [bank[i].category for i in range(len(bank))]


def test_first_in_first_out() -> None:
    bank, cuts = InstanceBank(4), numbered(7)
    bank.add(cuts[:3])
    assert content(bank) == [0, 1, 2]
    bank.add(cuts[3:6])
    assert content(bank) == [2, 3, 4, 5]
    bank.add(cuts[6:])
    assert content(bank) == [3, 4, 5, 6]


# ---- what is cut out ----


def test_a_cut_out_is_the_objects_box_with_its_own_pixels() -> None:
    mask = rectangles([(30, 20, 50, 30)])
    mask[0, 30:44, 30:36] = True  # an L
    sample = labelled(mask)
    sample.image[..., 1] = np.arange(96)
    sample.image[..., 2] = np.arange(64)[:, None]
    (cut,) = cut_outs(sample, frozenset())
    assert cut.image.shape == (24, 20, 3)
    assert np.array_equal(cut.image, sample.image[20:44, 30:50])
    assert np.array_equal(cut.mask, mask[0, 20:44, 30:50])
    sample.image[:] = 0  # the bank keeps its own pixels
    sample.masks[:] = False
    assert cut.image.any()
    assert cut.mask.any()


def test_containers_stay_out() -> None:
    sample = labelled(rectangles([(10, 10, 80, 50), (20, 20, 40, 40), (50, 20, 70, 40)]), classes=[0, 1, 1])
    assert [c.category for c in cut_outs(sample, frozenset({0}))] == [1, 1]
    assert [c.category for c in cut_outs(sample, frozenset())] == [0, 1, 1]


@pytest.mark.parametrize("side", ["left", "top", "right", "bottom"])
def test_objects_near_the_border_stay_out(side: str) -> None:
    """5 % of 100 rows are 5 of them, of 200 columns 10."""
    near_y, near_x = round(BORDER * 100), round(BORDER * 200)
    assert (near_y, near_x) == (5, 10)
    boxes = {
        "left": [(near_x - n, 40, 60, 60) for n in (0, 1)],
        "top": [(80, near_y - n, 120, 60) for n in (0, 1)],
        "right": [(140, 40, 200 - near_x + n, 60) for n in (0, 1)],
        "bottom": [(80, 40, 120, 100 - near_y + n) for n in (0, 1)],
    }[side]
    found = [len(list(cut_outs(labelled(rectangles([box], (100, 200))), frozenset()))) for box in boxes]
    assert found == [1, 0]


def test_slivers_stay_out() -> None:
    sample = labelled(rectangles([(20, 20, 28, 28), (50, 20, 57, 29), (60, 40, 64, 42)]))
    assert [c.mask.shape for c in cut_outs(sample, frozenset())] == [(8, 8)]


def test_relief_is_the_depth_over_the_support_around_the_object() -> None:
    sample = labelled(rectangles([(30, 20, 50, 40)]))
    assert sample.depth is not None
    sample.depth[:] = 5.0
    sample.depth[20 - RING : 40 + RING, 30 - RING : 50 + RING] = 2.0  # the support; what is beyond is not
    sample.depth[20:40, 30:50] = 1.75
    sample.depth[25, 35] = 0.0  # no measurement
    sample.depth[20 - RING : 20, 30:50] = 0.0
    (cut,) = cut_outs(sample, frozenset())
    assert cut.relief is not None
    assert cut.relief.dtype == np.float32
    assert np.isnan(cut.relief[5, 5])
    assert np.isnan(cut.relief).sum() == 1
    assert np.nanmax(np.abs(cut.relief - -0.25)) < 1e-6
    sample.depth[:] = np.where(sample.masks[0], 1.75, 0.0)
    (floating,) = cut_outs(sample, frozenset())  # nothing is known of its support
    assert floating.relief is not None
    assert np.isnan(floating.relief).all()
    (flat,) = cut_outs(labelled(rectangles([(30, 20, 50, 40)]), depth=False), frozenset())
    assert flat.relief is None


# ---- the bank of a run ----


class Images:
    """Labelled images of which image k has ``counts[k]`` objects of the colour (k, its number, 0)."""

    def __init__(self, counts: list[int]) -> None:
        self.counts, self.loaded = counts, 0

    def __call__(self, index: int) -> LabelledImage:
        self.loaded += 1
        count = self.counts[index]
        masks = rectangles([(10 + 12 * k, 20, 20 + 12 * k, 30) for k in range(count)])
        sample = labelled(masks, depth=False)
        for number, mask in enumerate(masks):
            sample.image[mask] = (index, number, 0)
        return sample

    def bank(self, capacity: int, seed: int = 0) -> SeededBank:
        return SeededBank(self, len(self.counts), frozenset(), capacity, seed)


def shades(bank: InstanceBank) -> list[int]:
    return [int(bank[i].image[0, 0] @ (10, 1, 0)) for i in range(len(bank))]


@pytest.mark.parametrize(
    ("counts", "capacity"),
    [
        ([3, 1, 4, 2, 5, 3, 0, 2, 4, 1, 2], 9),
        ([3, 1, 4, 2, 5], 15),  # just as many objects as places
        ([3, 1, 4, 2, 5], 16),  # one fewer
        ([2, 1], 2),  # fewer images than join at a time
        ([0, 0, 3, 0, 0, 0, 0], 20),
    ],
)
def test_the_content_depends_on_the_position_alone(counts: list[int], capacity: int) -> None:
    period = SeededBank.period
    positions = range(0, 14 * period, period // 2)
    whole = Images(counts).bank(capacity)
    incremental = [shades(whole.at(p)) for p in positions]
    for skip in (3, 4, 7):  # a worker that sees every so many positions
        worker = Images(counts).bank(capacity)
        for index in range(0, len(positions), skip):
            assert shades(worker.at(positions[index])) == incremental[index]
    for index in range(0, len(positions), 5):  # resumed there
        assert shades(Images(counts).bank(capacity).at(positions[index])) == incremental[index]
    assert shades(whole.at(0)) == incremental[0]  # and back
    assert all(len(c) == min(capacity, sum(counts)) for c in incremental)


def test_it_is_full_from_the_start_and_moves_on() -> None:
    images = Images([2] * 40)
    bank = images.bank(30)
    period = SeededBank.period
    seen = [shades(bank.at(p)) for p in range(0, 11 * period, period)]
    assert len(seen[0]) == 30
    joined = 2 * SeededBank.images
    for earlier, later in itertools.pairwise(seen):
        assert later[:-joined] == earlier[joined:]  # the oldest left, the newest came last
    # Ten generations of four images have shown each of the forty.
    newest = {shade for shown in seen[1:] for shade in shown[-joined:]}
    assert len(newest) == 80
    assert shades(bank.at(3 * period)) == shades(bank.at(4 * period - 1)) != shades(bank.at(4 * period))


def test_seeds_order_the_images() -> None:
    contents = [shades(Images([1] * 20).bank(6, seed).at(0)) for seed in (1, 1, 2)]
    assert contents[0] == contents[1] != contents[2]


def test_every_object_there_is_when_they_are_fewer_than_places() -> None:
    bank = Images([1, 0, 2]).bank(200)
    for position in (0, 100, 1000):
        assert sorted(shades(bank.at(position))) == [0, 20, 21]


def test_no_object_at_all() -> None:
    bank = Images([0] * 5).bank(10)
    assert len(bank.at(0)) == len(bank.at(500)) == 0


@pytest.mark.parametrize("step", [1, 2, 4])
@pytest.mark.parametrize("capacity", [40, 200])
def test_images_are_not_read_again_while_their_objects_are_held(step: int, capacity: int) -> None:
    """Also by a worker that sees every second or fourth generation, and when all objects find a place."""
    images = Images([2] * 60)
    bank = images.bank(capacity)
    bank.at(0)
    first = images.loaded
    assert first == min(capacity // 2, 60)
    generations = range(step, 9, step)
    for generation in generations:
        bank.at(generation * SeededBank.period)
    new = 0 if capacity > 120 else len(generations) * step * SeededBank.images
    assert images.loaded - first == new
