"""Pseudo-sequences: where objects land, and the 85 % rule (Eq. 2)."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy import stats
from sequences import L_SHAPE, blank, maker
from tiny_data import bank_of, cut_out, labelled, rectangles

from rise_perception.synthesis.compositing import Layer, visible_masks
from rise_perception.synthesis.placement import MAX_HIDDEN, hides_too_much, place
from rise_perception.training import sequence
from rise_perception.training.sequence import FIRST_PASTED

# ---- where objects land ----


def test_places_are_beta_distributed_in_both_axes() -> None:
    torch.manual_seed(0)
    drawn = np.array([place(10**6, 10**5) for _ in range(3000)]) / (10**6, 10**5)
    arcsine = stats.beta(0.5, 0.5).cdf
    for axis in (0, 1):
        assert stats.kstest(drawn[:, axis], arcsine).pvalue > 1e-3
        assert stats.kstest(drawn[:, axis], "uniform").pvalue < 1e-9
    assert abs(stats.spearmanr(drawn).statistic) < 0.06  # the axes are drawn apart


def test_pasted_objects_fill_the_feasible_region_of_a_wide_image() -> None:
    """Rows and columns are not swapped: the top-left corner spans height - h and width - w."""
    made, bank = maker(objects=1), bank_of(cut_out(np.ones((10, 10), bool)))
    fractions = []
    for seed in range(100):
        torch.manual_seed(seed)
        (mask,) = made(blank((48, 240)), bank).before.masks
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        room, jitter = np.array([48 - h, 240 - w]), np.random.default_rng(seed).uniform(-0.5, 0.5, 2)
        fractions.append(np.clip((np.array([y, x]) + jitter) / room, 0, 1))
    drawn = np.array(fractions)
    for axis in (0, 1):
        assert stats.kstest(drawn[:, axis], stats.beta(0.5, 0.5).cdf).pvalue > 1e-3
        assert (drawn[:, axis] < 0.05).any()
        assert (drawn[:, axis] > 0.95).any()


def test_an_object_larger_than_the_image_is_left_out() -> None:
    torch.manual_seed(0)
    made = maker(objects=3)(blank(), bank_of(cut_out(np.ones((90, 20), bool))))
    for view in (made.before, made.after, made.strong):
        # Turned far enough it may lie in the image: then all of it does.
        assert all(mask.sum() > 0.5 * 90 * 20 * 0.75**2 for mask in view.masks)


# ---- the 85 % rule ----


def test_what_hides_too_much() -> None:
    def hides(covered: int, shown: int, full: int) -> bool:
        return hides_too_much(np.array([covered]), np.array([shown]), np.array([full]))

    assert not hides(84, 100, 100)
    assert hides(86, 100, 100)
    assert hides(10, 24, 100)  # most of it was hidden before
    assert not hides(0, 5, 100)  # not by this paste
    assert not hides_too_much(np.zeros(0), np.zeros(0), np.zeros(0))


@pytest.mark.parametrize("what", ["labelled", "pasted"])
def test_a_place_that_hides_too_much_is_drawn_again(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """The first places all cover the object that is there; only the last is free."""
    cut = cut_out(np.ones((20, 20), bool))
    base = labelled(rectangles([(30, 20, 46, 36)])) if what == "labelled" else blank(metres=1.0)
    layers = [] if what == "labelled" else [Layer(cut_out(np.ones((16, 16), bool)), 20, 30, FIRST_PASTED)]
    tried: list[tuple[int, int]] = []

    def places(room_y: int, room_x: int) -> tuple[int, int]:
        assert (room_y, room_x) == (44, 76)
        tried.append((18, 28) if len(tried) < 7 else (1, 2))
        return tried[-1]

    monkeypatch.setattr(sequence, "place", places)
    result = maker()._add(base, layers, cut, FIRST_PASTED + 1)
    assert len(tried) == 8
    assert (result[-1].top, result[-1].left) == (1, 2)
    assert result[:-1] == layers
    monkeypatch.setattr(sequence, "place", lambda *_: (18, 28))
    assert maker()._add(base, layers, cut, FIRST_PASTED + 1) == layers  # no place: left out


@pytest.mark.parametrize("changes", [{"moved": 0.5, "removed": 0.1}, {"moved": 1.0, "removed": 0.0}])
def test_no_object_is_hidden_by_more_than_85_percent(changes: dict[str, float]) -> None:
    """In a crowd, before and after: of labelled and of pasted objects 15 % can be seen."""
    base = labelled(rectangles([(5, 5, 25, 25), (30, 8, 44, 36), (10, 28, 26, 44)], (48, 48)), depth=False)
    bank = bank_of(cut_out(np.ones((14, 14), bool)), cut_out(L_SHAPE), cut_out(np.ones((26, 22), bool)))
    made, crowded = maker(objects=8, added=1.0, **changes), 0
    for seed in range(24):
        torch.manual_seed(seed)
        before = made._pasted(base, bank)
        after = made._changed(base, before, bank)
        for layers in (before, after):
            shown = visible_masks(base.masks, layers).sum((1, 2))
            full = np.array([m.sum() for m in base.masks] + [layer.cut.mask.sum() for layer in layers])
            assert (shown >= (1 - MAX_HIDDEN) * full - 1e-9).all()
            crowded += int((shown < 0.5 * full).any())
    assert crowded > 12  # they do hide each other
