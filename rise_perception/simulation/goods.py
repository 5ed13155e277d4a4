"""The goods of world 2: those of world 1 in the print of shops, and what they lacked.

Glasses, clear packs that show their content, tools of several parts, folders, cups in cups, bundles.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from rise_perception.simulation import prints, shapes, textures
from rise_perception.simulation.assets import Builder
from rise_perception.simulation.shapes import Look, Make


def _second(look: Look) -> np.ndarray:
    return textures.colour(look.rng) if look.rng.random() < 0.6 else look.ground * look.rng.uniform(0.4, 0.9)


def _wineglass(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h = rng.uniform(0.025, 0.042), rng.uniform(0.06, 0.1)
    waist, wall = rng.uniform(-0.3, 0.2) * h, 0.002
    bowl = np.linspace(0, np.pi * rng.uniform(0.55, 0.8), 7)
    outer = [
        (0.004 + r * np.sin(a), waist + (h - waist) * (1 - np.cos(a)) / (1 - np.cos(bowl[-1]))) for a in bowl
    ]
    foot = [(0.001, -h), (0.85 * r, -h), (0.85 * r, -h + 0.002), (0.005, -h + 0.006)]
    inner = [(max(radius - wall, 0.001), z + 0.5 * wall) for radius, z in reversed(outer)]
    glass = b.material(
        rgb=np.full(3, rng.uniform(190, 255)) * rng.uniform(0.85, 1.0, 3),
        gloss=1.0,
        alpha=float(rng.uniform(0.15, 0.4)),
    )
    b.mesh(body, b.revolve(np.array([*foot, *outer, *inner]), 28), glass)
    b.solid(body, "cylinder", (0.85 * r, 0.003), (0, 0, -h + 0.003))
    b.solid(body, "cylinder", (0.006, (h + waist) / 2), (0, 0, (waist - h) / 2))
    b.tube_walls(body, r, 0.004, waist, h)
    return np.array([r, r, h])


def _clear_pack(b: Builder, body: Any, look: Look) -> np.ndarray:
    """A bag or shell of clear film around things, perhaps with a printed header."""
    rng = look.rng
    half = np.array([rng.uniform(0.03, 0.08), rng.uniform(0.04, 0.1), rng.uniform(0.008, 0.022)])
    tone = _second(look)
    count = int(rng.integers(1, 9))
    shape = str(rng.choice(["capsule", "ellipsoid", "box", "sphere"]))
    for k in range(count):
        x = (2 * (k + 0.5) / count - 1) * 0.85 * half[0] if count > 1 else 0.0
        rgb = tone if rng.random() < 0.6 else textures.colour(rng)
        wide, y = 0.8 * half[0] / count, rng.normal(0, 0.1) * half[1]
        size = {
            "capsule": (min(wide, half[2] * 0.8), 0.55 * half[1]),
            "ellipsoid": (wide, 0.6 * half[1], 0.8 * half[2]),
            "box": (0.9 * wide, 0.65 * half[1], 0.7 * half[2]),
            "sphere": (min(wide, 0.8 * half[2]),),
        }[shape]
        quat = np.array([0.7071, 0.7071, 0, 0]) if shape == "capsule" else None
        b.solid(
            body,
            shape,
            size,
            (x, y, 0),
            quat,
            b.material(rgb=np.clip(rgb, 0, 255), gloss=look.gloss),
            ghost=True,
        )
    film = Look(rng, np.full(3, rng.uniform(200, 255)), 1.0, float(rng.uniform(0.12, 0.35)), _NoPrint())
    shapes.pillow(b, body, film, half, rng.uniform(0.1, 0.35))
    if rng.random() < 0.6:
        head = rng.uniform(0.15, 0.4) * half[1]
        face = look.prints.printed(rng, 64, 128, textures.inks(rng, look.ground), rng.uniform(0.4, 1.0))
        at = (0, half[1] - 0.6 * head, 0.6 * half[2])
        b.solid(
            body,
            "box",
            (half[0], head, 0.0008),
            at,
            None,
            b.material(np.stack([face[:, :64]] * 6)),
            ghost=True,
        )
    return half


class _NoPrint:
    """Film without print, for :func:`_clear_pack`."""

    package = staticmethod(prints.package)
    wrapper = staticmethod(prints.wrapper)

    @staticmethod
    def printed(
        rng: np.random.Generator, height: int, width: int, inks: list[np.ndarray], busy: float
    ) -> np.ndarray:
        """Film alone: the first ink, creased."""
        picture = np.empty((height, width, 3), np.uint8)
        picture[:] = np.clip(inks[0], 0, 255)
        return prints.film(picture, rng)


def _folder(b: Builder, body: Any, look: Look) -> np.ndarray:
    """Flat goods: a folder, an envelope, a magazine, a notebook with a spine or a spiral."""
    rng = look.rng
    half = np.array([rng.uniform(0.14, 0.28), rng.uniform(0.1, 0.21), rng.uniform(0.002, 0.012)]) / 2
    faces = look.prints.package(rng, look.ground, 160)
    b.solid(body, "box", half, material=b.material(faces, gloss=look.gloss))
    if rng.random() < 0.5:
        spine = b.material(rgb=np.clip(_second(look), 0, 255))
        b.solid(
            body,
            "box",
            (0.012, half[1], half[2] + 0.0005),
            (0.012 - half[0], 0, 0),
            material=spine,
            ghost=True,
        )
    return half


def _brush(b: Builder, body: Any, look: Look) -> np.ndarray:
    """A handle with a head of bristles, a scourer or a dish brush."""
    rng = look.rng
    h, r = rng.uniform(0.07, 0.13), rng.uniform(0.006, 0.013)
    handle = b.material(rgb=look.ground, gloss=look.gloss, alpha=float(rng.choice([1.0, 1.0, 0.5])))
    head = b.material(
        np.stack([textures.surface(rng, 48, "speckle", np.clip(_second(look), 0, 255))] * 6), gloss=0.0
    )
    b.solid(body, "capsule", (r, 0.65 * h), (0, 0, -0.3 * h), material=handle)
    wide = rng.uniform(0.018, 0.034)
    shape = str(rng.choice(["ellipsoid", "box"]))
    b.solid(body, shape, (wide, 0.8 * wide, 0.3 * h), (0, 0, 0.65 * h), material=head)
    b.solid(body, "box", (0.9 * wide, 0.5 * wide, 0.28 * h), (0, 0.6 * wide, 0.65 * h), material=handle)
    return np.array([wide, wide, h])


def _spray(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h = rng.uniform(0.022, 0.04), rng.uniform(0.05, 0.09)
    profile = np.array([(0, -h), (r, -h), (r, 0.3 * h), (0.4 * r, 0.7 * h), (0.4 * r, h), (0, h)])
    clear = rng.random() < 0.2
    label = b.material(look.prints.wrapper(rng, look.ground), gloss=look.gloss, alpha=0.5 if clear else 1.0)
    b.mesh(body, b.revolve(profile, 24, (1.0, rng.uniform(0.6, 1.0))), label)
    b.solid(body, "cylinder", (r, 0.8 * h), (0, 0, -0.2 * h))
    head = b.material(rgb=np.clip(_second(look), 0, 255), gloss=0.4)
    b.solid(body, "box", (1.2 * r, 0.3 * r, 0.18 * h), (0.35 * r, 0, 1.1 * h), material=head)
    b.rod(body, np.array([0.9 * r, 0, h]), np.array([0.8 * r, 0, 0.6 * h]), 0.004, head)
    return np.array([1.3 * r, r, 1.3 * h])


def _bundle(b: Builder, body: Any, look: Look) -> np.ndarray:
    """Pens, batteries, bottles side by side under one band or sleeve."""
    rng = look.rng
    count, r, h = int(rng.integers(2, 9)), rng.uniform(0.006, 0.018), rng.uniform(0.03, 0.08)
    first, many = _second(look), rng.random() < 0.5
    for k in range(count):
        x = (k - (count - 1) / 2) * 2 * r
        rgb = textures.colour(rng) if many else first
        b.solid(
            body,
            "capsule",
            (r, h - r),
            (x, 0, 0),
            material=b.material(rgb=np.clip(rgb, 0, 255), gloss=look.gloss),
        )
    sleeve = np.array([count * r * 1.02, r * 1.05, rng.uniform(0.15, 0.7) * h])
    b.solid(body, "box", sleeve, (0, 0, rng.uniform(-0.3, 0.3) * h), material=look.box(b), ghost=True)
    return np.array([count * r, r, h])


def _pliers(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    h, spread = rng.uniform(0.06, 0.1), rng.uniform(0.15, 0.5)
    grip = b.material(rgb=look.ground, gloss=look.gloss)
    steel = b.material(rgb=rng.uniform(60, 200) * np.ones(3), gloss=0.8)
    for sign in (-1, 1):
        way = np.array([sign * np.sin(spread), 0, -np.cos(spread)])
        bend = 0.5 * h * np.array([sign * 0.3, 0, -0.6])
        b.rod(body, 0 * way, bend, 0.007, steel)
        b.rod(body, bend, h * way, 0.009, grip)
        b.rod(body, 0 * way, np.array([sign * 0.006, 0, 0.6 * h]), 0.006, steel)
    b.solid(body, "cylinder", (0.012, 0.008), (0, 0, 0), np.array([0.7071, 0.7071, 0, 0]), steel)
    return np.array([h * np.sin(spread) + 0.01, 0.01, h])


def _tape(b: Builder, body: Any, look: Look) -> np.ndarray:
    """A dispenser, stapler, hole punch: two or three blocks of one tool."""
    rng = look.rng
    half = np.array([rng.uniform(0.04, 0.08), rng.uniform(0.012, 0.03), rng.uniform(0.012, 0.025)])
    base, upper = look.plain(b), b.material(rgb=np.clip(_second(look), 0, 255), gloss=look.gloss)
    b.solid(body, "box", half * (1, 1, 0.35), (0, 0, -0.65 * half[2]), material=base)
    tilt = rng.uniform(0.0, 0.25)
    b.solid(
        body,
        "box",
        half * (0.9, 0.8, 0.4),
        (0, 0, 0.3 * half[2]),
        np.array([np.cos(tilt / 2), 0, np.sin(tilt / 2), 0]),
        upper,
    )
    if rng.random() < 0.5:
        b.solid(
            body,
            "cylinder",
            (1.4 * half[2], 0.8 * half[1]),
            (0.3 * half[0], 0, half[2]),
            np.array([0.7071, 0.7071, 0, 0]),
            upper,
        )
    return half


def _filled_bowl(b: Builder, body: Any, look: Look) -> np.ndarray:
    """A tub with what belongs into it: cream, screws, salad."""
    rng = look.rng
    r = rng.uniform(0.03, 0.075)
    h = r * rng.uniform(0.25, 0.8)
    shapes.vessel(b, body, look, r, h, r * rng.uniform(0.5, 0.9), rng.uniform(0.4, 1.0))
    stuff = textures.surface(rng, 64, str(rng.choice(["speckle", "cloud", "plain"])), textures.colour(rng))
    level = rng.uniform(0.1, 0.7) * h
    b.solid(
        body,
        "ellipsoid",
        (0.8 * r, 0.8 * r, 0.2 * h),
        (0, 0, level),
        material=b.material(np.stack([stuff] * 6)),
    )
    return np.array([r, r, h])


def _cup_stack(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h, count = rng.uniform(0.028, 0.045), rng.uniform(0.035, 0.06), int(rng.integers(2, 5))
    step = 0.35 * h
    state = rng.bit_generator.state
    for k in range(count):
        rng.bit_generator.state = state  # one cup, again and again
        base = 0.7 * r
        profile = np.array(
            [(0, -h), (base, -h), (r, h), (r - 0.002, h), (base - 0.002, -h + 0.002), (0, -h + 0.002)]
        )
        material = b.material(look.prints.wrapper(rng, look.ground, 64, 128), gloss=look.gloss)
        b.mesh(body, b.revolve(profile, 24), material, pos=(0, 0, (k - (count - 1) / 2) * step))
    tall = h + (count - 1) * step / 2
    b.tube_walls(body, 0.9 * r, 0.004, -tall, tall)
    b.solid(body, "cylinder", (0.7 * r, 0.003), (0, 0, -tall + 0.003))
    return np.array([r, r, tall])


def _cable(b: Builder, body: Any, look: Look) -> np.ndarray:
    """A charger: a plug and a cable in loops."""
    rng = look.rng
    r, thick, turns = rng.uniform(0.025, 0.045), rng.uniform(0.002, 0.004), int(rng.integers(1, 4))
    cord = b.material(rgb=textures.colour(rng, str(rng.choice(["dark", "light", "vivid"]))), gloss=0.3)
    angles = np.linspace(0, 2 * np.pi * turns, 12 * turns + 1)
    wave = r * (1 + 0.15 * np.sin(3.1 * angles))
    ring = np.stack([wave * np.cos(angles), 0.7 * wave * np.sin(angles), 0.002 * np.sin(2 * angles)], 1)
    for start, end in pairwise(ring):
        b.rod(body, start, end, thick, cord)
    plug = np.array([rng.uniform(0.01, 0.022), rng.uniform(0.008, 0.02), rng.uniform(0.006, 0.012)])
    b.solid(body, "box", plug, (r, 0, plug[2] / 2), material=cord)
    return np.array([r + 0.02, r, 0.012])


def _jar(b: Builder, body: Any, look: Look) -> np.ndarray:
    """A clear jar or bottle with something in it and a lid."""
    rng = look.rng
    r, h = rng.uniform(0.02, 0.04), rng.uniform(0.03, 0.07)
    filling = b.material(rgb=textures.colour(rng), gloss=0.1)
    level = rng.uniform(0.2, 0.9)
    b.solid(
        body,
        "cylinder",
        (0.9 * r, level * 0.9 * h),
        (0, 0, -0.9 * h * (1 - level)),
        material=filling,
        ghost=True,
    )
    glass = b.material(rgb=np.full(3, 235.0), gloss=1.0, alpha=float(rng.uniform(0.15, 0.4)))
    profile = np.array([(0, -h), (r, -h), (r, 0.8 * h), (0.8 * r, h), (0, h)])
    b.mesh(body, b.revolve(profile, 24), glass)
    b.solid(body, "cylinder", (r, h))
    b.solid(
        body,
        "cylinder",
        (0.85 * r, 0.12 * h),
        (0, 0, h),
        material=b.material(rgb=np.clip(_second(look), 0, 255), gloss=0.5),
    )
    return np.array([r, r, 1.1 * h])


KINDS: dict[str, tuple[float, Make]] = {
    **shapes.KINDS,
    "book": (0.1, shapes.KINDS["book"][1]),
    "wineglass": (0.025, _wineglass),
    "clear_pack": (0.07, _clear_pack),
    "folder": (0.07, _folder),
    "brush": (0.03, _brush),
    "spray": (0.025, _spray),
    "bundle": (0.04, _bundle),
    "pliers": (0.015, _pliers),
    "stapler": (0.02, _tape),
    "filled_bowl": (0.02, _filled_bowl),
    "cup_stack": (0.02, _cup_stack),
    "cable": (0.02, _cable),
    "jar": (0.025, _jar),
}
"""Shape name -> (how often, how it is made), as in :data:`rise_perception.simulation.shapes.KINDS`."""
