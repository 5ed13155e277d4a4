"""A robot's hand that moves through the pictures of a pick sequence: parallel jaws or a suction cup.

It is moved, not simulated: physics never sees it. Its own z axis points from the grasp to the robot.
"""

from __future__ import annotations

import numpy as np

from rise_perception.simulation import textures
from rise_perception.simulation.assets import Builder, rotation_between_z_and

_PARTS = ("gripper_palm", "gripper_left", "gripper_right")


def add_gripper(builder: Builder, rng: np.random.Generator) -> None:
    """Add the three bodies of a hand, away from the scene."""
    bodies = []
    for name in _PARTS:
        body = builder.spec.worldbody.add_body()
        body.name, body.mocap, body.pos = name, True, [0, 0, -50]
        bodies.append(body)
    palm, *fingers = bodies
    dark = builder.material(rgb=textures.colour(rng, "dark"), gloss=0.4)
    accent = builder.material(rgb=textures.colour(rng), gloss=0.5)
    steel = builder.material(rgb=rng.uniform(120, 220) * np.ones(3), gloss=0.7)
    wrist = rng.uniform(0.02, 0.035)
    builder.solid(palm, "cylinder", (wrist, 0.25), (0, 0, 0.36), material=dark, ghost=True)
    if rng.random() < 0.6:
        builder.solid(palm, "box", (0.055, 0.025, 0.025), (0, 0, 0.1), material=accent, ghost=True)
        for finger in fingers:
            builder.solid(finger, "box", (0.006, 0.011, 0.045), (0, 0, 0.035), material=steel, ghost=True)
    else:
        builder.solid(palm, "cylinder", (0.009, 0.06), (0, 0, 0.07), material=steel, ghost=True)
        builder.solid(palm, "ellipsoid", (0.017, 0.017, 0.014), (0, 0, 0.012), material=accent, ghost=True)


def approach(kind: str, camera: np.ndarray) -> np.ndarray:
    """(3,) direction from the grasp to the robot: up, or out of a bin, and away from the ``camera`` (3,)."""
    if kind == "bin":
        way = np.array([-0.65 if camera[0] > 0 else 0.65, -0.75, 0.1])
    else:
        way = np.array([0.0, 0.0, 1.0])
        way[:2] = -0.55 * camera[:2] / max(float(np.linalg.norm(camera[:2])), 1e-6)
    return way / np.linalg.norm(way)


def hold(point: np.ndarray, towards: np.ndarray, opening: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Poses (position, quaternion) of the hand's bodies.

    Args:
        point: (3,) where it grasps.
        towards: (3,) direction from there to the robot.
        opening: metres between the fingers.
    """
    quat = rotation_between_z_and(towards)
    w, x, y, z = quat
    across = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)])
    palm, left, right = _PARTS
    return {
        palm: (point, quat),
        left: (point - (opening / 2 + 0.006) * across, quat),
        right: (point + (opening / 2 + 0.006) * across, quat),
    }
