"""The furniture of world 2's rooms: screens, chairs, cupboards, people's legs, cables. Never an item.

Lengths in metres; what is drawn here collides with nothing.
"""

from __future__ import annotations

import numpy as np

from rise_perception.simulation import places, prints, textures
from rise_perception.simulation.assets import Builder


def turned(angle: float) -> np.ndarray:
    """Quaternion of a turn around z by ``angle`` radians."""
    return np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])


def _away(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    angle, away = rng.uniform(0, 2 * np.pi), rng.uniform(low, high)
    return away * np.array([np.cos(angle), np.sin(angle)])


def monitor(b: Builder, rng: np.random.Generator, at: np.ndarray, foot: float) -> None:
    """A screen on its stand, lit or dark, turned anyhow."""
    world, turn = b.spec.worldbody, rng.uniform(0, 2 * np.pi)
    quat, way = turned(turn), np.array([-np.sin(turn), np.cos(turn), 0])
    wide, tall, lift = rng.uniform(0.15, 0.3), rng.uniform(0.1, 0.18), rng.uniform(0.03, 0.15)
    case = b.material(rgb=textures.colour(rng, "dark" if rng.random() < 0.8 else "light"), gloss=0.5)
    middle = np.array([*at, foot + lift + tall])
    b.solid(world, "box", (wide, 0.015, tall), middle, quat, case, ghost=True)
    if rng.random() < 0.7:
        shown = prints.printed(rng, 128, 128, textures.inks(rng), rng.uniform(0, 1))
    else:
        shown = np.full((128, 128, 3), rng.uniform(5, 40), np.uint8)
    for side in (-1, 1):
        face = b.material(np.stack([shown] * 6), gloss=0.9)
        b.solid(
            world,
            "box",
            (0.94 * wide, 0.001, 0.92 * tall),
            middle + side * 0.015 * way,
            quat,
            face,
            ghost=True,
        )
    b.solid(
        world,
        "box",
        (0.025, 0.015, (lift + tall) / 2),
        middle - (0, 0, (lift + tall) / 2),
        quat,
        case,
        ghost=True,
    )
    b.solid(world, "box", (0.1, 0.08, 0.006), (*at, foot + 0.006), quat, case, ghost=True)


def _chair(b: Builder, rng: np.random.Generator, at: np.ndarray, floor: float) -> None:
    """A seat, a back and legs or a column on castors."""
    world, turn = b.spec.worldbody, rng.uniform(0, 2 * np.pi)
    quat, way = turned(turn), np.array([-np.sin(turn), np.cos(turn), 0])
    cloth = b.material(np.stack([textures.surface(rng, 96)] * 6), gloss=0.1)
    steel = b.material(rgb=textures.colour(rng, "dark"), gloss=0.6)
    seat = np.array([*at, floor + rng.uniform(0.38, 0.52)])
    b.solid(world, "box", (0.22, 0.22, 0.03), seat, quat, cloth, ghost=True)
    back = seat + 0.22 * way + (0, 0, rng.uniform(0.2, 0.35))
    shape = str(rng.choice(["box", "ellipsoid"]))
    b.solid(world, shape, (0.21, 0.025, rng.uniform(0.12, 0.28)), back, quat, cloth, ghost=True)
    b.rod(world, seat + 0.22 * way, back, 0.015, steel, ghost=True)
    if rng.random() < 0.5:
        b.rod(world, seat, np.array([*at, floor + 0.08]), 0.025, steel, ghost=True)
        for k in range(5):
            foot = np.array([*(at + 0.28 * np.array([np.cos(1.26 * k), np.sin(1.26 * k)])), floor + 0.03])
            b.rod(world, np.array([*at, floor + 0.08]), foot, 0.018, steel, ghost=True)
    else:
        for sx in (-0.2, 0.2):
            for sy in (-0.2, 0.2):
                top = seat + np.array([sx, sy, 0])
                b.rod(world, top, np.array([top[0], top[1], floor]), 0.012, steel, ghost=True)


def _legs(b: Builder, rng: np.random.Generator, at: np.ndarray, floor: float) -> None:
    """Somebody's trousers and shoes."""
    world, turn = b.spec.worldbody, rng.uniform(0, 2 * np.pi)
    cloth = b.material(np.stack([textures.surface(rng, 96, "cloud")] * 6), gloss=0.0)
    shoe = b.material(rgb=textures.colour(rng, "dark"), gloss=0.4)
    across, ahead = np.array([np.cos(turn), np.sin(turn), 0]), np.array([-np.sin(turn), np.cos(turn), 0])
    up = np.array([0.0, 0.0, 1.0])
    for side in (-1, 1):
        foot = np.array([*at, floor]) + side * 0.12 * across + rng.normal(0, 0.04) * ahead
        b.rod(world, foot + 0.1 * up, foot + 0.5 * up, 0.055, cloth, ghost=True)
        b.rod(world, foot + 0.5 * up, foot - side * 0.03 * across + 0.95 * up, 0.075, cloth, ghost=True)
        b.solid(
            world,
            "ellipsoid",
            (0.05, 0.13, 0.05),
            foot + 0.06 * ahead + (0, 0, 0.04),
            turned(turn),
            shoe,
            ghost=True,
        )


def _cupboard(b: Builder, rng: np.random.Generator, at: np.ndarray, floor: float) -> None:
    """A cupboard, a rack or a stack of drawers with fronts and knobs."""
    world, turn = b.spec.worldbody, rng.uniform(0, 2 * np.pi)
    quat, way = turned(turn), np.array([-np.sin(turn), np.cos(turn), 0])
    size = rng.uniform((0.15, 0.12, 0.2), (0.45, 0.3, 0.8))
    body = b.material(
        np.stack([textures.surface(rng, 96, str(rng.choice(["wood", "plain", "metal"])))] * 6), gloss=0.2
    )
    middle = np.array([*at, floor + size[2]])
    b.solid(world, "box", size, middle, quat, body, ghost=True)
    rows = int(rng.integers(2, 6))
    front = b.material(rgb=textures.colour(rng, str(rng.choice(["muted", "light", "dark"]))), gloss=0.3)
    for k in range(rows):
        z = (2 * (k + 0.5) / rows - 1) * size[2]
        for side in (-1, 1):
            panel = middle + side * size[1] * way + (0, 0, z)
            b.solid(
                world, "box", (0.93 * size[0], 0.006, 0.88 * size[2] / rows), panel, quat, front, ghost=True
            )


def cables(b: Builder, rng: np.random.Generator, start: np.ndarray, z: float) -> None:
    """A cable that winds over a plane."""
    rubber, radius = (
        b.material(rgb=textures.colour(rng, str(rng.choice(["dark", "light", "vivid"])))),
        rng.uniform(0.0015, 0.005),
    )
    heading, point = rng.uniform(0, 2 * np.pi), start
    for _ in range(12):
        heading += rng.normal(0, 0.5)
        after = point + 0.06 * np.array([np.cos(heading), np.sin(heading)])
        b.rod(
            b.spec.worldbody,
            np.array([*point, z + radius]),
            np.array([*after, z + radius]),
            radius,
            rubber,
            ghost=True,
        )
        point = after


def furnish(b: Builder, rng: np.random.Generator, floor: float, near: float) -> None:
    """A room with things at its rim; nothing stands nearer than ``near`` metres."""
    places.room(b, rng, floor)
    for _ in range(int(rng.integers(0, 4))):
        _chair(b, rng, _away(rng, near + 0.3, near + 0.9), floor)
    for _ in range(int(rng.integers(0, 3))):
        _legs(b, rng, _away(rng, near + 0.2, near + 0.9), floor)
    for _ in range(int(rng.integers(0, 4))):
        _cupboard(b, rng, _away(rng, near + 0.45, near + 1.2), floor)
    for _ in range(int(rng.integers(0, 3))):  # screens, on a bench beside
        at = _away(rng, near + 0.3, near + 0.8)
        bench = b.material(np.stack([textures.surface(rng, 96)] * 6))
        top = rng.uniform(-0.2, 0.1)
        b.solid(
            b.spec.worldbody,
            "box",
            (0.35, 0.22, 0.015),
            (*at, top),
            turned(rng.uniform(0, 3)),
            bench,
            ghost=True,
        )
        monitor(b, rng, at, top + 0.015)
    for _ in range(int(rng.integers(0, 3))):  # cartons and totes that stand about
        at, size = _away(rng, near + 0.2, near + 0.8), rng.uniform(0.08, 0.25, 3)
        face = b.material(np.stack([textures.surface(rng, 96, "cardboard")] * 6))
        b.solid(
            b.spec.worldbody,
            "box",
            size,
            (*at, floor + size[2]),
            turned(rng.uniform(0, 3)),
            face,
            ghost=True,
        )
    for _ in range(int(rng.integers(0, 3))):
        cables(b, rng, _away(rng, near, near + 0.6), floor)
