"""How each kind of good is built from geoms and meshes.

Every maker takes the builder, the body to add to and the :class:`Look` to make it with, and returns
the half sizes (3,) of the item's bounding box in metres, around the body's origin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from rise_perception.simulation import textures
from rise_perception.simulation.assets import Builder


class Prints(Protocol):
    """Who prints on goods: :mod:`rise_perception.simulation.textures` in world 1, ``prints`` in world 2."""

    def package(
        self, rng: np.random.Generator, ground: textures.Colour | None = ..., size: int = ...
    ) -> np.ndarray:
        """The six sides of a box."""
        ...

    def wrapper(
        self,
        rng: np.random.Generator,
        ground: textures.Colour | None = ...,
        height: int = ...,
        width: int = ...,
    ) -> np.ndarray:
        """What goes around a can."""
        ...

    def printed(
        self, rng: np.random.Generator, height: int, width: int, inks: list[textures.Colour], busy: float
    ) -> np.ndarray:
        """One side."""
        ...


@dataclass
class Look:
    """The random generator, the colour and the print that one item is made with."""

    rng: np.random.Generator
    ground: np.ndarray
    gloss: float
    alpha: float
    prints: Prints = textures

    def wrap(self, builder: Builder) -> str:
        """A material printed to go around."""
        return builder.material(
            self.prints.wrapper(self.rng, self.ground), gloss=self.gloss, alpha=self.alpha
        )

    def box(self, builder: Builder) -> str:
        """A material printed for the six sides of a box."""
        return builder.material(self.prints.package(self.rng, self.ground), gloss=self.gloss)

    def plain(self, builder: Builder, rgb: np.ndarray | None = None) -> str:
        """A material of one colour, the item's own if ``rgb`` is None."""
        return builder.material(rgb=self.ground if rgb is None else rgb, gloss=self.gloss, alpha=self.alpha)


Make = Callable[[Builder, Any, Look], np.ndarray]


def _box(b: Builder, body: Any, look: Look) -> np.ndarray:
    long = look.rng.choice([look.rng.uniform(0.05, 0.1), look.rng.uniform(0.09, 0.24)])
    middle = long * look.rng.uniform(0.4, 1.0)
    half = look.rng.permutation([long, middle, max(0.018, middle * look.rng.uniform(0.25, 0.95))]) / 2
    b.solid(body, "box", half, material=look.box(b))
    return half


def _book(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    half = np.array([rng.uniform(0.12, 0.24), rng.uniform(0.09, 0.19), rng.uniform(0.006, 0.03)]) / 2
    faces = look.prints.package(rng, look.ground, 128)
    if rng.random() < 0.6:  # paper edges on three sides
        paper = textures.surface(rng, 128, "metal", textures.colour(rng, "light"))
        faces[[0, 2, 3]] = paper
    b.solid(body, "box", half, material=b.material(faces, gloss=look.gloss))
    return half


def _can(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r = rng.uniform(0.02, 0.05)
    h = r * rng.choice([rng.uniform(0.5, 1.2), rng.uniform(1.2, 3.2)])
    lip = 0.06 * r
    radii = [0, r - lip, r, r, r - lip, r - 2 * lip, 0]
    profile = np.stack([radii, [-h, -h, lip - h, h - lip, h, h - 2 * lip, h - 2 * lip]], axis=1)
    picture = look.prints.wrapper(rng, look.ground)
    length = np.cumsum([0, *np.linalg.norm(np.diff(profile, axis=0), axis=1)])
    caps = textures.colour(rng, "light" if rng.random() < 0.6 else None)
    side = (1 - length / length[-1]) * len(picture)
    whole = np.empty_like(picture)
    whole[:] = caps
    top, bottom = int(side[4]), max(int(side[4]) + 4, int(side[1]))
    rows = np.linspace(0, len(picture) - 1, bottom - top).astype(int)
    whole[top:bottom] = picture[rows]
    b.mesh(body, b.revolve(profile), b.material(whole, gloss=look.gloss))
    b.solid(body, "cylinder", (r, h))
    return np.array([r, r, h])


def _bottle(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h = rng.uniform(0.018, 0.042), rng.uniform(0.06, 0.125)
    neck, cap = r * rng.uniform(0.25, 0.6), h * rng.uniform(0.12, 0.3)
    shoulder = rng.uniform(0.1, 0.7) * (h - cap)
    squash = (1.0, rng.uniform(0.55, 1.0))
    exponent = float(rng.choice([2.0, 2.0, 4.0]))
    bend = shoulder + 0.35 * (h - cap - shoulder)
    radii = [0, r * 0.95, r, r, r * 0.85, neck, neck]
    profile = np.stack([radii, [-h, -h, 0.004 - h, shoulder, bend, h - cap, h - cap * 0.5]], axis=1)
    b.mesh(body, b.revolve(profile, 20, squash, exponent), look.wrap(b))
    b.solid(body, "box", (0.75 * r, 0.75 * r * squash[1], (shoulder + h) / 2), (0, 0, (shoulder - h) / 2))
    b.solid(body, "ellipsoid", (r, r * squash[1], h), (0, 0, -0.1 * h))
    b.solid(
        body,
        "cylinder",
        (neck * 1.1, cap / 2),
        (0, 0, h - cap / 2),
        material=look.plain(b, textures.colour(rng)),
    )
    return np.array([r, r * squash[1], h])


def vessel(b: Builder, body: Any, look: Look, r: float, h: float, base: float, bulge: float) -> float:
    """A hollow body of revolution with rim radius ``r`` and half height ``h``; returns its thickness."""
    rng = look.rng
    wall = max(0.0022, 0.05 * r)
    z = np.linspace(-h, h, 6)
    t = (z + h) / (2 * h)
    outer = base + (r - base) * t**bulge
    outside = [(0, -h), *zip(outer, z, strict=True)]
    inside = [(o - wall, max(zz, -h + wall)) for o, zz in zip(outer[::-1], z[::-1], strict=True)] + [
        (0, -h + wall)
    ]
    lip = [(r + wall * 0.6, h), (r, h + wall * 0.4)] if rng.random() < 0.4 else []
    profile = np.array(outside + lip + inside)
    if rng.random() < 0.65:  # one glaze, perhaps another inside
        picture = np.empty((96, 32, 3), np.uint8)
        picture[:] = look.ground
        grain = rng.normal(0, rng.choice([2, 14]), (96, 32, 1))
        picture = np.clip(picture + grain, 0, 255).astype(np.uint8)
        if rng.random() < 0.35:
            picture[:44] = textures.colour(rng, "light")
    else:
        outside_picture = look.prints.wrapper(rng, look.ground, 52, 160)
        lining = np.empty((44, 160, 3), np.uint8)
        lining[:] = textures.colour(rng, "light") if rng.random() < 0.6 else look.ground
        picture = np.concatenate([lining, outside_picture])
    b.mesh(body, b.revolve(profile, 28), b.material(picture, gloss=look.gloss, alpha=look.alpha))
    b.tube_walls(body, (r + base) / 2, max(wall, 0.004), -h, h)
    b.solid(body, "cylinder", (base * 0.95, max(wall, 0.004) / 2), (0, 0, -h + 0.002))
    return wall


def _mug(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h = rng.uniform(0.03, 0.05), rng.uniform(0.035, 0.06)
    vessel(b, body, look, r, h, r * rng.uniform(0.7, 1.0), rng.uniform(0.3, 1.2))
    if rng.random() < 0.75:
        material, thick = look.plain(b), rng.uniform(0.003, 0.006)
        angles = np.linspace(-np.pi / 2, np.pi / 2, 6)
        reach, tall = rng.uniform(0.018, 0.032), h * rng.uniform(0.45, 0.75)
        points = np.stack([r * 0.95 + reach * np.cos(angles), 0 * angles, tall * np.sin(angles)], 1)
        for start, end in pairwise(points):
            b.rod(body, start, end, thick, material)
    return np.array([r + 0.01, r, h])


def _bowl(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r = rng.uniform(0.05, 0.09)
    h = r * rng.uniform(0.2, 0.45)
    vessel(b, body, look, r, h, r * rng.uniform(0.35, 0.6), rng.uniform(0.35, 0.7))
    return np.array([r, r, h])


def _cup(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h = rng.uniform(0.028, 0.045), rng.uniform(0.04, 0.075)
    vessel(b, body, look, r, h, r * rng.uniform(0.6, 0.85), 1.0)
    return np.array([r, r, h])


def _ball(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r = rng.uniform(0.02, 0.055)
    half = np.array([r, r, r]) if rng.random() < 0.5 else r * rng.uniform(0.6, 1.2, 3)
    faces = (
        look.prints.package(rng, look.ground)
        if rng.random() < 0.5
        else np.stack([textures.surface(rng, 96, base=look.ground)] * 6)
    )
    b.solid(body, "ellipsoid", half, material=b.material(faces, gloss=look.gloss))
    return half


def pillow(b: Builder, body: Any, look: Look, half: np.ndarray, crumple: float, side: int = 13) -> None:
    """Two sheets joined at a seam and blown up; crumpled by smooth noise of relative height ``crumple``."""
    rng = look.rng
    u = np.linspace(-1, 1, side)
    x, y = np.meshgrid(u, u, indexing="xy")
    power = rng.uniform(2.0, 5.0)
    dome = np.sqrt(np.clip((1 - np.abs(x) ** power) * (1 - np.abs(y) ** power), 0, 1))
    picture = look.prints.printed(rng, 96, 96, textures.inks(rng, look.ground), rng.choice([0.0, 0.7, 1.0]))
    fold = 1 + 0.12 * textures.noise(rng, 96, 96, (7, 7))[..., None]
    material = b.material(
        np.clip(picture * fold, 0, 255).astype(np.uint8), gloss=look.gloss, alpha=look.alpha
    )
    edge = 0.06 * crumple * textures.noise(rng, side, side, (5, 5))
    uv = np.stack([(x + 1) / 2, (y + 1) / 2], -1)
    for sign in (1, -1):
        bumps = 1 + crumple * textures.noise(rng, side, side, (5, 5))
        z = sign * half[2] * dome * np.clip(bumps, 0.3, 1.4)
        sheet = np.stack([half[0] * x * (1 + edge), half[1] * y * (1 + edge.T), z], -1)
        b.mesh(
            body, b.sheet(sheet if sign > 0 else sheet[:, ::-1], uv if sign > 0 else uv[:, ::-1]), material
        )
    b.solid(body, "ellipsoid", half * (0.92, 0.92, 0.85))
    b.solid(body, "box", half * (0.7, 0.7, 0.45))


def _bag(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    half = np.array([rng.uniform(0.04, 0.11), rng.uniform(0.035, 0.08), 0])
    half[2] = half[1] * rng.uniform(0.25, 0.6)
    pillow(b, body, look, half, rng.uniform(0.05, 0.25))
    return half


def _cloth(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    half = np.array([rng.uniform(0.05, 0.1), rng.uniform(0.05, 0.09), rng.uniform(0.012, 0.035)])
    pillow(b, body, look, half, rng.uniform(0.3, 0.6), 17)
    return half


def _pen(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h = rng.uniform(0.0045, 0.011), rng.uniform(0.055, 0.085)
    cap = rng.uniform(0.15, 0.45) * h
    b.solid(
        body,
        "cylinder",
        (r, h - cap),
        (0, 0, -cap),
        material=look.wrap(b) if rng.random() < 0.3 else look.plain(b),
    )
    accent = look.plain(b, textures.colour(rng)) if rng.random() < 0.7 else look.plain(b)
    b.solid(body, "cylinder", (r * 1.12, cap), (0, 0, h - cap), material=accent)
    b.solid(body, "ellipsoid", (r * 0.7, r * 0.7, 2 * r), (0, 0, -h), material=accent)
    return np.array([r, r, h])


def _tool(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    h, r = rng.uniform(0.06, 0.12), rng.uniform(0.007, 0.016)
    grip = rng.uniform(0.35, 0.65) * h
    steel = look.plain(b, rng.uniform(90, 210) * np.ones(3) if rng.random() < 0.7 else textures.colour(rng))
    b.solid(
        body, str(rng.choice(["capsule", "cylinder"])), (r, grip), (0, 0, grip - h), material=look.plain(b)
    )
    b.solid(body, "cylinder", (r * rng.uniform(0.3, 0.6), h - grip), (0, 0, grip), material=steel)
    head, wide = rng.random(), 0.0
    if head < 0.35:  # hammer, brush, roller
        wide = rng.uniform(0.02, 0.05)
        b.solid(
            body,
            "box",
            (wide, r * rng.uniform(0.8, 1.4), r * rng.uniform(0.9, 2.0)),
            (0, 0, h - r),
            material=steel,
        )
    elif head < 0.6:  # spoon, spatula
        wide = rng.uniform(0.015, 0.03)
        b.solid(body, "ellipsoid", (wide, 0.005, wide * 1.5), (0, 0, h - wide), material=steel)
    elif head < 0.75:  # wrench
        wide = rng.uniform(0.012, 0.02)
        for sign in (-1, 1):
            b.solid(body, "box", (wide / 2.5, 0.005, wide), (sign * wide / 1.6, 0, h), material=steel)
    return np.array([max(r, wide), r, h])


def _scissors(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    h, spread = rng.uniform(0.06, 0.1), rng.uniform(0.05, 0.35)
    handle, steel = look.plain(b), look.plain(b, rng.uniform(140, 220) * np.ones(3))
    loop = rng.uniform(0.014, 0.022)
    for sign in (-1, 1):
        way = np.array([sign * np.sin(spread), 0.0, np.cos(spread)])
        b.rod(body, -0.2 * h * way, h * way, 0.0035, steel)
        middle = np.array([-sign * loop * 1.1, sign * 0.002, -h * 0.6])
        angles = np.linspace(0, 2 * np.pi, 8)
        ring = middle + np.stack([loop * np.cos(angles), 0 * angles, 1.5 * loop * np.sin(angles)], 1)
        for start, end in pairwise(ring):
            b.rod(body, start, end, 0.004, handle)
    return np.array([2.2 * loop, 0.006, h])


def _blister(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    half = np.array([rng.uniform(0.035, 0.07), rng.uniform(0.05, 0.1), 0.0015])
    b.solid(body, "box", half, material=look.box(b))
    bubble = look.plain(b, textures.colour(rng))
    shape = str(rng.choice(["ellipsoid", "box", "capsule"]))
    size = {
        "ellipsoid": (half[0] * 0.6, half[1] * 0.45, 0.016),
        "box": (half[0] * 0.6, half[1] * 0.4, 0.01),
        "capsule": (0.01, half[0] * 0.5),
    }
    quat = np.array([0.7071, 0, 0.7071, 0]) if shape == "capsule" else None
    b.solid(body, shape, size[shape], (0, -half[1] * 0.3, 0.01), quat, bubble)
    return np.array([half[0], half[1], 0.015])


def _toy(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r = rng.uniform(0.018, 0.035)
    skin = [look.plain(b), look.plain(b, textures.colour(rng) if rng.random() < 0.4 else look.ground * 0.8)]
    b.solid(body, "ellipsoid", (r * 1.3, r, r), material=skin[0])
    b.solid(
        body,
        "sphere",
        (r * rng.uniform(0.5, 0.9),),
        (r * 1.3, 0, r * rng.uniform(0.3, 1.0)),
        material=skin[0],
    )
    for x in (-0.8, 0.8):
        for y in (-0.6, 0.6):
            b.rod(
                body,
                np.array([x * r, y * r, -0.3 * r]),
                np.array([x * r, y * r, -1.4 * r]),
                r * 0.28,
                skin[1],
            )
    return np.array([2.0 * r, r, 1.6 * r])


def _tube(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r = rng.uniform(0.01, 0.03)
    h = r * rng.uniform(1.2, 4.0)
    faces = look.prints.package(rng, look.ground)
    b.solid(body, "capsule", (r, h), material=b.material(faces, gloss=look.gloss))
    return np.array([r, r, h + r])


def _lump(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    half = rng.uniform(0.02, 0.06, 3)
    points = rng.normal(size=(int(rng.integers(10, 40)), 3))
    points = points / np.linalg.norm(points, axis=1, keepdims=True) * half
    faces = (
        np.stack([textures.surface(rng, 96, base=look.ground)] * 6)
        if rng.random() < 0.5
        else look.prints.package(rng, look.ground)
    )
    b.mesh(body, b.hull(points), b.material(faces, gloss=look.gloss), solid=True)
    return half


def _ring(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h = rng.uniform(0.025, 0.055), rng.uniform(0.008, 0.03)
    hole = r * rng.uniform(0.5, 0.85)
    profile = np.array([(hole, -h), (r, -h), (r, h), (hole, h), (hole, -h)])
    b.mesh(body, b.revolve(profile, 28), look.wrap(b))
    b.tube_walls(body, r, r - hole, -h, h)
    return np.array([r, r, h])


KINDS: dict[str, tuple[float, Make]] = {
    "box": (0.25, _box),
    "book": (0.08, _book),
    "can": (0.09, _can),
    "bottle": (0.09, _bottle),
    "mug": (0.07, _mug),
    "bowl": (0.03, _bowl),
    "cup": (0.03, _cup),
    "ball": (0.05, _ball),
    "bag": (0.09, _bag),
    "cloth": (0.03, _cloth),
    "pen": (0.04, _pen),
    "tool": (0.05, _tool),
    "scissors": (0.02, _scissors),
    "blister": (0.03, _blister),
    "toy": (0.04, _toy),
    "tube": (0.03, _tube),
    "lump": (0.03, _lump),
    "ring": (0.03, _ring),
}
"""Shape name -> (how often, how it is made)."""
CLEAR = ("wineglass", "clear_pack", "jar")
"""Kinds (of world 2) that a depth camera sees through or not at all."""
