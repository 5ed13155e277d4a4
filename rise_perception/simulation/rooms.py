"""The places of world 2: rooms with furniture and people, whole tables, shelves, and containers close by.

All of it is ground or container, never an item. Lengths in metres; the origin is the middle of the
place's floor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rise_perception.simulation import furniture, moulded, places, prints, textures
from rise_perception.simulation.assets import Builder
from rise_perception.simulation.places import CONTAINER, Place, Region


def _tote_place(b: Builder, rng: np.random.Generator) -> Place:
    half = np.sort(rng.uniform((0.11, 0.16), (0.24, 0.34)))
    height = rng.uniform(0.06, 0.28)
    rgb = textures.colour(
        rng, str(rng.choice(["vivid", "muted", "light", "dark", "kraft"], p=[0.5, 0.16, 0.12, 0.14, 0.08]))
    )
    if rng.random() < 0.15:  # the red of stores, which is also the red of many goods
        rgb = np.array([rng.uniform(150, 235), rng.uniform(10, 70), rng.uniform(10, 60)])
    make = rng.choice(["tote", "carton", "basket"], p=[0.8, 0.13, 0.07])
    if make == "carton" and rng.random() < 0.8:
        rgb = textures.colour(rng, "kraft")
    build: Callable[..., None] = {"tote": moulded.tote, "carton": moulded.carton, "basket": moulded.basket}[
        str(make)
    ]
    bare = rng.random() < 0.2
    if not bare:
        furniture.furnish(b, rng, -rng.uniform(0.02, 0.9), float(half.max()) + 0.25)
    body = b.spec.worldbody.add_body()
    body.name = CONTAINER
    build(b, rng, np.zeros(3), half, height, rgb, body)
    inside, reach = half, 0.0
    if make != "carton" and rng.random() < 0.1:
        moulded.divider(b, rng, half, height, rgb, body)
    if make == "tote":  # bulges stand inside the walls that stop the items
        inside = half - 0.015
        reach = 0.2 * height + 0.05
    others = []
    for axis, sign in ((0, -1), (0, 1), (1, 1)):
        if not bare and rng.random() < 0.3:
            middle = np.zeros(3)
            middle[axis] = sign * (2 * half[axis] + reach + rng.uniform(0.05, 0.12))
            same = rng.random() < 0.7
            build(b, rng, middle, half, height, rgb if same else textures.colour(rng), b.spec.worldbody)
            others.append(Region(middle, inside, height))
    if not bare and rng.random() < 0.6:
        b.solid(b.spec.worldbody, "box", (0.9, 0.9, 0.01), (0, 0, -0.036), material=places.surface(b, rng))
    for _ in range(0 if bare else int(rng.integers(0, 4))):
        start = np.array([*rng.uniform(-0.9, 0.9, 2), rng.uniform(-0.1, 0.02)])
        axis = int(rng.integers(2))
        if abs(start[1 - axis]) > half[1 - axis] + 0.2:
            size = [0.015, 0.015, 0.015]
            size[axis] = 0.8
            b.solid(
                b.spec.worldbody, "box", size, start, material=places.surface(b, rng, "metal"), ghost=True
            )
    return Place("tote", Region(np.zeros(3), inside, height), tuple(others), rgb)


def _bin_place(b: Builder, rng: np.random.Generator) -> Place:
    place = places.bin_place(b, rng)
    world = b.spec.worldbody
    width, depth = place.main.half / 0.94
    height = place.main.walls
    for _ in range(int(rng.integers(0, 5))):  # panels, seams and cloths on the walls; the wall stays a wall
        panel = b.material(
            np.stack(
                [
                    textures.surface(
                        rng, 96, None, place.ground * rng.uniform(0.5, 1.4) if rng.random() < 0.6 else None
                    )
                ]
                * 6
            ),
            gloss=float(rng.uniform(0, 0.6)),
        )
        size = (rng.uniform(0.1, 0.9) * width, 0.001, rng.uniform(0.15, 0.5) * height)
        at = (
            rng.uniform(-0.8, 0.8) * width,
            depth - 0.001 - 0.002 * rng.random(),
            rng.uniform(0.3, 0.8) * height,
        )
        b.solid(world, "box", size, at, material=panel, ghost=True)
    for sign in (-1, 1):
        if rng.random() < 0.4:
            panel = b.material(np.stack([textures.surface(rng, 96)] * 6), gloss=0.1)
            size = (0.001, rng.uniform(0.2, 1.0) * depth, rng.uniform(0.2, 0.5) * height)
            at = (sign * (width - 0.002), rng.uniform(-0.3, 0.3) * depth, rng.uniform(0.4, 0.7) * height)
            b.solid(world, "box", size, at, material=panel, ghost=True)
    for z in (-0.03, height + 0.03):  # price rails with tags on the edges, cloths that hang there
        for _ in range(int(rng.integers(0, 5))):
            face = prints.printed(
                rng, 48, 48, textures.inks(rng, textures.colour(rng, "light")), rng.uniform(0.2, 1)
            )
            at = (rng.uniform(-3, 3) * width, -depth - 0.018, z)
            b.solid(
                world,
                "box",
                (rng.uniform(0.01, 0.04), 0.001, 0.012),
                at,
                material=b.material(np.stack([face] * 6)),
                ghost=True,
            )
        if rng.random() < 0.4:
            cloth = b.material(
                np.stack(
                    [
                        textures.surface(
                            rng,
                            96,
                            str(rng.choice(["carpet", "speckle", "cloud"])),
                            textures.colour(rng, "dark"),
                        )
                    ]
                    * 6
                ),
                gloss=0.0,
            )
            wide, tall = rng.uniform(0.05, 0.6) * width, rng.uniform(0.02, 0.08)
            at = (rng.uniform(-1.2, 1.2) * width, -depth - 0.02, z)
            b.solid(world, "box", (wide, 0.003, tall), at, material=cloth, ghost=True)
    return place


def _keyboard(b: Builder, rng: np.random.Generator, at: np.ndarray) -> None:
    turn = rng.uniform(0, 2 * np.pi)
    rgb = textures.colour(rng, str(rng.choice(["dark", "light", "muted"], p=[0.65, 0.2, 0.15])))
    face = np.empty((96, 256, 3), np.uint8)
    face[:] = np.clip(rgb * 0.6, 0, 255)
    key = np.clip(rgb * rng.uniform(0.8, 1.5) + 12, 0, 255)
    ink = np.full(3, 235.0) if rgb.mean() < 120 else np.full(3, 20.0)
    rows, columns = int(rng.integers(4, 7)), int(rng.integers(12, 20))
    for i in range(rows):
        for j in range(columns):
            y0, x0 = 4 + i * 88 // rows, 4 + j * 248 // columns
            y1, x1 = y0 + 88 // rows - 3, x0 + 248 // columns - 3
            face[y0:y1, x0:x1] = key
            face[y0 + 2 : y0 + 5, x0 + 2 : x0 + 5] = ink
    case = b.material(rgb=rgb, gloss=0.3)
    wide = rng.uniform(0.13, 0.23)
    tall = rng.uniform(0.05, 0.075)
    b.solid(b.spec.worldbody, "box", (wide, tall, 0.006), (*at, 0.006), furniture.turned(turn), case)
    u, v = np.meshgrid([-1.0, 1.0], [-1.0, 1.0], indexing="xy")
    ways = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    flat = np.stack([u * wide * 0.97, v * tall * 0.95], -1) @ ways + at
    sheet = np.concatenate([flat, np.full((2, 2, 1), 0.0135)], -1)
    keys = b.sheet(sheet, np.stack([(u + 1) / 2, (1 - v) / 2], -1))
    b.mesh(b.spec.worldbody, keys, b.material(face, gloss=0.2))


def _under_table(b: Builder, rng: np.random.Generator, half: np.ndarray, floor: float) -> None:
    """Legs or trestles, an apron, bars between."""
    world = b.spec.worldbody
    wood = b.material(
        np.stack([textures.surface(rng, 64, str(rng.choice(["wood", "metal", "plain"])))] * 6), gloss=0.3
    )
    inset, thick = rng.uniform(0.75, 0.97), rng.uniform(0.012, 0.04)
    for sx in (-1, 1):
        for sy in (-1, 1):
            at = np.array([sx * inset * half[0], sy * inset * half[1], 0])
            b.rod(world, at - (0, 0, 0.04), np.array([at[0], at[1], floor]), thick, wood, ghost=True)
    if rng.random() < 0.6:
        for sign in (-1, 1):
            b.solid(
                world,
                "box",
                (inset * half[0], 0.01, 0.04),
                (0, sign * inset * half[1], -0.08),
                material=wood,
                ghost=True,
            )


def _table_place(b: Builder, rng: np.random.Generator) -> Place:
    world: Any = b.spec.worldbody
    half = rng.uniform((0.22, 0.2), (0.7, 0.5))
    kind = str(rng.choice(textures.SURFACES))
    rgb = textures.colour(
        rng, str(rng.choice(["muted", "light", "dark", "kraft", "vivid"], p=[0.25, 0.25, 0.22, 0.2, 0.08]))
    )
    floor = -rng.uniform(0.45, 0.85)
    furniture.furnish(b, rng, floor, float(half.max()) + 0.05)
    top = textures.surface(rng, 256, kind, rgb)
    thick = rng.uniform(0.01, 0.03)
    if rng.random() < 0.3:  # round, or with round corners
        profile = np.array(
            [(0, -2 * thick), (half[0], -2 * thick), (half[0], -0.002), (half[0] - 0.004, 0), (0, 0)]
        )
        edge = b.material(rgb=np.clip(rgb * rng.uniform(0.4, 1.3), 0, 255), gloss=0.3)
        b.mesh(
            world, b.revolve(profile, 48, (1.0, half[1] / half[0]), float(rng.choice([2.0, 6.0, 12.0]))), edge
        )
        inset = 0.68
        b.solid(world, "box", (inset * half[0], inset * half[1], 0.02), (0, 0, -0.02))
        half = half * inset
    else:
        b.solid(
            world,
            "box",
            (*half, thick),
            (0, 0, -thick),
            material=b.material(np.stack([top] * 6), gloss=float(rng.choice([0.05, rng.uniform(0.2, 0.9)]))),
        )
        if rng.random() < 0.5:  # an edge band
            band = b.material(
                rgb=textures.colour(rng, str(rng.choice(["dark", "light", "kraft"]))), gloss=0.4
            )
            for axis in range(2):
                for sign in (-1, 1):
                    size, at = np.array([0.003, 0.003, thick]), np.array([0, 0, -thick - 0.0005])
                    size[1 - axis], at[axis] = half[1 - axis] + 0.003, sign * (half[axis] + 0.003)
                    b.solid(world, "box", size, at, material=band, ghost=True)
    _under_table(b, rng, half, floor)
    if rng.random() < 0.3:  # a cloth or mat
        at, size = rng.uniform(-0.5, 0.5, 2) * half, rng.uniform(0.3, 0.9) * half
        b.solid(
            world,
            "box",
            (*size, 0.0004),
            (*at, 0.0003),
            furniture.turned(rng.normal(0, 0.3)),
            places.surface(b, rng),
            ghost=True,
        )
    for _ in range(int(rng.integers(0, 3))):  # paper, tape: flat on the table
        paper = textures.inks(rng, textures.colour(rng, "light"))
        face = textures.printed(rng, 96, 96, paper, rng.uniform(0, 0.6))
        lies = (*(rng.uniform(-1, 1, 2) * half), 0.0006 + 0.0005 * rng.random())
        sheet = (rng.uniform(0.01, 0.12), rng.uniform(0.01, 0.15), 0.0003)
        b.solid(
            world,
            "box",
            sheet,
            lies,
            furniture.turned(rng.uniform(0, 3)),
            b.material(np.stack([face] * 6)),
            ghost=True,
        )
    if rng.random() < 0.35:
        _keyboard(b, rng, rng.choice([-1, 1], 2) * rng.uniform(0.5, 0.95, 2) * half)
    for _ in range(int(rng.integers(0, 3))):
        furniture.cables(b, rng, rng.uniform(-1, 1, 2) * half, 0.0)
    if rng.random() < 0.35:
        furniture.monitor(
            b, rng, np.array([rng.uniform(-0.7, 0.7) * half[0], rng.choice([-1, 1]) * 0.93 * half[1]]), 0.0
        )
    main = np.minimum(half * 0.85, rng.uniform(0.12, 0.3, 2))
    return Place("table", Region(np.zeros(3), main, 0.3), (), rgb)


_PLACES = {"tote": (0.5, _tote_place), "bin": (0.18, _bin_place), "table": (0.32, _table_place)}


def add_place(builder: Builder, rng: np.random.Generator, kind: str | None = None) -> Place:
    """As :func:`rise_perception.simulation.places.add_place`, in world 2."""
    kind = kind or str(rng.choice(list(_PLACES), p=[fraction for fraction, _ in _PLACES.values()]))
    return _PLACES[kind][1](builder, rng)
