"""Letterbox: exact scale, no shift, the aspect ratio kept, any image size."""

from __future__ import annotations

import numpy as np
import pytest

from rise_perception.core.letterbox import BORDER, Letterbox

SIZES = [(480, 640), (240, 320), (241, 333), (37, 5), (1, 1), (1, 900), (900, 1), (2048, 2448), (4320, 7680)]


@pytest.mark.parametrize("size", SIZES)
def test_the_image_fills_one_side_and_keeps_its_shape(size: tuple[int, int]) -> None:
    box = Letterbox(size, (240, 320))
    h, w = box.content
    assert h == 240 or w == 320
    assert 1 <= h <= 240
    assert 1 <= w <= 320
    # Within a pixel of the exact aspect ratio.
    assert abs(w - h * size[1] / size[0]) <= max(1, size[1] / size[0])
    image = np.full((*size, 3), 50, np.uint8)
    fitted, padding = box.fit(image), box.padding()
    assert fitted.shape == (240, 320, 3)
    assert fitted.dtype == np.uint8
    if padding is None:
        assert (h, w) == (240, 320)
    else:
        assert (~padding).sum() == h * w
        assert (~padding)[:h, :w].all()
        assert (fitted[padding] == BORDER).all()
        assert (fitted[~padding] == 50).all()


@pytest.mark.parametrize("size", [(480, 640), (481, 637), (300, 200), (50, 70), (1000, 300)])
@pytest.mark.parametrize("nearest", [False, True])
def test_a_point_keeps_its_place(size: tuple[int, int], nearest: bool) -> None:
    """A coordinate ramp goes through the letterbox: each cell holds its own place in the image."""
    box = Letterbox(size, (240, 320))
    h, w = box.content
    y, x = np.meshgrid(
        np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32), indexing="ij"
    )
    for ramp, cells, pixels, axis in ((x, w, size[1], 1), (y, h, size[0], 0)):
        got = box.fit(ramp, nearest=nearest, border=-1)[:h, :w]
        index = np.arange(cells)
        expected = (index + 0.5) * pixels / cells - 0.5
        got = got[h // 2] if axis == 1 else got[:, w // 2]
        inner = slice(2, -2)  # linear enlarging repeats the border
        tolerance = 0.5 + 1e-3 if nearest else 0.1
        assert np.abs(got - expected)[inner].max() <= tolerance


def test_nearest_makes_no_new_values() -> None:
    labels = np.random.default_rng(0).choice([0, 3, 700], (97, 113)).astype(np.uint16)
    assert set(np.unique(Letterbox((97, 113), (64, 64)).fit(labels, nearest=True, border=0))) <= {0, 3, 700}


def test_an_image_of_the_inputs_size_is_passed_on() -> None:
    image = np.zeros((240, 320, 3), np.uint8)
    assert Letterbox((240, 320), (240, 320)).fit(image) is image
