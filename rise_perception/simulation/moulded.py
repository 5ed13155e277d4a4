"""The containers of world 2: totes as moulds make them, cartons with flaps, wire baskets.

Lengths in metres. What collides are plain hidden boxes; what is seen are meshes with ribs, bulges and rims.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rise_perception.simulation import prints, textures
from rise_perception.simulation.assets import Builder

_SEGMENTS = 144


def _outline(half: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A rounded rectangle, counter-clockwise and closed.

    Returns:
        points (N, 2), outward normals (N, 2), the side of each point (N,) 0 to 3 (+x, +y, -x, -y) and its
        place along that side (N,) in [-1, 1].
    """
    angle = np.linspace(-np.pi / 4, 7 * np.pi / 4, _SEGMENTS + 1)
    # Equal steps along the rectangle, corners included, come close enough to equal steps of the outline.
    way = np.stack([np.cos(angle), np.sin(angle)], 1)
    square = way / np.abs(way).max(1, keepdims=True)
    points = square * half
    core = np.clip(points, -(half - radius), half - radius)
    outward = points - core
    length = np.linalg.norm(outward, axis=1, keepdims=True)
    normals = np.where(length > 1e-9, outward / np.maximum(length, 1e-9), 0)
    side = ((angle + np.pi / 4) // (np.pi / 2)).astype(int) % 4
    along = np.where(side % 2 == 0, square[:, 1], square[:, 0])
    return core + normals * radius, normals, side, along


def _smooth(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _plastic(rng: np.random.Generator, rgb: np.ndarray, size: int = 160) -> np.ndarray:
    """(size, size, 3) uint8 moulded plastic: cloudy, scratched, with the glare of lamps in it."""
    tone = 1 + rng.uniform(0.0, 0.12) * textures.noise(rng, size, size, (5, 5))
    if rng.random() < 0.4:  # scratches and wear
        tone = tone + rng.uniform(0.02, 0.12) * textures.noise(
            rng, size, size, (size // 2, int(rng.integers(2, 9)))
        )
    picture = rgb * tone[..., None]
    if rng.random() < 0.55:
        cells = (int(rng.integers(2, 7)), int(rng.integers(2, 7)))
        glare = np.clip(textures.noise(rng, size, size, cells) - rng.uniform(0.3, 1.4), 0, 1) ** rng.uniform(
            0.7, 2
        )
        tint = textures.colour(rng, "light") * rng.uniform(0.5, 1.0)
        picture = picture + (tint - picture) * np.clip(glare * rng.uniform(0.3, 1.3), 0, 0.95)[..., None]
    return np.clip(picture + rng.normal(0, 2, (size, size, 1)), 0, 255).astype(np.uint8)


def _bulges(rng: np.random.Generator, side: np.ndarray, along: np.ndarray) -> np.ndarray:
    """(N,) how far the wall stands inwards at each point of the outline, in metres."""
    out = np.zeros(len(side))
    for pair in range(2):
        here = side % 2 == pair
        if rng.random() < 0.5:  # ribs or flutes
            count, duty = rng.integers(2, 12), rng.uniform(-0.7, 0.7)
            depth = rng.choice([rng.uniform(0.002, 0.006), rng.uniform(0.006, 0.02)])
            wave = np.cos(np.pi * count * along + (0 if rng.random() < 0.5 else np.pi))
            out[here] += depth * _smooth((wave[here] - duty) / rng.uniform(0.1, 0.9))
        if rng.random() < 0.4:  # columns beside the corners, or a niche in the middle
            edge, depth = rng.uniform(0.35, 0.85), rng.uniform(0.005, 0.035)
            out[here] += depth * _smooth((np.abs(along[here]) - edge) / rng.uniform(0.03, 0.15))
    return out


def _holes(
    b: Builder, rng: np.random.Generator, body: Any, middle: np.ndarray, half: np.ndarray, height: float
) -> None:
    """Grips: dark or light slots in two of the walls; labels and stickers on others."""
    axis = int(rng.integers(2))
    for sign in (-1, 1):
        size = np.array([0.002, 0.002, rng.uniform(0.08, 0.16) * height])
        size[1 - axis] = rng.uniform(0.15, 0.45) * half[1 - axis]
        at = middle + np.array([0, 0, height * rng.uniform(0.65, 0.85)])
        at[axis] += sign * (half[axis] + 0.004)
        shade = b.material(rgb=textures.colour(rng, "dark" if rng.random() < 0.7 else None), gloss=0.1)
        b.solid(body, "box" if rng.random() < 0.5 else "ellipsoid", size, at, material=shade, ghost=True)


def _stickers(
    b: Builder, rng: np.random.Generator, body: Any, middle: np.ndarray, half: np.ndarray, height: float
) -> None:
    for _ in range(int(rng.integers(1, 4))):
        axis, sign = int(rng.integers(2)), float(rng.choice([-1, 1]))
        size = np.array([0.001, 0.001, rng.uniform(0.1, 0.3) * height])
        size[1 - axis] = rng.uniform(0.08, 0.35) * half[1 - axis]
        at = middle + np.array([0, 0, height * rng.uniform(0.3, 0.7)])
        at[axis] += sign * (half[axis] + 0.05 * height)
        at[1 - axis] += rng.uniform(-0.5, 0.5) * half[1 - axis]
        paper = textures.inks(rng, textures.colour(rng, "light"))
        face = prints.printed(rng, 64, 96, paper, rng.uniform(0.3, 1.0))
        b.solid(body, "box", size, at, material=b.material(np.stack([face[:, :64]] * 6)), ghost=True)


def _walls(body: Any, b: Builder, middle: np.ndarray, half: np.ndarray, height: float, slope: float) -> None:
    """What stops the items: four hidden slabs and a floor."""
    lean = np.arctan2(slope, height)
    for axis in range(2):
        for sign in (-1, 1):
            size = np.array([0.012, 0.012, height / 2 + 0.02])
            size[1 - axis] = half[1 - axis] + slope
            at = middle + np.array([0, 0, height / 2])
            at[axis] += sign * (half[axis] + slope / 2 + 0.012)
            quat = np.array([np.cos(lean / 2), 0, 0, 0])
            quat[2 - axis] = np.sin(lean / 2) * sign * (-1 if axis else 1)
            b.solid(body, "box", size, at, quat)
    b.solid(body, "box", (half[0], half[1], 0.02), middle - (0, 0, 0.02))


def _floor(
    b: Builder, rng: np.random.Generator, body: Any, middle: np.ndarray, half: np.ndarray, material: str
) -> None:
    """A bottom with recessed fields, a lattice of ribs, or a dome: never above the plane that carries."""
    u = np.linspace(-1, 1, 41)
    x, y = np.meshgrid(u, u, indexing="xy")
    style, deep = rng.random(), rng.uniform(0.001, 0.005)
    if style < 0.3:
        low = np.zeros_like(x)
    elif style < 0.55:
        count = rng.integers(2, 9)
        low = _smooth((np.cos(np.pi * count * x) + 0.6) / 0.5) * _smooth(
            (np.cos(np.pi * count * y) + 0.6) / 0.5
        )
    elif style < 0.8:
        inset, soft = rng.uniform(0.5, 0.9), rng.uniform(0.05, 0.2)
        low = _smooth((inset - np.maximum(np.abs(x), np.abs(y))) / soft)
        if rng.random() < 0.5:
            low = low * _smooth((np.abs(x) - 0.1) / soft)
    else:
        low = _smooth((np.cos(np.pi * rng.integers(3, 16) * (x if rng.random() < 0.5 else y)) + 0.3) / 0.4)
    sheet = np.stack([middle[0] + half[0] * x, middle[1] + half[1] * y, middle[2] - deep * low], -1)
    uv = np.stack([(x + 1) / 2, (y + 1) / 2], -1)
    b.mesh(body, b.sheet(sheet, uv), material)
    if rng.random() < 0.3:  # drain holes
        dark = b.material(rgb=np.full(3, rng.uniform(5, 60)))
        for sx in (-0.6, 0, 0.6):
            for sy in (-0.6, 0.6):
                at = np.add(middle, (sx * half[0], sy * half[1], 0.0002))
                b.solid(body, "cylinder", (rng.uniform(0.003, 0.009), 0.0004), at, material=dark, ghost=True)


def tote(
    b: Builder,
    rng: np.random.Generator,
    middle: np.ndarray,
    half: np.ndarray,
    height: float,
    rgb: np.ndarray,
    body: Any,
) -> None:
    """An open moulded tote whose floor's top is at ``middle`` (3,), ``half`` (2,) wide there, on ``body``."""
    slope = rng.uniform(0.02, 0.22) * height
    radius = float(rng.uniform(0.01, min(0.07, 0.45 * half.min())))
    points, normals, side, along = _outline(half, radius)
    bulge = _bulges(rng, side, along)
    dips = np.zeros(len(side))
    for k in range(4):
        if rng.random() < 0.3:  # a wall that is lower in its middle
            wide, soft = rng.uniform(0.2, 0.85), rng.uniform(0.02, 0.15)
            dip = rng.uniform(0.08, 0.4) * _smooth((wide - np.abs(along)) / soft)
            dips = np.where(side == k, dip, dips)
    thick, rim, fold = rng.uniform(0.003, 0.008), rng.uniform(0.004, 0.035), rng.uniform(0.003, 0.025)
    fillet, round_by = rng.uniform(0.0, 0.02), rng.uniform(0.05, 0.3)
    rings: list[np.ndarray] = []
    whole = height * (1 - dips)

    def ring(fraction: float, out: float, extra: float = 0.0, inner: bool = False) -> None:
        offset = np.full(len(side), slope * fraction + out)
        if inner:
            ends = 1.0 if rib_to_top else float(_smooth(np.array((0.97 - fraction) / round_by)))
            offset = offset - bulge * ends
            offset = offset - fillet * (1 - min(1.0, fraction / 0.12)) ** 2
        at = points + normals * offset[:, None]
        rings.append(np.concatenate([at, (whole * fraction + extra)[:, None]], 1))

    rib_to_top = bool(rng.random() < 0.5)
    ring(0.0, thick)
    ring(1.0, thick, -fold)
    ring(1.0, thick + rim, -fold)
    ring(1.0, thick + rim)
    ring(1.0, thick + 0.9 * rim, 0.003)
    ring(1.0, 0.001, 0.003, inner=rib_to_top)
    for fraction in (0.99, 0.93, 0.85, 0.7, 0.5, 0.35, 0.22, 0.12, 0.06, 0.02, 0.0):
        ring(fraction, 0.0, inner=True)
    vertices = np.stack(rings) + np.asarray(middle)
    v = np.linspace(0, 1, len(rings))
    u = np.linspace(0, float(rng.integers(1, 4)), len(side))
    gloss = float(rng.choice([rng.uniform(0.0, 0.3), rng.uniform(0.4, 1.0)]))
    uv = np.stack(np.meshgrid(u, v, indexing="xy"), -1)
    b.mesh(body, b.sheet(vertices, uv), b.material(_plastic(rng, rgb), gloss=gloss))
    cover = rgb * rng.uniform(0.85, 1.15)
    if rng.random() < 0.15:  # an inlay of another colour
        cover = textures.colour(rng)
    lining = _plastic(rng, cover) if rng.random() < 0.8 else textures.surface(rng, 160, None, cover)
    _floor(b, rng, body, np.asarray(middle), half * 0.997, b.material(lining, gloss=gloss))
    if rng.random() < 0.35:
        _holes(b, rng, body, middle, half, height)
    if rng.random() < 0.3:
        _stickers(b, rng, body, middle, half, height)
    _walls(body, b, middle, half, height, slope)


def carton(
    b: Builder,
    rng: np.random.Generator,
    middle: np.ndarray,
    half: np.ndarray,
    height: float,
    rgb: np.ndarray,
    body: Any,
) -> None:
    """A cardboard box with thin walls and, most of the time, open flaps."""
    outside = textures.surface(rng, 128, str(rng.choice(["cardboard", "plain", "cloud"])), rgb)
    faces = np.stack([outside] * 6)
    for k in range(4):
        if rng.random() < 0.5:
            ink = [rgb, rgb * 0.4, textures.colour(rng), np.full(3, 30.0)]
            faces[k] = prints.printed(rng, 128, 128, ink, rng.uniform(0.2, 0.8))
    material = b.material(faces, gloss=0.05)
    plain = b.material(np.stack([outside] * 6), gloss=0.05)
    flaps = rng.random() < 0.7
    for axis in range(2):
        for sign in (-1, 1):
            size = np.array([0.002, 0.002, height / 2])
            size[1 - axis] = half[1 - axis] + 0.002
            at = np.asarray(middle) + np.array([0, 0, height / 2])
            at[axis] += sign * (half[axis] + 0.002)
            b.solid(body, "box", size, at, material=material if rng.random() < 0.5 else plain)
            if flaps and rng.random() < 0.85:
                long = rng.uniform(0.3, 0.95) * half.min()
                tilt = rng.uniform(-0.5, 1.5)  # from standing up to hanging down
                size = np.array([0.0015, 0.0015, long / 2])
                size[1 - axis] = half[1 - axis] * rng.uniform(0.9, 1.0)
                hinge = np.asarray(middle) + np.array([0, 0, height])
                hinge[axis] += sign * (half[axis] + 0.002)
                centre = hinge + np.array([0, 0, np.cos(tilt) * long / 2])
                centre[axis] += sign * np.sin(tilt) * long / 2
                quat = np.array([np.cos(tilt / 2), 0, 0, 0])
                quat[2 - axis] = np.sin(tilt / 2) * sign * (-1 if axis else 1)
                b.solid(body, "box", size, centre, quat, plain, ghost=True)
    floor = np.asarray(middle) - (0, 0, 0.0015)
    b.solid(body, "box", (*half, 0.0015), floor, material=plain)
    if rng.random() < 0.6:  # the slit between the lower flaps, with tape
        tape = b.material(rgb=rgb * rng.uniform(0.6, 1.3) if rng.random() < 0.7 else textures.colour(rng))
        width = rng.uniform(0.001, 0.03)
        b.solid(body, "box", (half[0], width, 0.0003), np.asarray(middle), material=tape, ghost=True)
    b.solid(body, "box", (half[0], half[1], 0.02), np.asarray(middle) - (0, 0, 0.022))


def basket(
    b: Builder,
    rng: np.random.Generator,
    middle: np.ndarray,
    half: np.ndarray,
    height: float,
    rgb: np.ndarray,
    body: Any,
) -> None:
    """A wire basket: rods around and up, over whatever lies below."""
    steel = b.material(rgb=textures.colour(rng, str(rng.choice(["light", "dark", "muted"]))), gloss=0.8)
    thin, slope = rng.uniform(0.0012, 0.003), rng.uniform(0.0, 0.15) * height
    middle = np.asarray(middle)
    for level in np.linspace(0, 1, int(rng.integers(3, 7))):
        reach = half + slope * level
        z = height * level
        corners = [
            np.add(middle, (sx * reach[0], sy * reach[1], z))
            for sx, sy in ((1, 1), (-1, 1), (-1, -1), (1, -1))
        ]
        for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
            b.rod(body, start, end, thin * (2 if level == 1 else 1), steel, ghost=True)
    gap = rng.uniform(0.02, 0.05)
    for axis in range(2):
        for place in np.arange(-half[1 - axis], half[1 - axis], gap):
            for sign in (-1, 1):
                foot, top = np.zeros(3), np.zeros(3)
                foot[axis], top[axis] = sign * half[axis], sign * (half[axis] + slope)
                foot[1 - axis] = top[1 - axis] = place
                top[2] = height
                b.rod(body, middle + foot, middle + top, thin, steel, ghost=True)
            start, end = np.zeros(3), np.zeros(3)
            start[axis], end[axis] = -half[axis], half[axis]
            start[1 - axis] = end[1 - axis] = place
            if axis == 0:
                b.rod(body, middle + start, middle + end, thin, steel, ghost=True)
    if rng.random() < 0.6:  # an inlay
        inlay = b.material(textures.surface(rng, 128, None, rgb))
        b.solid(body, "box", (*half, 0.0008), np.add(middle, (0, 0, 0.001)), material=inlay, ghost=True)
    _walls(body, b, middle, half, height, slope)


def divider(
    b: Builder, rng: np.random.Generator, half: np.ndarray, height: float, rgb: np.ndarray, body: Any
) -> None:
    """Partitions that part the container into cells."""
    material = b.material(_plastic(rng, np.clip(rgb * rng.uniform(0.8, 1.2), 0, 255), 96), gloss=0.3)
    tall = height * rng.uniform(0.3, 0.9)
    for axis in range(2):
        if axis == 0 or rng.random() < 0.4:
            size = np.array([0.002, 0.002, tall / 2])
            size[1 - axis] = half[1 - axis]
            at = np.array([0, 0, tall / 2])
            at[axis] = rng.uniform(-0.4, 0.4) * half[axis]
            b.solid(body, "box", size, at, material=material)
