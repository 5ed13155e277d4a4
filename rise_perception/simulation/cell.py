"""A picking cell that no training set shows: its own parts, hard light, one camera, tote after tote.

The objects of a cell are a catalogue that comes again and again, as in a real one: what is learned from one
tote can be measured on others. A suction cup takes what the robot aims at; the physics is the tote world's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rise_perception.core.errors import ConfigError
from rise_perception.core.frame import CameraIntrinsics
from rise_perception.simulation import gripper, parts
from rise_perception.simulation.assets import Builder
from rise_perception.simulation.camera import Light, View, look_at
from rise_perception.simulation.dataset import Shot, check_size, expose
from rise_perception.simulation.items import RECIPES_PER_SPLIT, add_item
from rise_perception.simulation.places import add_place
from rise_perception.simulation.render import Renderer
from rise_perception.simulation.scene import AWAY, LIGHTS, SPLITS, Scene, assemble, drop
from rise_perception.simulation.sequence import DOUBLE, EMPTY, SUCCESS

CODE = len(SPLITS)
"""Where the splits' recipes and seeds end, the cells' begin."""
CUP = 0.008
"""Radius of the suction cup in metres."""
RISES = 0.012
"""Metres by which something has to stand nearer than the empty tote to be seen as something."""
SEALS, TOUCHES = 0.85, 0.3
"""Fraction of the cup that has to lie on one item to hold it, and on each of two to take both."""


@dataclass(frozen=True)
class CellSettings:
    """What a cell is made with; equal settings give equal totes and frames.

    Attributes:
        seed: another seed, another cell.
        catalogue: different objects that it handles.
        items: in a full tote.
        width, height: pixels.
    """

    seed: int = 0
    catalogue: int = 12
    items: int = 12
    width: int = 320
    height: int = 240

    def __post_init__(self) -> None:
        for name, least, most in (("seed", 0, 2**31), ("catalogue", 1, 200), ("items", 1, 25)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be between {least} and {most}")
        check_size(self.width, self.height)


class Cell:
    """The camera of a cell over one tote after another.

    Args:
        settings: which cell.
        renderer: of its size.
    """

    def __init__(self, settings: CellSettings, renderer: Renderer) -> None:
        self.settings, self._renderer = settings, renderer
        rng = np.random.default_rng([settings.seed, CODE, 0])
        self._recipes = [
            CODE * RECIPES_PER_SPLIT + int(rng.integers(RECIPES_PER_SPLIT)) for _ in range(settings.catalogue)
        ]
        self._frames = 0
        self.tote = -1
        self.next_tote(0)
        self._view = self._camera(rng)
        self._empty = self._scan_empty()
        self.approach = gripper.approach("tote", self._view.position)

    def next_tote(self, number: int) -> None:
        """Bring full tote ``number``."""
        settings = self.settings
        builder = Builder()
        looks = np.random.default_rng([settings.seed, CODE, 1])  # the same place and hand for every tote
        place = add_place(builder, looks, "tote")
        rng = np.random.default_rng([settings.seed, CODE, 2, number])
        items = [
            add_item(builder, int(rng.choice(self._recipes)), f"item{k + 1}", kinds=parts.KINDS)
            for k in range(settings.items)
        ]
        self.scene: Scene = assemble(builder, looks, place, items, CODE, settings.width, settings.height)
        drop(rng, self.scene, list(range(1, settings.items + 1)), place.main, 0.3, False)
        self.scene.settle(1.2)
        self._renderer.load(self.scene)
        self.tote = number

    def _scan_empty(self) -> np.ndarray:
        """(H, W) float32 metres: the tote without items, as whoever sets up a cell measures it once."""
        data = self.scene.data
        lying = data.qpos.copy()
        for item in self.scene.all_items:
            data.joint(item.body).qpos[:3] = AWAY
        _, depth = self._renderer.labels(self._view)
        data.qpos[:] = lying
        return depth

    def rises(self, depth: np.ndarray) -> np.ndarray:
        """(H, W) bool: where a measured depth (H, W) uint16 millimetres is nearer than the empty tote."""
        return (depth > 0) & (depth / 1000.0 < self._empty - RISES)

    def _camera(self, rng: np.random.Generator) -> View:
        """Above the tote, a little to its side, under one low, strong and coloured lamp and little else."""
        settings, half = self.settings, self.scene.place.main.half
        focal = 1.1 * settings.width
        # The tote's longer side, its second one, lies along the picture's rows when the camera leans along x.
        distance = float(max(half[1] / (0.5 * settings.width), half[0] / (0.5 * settings.height))) * focal
        distance = 1.05 * distance + 0.5 * self.scene.place.main.walls
        lean = rng.uniform(0.1, 0.3)
        position = distance * np.array([np.sin(lean), 0.0, np.cos(lean)])
        camera = CameraIntrinsics(
            settings.width,
            settings.height,
            focal,
            focal,
            (settings.width - 1) / 2,
            (settings.height - 1) / 2,
        )
        lamps = self._lamps(rng)
        rotation = look_at(position, np.array([0.0, 0.0, 0.02]), 0.0)
        return View(position, rotation, camera, lamps, {})

    @staticmethod
    def _lamps(rng: np.random.Generator) -> tuple[Light, ...]:
        """One low, strong and coloured lamp."""
        angle = rng.uniform(0, 2 * np.pi)
        tint = np.array([1.35, 0.95, 0.5]) if rng.random() < 0.5 else np.array([0.6, 0.95, 1.4])
        at = np.array([1.1 * np.cos(angle), 1.1 * np.sin(angle), rng.uniform(0.7, 0.9)])
        aim = np.array([0.0, 0.0, 0.05]) - at
        dark = np.zeros(3)
        key = Light(at, aim / np.linalg.norm(aim), 1.0 * tint, 0.16 * tint, 0.7, 0.005)
        off = Light(np.array([0.0, 0.0, 2.0]), np.array([0.0, 0.0, -1.0]), dark, dark, 0.0, 0.01)
        return (key, *[off] * (LIGHTS - 1))

    @property
    def camera(self) -> CameraIntrinsics:
        """Of every frame."""
        return self._view.camera

    def look(self, hand: np.ndarray | None = None, amodal: bool = True) -> Shot:
        """One frame, with the hand at ``hand`` (3,) metres in the world if given.

        Without ``amodal`` it comes twice as fast, and nearly hidden items keep their labels.
        """
        view, seed = self._view, self.settings.seed
        if hand is not None:
            view = View(
                view.position,
                view.rotation,
                view.camera,
                view.lights,
                gripper.hold(hand, self.approach, 0.02),
            )
        sensor = np.random.default_rng([seed, CODE, 3])  # the same draws each frame: the same camera
        grain = np.random.default_rng([seed, CODE, 4, self._frames])
        self._frames += 1
        rendering = self._renderer.render(view, np.random.default_rng([seed, CODE, 5]), amodal)
        return expose(self.scene, rendering, view, sensor, grain)

    def under_cup(self, x: float, y: float) -> tuple[int, tuple[int, ...]]:
        """What a cup lowered onto pixel (x, y) does: the outcome (as GraspEvent) and the labels it holds."""
        labels, depth = self._renderer.labels(self._view)
        row, column = round(y), round(x)
        radius = CUP * self.camera.fx / float(depth[row, column])
        rows, columns = np.mgrid[: labels.shape[0], : labels.shape[1]]
        under = labels[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2]
        counts = np.bincount(under[under > 0], minlength=1) / max(1, len(under))
        best = [int(k) for k in np.argsort(-counts)[:2] if counts[k] >= TOUCHES]
        if best and counts[best[0]] >= SEALS:
            return SUCCESS, (best[0],)
        return (DOUBLE, tuple(best)) if len(best) == 2 else (EMPTY, ())

    def point(self, x: float, y: float) -> np.ndarray:
        """(3,) metres in the world of what pixel (x, y) shows."""
        _, depth = self._renderer.labels(self._view)
        z = float(depth[round(y), round(x)])
        c = self.camera
        return self._view.position + self._view.rotation @ np.array(
            [(x - c.cx) / c.fx * z, (y - c.cy) / c.fy * z, z]
        )

    def take(self, labels: tuple[int, ...]) -> None:
        """Lift items out; the others settle."""
        for label in labels:
            self.scene.remove(label)
        self.scene.settle(0.6)
