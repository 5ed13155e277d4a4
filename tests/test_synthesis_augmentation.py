"""Weak augmentation moves all layers of an image alike; strong augmentation changes its colours only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_data import labelled, rectangles

from rise_perception.synthesis.augmentation import (
    DepthNoise,
    GeometricAugmentation,
    Geometry,
    StrongColour,
    WeakColour,
    planckian,
)
from rise_perception.synthesis.compositing import weak_view, without_slivers

TWO = [(12, 8, 32, 32), (48, 21, 80, 56)]


@pytest.mark.parametrize("seed", range(8))
def test_geometry_moves_image_depth_and_masks_alike(seed: int) -> None:
    torch.manual_seed(seed)
    sample = labelled(rectangles(TWO))
    geometry = GeometricAugmentation(rotation=30.0).draw(64, 96)
    got = without_slivers(weak_view(sample, geometry, WeakColour(0.0)))
    assert got.depth is not None
    assert got.image.dtype == np.uint8
    assert got.image.shape == (64, 96, 3)
    for mask, identity in zip(got.masks, got.ids, strict=True):
        index = sample.ids.tolist().index(identity)
        assert (got.depth[mask] == 1.0 + index).all()
        bright = got.image[mask].astype(int)
        # Bilinear at the rim, exact inside.
        assert np.median(bright) == 50 + 50 * index
        assert (np.abs(bright - (50 + 50 * index)) <= 1).mean() > 0.6
    # Whatever has an object's depth has its mask: nothing of it is lost.
    for index, identity in enumerate(sample.ids):
        if identity in got.ids:
            assert np.array_equal(got.depth == 1.0 + index, got.masks[got.ids.tolist().index(identity)])


def test_each_part_of_the_geometry_does_what_it_says() -> None:
    """On an L, which no flip or turn maps onto itself; shifts are to the right and down, turns clockwise."""
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    mask = torch.zeros(1, 40, 60)
    for top, bottom, left, right in ((8, 32, 20, 26), (26, 32, 20, 40)):
        image[:, top:bottom, left:right] = 200
        mask[:, top:bottom, left:right] = 1

    def moved(**changes: object) -> np.ndarray:
        still = {"flip": False, "scale": 1.0, "angle": 0.0, "translate": (0, 0)}
        picture, layer = Geometry(**(still | changes))(image, mask)  # type: ignore[arg-type]
        inside = (layer[0] > 0.5).numpy()
        # The grey border that zooming and shifting show is below 120, the object at its core 200.
        assert ((picture[0].numpy() > 150) == inside).mean() > 0.97
        return inside

    before = mask[0].numpy() > 0
    assert np.array_equal(moved(), before)
    assert np.array_equal(moved(flip=True), before[:, ::-1])
    assert np.array_equal(moved(translate=(7, 3))[3:, 7:], before[:-3, :-7])
    turned = moved(angle=90.0)  # clockwise about the centre: the square around it turns as np.rot90 does
    assert (turned[:, 10:50] == np.rot90(before[:, 10:50], -1)).mean() > 0.98
    assert abs(moved(scale=1.5).sum() / before.sum() - 2.25) < 0.15


def test_draws_vary_and_stay_in_their_range() -> None:
    torch.manual_seed(0)
    drawn = [GeometricAugmentation((0.5, 2.0), 0.5, 10.0).draw(100, 200) for _ in range(400)]
    scales = np.array([g.scale for g in drawn])
    assert 0.5 <= scales.min() < 0.55
    assert 1.8 < scales.max() <= 2.0
    assert abs((scales < 1).mean() - 0.5) < 0.1  # log-uniform
    assert abs(np.mean([g.flip for g in drawn]) - 0.5) < 0.1
    assert -10 <= min(g.angle for g in drawn) < -9
    assert 9 < max(g.angle for g in drawn) <= 10
    for g in drawn:  # no shift moves a smaller picture out of the frame, or shows what is beyond a larger one
        assert abs(g.translate[0]) <= abs(g.scale - 1) * 100
        assert abs(g.translate[1]) <= abs(g.scale - 1) * 50


def test_what_left_the_frame_is_dropped() -> None:
    torch.manual_seed(0)
    sample, weak = labelled(rectangles(TWO)), GeometricAugmentation((0.5, 4.0))
    results = [without_slivers(weak_view(sample, weak.draw(64, 96), WeakColour(0.0))) for _ in range(40)]
    assert len({r.image.tobytes() for r in results}) == 40
    assert {len(r.masks) for r in results} >= {1, 2}
    for r in results:
        assert (r.masks.sum((1, 2)) >= 30).all()
        assert len(r.classes) == len(r.ids) == len(r.masks)


# ---- colour ----


@pytest.mark.parametrize("colour", [WeakColour, StrongColour])
def test_strength_zero_changes_nothing(colour: type) -> None:
    image = torch.randint(0, 256, (3, 16, 24), dtype=torch.uint8)
    for seed in range(20):
        torch.manual_seed(seed)
        assert torch.equal(colour(0.0)(image), image)


@pytest.mark.parametrize("colour", [WeakColour(), StrongColour()])
def test_colour_keeps_every_pixel_at_its_place(colour: WeakColour) -> None:
    """Between two flat halves, whatever happens to their colours, the edge stays where it is."""
    image = torch.full((3, 24, 40), 60, dtype=torch.uint8)
    image[:, :, 13:] = 190
    changed = 0
    for seed in range(60):
        torch.manual_seed(seed)
        got = colour(image)
        assert got.dtype == torch.uint8
        assert got.shape == image.shape
        columns = got.float().mean((0, 1))
        if (columns[13:].mean() - columns[:13].mean()).abs() > 25:
            assert abs(int(columns.diff().abs().argmax()) - 12) <= 1  # a clipped blur leans to one side
        changed += not torch.equal(got, image)
    assert changed > 50


def test_strong_is_stronger_than_weak() -> None:
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)

    def change(colour: WeakColour | StrongColour) -> float:
        torch.manual_seed(0)
        return float(np.mean([(colour(image).float() - image).abs().mean() for _ in range(40)]))

    assert change(StrongColour()) > 1.5 * change(WeakColour()) > 0


def test_colour_acts_on_channels() -> None:
    """A trap: colour operations on (H, W, 3) memory would jitter image columns instead."""
    torch.manual_seed(0)
    image = torch.full((3, 8, 8), 120, dtype=torch.uint8)
    image[0] = 200
    shades = torch.stack([StrongColour()(image).float().mean((1, 2)) for _ in range(60)])
    assert (shades.std(0) > 5).all()
    assert (shades.max(1).values - shades.min(1).values > 20).any()  # still coloured
    assert shades.argmax(1).eq(0).float().mean() > 0.5  # red mostly stays red
    flat = [WeakColour()(image).float().flatten(1).std(1).max() for _ in range(20)]
    assert max(flat) == 0  # a flat image stays flat: nothing varies along rows or columns


def black_body(kelvin: float) -> np.ndarray:
    """Linear sRGB of a black body: Planck's law through Wyman et al.'s fit of the CIE 1931 observer."""
    wavelength = np.arange(380.0, 781.0)  # nm

    def lobe(centre: float, below: float, above: float) -> np.ndarray:
        width = np.where(wavelength < centre, below, above)
        return np.exp(-0.5 * ((wavelength - centre) * width) ** 2)

    observer = np.stack(
        [
            1.056 * lobe(599.8, 0.0264, 0.0323)
            + 0.362 * lobe(442.0, 0.0624, 0.0374)
            - 0.065 * lobe(501.1, 0.0490, 0.0382),
            0.821 * lobe(568.8, 0.0213, 0.0247) + 0.286 * lobe(530.9, 0.0613, 0.0322),
            1.217 * lobe(437.0, 0.0845, 0.0278) + 0.681 * lobe(459.0, 0.0385, 0.0725),
        ]
    )
    metres = wavelength * 1e-9
    radiance = metres**-5 / np.expm1(0.0143877688 / (metres * kelvin))
    to_rgb = [[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]]
    return np.maximum(np.array(to_rgb) @ (observer @ radiance), 0)


@pytest.mark.parametrize("kelvin", [2000, 2500, 3000, 4000, 5000, 6500, 8000, 10_000, 15_000, 20_000])
def test_planckian_jitter_is_a_black_bodys_colour(kelvin: float) -> None:
    """Against an integral of Planck's law, which shares nothing with the fitted locus."""
    grey = torch.full((3, 2, 2), 60, dtype=torch.uint8)
    got = planckian(grey, kelvin).float().mean((1, 2)).numpy()
    gains = black_body(kelvin) / black_body(6500)
    expected = np.minimum(60 * gains / gains[1], 255)
    assert np.abs(got - expected).max() <= 2 + 0.05 * expected.max()


def test_planckian_jitter_runs_from_red_to_blue() -> None:
    grey = torch.full((3, 2, 2), 60, dtype=torch.uint8)
    kelvins = np.linspace(1700, 20_000, 60)
    shades = np.stack([planckian(grey, k).float().mean((1, 2)).numpy() for k in kelvins])
    assert (np.diff(shades[:, 0]) <= 0).all()
    assert (np.diff(shades[:, 2]) >= 0).all()
    assert np.abs(shades[:, 1] - 60).max() <= 1  # against green
    assert shades[0, 0] > 90 > 30 > shades[0, 2]
    assert shades[-1, 0] < 55 < 65 < shades[-1, 2]
    picture = torch.randint(0, 200, (3, 16, 16), dtype=torch.uint8)
    assert (planckian(picture, 6500.0).int() - picture.int()).abs().max() <= 1
    assert planckian(torch.full((3, 1, 1), 250, dtype=torch.uint8), 2000.0)[0] == 255  # clipped, not wrapped


@pytest.mark.parametrize("seed", range(8))
def test_the_matrix_of_a_geometry_says_where_its_points_go(seed: int) -> None:
    """A spot of seven pixels a side, off the centre: its centre of mass goes where the matrix says."""
    torch.manual_seed(seed)
    geometry = GeometricAugmentation((0.8, 1.25), flip=0.5, rotation=25.0).draw(120, 200)
    spot = torch.zeros(1, 120, 200)
    spot[0, 50:57, 120:127] = 1
    _, got = geometry(torch.zeros(3, 120, 200, dtype=torch.uint8), spot)
    rows, columns = np.nonzero(got[0].numpy() > 0.5)
    expected = geometry.matrix(120, 200) @ [123.5, 53.5, 1.0]
    assert np.abs([columns.mean() + 0.5, rows.mean() + 0.5] - expected).max() < 0.6


def test_depth_noise_grows_with_depth_and_leaves_holes() -> None:
    torch.manual_seed(0)
    depth = np.full((120, 160), 0.5, np.float32)
    depth[:, 80:] = 2.0
    depth[:10] = 0.0
    noise = DepthNoise()
    drawn = [noise(depth) for _ in range(30)]
    assert all(d.dtype == np.float32 and d.shape == depth.shape for d in drawn)
    assert all((d >= 0).all() and (d[:10] == 0).all() for d in drawn)
    lost = [((d == 0) & (depth > 0)).mean() for d in drawn]
    assert 0.002 < np.mean(lost) < 0.1
    near, far = (
        np.mean([np.std((d - depth)[part & (d > 0)]) for d in drawn]) for part in (depth == 0.5, depth == 2.0)
    )
    assert 12 < far / near < 20  # by the square of the depth
    assert 0.001 < far < 0.016
    assert DepthNoise(0.0)(depth) is depth
    stronger = [((d == 0) & (depth > 0)).mean() for d in (DepthNoise(3.0)(depth) for _ in range(30))]
    assert np.mean(stronger) > 1.5 * np.mean(lost)
