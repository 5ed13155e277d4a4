"""Pseudo-sequences: what pasted objects hide, labels that follow every change (Sec. 3.2)."""

from __future__ import annotations

import itertools
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from sequences import L_SHAPE, blank, maker
from tiny_data import SAME_VIEW, bank_of, cut_out, labelled, rectangles

from rise_perception.data.coco import LabelledImage
from rise_perception.synthesis.augmentation import GeometricAugmentation
from rise_perception.synthesis.bank import InstanceBank
from rise_perception.synthesis.compositing import VISIBLE, Layer, augmented, paste
from rise_perception.synthesis.cut_out import CutOut
from rise_perception.training import sequence
from rise_perception.training.config import SequenceConfig
from rise_perception.training.sequence import FIRST_PASTED, SequenceMaker

# ---- what is hidden leaves the labels ----


def painted(base: LabelledImage, layers: list[Layer]) -> tuple[np.ndarray, np.ndarray]:
    """Image and (N + K, H, W) masks by the painter's algorithm, pixel by pixel."""
    height, width = base.image.shape[:2]
    image, masks = base.image.copy(), np.zeros((len(base.masks) + len(layers), height, width), bool)
    for y in range(height):
        for x in range(width):
            top = None
            for number, layer in enumerate(layers):
                row, column = y - layer.top, x - layer.left
                h, w = layer.cut.mask.shape
                if 0 <= row < h and 0 <= column < w and layer.cut.mask[row, column]:
                    top, image[y, x] = number, layer.cut.image[row, column]
            if top is None:
                masks[: len(base.masks), y, x] = base.masks[:, y, x]
            else:
                masks[len(base.masks) + top, y, x] = True
    return image, masks


def test_pasting_is_the_painters_algorithm() -> None:
    rng = np.random.default_rng(0)
    base = labelled(
        rectangles([(2, 2, 28, 20), (6, 6, 18, 14)], (24, 32)), depth=False
    )  # one inside the other
    for _ in range(8):
        layers = []
        for number in range(4):
            h, w = rng.integers(5, 14, 2)
            cut = cut_out(rng.random((h, w)) < 0.7, tuple(rng.integers(0, 255, 3)), category=number % 2)
            spot = int(rng.integers(0, 24 - h + 1)), int(rng.integers(0, 32 - w + 1))
            layers.append(Layer(cut, *spot, FIRST_PASTED + number))
        got, (image, masks) = paste(base, layers), painted(base, layers)
        assert np.array_equal(got.image, image)
        assert np.array_equal(got.masks, masks)
        assert got.ids.tolist() == [4, 7, *range(FIRST_PASTED, FIRST_PASTED + 4)]
        assert got.classes.tolist() == [0, 0, 0, 1, 0, 1]
    assert base.masks[0].sum() == 26 * 18  # the source is left alone
    assert paste(base, []) is base


def test_objects_of_which_almost_nothing_is_seen_carry_no_label() -> None:
    torch.manual_seed(0)
    sample = labelled(rectangles([(8, 10, 14, 15), (50, 20, 56, 24)]), depth=False)  # 30 and 24 pixels
    assert VISIBLE == 30
    made = maker(objects=0)(sample, InstanceBank(1))
    assert made.before.ids.tolist() == made.strong.ids.tolist() == [4]
    assert len(made.before.masks) == len(made.before.classes) == 1


# ---- identities ----


def pasted_ids(view: LabelledImage) -> list[int]:
    return [i for i in view.ids.tolist() if i >= FIRST_PASTED]


#: Small, so that they find room, and all of it stays in view.
BANK = bank_of(*(cut_out(np.ones((9, 9), bool), category=1) for _ in range(3)))


@pytest.mark.parametrize("seed", range(6))
def test_identities_of_kept_moved_removed_and_added_objects(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """At places of their own in the middle, so that none is hidden and none leaves the view."""
    base = labelled(rectangles([(90, 56, 106, 72)], (128, 192)), depth=False)
    places = itertools.cycle([(20 + y, 25 + x) for y in (0, 64) for x in range(0, 125, 24)])
    # Chance would hide objects behind others.
    monkeypatch.setattr(sequence, "place", lambda *_: next(places))

    def views(**config: float) -> tuple[LabelledImage, LabelledImage]:
        torch.manual_seed(seed)
        made = maker(**({"objects": 4, "removed": 0.0, "moved": 0.0, "added": 0.0} | config))
        result = made(base, BANK)
        assert 4 in result.before.ids
        assert 4 in result.after.ids
        assert (result.before.classes[result.before.ids >= FIRST_PASTED] == 1).all()
        assert len(set(result.after.ids.tolist())) == len(result.after.ids)
        return result.before, result.after

    before, after = views()
    known = pasted_ids(before)
    assert known
    assert pasted_ids(after) == known
    for identity in known:  # where they were, but for the second view
        a, b = (v.masks[v.ids.tolist().index(identity)] for v in (before, after))
        assert np.abs(np.argwhere(a).mean(0) - np.argwhere(b).mean(0)).max() < 12
    before, after = views(removed=1.0)
    assert pasted_ids(before) == known
    assert pasted_ids(after) == []
    before, after = views(moved=1.0)
    assert sorted(pasted_ids(after)) == known
    _, after = views(added=1.0)
    assert set(known) < set(pasted_ids(after))
    assert len(pasted_ids(after)) == len(known) + 1


def test_moved_objects_move() -> None:
    distances = []
    for seed in range(12):
        torch.manual_seed(seed)
        made = maker(objects=1, removed=0.0, moved=1.0, added=0.0)(blank(), BANK)
        centres = [np.argwhere(view.masks[0]).mean(0) for view in (made.before, made.after)]
        distances.append(np.linalg.norm(centres[0] - centres[1]))
    assert np.median(distances) > 15


def test_fractions_of_kept_and_removed_objects() -> None:
    made, kept, total = maker(objects=4, removed=0.3, moved=0.3, added=0.0), 0, 0
    places = 0
    for seed in range(80):
        torch.manual_seed(seed)
        before = made._pasted(blank((128, 128)), BANK)
        after = {layer.id: layer for layer in made._changed(blank((128, 128)), before, BANK)}
        total += len(before)
        kept += sum(layer.id in after for layer in before)
        places += sum(after.get(layer.id) == layer for layer in before)
    assert abs(kept / total - 0.7) < 0.1
    assert abs(places / total - 0.4) < 0.1


# ---- the views ----


@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_strong_is_before_in_all_but_colour(strength: float) -> None:
    torch.manual_seed(3)
    weak = GeometricAugmentation()
    made = maker(strength, weak, objects=3)(
        labelled(rectangles([(30, 20, 60, 50)])), bank_of(cut_out(L_SHAPE))
    )
    before, strong = made.before, made.strong
    assert len(before.ids) >= 2
    for name in ("masks", "ids", "classes", "depth"):
        assert np.array_equal(getattr(before, name), getattr(strong, name))
    assert np.array_equal(before.image, strong.image) == (strength == 0)


#: x3 with a geometry of its own, and nothing else.
OWN_VIEW = {"strong_scale": (0.8, 1.25), "strong_rotation": 20.0, "strong_flip": 0.5}


@pytest.mark.parametrize("seed", range(6))
def test_the_labels_of_strong_move_with_its_pixels(seed: int) -> None:
    """The trap of a second geometry: masks, depth, classes and identities go where the pixels go."""
    torch.manual_seed(seed)
    made = maker(objects=0, **OWN_VIEW)(labelled(rectangles([(12, 8, 32, 32), (48, 21, 80, 56)])), BANK)
    before, strong = made.before, made.strong
    assert made.to_strong is not None
    assert not np.array_equal(strong.masks, before.masks)
    assert set(strong.ids.tolist()) <= set(before.ids.tolist())
    assert strong.depth is not None
    for mask, identity in zip(strong.masks, strong.ids.tolist(), strict=True):
        index = before.ids.tolist().index(identity)
        assert (strong.depth[mask] == 1.0 + index).all()
        assert np.median(strong.image[mask]) == 50 + 50 * index
    # The first image is left as it was, and so is the second view.
    torch.manual_seed(seed)
    plain = maker(objects=0)(labelled(rectangles([(12, 8, 32, 32), (48, 21, 80, 56)])), BANK)
    for name in ("before", "after"):
        for part in ("image", "masks", "depth"):
            assert np.array_equal(getattr(getattr(made, name), part), getattr(getattr(plain, name), part))
    assert plain.to_strong is None


@pytest.mark.parametrize("seed", range(6))
def test_points_of_before_are_found_again_in_strong(seed: int) -> None:
    """Where the map says, not merely somewhere: a small pasted object in both views."""
    torch.manual_seed(seed)
    made = maker(objects=1, **OWN_VIEW)(blank((128, 192)), BANK)
    assert made.to_strong is not None
    if len(made.strong.masks) == 0:
        x, y = made.to_strong @ [*(np.argwhere(made.before.masks[0]).mean(0)[::-1] + 0.5), 1.0]
        assert not (8 < x < 184 and 8 < y < 120)  # it has left the view
        return
    centres = [np.argwhere(v.masks[0]).mean(0)[::-1] + 0.5 for v in (made.before, made.strong)]
    at_border = made.strong.masks[0][[0, -1]].any() or made.strong.masks[0][:, [0, -1]].any()
    assert np.abs(made.to_strong @ [*centres[0], 1.0] - centres[1]).max() < (6.0 if at_border else 1.0)


def test_only_the_students_view_has_the_depth_noise() -> None:
    torch.manual_seed(0)
    made = maker(objects=0, depth_noise=1.0)(blank(metres=1.0), InstanceBank(1))
    for view in (made.before, made.after):
        assert view.depth is not None
        assert set(np.unique(view.depth)) <= {0.0, 1.0}
    assert made.strong.depth is not None
    assert len(np.unique(made.strong.depth)) > 100


def test_the_same_seed_makes_the_same_views() -> None:
    def views(seed: int) -> list[bytes]:
        torch.manual_seed(seed)
        np.random.seed(seed + 1)  # noqa: NPY002  nothing listens to it
        made = maker(1.0, GeometricAugmentation())(labelled(rectangles([(30, 20, 60, 50)])), BANK)
        return [part.tobytes() for v in (made.before, made.after, made.strong) for part in (v.image, v.masks)]

    assert views(1) == views(1) != views(2)


def red(image: np.ndarray) -> np.ndarray:
    """Where the image is clearly red, whatever its brightness."""
    r, g, b = np.moveaxis(image.astype(int), -1, 0)
    return (r > 60) & (r > 2 * g) & (r > 2 * b)


@pytest.mark.parametrize("seed", range(12))
def test_labels_follow_the_rotation_of_a_pasted_object(seed: int) -> None:
    """An L in red, cut from white: wherever it lies in a view, its mask is on it and on nothing else."""
    torch.manual_seed(seed)
    made = maker(weak=GeometricAugmentation((0.9, 1.3), rotation=40.0), objects=1, removed=0.0, added=0.0)
    bank = bank_of(cut_out(np.kron(L_SHAPE, np.ones((2, 2))).astype(bool), (220, 20, 20)))
    result = made(blank((128, 128)), bank)
    for view in (result.before, result.after, result.strong):
        (mask,) = view.masks
        small, large = (
            f(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0 for f in (cv2.erode, cv2.dilate)
        )
        assert small.sum() > 50
        assert red(view.image)[small].all()
        assert not red(view.image)[~large].any()
        # It is still an L, not its box.
        assert mask.sum() < 0.75 * cv2.contourArea(
            cv2.convexHull(np.argwhere(mask)[:, None].astype(np.int32))
        )


def test_each_object_is_augmented_on_its_own() -> None:
    torch.manual_seed(0)
    cut = cut_out(np.kron(L_SHAPE, np.ones((2, 2))).astype(bool), (180, 60, 60), relief=0.1)
    drawn = [augmented(cut) for _ in range(60)]
    areas = np.array([c.mask.sum() for c in drawn]) / cut.mask.sum()
    assert 0.5 < areas.min() < 0.7 < 1.4 < areas.max() < 1.8  # scales 0.75 to 1.3
    assert np.std([c.image[c.mask].mean() for c in drawn]) > 5  # colours
    # An L and its mirror image: the turn from the long to the short arm changes its sign.
    shapes = [cv2.HuMoments(cv2.moments(c.mask.astype(np.uint8)))[6, 0] for c in drawn]
    assert 10 < sum(s > 0 for s in shapes) < 50
    for c in drawn:
        assert c.mask.any(1).all() | c.mask.any(0).all()  # cropped to the object
        assert c.mask[0].any()
        assert c.mask[:, -1].any()
        assert c.image.shape == (*c.mask.shape, 3)
        assert c.relief is not None
        scale = np.sqrt(c.mask.sum() / cut.mask.sum())
        assert np.abs(c.relief[c.mask] / -0.1 - scale).max() < 0.08  # a larger object stands out further
    assert augmented(replace(cut, relief=None)).relief is None


def test_an_unlabelled_image_carries_its_pasted_objects_alone() -> None:
    torch.manual_seed(0)
    sample = labelled(rectangles([(30, 20, 60, 50)]), depth=False)
    hidden = LabelledImage.unlabelled("x.png", sample.image, None)
    made = maker(objects=3, added=1.0)(hidden, BANK)
    for view in (made.before, made.after, made.strong):
        assert len(view.ids) > 0
        assert pasted_ids(view) == view.ids.tolist()


@pytest.mark.parametrize("bank", [InstanceBank(5), BANK])
def test_without_pasting_before_and_after_are_two_views(bank: InstanceBank) -> None:
    torch.manual_seed(0)
    sample = labelled(rectangles([(30, 20, 60, 50)]))
    made = maker(objects=0 if len(bank) else 3)(sample, bank)
    assert np.array_equal(made.before.image, sample.image)
    assert np.array_equal(made.before.masks, sample.masks)
    assert not np.array_equal(made.after.image, sample.image)
    assert made.after.ids.tolist() == [4]


def test_a_real_later_frame_is_what_after_builds_upon() -> None:
    """An object came, one left; both frames move alike, and the pasted object stays where it is."""
    first = labelled(rectangles([(8, 8, 28, 28), (60, 30, 80, 50)]))
    later = labelled(rectangles([(8, 8, 28, 28), (34, 8, 54, 28)]))
    later = replace(later, ids=np.array([4, 99]))
    torch.manual_seed(1)
    made = maker(objects=1, removed=0.0, moved=0.0, added=0.0)(first, BANK, later)
    assert made.before.ids.tolist() == [4, 7, FIRST_PASTED]
    assert made.after.ids.tolist() == [4, 99, FIRST_PASTED]
    turned = SequenceMaker(
        SequenceConfig(objects=0, **SAME_VIEW), GeometricAugmentation((1, 1), 1.0, 0.0), 0.0
    )
    flipped = turned(first, InstanceBank(1), later)
    for view in (flipped.before, flipped.after):  # flipped both, or the shared object would be elsewhere
        assert np.argwhere(view.masks[0])[:, 1].mean() > 60


# ---- depth ----


def test_a_pasted_object_stands_out_over_its_support() -> None:
    base = blank(metres=2.0)
    assert base.depth is not None
    base.depth[:, 48:] = 1.5
    base.depth[:20] = 0.0
    cut = cut_out(np.ones((12, 12), bool), relief=0.25)
    on_low, on_high, on_hole = (Layer(cut, *spot, FIRST_PASTED) for spot in ((30, 10), (30, 60), (4, 30)))
    for layer, metres in ((on_low, 1.75), (on_high, 1.25), (on_hole, 0.0)):
        got = paste(base, [layer])
        assert got.depth is not None
        assert np.abs(got.depth[got.masks[0]] - metres).max() < 1e-5
        assert np.array_equal(got.depth[~got.masks[0]], base.depth[~got.masks[0]])
    across = paste(base, [Layer(cut, 30, 42, FIRST_PASTED)])
    assert across.depth is not None
    assert np.abs(across.depth[across.masks[0]] - 1.25).max() < 1e-5  # it rests on the higher side
    stacked = paste(base, [on_low, Layer(cut, 30, 10, FIRST_PASTED + 1)])
    assert stacked.depth is not None
    assert np.abs(stacked.depth[stacked.masks[1]] - 1.5).max() < 1e-5


def test_holes_stay_holes_and_no_depth_is_negative() -> None:
    cut = cut_out(np.ones((12, 12), bool), relief=0.25)
    assert cut.relief is not None
    holed = CutOut(cut.image, cut.mask, np.where(np.eye(12) > 0, np.float32(np.nan), cut.relief), 0)
    for _ in range(5):
        got = paste(blank(metres=1.0), [Layer(holed, 8, 8, FIRST_PASTED)])
        assert got.depth is not None
        assert (got.depth[8:20, 8:20][np.eye(12) > 0] == 0).all()
        assert np.isfinite(got.depth).all()
    high = paste(blank(metres=0.2), [Layer(cut, 8, 8, FIRST_PASTED)])  # it would reach behind the camera
    assert high.depth is not None
    assert (high.depth[high.masks[0]] == 0).all()
