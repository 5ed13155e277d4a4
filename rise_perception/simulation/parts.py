"""Objects that no data set of the tote world shows: fittings, gears, brackets, parts of several pieces.

They stand for what arrives at a cell after the model was trained; see :mod:`rise_perception.simulation.cell`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from rise_perception.simulation import textures
from rise_perception.simulation.assets import Builder
from rise_perception.simulation.shapes import Look, Make

_X, _Y = np.array([0.7071, 0.0, 0.7071, 0.0]), np.array([0.7071, 0.7071, 0.0, 0.0])
"""Quaternions that lay z along x and along y."""


def _two(b: Builder, look: Look) -> tuple[str, str]:
    """Materials of two pieces of one part: now and then far apart in colour."""
    second = textures.colour(look.rng) if look.rng.random() < 0.7 else look.ground * 0.6
    return look.plain(b), look.plain(b, second)


def _tee(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h = rng.uniform(0.011, 0.018), rng.uniform(0.04, 0.06)
    pipe, collar = _two(b, look)
    b.solid(body, "cylinder", (r, h), (0, 0, 0), _X, pipe)
    b.solid(body, "cylinder", (r, h / 2), (0, h / 2, 0), _Y, pipe)
    for sign in (-1, 1):
        b.solid(body, "cylinder", (1.3 * r, 0.3 * h), (sign * 0.75 * h, 0, 0), _X, collar)
    b.solid(body, "cylinder", (1.3 * r, 0.25 * h), (0, 0.8 * h, 0), _Y, collar)
    return np.array([1.05 * h, 1.05 * h, 1.3 * r])


def _cross(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    long, wide, high = rng.uniform(0.035, 0.055), rng.uniform(0.009, 0.014), rng.uniform(0.008, 0.014)
    first, second = _two(b, look)
    b.solid(body, "box", (long, wide, high), material=first)
    b.solid(body, "box", (wide, long, 0.9 * high), material=second)
    return np.array([long, long, high])


def _gear(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h, teeth = rng.uniform(0.028, 0.045), rng.uniform(0.008, 0.016), int(rng.integers(8, 15))
    disc, hub = _two(b, look)
    b.solid(body, "cylinder", (r, h), material=disc)
    b.solid(body, "cylinder", (0.4 * r, 1.8 * h), material=hub)
    for k in range(teeth):
        angle = 2 * np.pi * k / teeth
        quat = np.array([np.cos(angle / 2), 0, 0, np.sin(angle / 2)])
        at = (1.08 * r * np.cos(angle), 1.08 * r * np.sin(angle), 0)
        b.solid(body, "box", (0.12 * r, 0.1 * r, 0.95 * h), at, quat, disc)
    return np.array([1.2 * r, 1.2 * r, 1.8 * h])


def _bracket(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    long, wide, thick = rng.uniform(0.035, 0.06), rng.uniform(0.015, 0.03), 0.004
    plate, other = _two(b, look)
    b.solid(body, "box", (long, wide, thick), (0, 0, thick - long / 2), material=plate)
    b.solid(body, "box", (thick, wide, long / 2), (thick - long, 0, 0), material=other)
    b.rod(body, np.array([-0.9 * long, 0, 0.3 * long]), np.array([0.3 * long, 0, -0.4 * long]), 0.005, other)
    return np.array([long, wide, long / 2])


def _coil(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, thick, turns = rng.uniform(0.035, 0.055), rng.uniform(0.005, 0.008), int(rng.integers(2, 4))
    hose, tie = _two(b, look)
    angles = np.linspace(0, 2 * np.pi * turns, 14 * turns + 1)
    rise = (angles / angles[-1] - 0.5) * 2 * thick * (turns - 1)
    ring = np.stack([r * np.cos(angles), r * np.sin(angles), rise], 1)
    for start, end in pairwise(ring):
        b.rod(body, start, end, thick, hose)
    b.solid(body, "box", (1.6 * thick, 0.007, thick * (turns + 0.5)), (r, 0, 0), material=tie)
    return np.array([r + thick, r + thick, thick * (turns + 0.5)])


def _spool(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h = rng.uniform(0.022, 0.036), rng.uniform(0.02, 0.035)
    wound, flange = _two(b, look)
    b.solid(body, "cylinder", (0.72 * r, h), material=wound)
    for sign in (-1, 1):
        b.solid(body, "cylinder", (r, 0.003), (0, 0, sign * h), material=flange)
    return np.array([r, r, h])


def _cone(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h = rng.uniform(0.025, 0.04), rng.uniform(0.03, 0.05)
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    foot = np.stack([r * np.cos(angles), r * np.sin(angles), 0 * angles - h], 1)
    top = np.stack([0.15 * r * np.cos(angles), 0.15 * r * np.sin(angles), 0 * angles + h], 1)
    body_colour, plate = _two(b, look)
    b.mesh(body, b.hull(np.concatenate([foot, top])), body_colour, solid=True)
    b.solid(body, "box", (1.15 * r, 1.15 * r, 0.003), (0, 0, -h), material=plate)
    return np.array([1.15 * r, 1.15 * r, h])


def _dumbbell(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h = rng.uniform(0.016, 0.026), rng.uniform(0.035, 0.055)
    weight, bar = _two(b, look)
    b.solid(body, "cylinder", (0.4 * r, h), material=bar)
    for sign in (-1, 1):
        b.solid(body, "sphere", (r,), (0, 0, sign * h), material=weight)
    return np.array([r, r, h + r])


def _star(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    r, h, arms = rng.uniform(0.026, 0.04), rng.uniform(0.007, 0.012), int(rng.integers(3, 7))
    knob, hub = _two(b, look)
    for k in range(arms):
        angle = 2 * np.pi * k / arms
        tip = np.array([r * np.cos(angle), r * np.sin(angle), 0])
        b.rod(body, 0 * tip, tip, h, knob)
    b.solid(body, "cylinder", (0.45 * r, 1.7 * h), material=hub)
    return np.array([r + h, r + h, 1.7 * h])


def _comb(b: Builder, body: Any, look: Look) -> np.ndarray:
    rng = look.rng
    long, deep, count = rng.uniform(0.035, 0.055), rng.uniform(0.02, 0.032), int(rng.integers(4, 7))
    back, tooth = _two(b, look)
    b.solid(body, "box", (long, 0.008, 0.009), (0, -deep, 0), material=back)
    for k in range(count):
        x = (2 * k / (count - 1) - 1) * (long - 0.005)
        b.solid(body, "box", (0.005, deep, 0.006), (x, 0, 0), material=tooth)
    return np.array([long, deep + 0.008, 0.009])


KINDS: dict[str, tuple[float, Make]] = {
    "tee": (1.0, _tee),
    "cross": (1.0, _cross),
    "gear": (1.0, _gear),
    "bracket": (1.0, _bracket),
    "coil": (1.0, _coil),
    "spool": (1.0, _spool),
    "cone": (1.0, _cone),
    "dumbbell": (1.0, _dumbbell),
    "star": (1.0, _star),
    "comb": (1.0, _comb),
}
"""Shape name -> (how often, how it is made), as in :data:`rise_perception.simulation.shapes.KINDS`."""
