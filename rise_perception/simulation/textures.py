"""Procedural pictures for the tote world: surfaces of the surroundings and the print on items.

All are made with NumPy and OpenCV from a random generator, so that nothing has to be downloaded and
no real photograph enters the training data.
"""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

Colour = np.ndarray
"""(3,) float64 RGB in [0, 255]."""

_LETTERS = "ABCDEFGHIJKLMNOPRSTUVWXYZabcdeghiklmnoprstuvwy0123456789&%!"
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)
SURFACES = (
    "plain",
    "speckle",
    "wood",
    "stripes",
    "checker",
    "carpet",
    "cardboard",
    "metal",
    "cloud",
    "tiles",
)


def colour(rng: np.random.Generator, kind: str | None = None) -> Colour:
    """One colour; ``kind`` is vivid, muted, light, dark or kraft, drawn as it occurs among goods if None."""
    kind = kind or str(
        rng.choice(["vivid", "muted", "light", "dark", "kraft"], p=[0.46, 0.2, 0.16, 0.12, 0.06])
    )
    if kind == "vivid":
        # Packaging is more often red, yellow and blue than green and purple.
        hue = float(rng.choice([0.0, 0.04, 0.12, 0.33, 0.55, 0.6, 0.8, rng.random()])) + rng.normal(0, 0.02)
        hsv = (hue % 1.0, rng.uniform(0.6, 1.0), rng.uniform(0.45, 1.0))
    elif kind == "muted":
        hsv = (rng.random(), rng.uniform(0.1, 0.5), rng.uniform(0.25, 0.8))
    elif kind == "light":
        hsv = (rng.random(), rng.uniform(0.0, 0.12), rng.uniform(0.82, 1.0))
    elif kind == "dark":
        hsv = (rng.random(), rng.uniform(0.0, 0.4), rng.uniform(0.04, 0.22))
    else:
        hsv = (rng.uniform(0.06, 0.11), rng.uniform(0.3, 0.55), rng.uniform(0.45, 0.75))
    return np.array(colorsys.hsv_to_rgb(*hsv)) * 255


def noise(rng: np.random.Generator, height: int, width: int, cells: tuple[int, int]) -> np.ndarray:
    """(height, width) float32 smooth noise of about unit deviation with ``cells`` (down, across)."""
    lattice = rng.normal(size=(max(2, cells[0]), max(2, cells[1]))).astype(np.float32)
    return cv2.resize(lattice, (width, height), interpolation=cv2.INTER_CUBIC)


def _finish(picture: np.ndarray) -> np.ndarray:
    return np.clip(picture, 0, 255).astype(np.uint8)


def surface(
    rng: np.random.Generator, size: int = 128, kind: str | None = None, base: Colour | None = None
) -> np.ndarray:
    """(size, size, 3) uint8 RGB texture of a desk, floor, wall, tote or piece of cloth.

    Args:
        kind: one of :data:`SURFACES`; drawn if None.
        base: its main colour; drawn if None.
    """
    kind = kind or str(rng.choice(SURFACES))
    if base is None:
        base = colour(
            rng,
            {"cardboard": "kraft", "wood": "kraft"}.get(kind) or str(rng.choice(["muted", "light", "dark"])),
        )
    other = np.clip(base * rng.uniform(0.55, 1.45) + rng.normal(0, 12, 3), 0, 255)
    yy, xx = np.mgrid[0:size, 0:size] / size
    if kind == "plain":
        mix = 0.08 * noise(rng, size, size, (4, 4))
    elif kind == "speckle":
        mix = rng.uniform(0.1, 0.5) * rng.normal(size=(size, size))
    elif kind == "wood":
        rings = yy * rng.uniform(4, 14) + 0.5 * noise(rng, size, size, (6, 3))
        mix = 0.5 + 0.4 * np.sin(2 * np.pi * rings) + 0.2 * noise(rng, size, size, (size, 4))
    elif kind == "stripes":
        angle, count = rng.uniform(0, np.pi), rng.integers(3, 16)
        mix = ((xx * np.cos(angle) + yy * np.sin(angle)) * count % 1 < rng.uniform(0.2, 0.8)).astype(float)
    elif kind == "checker":
        count = rng.integers(2, 9)
        mix = ((np.floor(xx * count) + np.floor(yy * count)) % 2).astype(float)
    elif kind == "carpet":
        count = rng.integers(16, 40)
        mix = 0.5 + 0.5 * np.sin(2 * np.pi * count * xx) * np.sin(2 * np.pi * count * yy)
        mix = mix + 0.6 * rng.normal(size=(size, size))
    elif kind == "cardboard":
        mix = 0.12 * np.sin(2 * np.pi * yy * rng.integers(20, 50)) + 0.15 * noise(rng, size, size, (5, 5))
    elif kind == "metal":
        mix = 0.25 * noise(rng, size, size, (size, 2)) + 0.3 * noise(rng, size, size, (3, 3))
    elif kind == "cloud":
        octaves = [0.5**k * noise(rng, size, size, (3 * 2**k, 3 * 2**k)) for k in range(3)]
        mix = np.sum(octaves, axis=0) * 0.4
    else:  # tiles
        count = rng.integers(2, 7)
        grout = np.minimum(xx * count % 1, yy * count % 1) < 0.06
        mix = grout.astype(float) + 0.1 * noise(rng, size, size, (8, 8))
    mix = np.asarray(mix)[..., None]
    return _finish(base * (1 - mix) + other * mix + rng.normal(0, 3, (size, size, 1)))


def _text(picture: np.ndarray, rng: np.random.Generator, box: tuple[int, int, int, int], ink: Colour) -> None:
    """One big word or number inside ``box`` (x0, y0, x1, y1)."""
    word = "".join(rng.choice(list(_LETTERS), size=int(rng.integers(2, 8))))
    font, thick = _FONTS[int(rng.integers(len(_FONTS)))], int(rng.integers(1, 4))
    (width, height), _ = cv2.getTextSize(word, font, 1.0, thick)
    scale = min((box[2] - box[0]) / max(width, 1), (box[3] - box[1]) / max(height, 1))
    cv2.putText(picture, word, (box[0], box[3]), font, scale, ink.tolist(), thick, cv2.LINE_AA)


def _print_lines(
    picture: np.ndarray, rng: np.random.Generator, box: tuple[int, int, int, int], ink: Colour
) -> None:
    """Small print: rows of short bars, which is what text looks like from half a metre."""
    step = int(rng.integers(3, 6))
    for y in range(box[1], box[3] - 1, step):
        x = box[0]
        end = box[2] - int(rng.integers(0, max(1, (box[2] - box[0]) // 3)))
        while x < end:
            width = int(rng.integers(2, 9))
            picture[y : y + max(1, step // 2), x : min(x + width, end)] = ink
            x += width + 2


def _barcode(picture: np.ndarray, rng: np.random.Generator, box: tuple[int, int, int, int]) -> None:
    picture[box[1] : box[3], box[0] : box[2]] = 245
    bars = rng.random(box[2] - box[0] - 4) < 0.5
    inner = picture[box[1] + 2 : box[3] - 2, box[0] + 2 : box[2] - 2]
    inner[:, bars[: inner.shape[1]]] = 15


def _motif(
    picture: np.ndarray, rng: np.random.Generator, box: tuple[int, int, int, int], inks: list[Colour]
) -> None:
    """A logo or a picture of something: overlapping ellipses and polygons."""
    span = np.array([box[2] - box[0], box[3] - box[1]])
    for _ in range(int(rng.integers(1, 5))):
        centre = np.array(box[:2]) + rng.uniform(0.25, 0.75, 2) * span
        ink = inks[int(rng.integers(len(inks)))].tolist()
        axes = np.maximum(2, span * rng.uniform(0.12, 0.45, 2)).astype(int)
        if rng.random() < 0.5:
            cv2.ellipse(
                picture,
                centre.astype(int).tolist(),
                axes.tolist(),
                rng.uniform(0, 180),
                0,
                360,
                ink,
                -1,
                cv2.LINE_AA,
            )
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
            points = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * axes
            cv2.fillPoly(picture, [points.astype(np.int32)], ink, cv2.LINE_AA)


def _stripes(picture: np.ndarray, rng: np.random.Generator, inks: list[Colour]) -> None:
    """Stripes all over, in one ink or (a bundle of pens, a row of tubes) in many colours."""
    width = picture.shape[1]
    count, duty = int(rng.integers(3, 16)), rng.uniform(0.2, 0.9)
    ink = inks[int(rng.integers(1, len(inks)))]
    many = rng.random() < 0.4
    along = np.arange(width) / width * count
    for k in range(count):
        picture[:, (along // 1 == k) & (along % 1 < duty)] = colour(rng) if many else ink


def _photo(
    picture: np.ndarray, rng: np.random.Generator, box: tuple[int, int, int, int], inks: list[Colour]
) -> None:
    """Something like a printed photograph: patches of several colours with soft and hard borders."""
    height, width = box[3] - box[1], box[2] - box[0]
    cells = int(rng.integers(2, 7))
    out = np.empty((height, width, 3), np.float32)
    out[:] = inks[0] if rng.random() < 0.5 else colour(rng)
    for _ in range(int(rng.integers(2, 5))):
        field = noise(rng, height, width, (cells, cells)) + 0.3 * noise(
            rng, height, width, (4 * cells, 4 * cells)
        )
        mix = np.clip(field * rng.choice([0.7, 2.0, 20.0]), 0, 1)[..., None]
        tone = colour(rng) if rng.random() < 0.6 else inks[int(rng.integers(1, len(inks)))]
        out += (tone - out) * mix
    picture[box[1] : box[3], box[0] : box[2]] = np.clip(out, 0, 255)


def _box_in(
    rng: np.random.Generator, height: int, width: int, low: float, high: float
) -> tuple[int, int, int, int]:
    w, h = (rng.uniform(low, high, 2) * (width, height)).astype(int)
    w, h = max(8, int(w)), max(6, int(h))
    x, y = int(rng.integers(0, max(1, width - w))), int(rng.integers(0, max(1, height - h)))
    return x, y, min(width, x + w), min(height, y + h)


def printed(rng: np.random.Generator, height: int, width: int, inks: list[Colour], busy: float) -> np.ndarray:
    """(height, width, 3) uint8 side of a package in the colours ``inks`` (the first is the ground).

    ``busy`` in [0, 1] is how full of print it is; 0 leaves it plain.
    """
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = inks[0]
    if busy > 0:
        if rng.random() < 0.25:  # the ground fades into another colour
            ramp = np.linspace(0, 1, height)[:, None, None]
            picture += (inks[1] - inks[0]) * ramp * rng.uniform(0.3, 1.0)
        picture = np.ascontiguousarray(np.clip(picture, 0, 255).astype(np.uint8))
        if rng.random() < 0.5 * busy:  # a band across
            y = int(rng.uniform(0, 0.8) * height)
            picture[y : y + int(rng.uniform(0.08, 0.35) * height)] = inks[int(rng.integers(1, len(inks)))]
        if rng.random() < 0.15 * busy:
            _stripes(picture, rng, inks)
        if rng.random() < 0.3 * busy:
            _photo(picture, rng, _box_in(rng, height, width, 0.4, 1.0), inks)
        if rng.random() < 0.8 * busy:
            _motif(picture, rng, _box_in(rng, height, width, 0.3, 0.9), inks[1:])
        if rng.random() < 0.5 * busy:  # a panel with small print
            box = _box_in(rng, height, width, 0.3, 0.9)
            picture[box[1] : box[3], box[0] : box[2]] = (
                np.array([235, 233, 225]) if rng.random() < 0.6 else inks[1]
            )
            _print_lines(picture, rng, (box[0] + 3, box[1] + 3, box[2] - 2, box[3] - 2), inks[-1])
        for _ in range(int(rng.integers(0, 3) * (rng.random() < busy))):
            _text(picture, rng, _box_in(rng, height, width, 0.3, 0.9), inks[int(rng.integers(1, len(inks)))])
        if rng.random() < 0.3 * busy:
            _barcode(picture, rng, _box_in(rng, height, width, 0.2, 0.35))
    shade = 1 + 0.03 * noise(rng, height, width, (4, 4))[..., None]
    return _finish(picture.astype(np.float32) * shade)


def inks(rng: np.random.Generator, ground: Colour | None = None) -> list[Colour]:
    """Four colours of one package: ground, two accents, and the colour of its small print."""
    ground = colour(rng) if ground is None else ground
    dark = ground.mean() < 110
    accents = [colour(rng), colour(rng, "light" if dark else None)]
    return [ground, *accents, np.full(3, 240.0) if dark and rng.random() < 0.5 else np.full(3, 25.0)]


def package(rng: np.random.Generator, ground: Colour | None = None, size: int = 96) -> np.ndarray:
    """(6, size, size, 3) uint8: the sides of a box (+x, -x, +y, -y, +z, -z), printed as one package."""
    palette = inks(rng, ground)
    style = rng.random()
    if style < 0.14:  # plain, perhaps with one sticker
        sides = [printed(rng, size, size, palette, 0.0) for _ in range(6)]
        if rng.random() < 0.6:
            x0, y0, x1, y1 = _box_in(rng, size, size, 0.2, 0.4)
            sides[int(rng.integers(6))][y0:y1, x0:x1] = printed(
                rng, y1 - y0, x1 - x0, [np.full(3, 240.0), *palette[1:]], 1.0
            )
        return np.stack(sides)
    if style < 0.26:  # one pattern all over
        kind = str(rng.choice(["stripes", "checker", "speckle", "cloud", "wood", "cardboard"]))
        return np.stack([surface(rng, size, kind, palette[0])] * 6)
    grounds = [palette] * 6
    if rng.random() < 0.4:  # a pair of sides, or one side, in another colour: the white top of a carton
        pair = 2 * int(rng.integers(3))
        changed = [
            palette[1] if rng.random() < 0.5 else np.full(3, 238.0),
            palette[0],
            palette[2],
            palette[3],
        ]
        grounds[pair] = changed
        if rng.random() < 0.6:
            grounds[pair + 1] = changed
    busy = rng.uniform(0.3, 1.0)
    return np.stack([printed(rng, size, size, g, busy * rng.uniform(0.3, 1.2)) for g in grounds])


def wrapper(
    rng: np.random.Generator, ground: Colour | None = None, height: int = 96, width: int = 160
) -> np.ndarray:
    """(height, width, 3) uint8 to wrap around a can, bottle or cup: columns go around, row 0 is the top."""
    palette = inks(rng, ground)
    style = rng.random()
    if style < 0.3:
        picture = printed(rng, height, width, palette, 0.0)
    elif style < 0.42:
        kind = str(rng.choice(["stripes", "speckle", "cloud", "checker"]))
        picture = cv2.resize(surface(rng, height, kind, palette[0]), (width, height))
    else:
        half = printed(rng, height, width // 2, palette, rng.uniform(0.4, 1.0))
        picture = np.concatenate([half, half], axis=1)  # a label shows its face on both sides
    if rng.random() < 0.35:  # a ring or a label that does not cover all
        top = int(rng.uniform(0.0, 0.3) * height)
        picture[:top] = palette[1]
        picture[height - int(rng.uniform(0.0, 0.25) * height) :] = palette[1]
    return picture
