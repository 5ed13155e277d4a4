"""Where items lie: a tote, a shelf bin or a table, with the clutter around that is no item.

Lengths in metres; the world's z is up; the middle of the place's floor is the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rise_perception.simulation import textures
from rise_perception.simulation.assets import Builder

CONTAINER = "container"
"""Name of the body whose visible pixels are the tote or bin."""


@dataclass(frozen=True)
class Region:
    """A box that items are dropped into: middle of its floor (3,), half width (2,), height of its walls."""

    floor: np.ndarray
    half: np.ndarray
    walls: float


@dataclass(frozen=True)
class Place:
    """The surroundings of a scene.

    Attributes:
        kind: "tote", "bin" or "table".
        main: where the items to pick are.
        others: neighbouring totes, bins or patches of table that hold items as well.
        ground: (3,) main colour of the container or the desk, RGB in [0, 255].
    """

    kind: str
    main: Region
    others: tuple[Region, ...]
    ground: np.ndarray


def surface(
    b: Builder,
    rng: np.random.Generator,
    kind: str | None = None,
    base: np.ndarray | None = None,
    size: int = 128,
) -> str:
    """A material with one face of :func:`rise_perception.simulation.textures.surface` on all sides."""
    face = textures.surface(rng, size, kind, base)
    return b.material(np.stack([face] * 6), gloss=float(rng.choice([0.05, rng.uniform(0.1, 0.6)])))


def room(b: Builder, rng: np.random.Generator, floor: float) -> None:
    """A floor, four far walls and things that stand or hang there."""
    world = b.spec.worldbody
    floor_texture = textures.surface(
        rng, 256, str(rng.choice(["carpet", "speckle", "tiles", "plain", "wood", "cloud"]))
    )
    repeat = float(rng.uniform(2, 12))
    b.solid(
        world,
        "box",
        (4, 4, 0.05),
        (0, 0, floor - 0.05),
        material=b.material(np.stack([floor_texture] * 6), gloss=0.1),
        ghost=True,
    )
    if rng.random() < 0.7:  # the floor near the place needs a finer grain than the cube of the whole room
        patch = b.material(floor_texture, gloss=0.1, repeat=(repeat, repeat))
        b.solid(world, "box", (1.6, 1.6, 0.002), (0, 0, floor + 0.002), material=patch, ghost=True)
    wall = surface(b, rng)
    for axis in range(2):
        for sign in (-1, 1):
            slab, at = [4.0, 4.0, 2.0], [0.0, 0.0, 1.0]
            slab[axis], at[axis] = 0.05, sign * rng.uniform(1.2, 3.0)
            b.solid(world, "box", slab, at, material=wall, ghost=True)
    for _ in range(int(rng.integers(2, 9))):  # furniture, posters, machines
        angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(0.9, 1.6)
        size = rng.uniform(0.05, 0.45, 3)
        material = b.material(textures.package(rng)) if rng.random() < 0.4 else surface(b, rng)
        pos = (
            away * np.cos(angle),
            away * np.sin(angle),
            floor + rng.uniform(0.3, 1.0) * size[2] + rng.uniform(0, 0.4),
        )
        b.solid(world, "box", size, pos, material=material, ghost=True)


def _tote(
    b: Builder,
    rng: np.random.Generator,
    middle: np.ndarray,
    half: np.ndarray,
    height: float,
    rgb: np.ndarray,
    body: object,
) -> None:
    """One open box with sloping walls, a rim and ribs; its floor's top is at ``middle``."""
    slope, wall, rim = rng.uniform(0.02, 0.2) * height, 0.004, rng.uniform(0.004, 0.03)
    square = rng.uniform(6, 18)
    scale = np.maximum(half, 1e-3)
    reach = float(scale[0])
    outline = [
        (0, -wall),
        (reach + wall, -wall),
        (reach + slope + wall, height),
        (reach + slope + rim + wall, height),
    ]
    outline += [(reach + slope + rim, height + 0.003), (reach + slope, height + 0.003), (reach, 0.0)]
    profile = np.array(outline) + np.array([0, middle[2]])
    picture = np.empty((64, 64, 3), np.uint8)
    picture[:] = rgb
    kind = rng.random()
    if kind < 0.5:
        picture = np.clip(
            picture + 0.05 * rgb * textures.noise(rng, 64, 64, (6, 6))[..., None], 0, 255
        ).astype(np.uint8)
    elif kind < 0.65:
        picture = textures.surface(
            rng, 64, str(rng.choice(["stripes", "speckle", "cardboard", "checker"])), rgb
        )
    material = b.material(picture, gloss=float(rng.uniform(0, 0.5)))
    mesh = b.revolve(profile, 64, (1.0, float(scale[1] / scale[0])), square)
    b.mesh(body, mesh, material, pos=(middle[0], middle[1], 0))
    plain = b.material(rgb=np.clip(rgb * rng.uniform(0.85, 1.1), 0, 255))
    own = rng.random() < 0.3  # the floor has a texture or a mat of its own
    cover = surface(
        b,
        rng,
        None if own else str(rng.choice(["plain", "cloud"])),
        None if own and rng.random() < 0.5 else rgb,
    )
    b.solid(
        body,
        "box",
        (half[0] * 0.995, half[1] * 0.995, 0.0015),
        middle - (0, 0, 0.001),
        material=cover,
        ghost=True,
    )
    lean = np.arctan2(slope, height)
    ribs = int(rng.integers(2, 9)) if rng.random() < 0.6 else 0
    for axis in range(2):
        for sign in (-1, 1):
            size = np.array([0.01, 0.01, height / 2 + 0.01])
            size[1 - axis] = half[1 - axis] + slope
            at = middle + np.array([0, 0, height / 2])
            at[axis] += sign * (half[axis] + slope / 2 + 0.01)
            quat = np.array([np.cos(lean / 2), 0, 0, 0])
            quat[2 - axis] = np.sin(lean / 2) * sign * (-1 if axis else 1)
            b.solid(body, "box", size, at, quat)
            for k in range(ribs):  # inside, standing proud by a few millimetres
                along = (2 * (k + 0.5) / ribs - 1) * half[1 - axis]
                place = at.copy()
                place[axis] -= sign * 0.011
                place[1 - axis] += along
                bar = np.array([0.003, 0.003, height / 2 * rng.uniform(0.7, 0.95)])
                bar[1 - axis] = rng.uniform(0.004, 0.015)
                b.solid(body, "box", bar, place, quat, plain, ghost=True)
    b.solid(body, "box", (half[0], half[1], 0.02), middle - (0, 0, 0.02))


def _tote_place(b: Builder, rng: np.random.Generator) -> Place:
    half = np.sort(rng.uniform((0.11, 0.16), (0.22, 0.32)))
    height = rng.uniform(0.06, 0.24)
    rgb = textures.colour(
        rng, str(rng.choice(["vivid", "muted", "light", "dark", "kraft"], p=[0.4, 0.2, 0.12, 0.14, 0.14]))
    )
    bare = rng.random() < 0.12  # nothing but the tote, as in pictures whose surroundings were masked out
    if not bare:
        room(b, rng, -rng.uniform(0.02, 0.5))
    body = b.spec.worldbody.add_body()
    body.name = CONTAINER
    _tote(b, rng, np.zeros(3), half, height, rgb, body)
    others = []
    for axis, sign in ((0, -1), (0, 1), (1, 1)):
        if not bare and rng.random() < 0.3:
            middle = np.zeros(3)
            middle[axis] = sign * (2 * half[axis] + 0.2 * height + rng.uniform(0.05, 0.12))
            same = rng.random() < 0.7
            _tote(b, rng, middle, half, height, rgb if same else textures.colour(rng), b.spec.worldbody)
            others.append(Region(middle, half, height))
    if not bare and rng.random() < 0.6:  # what the tote stands on
        b.solid(b.spec.worldbody, "box", (0.9, 0.9, 0.01), (0, 0, -0.016), material=surface(b, rng))
    for _ in range(0 if bare else int(rng.integers(0, 4))):  # beams and frames around it
        start = np.array([*rng.uniform(-0.9, 0.9, 2), rng.uniform(-0.1, 0.02)])
        axis, way = int(rng.integers(2)), 0.8
        if abs(start[1 - axis]) > half[1 - axis] + 0.15:
            size = [0.015, 0.015, 0.015]
            size[axis] = way
            b.solid(b.spec.worldbody, "box", size, start, material=surface(b, rng, "metal"), ghost=True)
    return Place("tote", Region(np.zeros(3), half, height), tuple(others), rgb)


def bin_place(b: Builder, rng: np.random.Generator) -> Place:
    """A shelf bin with its neighbours and the shelf's front."""
    width, depth, height = rng.uniform(0.12, 0.22), rng.uniform(0.14, 0.24), rng.uniform(0.2, 0.4)
    kind = str(rng.choice(["cardboard", "metal", "wood", "plain", "cloud"]))
    rgb = textures.colour(
        rng,
        "kraft" if kind in ("cardboard", "wood") else str(rng.choice(["muted", "light", "dark", "vivid"])),
    )
    walls = surface(b, rng, kind, rgb)
    steel = surface(b, rng, str(rng.choice(["metal", "plain", "cardboard"])))
    floor = steel if rng.random() < 0.5 else walls
    room(b, rng, -rng.uniform(0.4, 1.0))
    body = b.spec.worldbody.add_body()
    body.name = CONTAINER
    world = b.spec.worldbody
    thick = rng.uniform(0.002, 0.012)
    b.solid(body, "box", (width, depth, 0.01), (0, 0, -0.01), material=floor)
    b.solid(body, "box", (width, 0.005, height / 2), (0, depth + 0.005, height / 2), material=walls)
    b.solid(
        body,
        "box",
        (width, depth, 0.005),
        (0, 0, height + 0.005),
        material=steel if rng.random() < 0.6 else walls,
    )
    for sign in (-1, 1):
        b.solid(
            body,
            "box",
            (thick, depth * rng.uniform(0.9, 1.0), height / 2),
            (sign * (width + thick), 0, height / 2),
            material=walls,
        )
    for z in (-0.02, height + 0.015):  # the shelf's front edges and the boards beside
        b.solid(
            world,
            "box",
            (3 * width, 0.008, rng.uniform(0.008, 0.03)),
            (0, -depth - 0.008, z),
            material=steel,
            ghost=True,
        )
        b.solid(world, "box", (3 * width, depth, 0.008), (0, 0, z), material=steel)
    b.solid(world, "box", (3 * width, 0.005, height), (0, depth + 0.015, height / 2), material=walls)
    for sign in (-1, 1):
        b.solid(world, "box", (0.006, depth, height / 2), (sign * 3 * width, 0, height / 2), material=walls)
    others = []
    for sign in (-1, 1):
        middle = np.array([sign * 2 * width, 0, 0.0])
        b.solid(world, "box", (width * 0.9, depth, 0.008), middle - (0, 0, 0.012), material=steel)
        if rng.random() < 0.7:
            others.append(Region(middle, np.array([width * 0.9, depth]) * 0.85, height))
        if rng.random() < 0.4:  # a post in front
            b.solid(
                world,
                "box",
                (0.02, 0.01, height),
                (sign * (width + 0.02), -depth - 0.02, 0),
                material=steel,
                ghost=True,
            )
    return Place("bin", Region(np.zeros(3), np.array([width, depth]) * 0.94, height), tuple(others), rgb)


def _desk_clutter(b: Builder, rng: np.random.Generator, half: np.ndarray) -> None:
    """Keyboard, paper, stickers, cables, a screen: on the desk, and never an item."""
    world = b.spec.worldbody
    if rng.random() < 0.5:  # keyboard
        at, turn = rng.uniform(-0.7, 0.7, 2) * half, rng.uniform(0, np.pi)
        quat = np.array([np.cos(turn / 2), 0, 0, np.sin(turn / 2)])
        ways = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        rgb = textures.colour(rng, "dark" if rng.random() < 0.7 else "light")
        base, key = (
            b.material(rgb=rgb, gloss=0.3),
            b.material(rgb=np.clip(rgb * rng.uniform(0.6, 1.5) + 8, 0, 255), gloss=0.3),
        )
        columns, rows, pitch = int(rng.integers(8, 17)), int(rng.integers(4, 7)), 0.019
        b.solid(
            world,
            "box",
            (columns * pitch / 2 + 0.012, rows * pitch / 2 + 0.012, 0.006),
            (*at, 0.006),
            quat,
            base,
        )
        for i in range(columns):
            for j in range(rows):
                offset = ((i - columns / 2 + 0.5) * pitch, (j - rows / 2 + 0.5) * pitch) @ ways
                b.solid(world, "box", (0.0078, 0.0078, 0.003), (*(at + offset), 0.015), quat, key, ghost=True)
    for _ in range(int(rng.integers(0, 5))):  # paper, stickers, stains
        turn = rng.uniform(0, np.pi)
        size = rng.uniform(0.02, 0.13, 2)
        look = textures.printed(
            rng,
            96,
            96,
            textures.inks(rng, textures.colour(rng, "light" if rng.random() < 0.7 else None)),
            rng.uniform(0, 1),
        )
        quat = np.array([np.cos(turn / 2), 0, 0, np.sin(turn / 2)])
        at = (*(rng.uniform(-1, 1, 2) * half), 0.0006 + 0.0005 * rng.random())
        b.solid(world, "box", (*size, 0.0005), at, quat, b.material(look), ghost=True)
    for _ in range(int(rng.integers(0, 4))):  # cables
        rubber, radius = (
            b.material(rgb=textures.colour(rng, "dark" if rng.random() < 0.6 else "light")),
            rng.uniform(0.0015, 0.004),
        )
        point, heading = rng.uniform(-1, 1, 2) * half, rng.uniform(0, 2 * np.pi)
        for _ in range(14):
            heading += rng.normal(0, 0.4)
            after = point + 0.05 * np.array([np.cos(heading), np.sin(heading)])
            b.rod(world, np.array([*point, radius]), np.array([*after, radius]), radius, rubber, ghost=True)
            point = after
    if rng.random() < 0.4:  # a screen, a wall or a partition behind
        turn = rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.1)
        quat = np.array([np.cos(turn / 2), 0, 0, np.sin(turn / 2)])
        side = rng.choice([-1, 1])
        at = np.array([0, side * half[1] * 0.9] if abs(turn) < 0.8 else [side * half[0] * 0.9, 0])
        wide, tall = rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.3)
        stands = (at[0], at[1], tall + rng.uniform(0, 0.08))
        b.solid(world, "box", (wide, 0.015, tall), stands, quat, surface(b, rng))


def _table_place(b: Builder, rng: np.random.Generator) -> Place:
    half = rng.uniform((0.3, 0.25), (0.8, 0.6))
    kind = str(rng.choice(textures.SURFACES))
    rgb = textures.colour(
        rng, str(rng.choice(["muted", "light", "dark", "kraft", "vivid"], p=[0.25, 0.2, 0.25, 0.2, 0.1]))
    )
    room(b, rng, -rng.uniform(0.3, 0.8))
    b.solid(b.spec.worldbody, "box", (*half, 0.02), (0, 0, -0.02), material=surface(b, rng, kind, rgb, 256))
    if rng.random() < 0.25:  # a mat or a second desk
        at = rng.uniform(-0.6, 0.6, 2) * half
        b.solid(
            b.spec.worldbody,
            "box",
            (*rng.uniform(0.1, 0.3, 2), 0.0004),
            (*at, 0.0003),
            material=surface(b, rng),
            ghost=True,
        )
    _desk_clutter(b, rng, half)
    main = np.minimum(half * 0.85, rng.uniform(0.14, 0.28, 2))
    return Place("table", Region(np.zeros(3), main, 0.3), (), rgb)


_PLACES = {"tote": (0.45, _tote_place), "bin": (0.2, bin_place), "table": (0.35, _table_place)}


def add_place(builder: Builder, rng: np.random.Generator, kind: str | None = None) -> Place:
    """Add a tote, a bin or a table with its surroundings; ``kind`` is drawn if None."""
    kind = kind or str(rng.choice(list(_PLACES), p=[fraction for fraction, _ in _PLACES.values()]))
    return _PLACES[kind][1](builder, rng)
