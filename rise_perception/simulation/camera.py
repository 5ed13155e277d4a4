"""Cameras and lights of a view: where a robot's camera would be, and how bright it is there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rise_perception.core.frame import CameraIntrinsics
from rise_perception.simulation import gripper
from rise_perception.simulation.scene import BLOCKERS, LIGHTS, Scene


@dataclass(frozen=True)
class Light:
    """A lamp: where it is and looks (3,), how bright (3,) each, and the radius of its bulb in metres."""

    position: np.ndarray
    direction: np.ndarray
    diffuse: np.ndarray
    ambient: np.ndarray
    specular: float
    bulb: float


@dataclass(frozen=True)
class View:
    """A camera (OpenCV axes) with the lights that shine while it looks.

    Attributes:
        position: (3,) metres in the world.
        rotation: (3, 3) columns are the camera's right, down and forward in the world.
        camera: intrinsics.
        lights: as many as :data:`LIGHTS`.
        moved: body -> (position (3,), quaternion (4,)) of the robot's parts in view; others are far away.
    """

    position: np.ndarray
    rotation: np.ndarray
    camera: CameraIntrinsics
    lights: tuple[Light, ...]
    moved: dict[str, tuple[np.ndarray, np.ndarray]]


def look_at(position: np.ndarray, target: np.ndarray, roll: float) -> np.ndarray:
    """(3, 3) right, down, forward of a camera at ``position`` looking at ``target``, rolled by ``roll``."""
    forward = (target - position) / np.linalg.norm(target - position)
    up = np.array([0.0, 0.0, 1.0]) if abs(forward[2]) < 0.995 else np.array([0.0, 1.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    rolled = np.cos(roll) * right + np.sin(roll) * down
    return np.stack([rolled, np.cross(forward, rolled), forward], axis=1)


def draw_lights(rng: np.random.Generator, code: int, kind: str, towards: np.ndarray) -> tuple[Light, ...]:
    """Lamps of one view, from light recipes of split ``code``; ``towards`` (3,) is where the camera is."""
    lamp = np.random.default_rng([code, 77, int(rng.integers(1 << 40))])
    warmth = lamp.normal(0, 0.08)
    tint = np.clip(np.array([1 + warmth, 1.0, 1 - warmth]), 0.7, 1.3)
    ambient, key = lamp.uniform(0.35, 0.7), lamp.uniform(0.25, 0.7)
    out = []
    for k in range(LIGHTS):
        if kind == "bin" and k < 2:  # light comes in through the opening
            position = np.array([lamp.uniform(-0.7, 0.7), -lamp.uniform(0.6, 1.4), lamp.uniform(0.2, 1.2)])
        else:
            angle, away = lamp.uniform(0, 2 * np.pi), lamp.uniform(0.1, 1.1)
            position = np.array([away * np.cos(angle), away * np.sin(angle), lamp.uniform(0.8, 1.8)])
        if k == 2 and lamp.random() < 0.4:  # a lamp beside the camera
            position = towards + lamp.normal(0, 0.08, 3)
        power = key * (1.0, lamp.uniform(0.15, 0.8), lamp.uniform(0.1, 0.4))[k]
        aim = np.array([*lamp.normal(0, 0.1, 2), 0.05]) - position
        out.append(
            Light(
                position,
                aim / np.linalg.norm(aim),
                power * tint,
                ambient * tint * (1.0 if k == 0 else 0.0),
                float(lamp.uniform(0.1, 0.6)),
                float(lamp.choice([0.01, lamp.uniform(0.03, 0.2)])),
            )
        )
    return tuple(out)


def _pose(rng: np.random.Generator, scene: Scene) -> tuple[np.ndarray, np.ndarray, float]:
    """What the camera looks at, the direction from there to it, and half of what it should see, in metres."""
    half, walls = scene.place.main.half, scene.place.main.walls
    if scene.place.kind == "bin":
        extent = max(half[0], walls / 2)
        yaw, pitch = rng.normal(0, 0.3), rng.uniform(-0.05, 0.5)
        target = np.array(
            [rng.normal(0, 0.04), rng.uniform(-0.3, 0.3) * half[1], walls * rng.uniform(0.25, 0.5)]
        )
    elif scene.place.kind == "tote":
        extent = float(half.max()) * rng.uniform(0.65, 1.15)
        yaw, pitch = (
            rng.uniform(0, 2 * np.pi),
            rng.choice([rng.uniform(0.75, 1.2), rng.uniform(1.2, np.pi / 2)]),
        )
        target = np.array([*rng.normal(0, 0.15, 2) * half, walls * rng.uniform(0.0, 0.4)])
    else:
        extent = float(half.max()) * rng.uniform(0.8, 1.4)
        yaw, pitch = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.25)
        near = scene.position(int(rng.choice(scene.labels))) if scene.labels else np.zeros(3)
        target = 0.5 * near * (1, 1, 0) + np.array([*rng.normal(0, 0.04, 2), 0.03])
    way = np.array([np.sin(yaw) * np.cos(pitch), -np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
    return target, way, extent


def draw_view(rng: np.random.Generator, scene: Scene, width: int, height: int) -> View:
    """A camera pose, intrinsics, lights and perhaps a robot part in the picture."""
    target, way, extent = _pose(rng, scene)
    focal = rng.uniform(0.8, 1.35) * width
    aspect = rng.normal(1.0, 0.005)
    distance = extent * focal / (0.5 * width) * rng.uniform(1.0, 1.5)
    if scene.place.kind == "bin":
        distance += 0.3 * scene.place.main.half[1]
    distance = float(np.clip(distance, 0.32, 1.4))
    position = target + distance * way
    roll = rng.normal(0, 0.06) + (
        rng.choice([0, np.pi / 2, np.pi]) if scene.place.kind == "tote" and rng.random() < 0.3 else 0
    )
    rotation = look_at(position, target, float(roll))
    camera = CameraIntrinsics(
        width,
        height,
        float(focal),
        float(focal * aspect),
        float((width - 1) / 2 + rng.normal(0, 0.02) * width),
        float((height - 1) / 2 + rng.normal(0, 0.02) * height),
    )
    moved = {}
    if rng.random() < 0.08:  # brushes, fingers, hoses at the picture's edge
        for k, side in enumerate(rng.choice([-1, 1], 2) if rng.random() < 0.5 else (-1, 1)):
            ahead = rng.uniform(0.15, 0.3)
            across = side * (0.5 * width / focal) * ahead * rng.uniform(1.0, 1.25)
            down = rng.choice([-1, 1]) * (0.5 * height / focal) * ahead * rng.uniform(0.5, 1.1)
            place = position + rotation @ np.array([across, down, ahead])
            moved[BLOCKERS[k]] = (place, np.array([1.0, 0, 0, 0]))
    if rng.random() < 0.06:  # the robot's hand, on its way
        main = scene.place.main
        point = np.array([*rng.uniform(-1, 1, 2) * main.half, rng.uniform(0.3, 1.0) * main.walls])
        moved |= gripper.hold(point, gripper.approach(scene.place.kind, position), rng.uniform(0.02, 0.08))
    lights = draw_lights(rng, scene.split_code, scene.place.kind, position)
    return View(position, rotation, camera, lights, moved)
