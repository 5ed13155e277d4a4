"""A settled scene: a place, items that physics has brought to rest, lights, and who owns which geom."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rise_perception.simulation import goods, prints, rooms, textures
from rise_perception.simulation.assets import Builder
from rise_perception.simulation.engine import mujoco
from rise_perception.simulation.gripper import add_gripper
from rise_perception.simulation.items import Item, add_item, draw_recipe
from rise_perception.simulation.places import CONTAINER, Place, Region, add_place

SPLITS = ("train", "val", "test")
AWAY = np.array([0.0, 0.0, -60.0])
"""Where bodies go that have left: behind every far clipping plane."""
TIMESTEP = 0.004
LIGHTS = 3
WORLDS = (1, 2)
"""Versions of the tote world: 1 stays as it is for comparable figures, 2 is nearer to real pictures."""
BLOCKERS = ("blocker_left", "blocker_right")
"""Bodies of something of the robot that may hang into a view."""


@dataclass
class Scene:
    """A compiled model with its state.

    Attributes:
        model, data: MuJoCo's.
        place: the surroundings.
        items: those still in the scene, in the order of their bodies; an item's label is its index in
            ``all_items`` + 1.
        geom_label: (ngeom,) int32, label of each geom: 0 surroundings, -1 container, >= 1 item.
        world: version of the tote world that it was made in, one of :data:`WORLDS`.
    """

    model: Any
    data: Any
    place: Place
    all_items: tuple[Item, ...]
    geom_label: np.ndarray
    split_code: int
    present: set[int] = field(default_factory=set)
    world: int = 1

    @property
    def labels(self) -> list[int]:
        """Labels of the items that are present, rising."""
        return sorted(self.present)

    def item(self, label: int) -> Item:
        """The item of a label, present or not."""
        return self.all_items[label - 1]

    def position(self, label: int) -> np.ndarray:
        """(3,) where the item's middle is."""
        return np.array(self.data.body(self.item(label).body).xpos)

    def top(self, label: int) -> np.ndarray:
        """(3,) the point a little below the item's top, above its middle."""
        body = self.data.body(self.item(label).body)
        reach = float(np.abs(body.xmat.reshape(3, 3)[2]) @ self.item(label).half)
        return np.array(body.xpos) + np.array([0.0, 0.0, max(reach - 0.015, 0.4 * reach)])

    def remove(self, label: int) -> None:
        """Take the item out of the world."""
        joint = self.data.joint(self.item(label).body)
        joint.qpos[:3] = AWAY - (0, 0, 2.0 * label)
        joint.qpos[3:] = (1, 0, 0, 0)
        joint.qvel[:] = 0
        self.present.discard(label)

    def move(self, label: int, by: np.ndarray) -> None:
        """Shift the item ``by`` (3,) metres and stop it, as a hand does that holds it."""
        joint = self.data.joint(self.item(label).body)
        joint.qpos[:3] += by
        joint.qvel[:] = 0

    def push(self, label: int, velocity: np.ndarray) -> None:
        """Give the item a ``velocity`` (3,) in m/s."""
        self.data.joint(self.item(label).body).qvel[:3] += velocity

    def settle(self, seconds: float) -> None:
        """Let physics run, then take away what fell down, flew off or still moves fast."""
        mj = mujoco()
        for _ in range(round(seconds / TIMESTEP)):
            mj.mj_step(self.model, self.data)
        for label in self.labels:
            velocity = self.data.joint(self.item(label).body).qvel
            if (
                not self._at_home(self.position(label))
                or np.linalg.norm(velocity[:3]) > 0.25
                or np.linalg.norm(velocity[3:]) > 8
            ):
                self.remove(label)
        self._hold_removed()
        mj.mj_forward(self.model, self.data)

    def _hold_removed(self) -> None:
        for label in range(1, len(self.all_items) + 1):
            if label not in self.present:
                self.remove(label)

    def _at_home(self, position: np.ndarray) -> bool:
        for region in (self.place.main, *self.place.others):
            inside = np.abs(position[:2] - region.floor[:2]) < region.half + 0.06
            if inside.all() and -0.02 < position[2] - region.floor[2] < region.walls + 0.25:
                return True
        return self.place.kind == "table" and -0.02 < position[2] < 0.4


def _axes(quat: np.ndarray) -> np.ndarray:
    matrix = np.empty(9)
    mujoco().mju_quat2Mat(matrix, quat)
    return matrix.reshape(3, 3)


def _pose(rng: np.random.Generator, item: Item, upright: float) -> np.ndarray:
    """Quaternion: standing as it would on a shelf, lying flat, or anyhow."""
    turn = rng.uniform(0, 2 * np.pi)
    spin = np.array([np.cos(turn / 2), 0, 0, np.sin(turn / 2)])
    lies = np.array([1.0, 0, 0, 0])
    if item.kind in ("pen", "tool", "scissors") or (
        rng.random() > upright and item.kind not in ("book", "blister", "bag", "cloth", "bowl")
    ):
        lies = np.array([0.7071, 0.7071, 0, 0]) if rng.random() < 0.5 else np.array([0.7071, 0, 0.7071, 0])
    elif item.kind in ("book", "blister", "bag") and rng.random() < 0.3 * upright:
        lies = np.array([0.7071, 0.7071, 0, 0])
    out = np.empty(4)
    mujoco().mju_mulQuat(out, spin, lies)
    tilt = np.array([1.0, *rng.normal(0, 0.04 + 0.25 * (1 - upright), 3)])
    result = np.empty(4)
    mujoco().mju_mulQuat(result, tilt / np.linalg.norm(tilt), out)
    return result


def drop(
    rng: np.random.Generator, scene: Scene, labels: list[int], region: Region, upright: float, spread: bool
) -> None:
    """Place items without overlap above the region; ``spread`` looks for free floor before stacking."""
    placed: list[tuple[np.ndarray, np.ndarray, float]] = []
    for label in labels:
        item = scene.item(label)
        quat = _pose(rng, item, upright)
        extent = np.abs(_axes(quat)) @ item.half + 0.003
        if scene.place.kind == "bin" and 2 * extent[2] > 0.9 * region.walls:
            quat = _pose(rng, item, 0.0)
            extent = np.abs(_axes(quat)) @ item.half + 0.003
        room = np.maximum(region.half - extent[:2], 0.0)
        best: tuple[float, np.ndarray] | None = None
        for _ in range(12 if spread else 3):
            at = region.floor[:2] + rng.uniform(-1, 1, 2) * room
            tops = [top for middle, half, top in placed if (np.abs(middle - at) < half + extent[:2]).all()]
            base = max(tops, default=float(region.floor[2]))
            if best is None or base < best[0]:
                best = (base, at)
        base, at = best if best is not None else (0.0, region.floor[:2])
        if scene.place.kind == "bin" and base + 2 * extent[2] > region.floor[2] + region.walls:
            scene.remove(label)
            continue
        joint = scene.data.joint(item.body)
        joint.qpos[:3] = (*at, base + extent[2] + 0.002)
        joint.qpos[3:] = quat
        placed.append((at, extent[:2], base + 2 * extent[2]))


def _tame(spec: Any) -> None:
    """Options that settle a heap fast, and small buffers."""
    mj = mujoco()
    spec.option.timestep = TIMESTEP
    spec.option.integrator = mj.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mj.mjtCone.mjCONE_PYRAMIDAL
    spec.option.iterations, spec.option.ls_iterations = 12, 8
    spec.compiler.boundmass, spec.compiler.boundinertia = 0.01, 1e-5
    spec.stat.extent = 1.0
    spec.stat.center = [0, 0, 0]
    spec.visual.map.znear, spec.visual.map.zfar = 0.02, 12.0
    spec.visual.map.shadowclip, spec.visual.map.shadowscale = 0.9, 0.33
    spec.visual.quality.shadowsize = 768
    spec.visual.quality.offsamples = 0
    # Ambient light comes from the headlight alone (render.py): MuJoCo drops a lamp's own in its shadow.
    spec.visual.headlight.active = 1
    spec.visual.headlight.diffuse = spec.visual.headlight.specular = [0, 0, 0]


def make_scene(
    seed: int,
    split: str,
    index: int,
    width: int,
    height: int,
    kind: str | None = None,
    count: int | None = None,
    world: int = 1,
) -> Scene:
    """Build and settle scene ``index`` of ``split``; equal arguments give an equal scene.

    Args:
        width, height: pixels that will be rendered.
        kind: "tote", "bin" or "table"; drawn if None.
        count: how many items are dropped into the main region; drawn (3 to 25) if None.
        world: version, one of :data:`WORLDS`.
    """
    code = SPLITS.index(split)
    rng = np.random.default_rng([seed, code, index] if world == 1 else [seed, code, index, 7, world])
    builder = Builder()
    place = add_place(builder, rng, kind) if world == 1 else rooms.add_place(builder, rng, kind)
    most = {"tote": 22, "bin": 9, "table": 14}[place.kind]
    number = count or (int(rng.integers(3, most + 1)) if world == 1 else _crowd(rng, most))
    amounts = [number, *(int(rng.integers(2, 7)) for _ in place.others)]
    # Now and then the goods have the colour of what they lie on or of each other: red on red.
    alike = textures.colour(rng) if rng.random() < 0.15 else None
    items: list[Item] = []
    for k in range(sum(amounts)):
        ground = None
        if rng.random() < 0.1:
            ground = place.ground
        elif alike is not None and rng.random() < 0.6:
            ground = alike
        if ground is not None:
            ground = np.clip(ground * rng.uniform(0.75, 1.2), 0, 255)
        recipe, name = draw_recipe(rng, code), f"item{k + 1}"
        if world == 1:
            items.append(add_item(builder, recipe, name, ground))
        else:
            items.append(add_item(builder, recipe, name, ground, goods.KINDS, prints))
    scene = assemble(builder, rng, place, items, code, width, height)
    scene.world = world
    upright = {"tote": 0.3, "bin": 0.9, "table": 0.85}[place.kind]
    first = 1
    for region, amount in zip((place.main, *place.others), amounts, strict=True):
        spread = place.kind != "tote" and rng.random() < 0.8
        drop(rng, scene, list(range(first, first + amount)), region, upright, spread)
        first += amount
    scene.settle(1.2 if place.kind == "tote" else 0.7)
    return scene


def _crowd(rng: np.random.Generator, most: int) -> int:
    """How many items of world 2: nearly none, some, or so many that they touch."""
    kind = rng.random()
    if kind < 0.3:
        return int(rng.integers(0, 6))
    return (
        int(rng.integers(round(0.5 * most), round(1.15 * most) + 1))
        if kind < 0.7
        else int(rng.integers(3, most))
    )


def assemble(
    builder: Builder,
    rng: np.random.Generator,
    place: Place,
    items: list[Item],
    code: int,
    width: int,
    height: int,
) -> Scene:
    """Compile a place and its items with lamps, a hand and what may hang into the view; nothing lies yet."""
    blocker = builder.material(
        np.stack([textures.surface(rng, 64, None, textures.colour(rng, "dark"))] * 6), gloss=0.2
    )
    for name in BLOCKERS:
        body = builder.spec.worldbody.add_body()
        body.name, body.mocap, body.pos = name, True, list(AWAY)
        builder.solid(
            body, "box", tuple(rng.uniform(0.01, 0.04, 3) * (1, 1, 2)), material=blocker, ghost=True
        )
    add_gripper(builder, rng)
    for k in range(LIGHTS):
        light = builder.spec.worldbody.add_light()
        light.name, light.pos, light.dir = f"light{k}", [0, 0, 2], [0, 0, -1]
        light.type = builder.mj.mjtLightType.mjLIGHT_SPOT
        light.castshadow, light.cutoff, light.exponent = k == 0, 80, 0
    # The room and flat things: their shadows cost much and show little.
    for geom in builder.spec.worldbody.geoms:
        geom.castshadow = False
    _tame(builder.spec)
    builder.spec.visual.global_.offwidth, builder.spec.visual.global_.offheight = width, height
    model = builder.spec.compile()
    owner = np.zeros(model.nbody, np.int32)
    for k, item in enumerate(items):
        owner[model.body(item.body).id] = k + 1
    if place.kind != "table":
        owner[model.body(CONTAINER).id] = -1
    data = builder.mj.MjData(model)
    return Scene(
        model, data, place, tuple(items), owner[model.geom_bodyid], code, set(range(1, len(items) + 1))
    )
