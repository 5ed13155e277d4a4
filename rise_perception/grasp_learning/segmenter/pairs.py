"""What the grasp segmenter learns from: pairs of states of simulated grasps, worsened as cameras worsen them.

Items of other films are pasted in, so that more leaves, comes and stays than was simulated; exposure, light,
shadows, small motions, noise, JPEG and holes in depth are drawn anew each time, and depth is often absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from rise_perception.grasp_learning.labelling.registration import (
    Motion,
    bring_back,
    estimate_exposure,
    estimate_motion,
)
from rise_perception.grasp_learning.segmenter.inputs import expose_alike, pair_input
from rise_perception.grasp_learning.segmenter.network import SIZE
from rise_perception.simulation.disturbed_grasps import STAYED, GraspFilm

#: Masks of a pair whose quality is learned, and items that left at most.
CANDIDATES, MOST = 4, 4
#: Metres that a pasted item stands up.
_RELIEF = (0.01, 0.08)


class Pair(NamedTuple):
    """One sample; h, w are half of H, W.

    Attributes:
        image: (16, H, W) float32, the network's input.
        truth: (2, H, W) float32, what left and what moved.
        known: (2, H, W) float32, 1 where the truth counts.
        candidates: (4, h, w) float32, masks to judge; all zero where there are fewer.
        items: (4, h, w) float32, the items that left, one each.
    """

    image: np.ndarray
    truth: np.ndarray
    known: np.ndarray
    candidates: np.ndarray
    items: np.ndarray


@dataclass
class _Side:
    image: np.ndarray  # (H, W, 3) float32
    depth: np.ndarray  # (H, W) float32 metres, 0 = none
    labels: np.ndarray  # (H, W) int32


@dataclass(frozen=True)
class Truth:
    """Labels that left, moved for sure, and moved perhaps."""

    left: set[int]
    moved: set[int]
    perhaps: set[int]


def states(film: GraspFilm, before: int, after: int) -> Truth:
    """What became of the items between two states of a film."""
    moved = set(film.moved(before, after).tolist())
    return Truth(
        set(film.left(before, after).tolist()),
        moved,
        set(film.moved(before, after, STAYED).tolist()) - moved,
    )


def draw_pair(films: Sequence[GraspFilm], rng: np.random.Generator, number: int | None = None) -> Pair:
    """A pair with all that may be wrong with it.

    Args:
        films: to draw from.
        rng: of the pair; equal ones give equal bytes.
        number: of the film; drawn if None.
    """
    film = films[int(rng.integers(len(films))) if number is None else number]
    count = len(film.images)
    gap = int(rng.choice([1, 2, 0], p=[0.8, 0.16, 0.04])) if count > 2 else min(1, count - 1)
    before = int(rng.integers(max(1, count - gap)))
    after = before + gap
    if rng.random() < 0.07:
        before, after = after, before
    truth = states(film, before, after)
    sides = [
        _Side(
            film.images[k].astype(np.float32),
            film.depths[k].astype(np.float32) / 1000,
            film.labels[k].astype(np.int32),
        )
        for k in (before, after)
    ]
    if rng.random() < 0.45:
        for _ in range(1 + int(rng.random() < 0.35)):
            other = films[int(rng.integers(len(films)))]
            truth = _paste(sides, truth, other, rng)
    _frame(sides, rng)
    target = _target(sides[0].labels, truth, rng)
    candidates, items = _candidates(sides[0].labels, truth, target, rng)
    _light(sides, rng)
    return _make(sides, truth, target, candidates, items, rng)


def _paste(sides: list[_Side], truth: Truth, other: GraspFilm, rng: np.random.Generator) -> Truth:
    """Paste an item of another film: into both frames, one of them, or at two places."""
    state = int(rng.integers(len(other.images)))
    labels = np.unique(other.labels[state])
    sizes = np.bincount(other.labels[state].ravel())
    able = [int(k) for k in labels if k > 0 and 150 <= sizes[k] <= 0.15 * other.labels[state].size]
    if not able:
        return truth
    label = able[int(rng.integers(len(able)))]
    mask = other.labels[state] == label
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    cut = mask[y : y + h, x : x + w]
    colour = other.images[state][y : y + h, x : x + w].astype(np.float32) * rng.uniform(0.7, 1.3)
    depth = other.depths[state][y : y + h, x : x + w].astype(np.float32) / 1000
    how = str(rng.choice(["left", "stays", "comes", "moves"], p=[0.5, 0.2, 0.15, 0.15]))
    height, width = sides[0].labels.shape
    at = np.array([rng.integers(0, max(1, width - w)), rng.integers(0, max(1, height - h))])
    places = {"left": (at, None), "stays": (at, at), "comes": (None, at)}.get(how)
    if places is None:
        far = 6 if rng.random() < 0.5 else 80
        there = at + rng.integers(-far, far + 1, 2)
        there = np.clip(there, 0, np.maximum(0, [width - w, height - h]))
        places = (at, there if np.abs(there - at).max() > 1 else at + np.array([0, -3 if at[1] > 3 else 3]))
    fresh = 1000 + int(max(int(sides[0].labels.max()), int(sides[1].labels.max()), 1000) - 999)
    lift, dark = rng.uniform(*_RELIEF), rng.uniform(0.0, 0.5)
    reach, angle = rng.uniform(2, 10), rng.uniform(0, 2 * np.pi)
    middle = float(np.median(depth[cut & (depth > 0)])) if (cut & (depth > 0)).any() else 0.0
    for side, place in zip(sides, places, strict=True):
        if place is None:
            continue
        full = np.zeros((height, width), np.uint8)
        px, py = int(place[0]), int(min(place[1], height - h))
        full[py : py + h, px : px + w] = cut
        shadow = cv2.warpAffine(
            full.astype(np.float32),
            np.array([[1, 0, reach * np.cos(angle)], [0, 1, reach * np.sin(angle)]]),
            (width, height),
        )
        shadow = cv2.GaussianBlur(np.maximum(shadow, full), (0, 0), 1.0 + reach / 4)
        side.image *= (1 - dark * shadow)[..., None]
        inside = full > 0
        soft = cv2.GaussianBlur(full.astype(np.float32), (0, 0), 0.6)[..., None]
        whole = np.zeros_like(side.image)
        whole[py : py + h, px : px + w] = colour
        soft *= inside[..., None] if soft.ndim == 3 else 1
        side.image[:] = side.image * (1 - soft) + whole * soft
        ground = side.depth[inside & (side.depth > 0)]
        if len(ground) and middle > 0:
            relief = np.zeros((height, width), np.float32)
            relief[py : py + h, px : px + w] = np.where(depth > 0, depth - middle, np.nan)
            made = np.median(ground) - lift + relief
            side.depth[:] = np.where(
                inside, np.where(np.isfinite(made), np.maximum(made, 0.1), 0), side.depth
            )
        else:
            side.depth[inside] = 0
        side.labels[inside] = fresh
    left, moved = set(truth.left), set(truth.moved)
    if how == "left":
        left.add(fresh)
    elif how == "moves":
        moved.add(fresh)
    return Truth(left, moved, truth.perhaps)


def _frame(sides: list[_Side], rng: np.random.Generator) -> None:
    """Flip, and look closer, both frames alike."""
    flips = rng.random(2) < 0.5
    zoom = rng.uniform(1.0, 1.8) if rng.random() < 0.4 else 1.0
    height, width = sides[0].labels.shape
    h, w = round(height / zoom), round(width / zoom)
    y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    for side in sides:
        for name in ("image", "depth", "labels"):
            value = getattr(side, name)[y : y + h, x : x + w]
            if flips[0]:
                value = value[:, ::-1]
            if flips[1]:
                value = value[::-1]
            value = np.ascontiguousarray(value)
            if value.shape[:2] != (height, width):
                how = cv2.INTER_LINEAR if name == "image" else cv2.INTER_NEAREST_EXACT
                value = cv2.resize(value, (width, height), interpolation=how)
            setattr(side, name, value)


def _target(labels: np.ndarray, truth: Truth, rng: np.random.Generator) -> np.ndarray | None:
    """What an instance network may have predicted where the robot grasped; None for nothing."""
    if rng.random() < 0.4:
        return None
    seen = [k for k in np.unique(labels).tolist() if k > 0]
    wanted = [k for k in seen if k in truth.left] or [k for k in seen if k in truth.moved]
    if not wanted or rng.random() < 0.08:
        wanted = seen
    if not wanted:
        return None
    label = wanted[int(rng.integers(len(wanted)))]
    return flawed(labels, label, rng)


def flawed(labels: np.ndarray, label: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W) bool, an item's mask with the mistakes that segmenters make: merged, a part, a wrong outline."""
    mask = labels == label
    how = rng.random()
    if how < 0.25:
        ring = (cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0) & ~mask & (labels > 0)
        if ring.any():
            mask |= labels == int(rng.choice(labels[ring]))
    elif how < 0.45:
        ys, xs = np.nonzero(mask)
        angle = rng.uniform(0, 2 * np.pi)
        yy, xx = np.mgrid[: mask.shape[0], : mask.shape[1]]
        reach = rng.uniform(-0.3, 0.3) * np.sqrt(len(xs))
        mask &= (xx - xs.mean()) * np.cos(angle) + (yy - ys.mean()) * np.sin(angle) > reach
    width = int(rng.integers(1, 4))
    if width > 1:
        change = cv2.dilate if rng.random() < 0.5 else cv2.erode
        mask = change(mask.astype(np.uint8), np.ones((width, width), np.uint8)) > 0
    height, size = mask.shape
    off = [
        cv2.resize(rng.normal(0, 0.9, (height // 12, size // 12)).astype(np.float32), (size, height))
        for _ in range(2)
    ]
    y, x = np.mgrid[:height, :size].astype(np.float32)
    return np.asarray(cv2.remap(mask.astype(np.uint8), x + off[0], y + off[1], cv2.INTER_NEAREST)) > 0


def _candidates(
    labels: np.ndarray, truth: Truth, target: np.ndarray | None, rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Masks to judge, and the items that left."""
    seen = [k for k in np.unique(labels).tolist() if k > 0]
    left = [k for k in seen if k in truth.left]
    items = [labels == k for k in left]
    items = sorted(items, key=lambda m: -int(m.sum()))[:MOST]
    masks = [] if target is None else [target]
    if left:
        masks.append(flawed(labels, left[int(rng.integers(len(left)))], rng))
        if len(left) > 1:
            masks.append(np.isin(labels, left[:2]))
    if seen and len(masks) < CANDIDATES:
        masks.append(flawed(labels, seen[int(rng.integers(len(seen)))], rng))
    return masks[:CANDIDATES], items


def _light(sides: list[_Side], rng: np.random.Generator) -> None:
    """Light, colour and noise: some alike in both frames, some in one of them."""
    tint = np.exp(rng.normal(0, 0.2, 3) * (rng.random() < 0.5)) * rng.uniform(0.6, 1.35)
    order = rng.permutation(3) if rng.random() < 0.3 else np.arange(3)
    contrast = rng.uniform(0.7, 1.3) if rng.random() < 0.4 else 1.0
    blur = rng.uniform(0.4, 1.2) if rng.random() < 0.25 else 0.0
    noise = rng.uniform(1, 7) if rng.random() < 0.4 else 0.0
    jpeg = int(rng.integers(35, 96)) if rng.random() < 0.35 else 0
    for side in sides:
        image = side.image[..., order] * tint
        if contrast != 1:
            image = 127 + (image - 127) * contrast
        side.image = image.astype(np.float32)
    for side in sides:
        if rng.random() < 0.25:
            _shadow(side.image, rng)
    if rng.random() < 0.25:  # another exposure, and another white
        gain = rng.uniform(0.6, 1.6) * np.exp(rng.normal(0, 0.04, 3))
        sides[1].image = (sides[1].image * gain + rng.uniform(-8, 8)).astype(np.float32)
    if rng.random() < 0.15:  # the light comes from elsewhere
        height, width = sides[1].labels.shape
        ramp = (
            np.linspace(-1, 1, width)[None, :] * rng.normal()
            + np.linspace(-1, 1, height)[:, None] * rng.normal()
        )
        sides[1].image *= (1 + 0.12 * ramp[..., None]).astype(np.float32)
    for side in sides:
        values = side.image
        if blur:
            values = np.asarray(cv2.GaussianBlur(values, (0, 0), blur))
        if noise:
            values = values + rng.normal(0, noise, values.shape)
        seen = np.clip(values + 0.5, 0, 255).astype(np.uint8)
        if jpeg:
            coded = cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, jpeg])[1]
            seen = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
        side.image = seen
    if rng.random() < 0.4:
        for side in sides:
            measured = side.depth > 0
            worse = rng.uniform(0.0005, 0.003)
            side.depth = side.depth + rng.normal(0, worse, side.depth.shape).astype(np.float32) * measured
    if rng.random() < 0.3:
        for side in sides:
            for _ in range(int(rng.integers(1, 6))):
                y, x = (int(rng.integers(n)) for n in side.depth.shape)
                axes = tuple(int(v) for v in rng.integers(2, 22, 2))
                cv2.ellipse(side.depth, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 0.0, -1)


def _shadow(image: np.ndarray, rng: np.random.Generator) -> None:
    """Darken, or lighten, a soft or a hard region."""
    height, width = image.shape[:2]
    spot = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(1, 3))):
        middle = rng.uniform(0, 1, 2) * (width, height)
        corners = middle + rng.normal(0, 0.18, (int(rng.integers(3, 7)), 2)) * width
        hull = cv2.convexHull(corners.astype(np.float32)).astype(np.int32)
        cv2.fillPoly(spot, [hull], 1.0)
    soft = cv2.GaussianBlur(spot, (0, 0), float(rng.choice([0.8, rng.uniform(1, 12)])))
    factor = rng.uniform(0.1, 0.55) if rng.random() < 0.8 else -rng.uniform(0.1, 0.4)
    image *= (1 - factor * soft)[..., None]


def _make(
    sides: list[_Side],
    truth: Truth,
    target: np.ndarray | None,
    candidates: list[np.ndarray],
    items: list[np.ndarray],
    rng: np.random.Generator,
) -> Pair:
    """Move the camera, bring the frames together again as serving does, and collect."""
    first, second = sides
    labels = first.labels
    size = labels.shape
    image, depth = second.image, second.depth
    motion = Motion(np.eye(2, 3), 0.0, 1.0)
    chance = rng.random()
    if chance < 0.3:
        far = rng.uniform(1.0, 6.0) if chance < 0.12 else rng.uniform(0.1, 0.8)
        angle, turn = rng.uniform(0, 2 * np.pi), rng.normal(0, 0.002)
        matrix = np.array([[1, -turn, far * np.cos(angle)], [turn, 1, far * np.sin(angle)]])
        border = cv2.BORDER_REFLECT
        image = cv2.warpAffine(image, matrix, size[::-1], flags=cv2.INTER_CUBIC, borderMode=border)
        depth = cv2.warpAffine(depth, matrix, size[::-1], flags=cv2.INTER_NEAREST, borderMode=border)
        if chance < 0.12:
            motion = estimate_motion(first.image, image, np.ones(size, bool))
    seen = np.ones(size, bool)
    if rng.random() < 0.08:  # where the robot is
        y, x = (int(rng.integers(n)) for n in size)
        h, w = (int(rng.integers(20, 100)) for _ in range(2))
        seen[max(0, y - h) : y + h, max(0, x - w) : x + w] = False
    compared = bring_back(seen, motion)
    image, depth = bring_back(image, motion), bring_back(depth, motion)
    # Every third pixel tells as much as all of them.
    every = (slice(None, None, 3), slice(None, None, 3))
    exposure = estimate_exposure(first.image[every], image[every], compared[every])
    depths = None if rng.random() < 0.4 else (first.depth, depth)
    made = pair_input(first.image, expose_alike(image, exposure), depths, target, compared)
    masks = [np.isin(labels, list(part)) for part in (truth.left, truth.moved)]
    doubtful = np.isin(labels, list(truth.perhaps))
    known = np.stack([compared, compared & ~doubtful])
    return Pair(
        made,
        np.stack(masks).astype(np.float32),
        known.astype(np.float32),
        _halves(candidates, CANDIDATES),
        _halves(items, MOST),
    )


def _halves(masks: list[np.ndarray], count: int) -> np.ndarray:
    """(count, h, w) float32 at half the size; zero where there are fewer masks."""
    made = np.zeros((count, SIZE[0] // 2, SIZE[1] // 2), np.float32)
    for place, mask in zip(made, masks, strict=False):
        place[:] = cv2.resize(mask.astype(np.float32), place.shape[::-1], interpolation=cv2.INTER_AREA)
    return made
