"""What is rehearsed: pictures of the tote worlds, kept for the next time, or else the shipped recording."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rise_perception.simulation.world_source import WorldImages
from rise_perception.teaching.rehearsal import rehearsal_pictures, worlds_cache
from rise_perception.teaching.scenes import shipped_pictures


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.slow
def test_pictures_of_both_worlds_are_rendered_once(monkeypatch):
    notes: list[str] = []
    found = rehearsal_pictures(4, True, notes)
    assert not notes
    assert len({p.name for p in worlds_cache().iterdir()}) == 2
    assert len(found) == 4
    for picture in found:
        assert picture.image.shape == (240, 320, 3)
        assert picture.depth is not None
        assert picture.classes.tolist() == [0] * len(picture.masks)
        # Neither tote nor table: no item covers most of the picture.
        assert all(0 < mask.mean() < 0.5 for mask in picture.masks)
    written = {p: p.stat().st_mtime_ns for p in worlds_cache().rglob("*") if p.is_file()}
    again = rehearsal_pictures(4, False, notes)
    assert {p: p.stat().st_mtime_ns for p in worlds_cache().rglob("*") if p.is_file()} == written
    for one, other in zip(found, again, strict=True):
        assert np.array_equal(one.image, other.image)
        assert other.depth is None


def test_without_a_simulator_the_shipped_recording_is_rehearsed_and_a_note_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    notes: list[str] = []
    found = rehearsal_pictures(4, False, notes)
    assert [p.name for p in found] == [p.name for p in shipped_pictures(False)]
    assert "pip install 'mujoco" in notes[0]


def test_none_asked_for_is_the_shipped_recording(monkeypatch):
    monkeypatch.setattr(WorldImages, "__getitem__", lambda *_: pytest.fail("nothing is rendered"))
    notes: list[str] = []
    assert rehearsal_pictures(0, True, notes)[0].depth is not None
    assert not notes
