"""Eleven colour names in CIELAB, and how much of an item has which."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from rise_perception.language.vocabulary import COLOURS

#: An item has a colour when this fraction of its pixels has.
FRACTION = 0.6
#: Values of a channel that the table tells apart.
_STEPS = 32


def name_colours(lab: np.ndarray) -> np.ndarray:
    """Name CIELAB colours.

    Args:
        lab: (..., 3) float, L in 0..100, a and b about -100..100 (D65).

    Returns:
        (...) uint8, index into :data:`~rise_perception.language.vocabulary.COLOURS`.
    """
    lightness, a, b = lab[..., 0], lab[..., 1], lab[..., 2]
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    # The darker a colour, the less chroma a screen or camera can give it.
    grey = chroma < np.clip(5 + 0.12 * lightness, 6, 13)
    warm = (hue >= 40) & (hue < 100)
    rules = (
        ("black", (lightness < 8) | ((lightness < 18) & (chroma < 24)) | (grey & (lightness < 28))),
        ("white", (grey & (lightness > 78)) | ((lightness > 80) & (chroma < 21) & (hue >= 60) & (hue < 115))),
        ("grey", grey),
        # A pale or dull orange is what people call brown, a strong dark one too.
        ("brown", warm & (hue < 82) & ((lightness < 52) | ((chroma < 36) & (lightness < 76)))),
        ("brown", (hue >= 20) & (hue < 40) & (chroma < 34) & (lightness < 46)),
        ("pink", ((hue >= 320) | (hue < 36)) & (lightness > 58) & (chroma < 58)),
        ("pink", (hue >= 325) & (lightness > 40) & (chroma > 30)),
        ("red", (hue >= 345) | (hue < 46)),
        ("orange", hue < 74),
        ("yellow", hue < 112),
        ("green", hue < 200),
        ("blue", hue < 302),
        ("purple", hue < 345),
    )
    names = np.select(
        [holds for _, holds in rules], [COLOURS.index(name) for name, _ in rules], COLOURS.index("red")
    )
    return names.astype(np.uint8)


def colour_map(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 index into COLOURS of each pixel of an (H, W, 3) uint8 RGB image, or of (N, 3) pixels."""
    cells = image >> 3
    return _table()[cells[..., 0], cells[..., 1], cells[..., 2]]


def colour_fractions(names: np.ndarray, owners: np.ndarray, count: int) -> np.ndarray:
    """How much of each item has which colour.

    Args:
        names: (H, W) or (N,) of :func:`colour_map`.
        owners: the same shape, int, 0 = nobody, i + 1 = item i.
        count: number of items N.

    Returns:
        (N, 11) float32, rows sum to 1, or to 0 for an item without a pixel.
    """
    inside = owners > 0
    flat = (owners[inside].astype(np.int64) - 1) * len(COLOURS) + names[inside]
    pixels = np.bincount(flat, minlength=count * len(COLOURS)).reshape(count, len(COLOURS))
    return (pixels / np.maximum(pixels.sum(1, keepdims=True), 1)).astype(np.float32)


@lru_cache(maxsize=1)
def _table() -> np.ndarray:
    levels = (np.arange(_STEPS, dtype=np.float32) + 0.5) / _STEPS
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)
    lab = cv2.cvtColor(rgb.reshape(_STEPS, -1, 3), cv2.COLOR_RGB2LAB)
    table = name_colours(lab).reshape(_STEPS, _STEPS, _STEPS)
    table.setflags(write=False)
    return table
