"""Pick sequences: a fixed camera over a place while a robot takes items out, with events and truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from rise_perception.core.errors import ConfigError
from rise_perception.simulation import gripper
from rise_perception.simulation.camera import View
from rise_perception.simulation.dataset import Shot, check_size, expose, good_view
from rise_perception.simulation.render import Renderer
from rise_perception.simulation.scene import SPLITS, Scene, make_scene

BEFORE, CLOSED, LIFTED, AFTER = 0, 1, 2, 3
UNKNOWN, SUCCESS, EMPTY, DOUBLE, DROPPED = 0, 1, 2, 3, 4
"""Phases and outcomes with the numbers of rise_msgs/GraspEvent."""

START = 1_700_000_000 * 10**9
PERIOD = 200_000_000
"""First stamp and time between frames, in nanoseconds."""
FRAMES_PER_PICK = 5
_SCENE_INDEX = 1 << 32  # far beyond the still scenes of the same seed
_LIFT = 0.16  # metres


@dataclass(frozen=True)
class SequenceSettings:
    """What a pick sequence is made with; equal settings give equal frames.

    Attributes:
        picks: attempts; fewer are made when no item is in sight any more.
        seed: another seed, another scene.
        split: train, val or test: whose items, textures and lights.
        kind: tote, bin or table.
        width, height: pixels.
        still: frames before the first grasp, and after the last one, in which nothing moves: whether a scene
            has settled is seen from two frames.
    """

    picks: int = 7
    seed: int = 0
    split: str = "test"
    kind: str = "tote"
    width: int = 320
    height: int = 240
    still: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.picks <= 20:
            raise ConfigError(f"picks is {self.picks}; it must be between 1 and 20")
        if self.seed < 0:
            raise ConfigError(f"seed is {self.seed}; it must be 0 or more")
        if self.split not in SPLITS:
            raise ConfigError(f"split is {self.split!r}; choose one of {', '.join(SPLITS)}")
        if self.kind not in ("tote", "bin", "table"):
            raise ConfigError(f"kind is {self.kind!r}; choose one of tote, bin, table")
        check_size(self.width, self.height)


@dataclass(frozen=True)
class Event:
    """A phase of a grasp as rise_msgs/GraspEvent has it; ``target`` is the item's truth label."""

    grasp: str
    phase: int
    target: int
    outcome: int


@dataclass(frozen=True)
class Moment:
    """One frame of a sequence: its number, stamp (ns), picture with truth, and the event at it if any.

    Numbers count from the first grasp's first frame; what is seen before it has negative ones.
    """

    number: int
    stamp: int
    scene: Scene
    shot: Shot
    event: Event | None


def _visible(scene: Scene, shot: Shot) -> list[int]:
    """Labels of the main region's items in sight, best to grasp first: the highest lie free."""
    region = scene.place.main
    enough = round(120 * shot.labels.size / (320 * 240))
    able = []
    for label in shot.amodal:
        position = scene.position(label)
        inside = (np.abs(position[:2] - region.floor[:2]) < region.half + 0.05).all()
        if inside and int((shot.labels == label).sum()) >= enough:
            able.append((-position[2], label))
    return [label for _, label in sorted(able)]


def _neighbour(scene: Scene, target: int, labels: list[int]) -> int | None:
    """The item that a grasp of ``target`` takes along: the nearest within reach of the hand."""
    here = scene.position(target)
    near = [(float(np.linalg.norm(scene.position(k) - here)), k) for k in labels if k != target]
    distance, label = min(near, default=(np.inf, 0))
    return label if distance < 0.13 else None


class _Film:
    """The camera of a sequence: one view, one sensor; new noise and a new number, from ``first``, a frame."""

    def __init__(self, scene: Scene, renderer: Renderer, view: View, seed: list[int], first: int) -> None:
        self._scene, self._renderer, self._view, self._seed = scene, renderer, view, seed
        self._number = first
        self.approach = gripper.approach(scene.place.kind, view.position)
        renderer.load(scene)

    def take(self, hand: tuple[np.ndarray, float] | None = None, event: Event | None = None) -> Moment:
        """One frame, with the hand at (point, opening) if given."""
        view = self._view
        if hand is not None:
            point, opening = hand
            view = replace(view, moved=gripper.hold(point, self.approach, opening))
        sensor = np.random.default_rng([*self._seed, 2])  # the same draws each frame: the same camera
        grain = np.random.default_rng([*self._seed, 3, self._number % 2**32])
        rendering = self._renderer.render(view, np.random.default_rng([*self._seed, 4]))
        shot = expose(self._scene, rendering, view, sensor, grain)
        moment = Moment(self._number, START + self._number * PERIOD, self._scene, shot, event)
        self._number += 1
        return moment


def pick_sequence(settings: SequenceSettings, renderer: Renderer) -> Iterator[Moment]:
    """Yield the frames of a sequence; the scene changes between them, so use each before the next.

    Per pick: BEFORE without the hand; the hand on its way; CLOSED; LIFTED; AFTER without the hand.
    About two of three grasps succeed; the others hold nothing, take two items, or drop one again.
    Labels are the items' own and stay the same through the sequence.
    """
    seed = [settings.seed, SPLITS.index(settings.split), _SCENE_INDEX]
    rng = np.random.default_rng([*seed, 1])
    count = settings.picks + int(rng.integers(4, 8))
    scene = make_scene(
        settings.seed, settings.split, _SCENE_INDEX, settings.width, settings.height, settings.kind, count
    )
    renderer.load(scene)
    view = replace(good_view(rng, scene, renderer, len(scene.labels)), moved={})
    film = _Film(scene, renderer, view, seed, -settings.still)
    yield from (film.take() for _ in range(settings.still))
    for number in range(settings.picks):
        grasp = f"grasp-{number:03d}"
        # Who is in sight is seen in a frame like BEFORE, whose event has to name the target.
        able = _visible(scene, expose(scene, renderer.render(view, rng), view, rng, rng))
        if not able:
            break
        target = able[int(rng.integers(min(4, len(able))))]
        outcome = int(rng.choice([SUCCESS, EMPTY, DOUBLE, DROPPED], p=[0.64, 0.14, 0.12, 0.1]))
        second = _neighbour(scene, target, able) if outcome == DOUBLE else None
        if outcome == DOUBLE and second is None:
            outcome = SUCCESS
        yield from _grasp(film, scene, rng, grasp, target, second, outcome)
    yield from (film.take() for _ in range(settings.still))


def _grasp(
    film: _Film,
    scene: Scene,
    rng: np.random.Generator,
    grasp: str,
    target: int,
    second: int | None,
    outcome: int,
) -> Iterator[Moment]:
    """The five frames of one attempt, with what it does to the scene."""
    way = film.approach
    point = scene.top(target)
    width = float(np.clip(2 * np.sort(scene.item(target).half)[0], 0.012, 0.085))
    yield film.take(None, Event(grasp, BEFORE, target, UNKNOWN))
    yield film.take((point + rng.uniform(0.08, 0.16) * way, 0.09))
    yield film.take((point, width), Event(grasp, CLOSED, target, UNKNOWN))
    held = [] if outcome == EMPTY else [target] if second is None else [target, second]
    lift = _LIFT * way + np.array([0.0, 0.0, 0.02])
    for label in held:
        scene.move(label, lift)
    closed = width if held else 0.0
    known = UNKNOWN if outcome == DROPPED else outcome  # it is dropped after this frame
    yield film.take((point + lift, closed), Event(grasp, LIFTED, target, known))
    if outcome == DROPPED:
        scene.move(target, -0.6 * lift)
    elif outcome == EMPTY:
        scene.push(target, rng.normal(0, 0.12, 3) * (1, 1, 0))
    else:
        for label in held:
            scene.remove(label)
    scene.settle(0.6)
    yield film.take(None, Event(grasp, AFTER, target, outcome))
