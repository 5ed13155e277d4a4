"""Cameras and lamps of world 2: close over a tote or far from a table, under hard and coloured light."""

from __future__ import annotations

import numpy as np

from rise_perception.core.frame import CameraIntrinsics
from rise_perception.simulation import camera, gripper
from rise_perception.simulation.camera import Light, View
from rise_perception.simulation.scene import BLOCKERS, LIGHTS, Scene


def _lights(rng: np.random.Generator, code: int, kind: str, towards: np.ndarray) -> tuple[Light, ...]:
    """Lamps of one view; soft and even as often as hard, low and coloured."""
    lamp = np.random.default_rng([code, 78, int(rng.integers(1 << 40))])
    hard = lamp.random() < 0.4
    ambient = lamp.uniform(0.12, 0.4) if hard else lamp.uniform(0.35, 0.8)
    key = lamp.uniform(0.5, 1.0) if hard else lamp.uniform(0.2, 0.6)
    room = np.exp(lamp.normal(0, 0.12, 3) * (1, 0.5, 1))
    out = []
    for k in range(LIGHTS):
        tint = room * np.exp(lamp.normal(0, 0.15 if lamp.random() < 0.3 else 0.04, 3))
        if kind == "bin" and k < 2:
            position = np.array([lamp.uniform(-0.8, 0.8), -lamp.uniform(0.4, 1.4), lamp.uniform(0.0, 1.2)])
        else:
            angle, away = lamp.uniform(0, 2 * np.pi), lamp.uniform(0.1, 1.6)
            position = np.array([away * np.cos(angle), away * np.sin(angle), lamp.uniform(0.5, 2.0)])
        if k == 2 and lamp.random() < 0.5:
            position = towards + lamp.normal(0, 0.1, 3)
        power = key * (1.0, lamp.uniform(0.1, 0.9), lamp.uniform(0.05, 0.5))[k]
        aim = np.array([*lamp.normal(0, 0.1, 2), 0.05]) - position
        out.append(
            Light(
                position,
                aim / np.linalg.norm(aim),
                power * tint,
                ambient * tint * (1.0 if k == 0 else 0.0),
                float(lamp.choice([lamp.uniform(0.1, 0.6), lamp.uniform(0.6, 1.0)])),
                float(0.005 if hard else lamp.choice([0.01, lamp.uniform(0.03, 0.2)])),
            )
        )
    return tuple(out)


def _aim(rng: np.random.Generator, scene: Scene) -> tuple[np.ndarray, np.ndarray, float]:
    """What the camera looks at, the direction from there to it, and half of what it should see, in metres."""
    half, walls = scene.place.main.half, scene.place.main.walls
    if scene.place.kind == "bin":
        extent = max(half[0], walls / 2) * rng.uniform(0.8, 1.5)
        yaw, pitch = rng.normal(0, 0.35), rng.uniform(-0.05, 0.55)
        target = np.array(
            [rng.normal(0, 0.05), rng.uniform(-0.3, 0.3) * half[1], walls * rng.uniform(0.2, 0.6)]
        )
    elif scene.place.kind == "tote":
        extent = float(half.max()) * rng.choice(
            [rng.uniform(0.6, 1.1), rng.uniform(1.1, 1.7)], p=[0.55, 0.45]
        )
        yaw = rng.uniform(0, 2 * np.pi)
        pitch = rng.choice([rng.uniform(0.6, 1.2), rng.uniform(1.2, np.pi / 2)])
        target = np.array([*rng.normal(0, 0.18, 2) * half, walls * rng.uniform(0.0, 0.6)])
    else:
        extent = rng.choice([rng.uniform(0.15, 0.3), rng.uniform(0.3, 0.65)])
        yaw, pitch = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.3)
        near = scene.position(int(rng.choice(scene.labels))) if scene.labels else np.zeros(3)
        target = 0.6 * near * (1, 1, 0) + np.array([*rng.normal(0, 0.06, 2), 0.03])
    way = np.array([np.sin(yaw) * np.cos(pitch), -np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
    return target, way, extent


def draw_view(rng: np.random.Generator, scene: Scene, width: int, height: int) -> View:
    """A camera pose, intrinsics, lights and perhaps a robot part in the picture."""
    target, way, extent = _aim(rng, scene)
    focal = rng.uniform(0.75, 1.5) * width
    distance = extent * focal / (0.5 * width) * rng.uniform(1.0, 1.3)
    if scene.place.kind == "bin":
        distance += 0.3 * scene.place.main.half[1]
    position = target + float(np.clip(distance, 0.3, 1.9)) * way
    roll = rng.normal(0, 0.08)
    if scene.place.kind == "tote" and rng.random() < 0.3:
        roll += rng.choice([0, np.pi / 2, np.pi])
    rotation = camera.look_at(position, target, float(roll))
    intrinsics = CameraIntrinsics(
        width,
        height,
        float(focal),
        float(focal * rng.normal(1.0, 0.005)),
        float((width - 1) / 2 + rng.normal(0, 0.02) * width),
        float((height - 1) / 2 + rng.normal(0, 0.02) * height),
    )
    moved = {}
    if rng.random() < 0.1:  # something of the robot at the picture's edge
        for k, side in enumerate((-1, 1) if rng.random() < 0.5 else rng.choice([-1, 1], 2)):
            ahead = rng.uniform(0.15, 0.3)
            across = side * (0.5 * width / focal) * ahead * rng.uniform(1.0, 1.25)
            down = rng.choice([-1, 1]) * (0.5 * height / focal) * ahead * rng.uniform(0.5, 1.1)
            where = position + rotation @ np.array([across, down, ahead])
            moved[BLOCKERS[k]] = (where, np.array([1.0, 0, 0, 0]))
    if rng.random() < 0.08:
        main = scene.place.main
        point = np.array([*rng.uniform(-1, 1, 2) * main.half, rng.uniform(0.3, 1.0) * main.walls])
        moved |= gripper.hold(point, gripper.approach(scene.place.kind, position), rng.uniform(0.02, 0.08))
    lamps = _lights(rng, scene.split_code, scene.place.kind, position)
    return View(position, rotation, intrinsics, lamps, moved)
