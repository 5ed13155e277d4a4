"""Grasps one after the other with all that goes wrong around them, each state seen once by a still camera.

Cheaper than a pick sequence (:mod:`rise_perception.simulation.sequence`): no hand on its way, no whole
silhouettes. Every pair of states is a grasp with known truth: what left, and what moved.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from rise_perception.core.errors import DataError
from rise_perception.core.files import atomic_write
from rise_perception.simulation import gripper
from rise_perception.simulation.camera import View
from rise_perception.simulation.dataset import expose, good_view
from rise_perception.simulation.render import Renderer
from rise_perception.simulation.scene import SPLITS, WORLDS, Scene, make_scene

#: What happens between two states, and how often.
ACTIONS = {"take": 0.44, "take two": 0.16, "nudge": 0.16, "push": 0.08, "place back": 0.11, "nothing": 0.05}
#: Chance that a hand has stayed in view.
HAND = 0.08
#: Chance that a scene is a tote, a bin or a table.
KINDS = {"tote": 0.5, "table": 0.3, "bin": 0.2}
#: Pixels of 320x240 that an item shows at least when it is grasped at.
IN_SIGHT = 120
#: Metres, and radians times half the item's size, from which an item has moved; below the first it has not.
STAYED, MOVED = 0.001, 0.003
_REACH = 0.13  # metres between neighbours
_INDEX = 1 << 33  # far beyond stills and pick sequences of the same seed


@dataclass(frozen=True)
class GraspFilm:
    """S states of one scene, seen by one camera.

    Attributes:
        images: (S, H, W, 3) uint8 RGB.
        depths: (S, H, W) uint16 millimetres, 0 = none.
        labels: (S, H, W) uint16, the item that a pixel shows; an item keeps its label.
        poses: (S, N, 7) float32, metres and unit quaternion of the item with label n + 1.
        present: (S, N) bool, whether it is in the scene.
        sizes: (N,) float32 metres, half of each item's longest side.
        actions: (S,) what led to each state, a key of :data:`ACTIONS`; that of the first is "nothing".
        targets: (S,) int64, label that was grasped at; 0 for none.
    """

    images: np.ndarray
    depths: np.ndarray
    labels: np.ndarray
    poses: np.ndarray
    present: np.ndarray
    sizes: np.ndarray
    actions: np.ndarray
    targets: np.ndarray

    def left(self, before: int, after: int) -> np.ndarray:
        """Labels of the items in state ``before`` that are gone in state ``after``."""
        return 1 + np.flatnonzero(self.present[before] & ~self.present[after])

    def moved(self, before: int, after: int, least: float = MOVED) -> np.ndarray:
        """Labels of the items that lie elsewhere, by ``least`` metres at one of their ends."""
        first, second = self.poses[before], self.poses[after]
        way = np.linalg.norm(first[:, :3] - second[:, :3], axis=1)
        alike = np.abs((first[:, 3:] * second[:, 3:]).sum(1)).clip(0, 1)
        way += 2 * np.arccos(alike) * self.sizes
        return 1 + np.flatnonzero(self.present[before] & self.present[after] & (way > least))


_FIELDS = tuple(f.name for f in fields(GraspFilm))


def film_grasps(
    seed: int,
    split: str,
    index: int,
    renderer: Renderer,
    world: int = 1,
    steps: int = 6,
    actions: dict[str, float] | None = None,
    hand: float = HAND,
) -> GraspFilm:
    """Film number ``index``; equal arguments give equal bytes.

    Args:
        seed: another seed, other scenes.
        split: train, val or test: whose items, textures and lights.
        index: of the film.
        renderer: of the pictures' size.
        world: version of the tote world.
        steps: actions at most; fewer where no item is in sight any more.
        actions: chances of what happens, as :data:`ACTIONS`.
        hand: chance of each state but the first that a hand is in view.
    """
    code = SPLITS.index(split)
    rng = np.random.default_rng([seed, code, index, 11, world])
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    most = {"tote": 16, "bin": 9, "table": 12}[kind]
    count = int(rng.integers(4, most + 1))
    scene = make_scene(seed, split, _INDEX + index, renderer.width, renderer.height, kind, count, world)
    renderer.load(scene)
    view = replace(good_view(rng, scene, renderer), moved={})
    chances = actions or ACTIONS
    draws = [int(k) for k in rng.integers(2**31, size=2)]
    shots = [_look(scene, renderer, view, draws, 0)]
    states, done, targets = [_state(scene)], ["nothing"], [0]
    for step in range(1, steps + 1):
        able = _in_sight(scene, shots[-1][2])
        if not able:
            break
        action = str(rng.choice(list(chances), p=list(chances.values())))
        target = able[int(rng.integers(min(5, len(able))))]
        held = _act(rng, scene, action, target, able)
        seen = view
        if rng.random() < hand:
            way = gripper.approach(scene.place.kind, view.position)
            point = held + rng.uniform(0.0, 0.12) * way + rng.normal(0, 0.05, 3)
            seen = replace(view, moved=gripper.hold(point, way, 0.05))
        shots.append(_look(scene, renderer, seen, draws, step))
        states.append(_state(scene))
        done.append(action)
        targets.append(target)
    images, depths, labels = (np.stack(part) for part in zip(*shots, strict=True))
    poses, present = (np.stack(part) for part in zip(*states, strict=True))
    sizes = np.array([item.half.max() for item in scene.all_items], np.float32)
    return GraspFilm(images, depths, labels, poses, present, sizes, np.array(done), np.array(targets))


def _act(rng: np.random.Generator, scene: Scene, action: str, target: int, able: list[int]) -> np.ndarray:
    """Do it, and let the scene settle, where it has to; returns (3,) metres, where the hand was."""
    here = scene.position(target)
    near = sorted((float(np.linalg.norm(scene.position(k) - here)), k) for k in able if k != target)
    neighbours = [label for distance, label in near if distance < _REACH]
    if action == "take two" and neighbours:
        scene.remove(neighbours[0])
    if action == "nudge":
        for label in neighbours[: 1 + int(rng.integers(2))]:
            scene.push(label, rng.normal(0, 0.3, 3) * (1, 1, 0.3))
    if action in ("take", "take two", "nudge"):
        scene.remove(target)
    elif action == "push":
        scene.push(target, rng.normal(0, 0.35, 3) * (1, 1, 0.3))
    elif action == "place back":
        region = scene.place.main
        there = region.floor[:2] + rng.uniform(-0.7, 0.7, 2) * region.half
        by = np.array([*(0.5 * (there - here[:2]) if rng.random() < 0.5 else there - here[:2]), 0.06])
        scene.move(target, by)
    still = action == "nothing" or (action in ("take", "take two") and rng.random() < 0.3)
    scene.settle(0.0 if still else 0.5)
    return here


def _look(
    scene: Scene, renderer: Renderer, view: View, draws: list[int], number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, depth and labels of the scene as it is."""
    sensor = np.random.default_rng(draws[0])  # the same draws each time: the same camera
    grain = np.random.default_rng([draws[0], number])
    rendering = renderer.render(view, np.random.default_rng(draws[1]), amodal=False)
    shot = expose(scene, rendering, view, sensor, grain)
    return shot.image, shot.depth, shot.labels


def _state(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    poses = [scene.data.joint(item.body).qpos for item in scene.all_items]
    present = np.zeros(len(poses), bool)
    present[[label - 1 for label in scene.labels]] = True
    return np.array(poses, np.float32), present


def _in_sight(scene: Scene, labels: np.ndarray) -> list[int]:
    """Labels of the items that can be grasped, the highest first."""
    enough = IN_SIGHT * labels.size / (320 * 240)
    counts = np.bincount(labels.ravel(), minlength=len(scene.all_items) + 1)
    able = [k for k in scene.labels if counts[k] >= enough]
    return sorted(able, key=lambda k: -float(scene.position(k)[2]))


def write_films(
    folder: Path, seed: int, split: str, count: int, actions: dict[str, float] | None = None
) -> list[GraspFilm]:
    """The first ``count`` films of a split, those that are missing in ``folder`` rendered and kept there.

    The worlds take turns. Rerun to resume; a folder holds films of one choice of ``actions``.

    Raises:
        DataError: a file in ``folder`` is damaged.
        MissingDependencyError: films are missing, and there is no MuJoCo, or no off-screen OpenGL.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{split}_{seed}_{index:05d}.npz" for index in range(count)]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    if missing:
        with Renderer(320, 240) as renderer:
            for index in tqdm(missing, desc=f"films, {split}", unit="film"):
                film = film_grasps(seed, split, index, renderer, WORLDS[index % len(WORLDS)], actions=actions)
                with atomic_write(paths[index]) as temporary, temporary.open("wb") as stream:
                    np.savez(stream, **{name: getattr(film, name) for name in _FIELDS})
    return [read_film(path) for path in paths]


def read_film(path: Path) -> GraspFilm:
    """A film of :func:`write_films`; DataError where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return GraspFilm(**{name: arrays[name] for name in _FIELDS})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} is no film of grasps ({error}); remove it, and it is rendered again"
        ) from error
