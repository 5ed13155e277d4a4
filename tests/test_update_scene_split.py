"""Totes teach or judge as a whole, for as long as the store knows them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import picking
import pytest
from grasping import picture

from rise_perception.grasp_learning.capture.episode import Episode, Grasp, Observation, Outcome
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.update.scene_split import SCENES, SceneSplit


def tote(first: int) -> list[Episode]:
    """Three grasps of one scene, ten seconds apart."""
    frames = [picture(*range(1, 4)), picture(2, 3, seed=1), picture(3, seed=2), picture(seed=3)]
    if first % 2:  # another tote: the same items on the other side
        frames = [
            replace(f, image=np.ascontiguousarray(f.image[::-1]), depth=np.ascontiguousarray(f.depth[::-1]))
            for f in frames
        ]
    episodes = []
    for number in range(3):
        stamp = (1 + 3 * first + number) * 10**10
        before, after = replace(frames[number], stamp=stamp), replace(frames[number + 1], stamp=stamp + 10**9)
        grasp = Grasp(f"{first}-{number}", -1, Outcome.SUCCESS, after.stamp)
        episodes.append(Episode(Observation(before), Observation(after), grasp))
    return episodes


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    store = EpisodeStore(tmp_path / "episodes", write=True, min_free_bytes=0)
    for first in range(4):
        for episode in tote(first):
            store.add(episode, label_episode(episode))
    return store


def split(folder: Path, store: EpisodeStore) -> SceneSplit:
    made = SceneSplit(folder, 0.5, max_looks=2)
    made.refresh(store, store.entries())
    return made


def test_grasps_of_a_tote_are_one_scene_and_every_second_scene_judges(
    store: EpisodeStore, tmp_path: Path
) -> None:
    scenes = split(tmp_path, store)
    names = [scenes.scene(entry) for entry in store.entries()]
    assert [names.index(name) // 3 for name in names] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert [scenes.holds_out(entry) for entry in store.entries()] == ([True] * 3 + [False] * 3) * 2


def test_a_side_outlasts_the_process_and_the_episodes_that_opened_the_scene(
    store: EpisodeStore, tmp_path: Path
) -> None:
    sides = {e.id: split(tmp_path, store).holds_out(e) for e in store.entries()}
    for entry in store.entries()[::3]:
        store.remove(entry)
    again = split(tmp_path, store)
    assert all(again.holds_out(entry) == sides[entry.id] for entry in store.entries())
    (tmp_path / SCENES).write_text('{"scenes": 3')
    assert len({split(tmp_path, store).scene(entry) for entry in store.entries()}) == 4


def test_a_scene_retires_after_its_looks_and_never_judges_again(store: EpisodeStore, tmp_path: Path) -> None:
    scenes = split(tmp_path, store)
    first = scenes.scene(store.entries()[0])
    scenes.looked([first])
    assert scenes.holds_out(store.entries()[0])
    scenes.looked([first])
    assert not scenes.holds_out(store.entries()[0])
    assert json.loads((tmp_path / SCENES).read_text())["scenes"][first] == {
        "heldout": False,
        "looks": 2,
        "retired": True,
    }
    assert not split(tmp_path, store).holds_out(store.entries()[0])


def test_stamps_of_real_time_are_read(tmp_path: Path) -> None:
    """Nanoseconds since 1970 have nineteen digits."""
    grasp = picking.make_grasp(0)
    shift = 1_763_000_000_000_000_000
    sides = [
        replace(s, frame=replace(s.frame, stamp=s.frame.stamp + shift)) for s in (grasp.before, grasp.after)
    ]
    real = Episode(*sides, grasp.grasp)
    with EpisodeStore(tmp_path / "episodes", write=True, min_free_bytes=0) as store:
        store.add(real, label_episode(real))
        assert len(store.entries()) == 1
        assert not store.damaged()
