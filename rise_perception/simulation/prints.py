"""The print of world 2: packages of a shop, with photographs, brands, text and film made by code."""

from __future__ import annotations

import cv2
import numpy as np

from rise_perception.simulation import textures
from rise_perception.simulation.textures import Colour

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels."""
_FONTS = (
    cv2.FONT_HERSHEY_SIMPLEX,
    cv2.FONT_HERSHEY_DUPLEX,
    cv2.FONT_HERSHEY_TRIPLEX,
    cv2.FONT_HERSHEY_COMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_SIMPLEX,
    cv2.FONT_HERSHEY_SCRIPT_COMPLEX,
)
_SYLLABLES = (
    "ba",
    "ko",
    "mi",
    "ra",
    "su",
    "ten",
    "lo",
    "vi",
    "nor",
    "el",
    "da",
    "pex",
    "zu",
    "mar",
    "ti",
    "on",
    "fre",
    "sha",
    "qua",
    "li",
    "go",
    "be",
    "rin",
    "cy",
    "um",
)


def _word(rng: np.random.Generator) -> str:
    word = "".join(rng.choice(_SYLLABLES, int(rng.integers(1, 4))))
    style = rng.random()
    if style < 0.1:
        return str(int(rng.integers(1, 1000)))
    return word.upper() if style < 0.55 else word.capitalize()


def _write(
    picture: np.ndarray, rng: np.random.Generator, box: Box, ink: Colour, word: str | None = None
) -> None:
    """One word that fills ``box``, now and then with an outline or a shadow."""
    word = word or _word(rng)
    font, thick = _FONTS[int(rng.integers(len(_FONTS)))], int(rng.integers(1, 4))
    (width, height), _ = cv2.getTextSize(word, font, 1.0, thick)
    scale = min((box[2] - box[0]) / max(width, 1), (box[3] - box[1]) / max(height, 1))
    thick = max(1, round(thick * scale * rng.uniform(0.8, 2.5)))
    at = (box[0], box[3] - max(1, int(0.1 * (box[3] - box[1]))))
    if rng.random() < 0.4:
        other = (255 - ink if rng.random() < 0.5 else textures.colour(rng)).tolist()
        shift = int(rng.integers(0, 3))
        cv2.putText(picture, word, (at[0] + shift, at[1] + shift), font, scale, other, thick + 2, cv2.LINE_AA)
    cv2.putText(picture, word, at, font, scale, ink.tolist(), thick, cv2.LINE_AA)


def _paragraph(picture: np.ndarray, rng: np.random.Generator, box: Box, ink: Colour) -> None:
    """Lines of small letters."""
    step = int(rng.integers(4, 9))
    for y in range(box[1] + step, box[3], step):
        line = " ".join(_word(rng).lower() for _ in range(12))
        width = box[2] - box[0]
        strip = picture[max(0, y - step) : y + 2, box[0] : box[2]]
        if strip.size and width > 6:
            strip = np.ascontiguousarray(strip)
            size = step / 22 * rng.uniform(0.85, 1.1)
            cv2.putText(strip, line, (0, step - 1), _FONTS[0], size, ink.tolist(), 1, cv2.LINE_AA)
            picture[max(0, y - step) : y + 2, box[0] : box[2]] = strip


def _table(picture: np.ndarray, rng: np.random.Generator, box: Box) -> None:
    """A white panel of facts: ruled lines with words and figures."""
    cv2.rectangle(picture, box[:2], box[2:], (245, 245, 240), -1)
    cv2.rectangle(picture, box[:2], box[2:], (20, 20, 20), 1)
    for y in range(box[1] + 5, box[3] - 2, int(rng.integers(4, 8))):
        cv2.line(picture, (box[0] + 2, y), (box[2] - 2, y), (90, 90, 90), 1)
        if rng.random() < 0.7:
            end = box[0] + 3 + int(rng.uniform(0.2, 0.7) * max(1, box[2] - box[0] - 6))
            cv2.line(picture, (box[0] + 3, y - 2), (end, y - 2), (30, 30, 30), 1)


def photograph(rng: np.random.Generator, height: int, width: int, tones: list[Colour]) -> np.ndarray:
    """(height, width, 3) uint8 something like a photograph: a ground, lit round things, grain."""
    sky, earth = textures.colour(rng), tones[int(rng.integers(len(tones)))]
    horizon = height * rng.uniform(0.2, 0.9) + 6 * textures.noise(rng, 1, width, (2, 6))[0] * rng.uniform(
        0, 2
    )
    rows = np.arange(height)[:, None]
    out = np.where((rows < horizon)[..., None], sky, earth).astype(np.float32)
    out *= (1 + 0.25 * textures.noise(rng, height, width, (4, 4)))[..., None]
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    same = textures.colour(rng) if rng.random() < 0.6 else None  # a heap of one fruit, or many things
    for _ in range(int(rng.integers(1, 14))):
        centre, size = rng.uniform(0, 1, 2) * (height, width), rng.uniform(0.08, 0.35) * min(height, width)
        stretch = rng.uniform(0.6, 1.6)
        squared = ((yy - centre[0]) / size) ** 2 + ((xx - centre[1]) / (size * stretch)) ** 2
        lit = np.sqrt(np.clip(1 - squared, 0, 1)) * 0.7 + 0.35
        tone = (textures.colour(rng) if same is None else same) * rng.uniform(0.7, 1.2)
        inside = (squared < 1)[..., None]
        out = np.where(inside, lit[..., None] * tone, out)
        glint = np.exp(
            -(((yy - centre[0] + 0.4 * size) / (0.2 * size)) ** 2 + ((xx - centre[1]) / (0.2 * size)) ** 2)
        )
        out = out + np.where(inside, glint[..., None] * 120, 0)
    out += rng.normal(0, rng.uniform(1, 9), (height, width, 1))
    return np.clip(out, 0, 255).astype(np.uint8)


def _inside(rng: np.random.Generator, height: int, width: int, low: float, high: float) -> Box:
    w, h = max(8, int(rng.uniform(low, high) * width)), max(8, int(rng.uniform(low, high) * height))
    x, y = int(rng.integers(0, max(1, width - w))), int(rng.integers(0, max(1, height - h)))
    return x, y, min(width - 1, x + w), min(height - 1, y + h)


def _emblem(picture: np.ndarray, rng: np.random.Generator, box: Box, inks: list[Colour]) -> None:
    """A logo: an ellipse, a banner or a shield with a word across."""
    first, second = inks[int(rng.integers(1, len(inks)))], inks[int(rng.integers(len(inks)))]
    middle = ((box[0] + box[2]) // 2, (box[1] + box[3]) // 2)
    axes = (max(2, (box[2] - box[0]) // 2), max(2, (box[3] - box[1]) // 2))
    if rng.random() < 0.5:
        turn = float(rng.normal(0, 8))
        cv2.ellipse(picture, middle, axes, turn, 0, 360, first.tolist(), -1, cv2.LINE_AA)
        if rng.random() < 0.5:
            cv2.ellipse(picture, middle, axes, turn, 0, 360, second.tolist(), 2, cv2.LINE_AA)
    else:
        cv2.rectangle(picture, box[:2], box[2:], first.tolist(), -1)
    inset = (int(0.3 * axes[0]), int(0.4 * axes[1]))
    inner = (box[0] + inset[0], box[1] + inset[1], box[2] - inset[0], box[3] - inset[1])
    if inner[2] - inner[0] > 8 and inner[3] - inner[1] > 4:
        ink = np.full(3, 245.0) if first.mean() < 130 else np.full(3, 20.0)
        _write(picture, rng, inner, ink if rng.random() < 0.7 else second)


def _barcode(picture: np.ndarray, rng: np.random.Generator, box: Box) -> None:
    patch = picture[box[1] : box[3], box[0] : box[2]]
    patch[:] = 245
    if patch.shape[0] > 6 and patch.shape[1] > 8:
        bars = np.repeat(rng.random(patch.shape[1]) < 0.5, int(rng.integers(1, 3)))[: patch.shape[1] - 4]
        patch[2:-3, 2:-2][:, bars] = 15


def film(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What light does on glossy film: soft streaks, and creases that are light on one side."""
    height, width = picture.shape[:2]
    out = picture.astype(np.float32)
    streak = textures.noise(rng, height, width, (int(rng.integers(2, 9)), int(rng.integers(2, 9))))
    out += (np.clip(streak - rng.uniform(0.6, 1.6), 0, 1) * rng.uniform(60, 260))[..., None]
    crease = textures.noise(rng, height, width, (9, 9))
    out *= (1 + rng.uniform(0.0, 0.3) * np.clip(cv2.Sobel(crease, cv2.CV_32F, 1, 1, ksize=3), -1, 1))[
        ..., None
    ]
    return np.clip(out, 0, 255).astype(np.uint8)


def printed(rng: np.random.Generator, height: int, width: int, inks: list[Colour], busy: float) -> np.ndarray:
    """As :func:`rise_perception.simulation.textures.printed`, with what a shop's packages show."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = np.clip(inks[0], 0, 255)
    if busy > 0:
        ground = rng.random()
        if ground < 0.2:
            ramp = np.linspace(0, rng.uniform(0.4, 1.0), height if rng.random() < 0.6 else width)
            ramp = ramp[:, None, None] if len(ramp) == height else ramp[None, :, None]
            picture = np.clip(
                inks[0] + (inks[1] - inks[0]) * ramp + np.zeros((height, width, 1)), 0, 255
            ).astype(np.uint8)
        elif ground < 0.2 + 0.25 * busy:
            picture = photograph(rng, height, width, inks)
        elif ground < 0.6:  # two fields, split straight or aslant
            a, b = rng.uniform(0.1, 0.9, 2) * height
            corners = np.array([[0, a], [width, b], [width, height], [0, height]], np.int32)
            cv2.fillPoly(picture, [corners], inks[int(rng.integers(1, 3))].tolist(), cv2.LINE_AA)
        if rng.random() < 0.5 * busy:
            x0, y0, x1, y1 = _inside(rng, height, width, 0.35, 0.85)
            picture[y0:y1, x0:x1] = photograph(rng, y1 - y0, x1 - x0, inks)
        for _ in range(int(rng.integers(0, 1 + round(3 * busy)))):
            _emblem(picture, rng, _inside(rng, height, width, 0.25, 0.8), inks)
        for _ in range(int(rng.integers(0, 1 + round(3 * busy)))):
            _write(picture, rng, _inside(rng, height, width, 0.2, 0.9), inks[int(rng.integers(1, len(inks)))])
        if rng.random() < 0.5 * busy:
            _paragraph(picture, rng, _inside(rng, height, width, 0.3, 0.9), inks[-1])
        if rng.random() < 0.25 * busy:
            _table(picture, rng, _inside(rng, height, width, 0.2, 0.6))
        if rng.random() < 0.3 * busy:
            _barcode(picture, rng, _inside(rng, height, width, 0.15, 0.35))
        for _ in range(int(rng.integers(0, 4) * (rng.random() < busy))):  # seals, prices, icons
            radius = int(rng.uniform(0.03, 0.13) * min(height, width)) + 2
            at = (int(rng.integers(width)), int(rng.integers(height)))
            cv2.circle(picture, at, radius, textures.colour(rng).tolist(), -1, cv2.LINE_AA)
    if rng.random() < 0.35:
        picture = film(picture, rng)
    shade = 1 + 0.04 * textures.noise(rng, height, width, (4, 4))[..., None]
    return np.clip(picture * shade, 0, 255).astype(np.uint8)


def _marbled(rng: np.random.Generator, size: int, first: Colour) -> np.ndarray:
    """The cover of a composition book, terrazzo, sponge: blots of one colour in another."""
    count = int(rng.integers(12, 40))
    field = textures.noise(rng, size, size, (count, count)) + 0.4 * textures.noise(rng, size, size, (60, 60))
    other = np.full(3, 240.0) if rng.random() < 0.5 else textures.colour(rng)
    mask = (field > rng.uniform(-0.5, 0.7))[..., None]
    return np.where(mask, other, first).astype(np.uint8)


def package(rng: np.random.Generator, ground: Colour | None = None, size: int = 144) -> np.ndarray:
    """(6, size, size, 3) uint8: the sides of a box (+x, -x, +y, -y, +z, -z), printed as one package."""
    palette = textures.inks(rng, ground)
    style = rng.random()
    if style < 0.12:
        sides = np.empty((6, size, size, 3), np.uint8)
        sides[:] = np.clip(palette[0], 0, 255)
        for side in sides:
            if rng.random() < 0.3:
                x0, y0, x1, y1 = _inside(rng, size, size, 0.2, 0.5)
                white = [np.full(3, 240.0), *palette[1:]]
                side[y0:y1, x0:x1] = printed(rng, y1 - y0, x1 - x0, white, 1.0)
        return sides
    if style < 0.2:
        return np.stack([_marbled(rng, size, palette[0])] * 6)
    if style < 0.26:
        kind = str(rng.choice(["stripes", "checker", "speckle", "cloud", "wood", "cardboard"]))
        return np.stack([textures.surface(rng, size, kind, palette[0])] * 6)
    busy = rng.uniform(0.4, 1.0)
    front = printed(rng, size, size, palette, busy)
    faces: list[np.ndarray] = []
    for k in range(6):
        fraction = rng.random()
        if fraction < 0.35:
            face = front
        else:
            shifted = [palette[int(rng.integers(3))] if fraction > 0.7 else palette[0], *palette[1:]]
            face = printed(rng, size, size, shifted, busy * rng.uniform(0.2, 1.1))
        faces.append(np.rot90(face, int(rng.integers(4))) if k > 1 else face)
    return np.stack(faces)


def wrapper(
    rng: np.random.Generator, ground: Colour | None = None, height: int = 128, width: int = 224
) -> np.ndarray:
    """(height, width, 3) uint8 to wrap around a can, bottle or cup: columns go around, row 0 is the top."""
    palette = textures.inks(rng, ground)
    style = rng.random()
    if style < 0.2:
        picture = printed(rng, height, width, palette, 0.0)
    elif style < 0.28:
        picture = cv2.resize(_marbled(rng, height, palette[0]), (width, height))
    else:
        half = printed(rng, height, width // 2, palette, rng.uniform(0.5, 1.0))
        picture = np.concatenate([half, half], axis=1)
    if rng.random() < 0.4:  # a label that does not cover all
        top = int(rng.uniform(0.0, 0.35) * height)
        cover = palette[1] if rng.random() < 0.5 else textures.colour(rng)
        picture[:top] = picture[height - int(rng.uniform(0.0, 0.3) * height) :] = np.clip(cover, 0, 255)
    return picture
