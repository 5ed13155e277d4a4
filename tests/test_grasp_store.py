"""The episode store: whole episodes or none, bounded, merged without doubles, whatever happens."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grasping import episode, picture

from rise_perception.core.errors import DataError
from rise_perception.grasp_learning.capture import episode_io as files
from rise_perception.grasp_learning.capture.episode import Calibration, Episode, Phase, Referred
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore, StoreFullError
from rise_perception.grasp_learning.labelling.episode_labels import Cause, EpisodeLabels, Verdict

SHAPE = (120, 160)


def labels(verdict: Verdict = Verdict.CONFIRMED) -> EpisodeLabels:
    mask = np.zeros(SHAPE, bool)
    mask[25:65, 20:60] = True
    nothing = np.zeros(SHAPE, bool)
    return EpisodeLabels(
        verdict,
        Cause.AGREES,
        "because",
        mask[None],
        ~nothing,
        np.array([2, 3], np.uint16),
        np.eye(2, 3),
        mask,
        nothing,
    )


def numbered(number: int) -> Episode:
    return episode(picture(1, 2, 3, seed=2 * number), picture(2, 3, seed=2 * number + 1))


def same(a: Episode, b: Episode) -> None:
    assert a.grasp == b.grasp
    for one, other in ((a.before, b.before), (a.after, b.after)):
        np.testing.assert_array_equal(one.frame.image, other.frame.image)
        if one.frame.depth is not None:
            np.testing.assert_allclose(one.frame.depth, other.frame.depth, atol=6e-5)
        assert (one.frame.depth is None) == (other.frame.depth is None)
        assert (one.frame.camera, one.frame.stamp, one.frame.frame_id) == (
            other.frame.camera,
            other.frame.stamp,
            other.frame.frame_id,
        )
        assert (one.instances is None) == (other.instances is None)
        if one.instances is not None:
            for name in ("label_map", "labels", "scores", "classes", "boxes", "ids", "embeddings"):
                np.testing.assert_array_equal(getattr(one.instances, name), getattr(other.instances, name))
            assert one.instances.class_names == other.instances.class_names
        np.testing.assert_array_equal(one.robot, other.robot)
        assert (one.model_version, one.calibration) == (other.model_version, other.calibration)


def test_the_same_grasp_with_other_predictions_is_kept_once(tmp_path):
    """A recording is analysed again, with the model of that day."""
    kept = numbered(1)
    again = replace(kept, before=replace(kept.before, instances=None, model_version="newer"))
    with (
        EpisodeStore(tmp_path / "a", write=True) as store,
        EpisodeStore(tmp_path / "b", write=True) as other,
    ):
        store.add(kept, labels())
        other.add(again, labels())
        other.add(numbered(2), labels())
        assert store.holds(again)
        assert not store.holds(numbered(2))
        assert store.merge(other) == 1
        assert store.merge(other) == 0
        (entry,) = store.entries()[:1]
        (entry.folder / "before.png").write_bytes(b"damaged")
        assert not store.holds(kept)


def test_a_session_is_part_of_the_name(tmp_path):
    with EpisodeStore(tmp_path / "s", write=True) as store:
        named = store.add(replace(numbered(1), session="bag7"), labels())
        plain = store.add(numbered(2), labels())
        assert [(e.session, e.stamp) for e in store.entries()] == [("bag7", named.stamp), ("", plain.stamp)]
        assert store.read(named)[0].session == "bag7"
    for session in ("a-b", "../x", "x" * 33, "b\u00e4g"):
        with pytest.raises(DataError, match="letters and digits"):
            replace(numbered(1), session=session)


def test_an_episode_comes_back_as_it_was(tmp_path):
    robot = np.zeros(SHAPE, bool)
    robot[:30, :40] = True
    kept = episode(picture(1, 2, 3), picture(2, 3, seed=1), robot=robot)
    lens = Calibration("plumb_bob", (0.1, -0.2, 0.0, 0.0, 0.3), (1.0, *(0.0,) * 8), tuple(range(12)))
    stamps = {Phase.BEFORE: 7, Phase.CLOSED: 8, Phase.LIFTED: 9}
    kept = replace(
        kept,
        before=replace(kept.before, calibration=lens),
        after=replace(kept.after, instances=kept.before.instances, model_version="model-5678"),
        grasp=replace(kept.grasp, stamps=stamps, expression="the red box", referred=Referred.RIGHT),
    )
    with EpisodeStore(tmp_path / "s", write=True) as store:
        entry = store.add(kept, labels())
    with EpisodeStore(tmp_path / "s") as store:
        (found,) = store.entries()
        assert found == entry
        assert found.stamp == kept.after.frame.stamp
        ((_, back, taught),) = list(store)
    same(kept, back)
    assert (taught.verdict, taught.cause, taught.reason) == (Verdict.CONFIRMED, Cause.AGREES, "because")
    for name in ("masks", "known", "unmoved", "to_after", "removed", "added"):
        np.testing.assert_array_equal(getattr(taught, name), getattr(labels(), name))


def test_an_episode_of_an_older_store_is_read(tmp_path):
    with EpisodeStore(tmp_path, write=True) as store:
        kept = numbered(1)
        entry = store.add(kept, labels())
        record = json.loads((entry.folder / "episode.json").read_text())
        record["model_version"] = record["before"].pop("model_version")
        del record["after"]["model_version"], record["grasp"]["stamps"], record["session"]
        del record["before"]["calibration"], record["after"]["calibration"]
        del record["grasp"]["expression"], record["grasp"]["referred"]
        (entry.folder / "episode.json").write_text(json.dumps(record))
        record = json.loads((entry.folder / "labels.json").read_text())
        record |= {"left": record.pop("removed"), "appeared": record.pop("added")}
        (entry.folder / "labels.json").write_text(json.dumps(record))
        ((_, back, taught),) = list(store)
    assert back.model_version == "model-1234"
    same(kept, back)
    np.testing.assert_array_equal(taught.removed, labels().removed)
    np.testing.assert_array_equal(taught.added, labels().added)


def test_an_episode_is_parsed_once_and_again_when_its_labels_are_another(tmp_path, monkeypatch):
    parsed = []

    def counting(folder: Path) -> Verdict:
        parsed.append(folder.name)
        return files.read_verdict(folder)

    monkeypatch.setattr("rise_perception.grasp_learning.capture.episode_store.read_verdict", counting)
    with EpisodeStore(tmp_path, write=True) as store:
        entries = [store.add(numbered(number), labels()) for number in range(3)]
        reader = EpisodeStore(tmp_path)
        parsed.clear()
        assert [reader.entries() for _ in range(3)] == [entries] * 3
        assert sorted(parsed) == sorted(entry.id for entry in entries)
        parsed.clear()
        store.relabel(entries[1], labels(Verdict.MOVED))
        store.remove(entries[0])
        assert [e.verdict for e in reader.entries()] == [Verdict.MOVED, Verdict.CONFIRMED]
        assert parsed == [entries[1].id]


def test_an_rgb_episode_without_predictions_and_labels_without_masks(tmp_path):
    bare = episode(picture(1, depth=False), picture(seed=1, depth=False))
    bare = replace(bare, before=replace(bare.before, instances=None))
    empty = replace(labels(Verdict.EMPTY), masks=np.zeros((0, *SHAPE), bool), unmoved=np.zeros(0, np.uint16))
    with EpisodeStore(tmp_path, write=True) as store:
        store.add(bare, empty)
        ((_, back, taught),) = list(store)
    same(bare, back)
    assert taught.masks.shape == (0, *SHAPE)


def test_deep_scenes_keep_their_depth(tmp_path):
    deep = picture(1)
    deep = replace(deep, depth=deep.depth + np.float32(20))
    with EpisodeStore(tmp_path, write=True) as store:
        store.add(episode(deep, replace(deep, stamp=deep.stamp + 1)), labels())
        ((_, back, _),) = list(store)
    np.testing.assert_allclose(back.before.frame.depth, deep.depth, atol=4e-4)


def test_the_same_episode_is_stored_once(tmp_path):
    with EpisodeStore(tmp_path, write=True) as store:
        assert store.add(numbered(0), labels()) == store.add(numbered(0), labels())
        other = numbered(0)
        other = replace(other, before=replace(other.before, model_version="another"))
        store.add(other, labels())
        assert len(store.entries()) == 2


def test_the_least_useful_go_first_and_of_these_the_oldest(tmp_path):
    order = (Verdict.CORRECTED, Verdict.CONFIRMED, Verdict.REJECTED, Verdict.CONFIRMED, Verdict.CORRECTED)
    with EpisodeStore(tmp_path, write=True) as store:
        entries = [store.add(numbered(k), labels(verdict)) for k, verdict in enumerate(order)]
        largest = max(entry.size for entry in entries)
        store.max_bytes = store.size() + largest // 8
        for number, gone in ((5, {2}), (6, {2, 1}), (7, {2, 1, 3}), (8, {2, 1, 3, 0})):
            entries.append(store.add(numbered(number), labels(Verdict.CORRECTED)))
            left = {entry.id for entry in store.entries()}
            assert {k for k, entry in enumerate(entries) if entry.id not in left} == gone
            assert store.size() <= store.max_bytes
        with pytest.raises(StoreFullError, match="more useful"):
            store.add(numbered(9), labels(Verdict.REJECTED))
        assert {entry.id for entry in store.entries()} == left
    with pytest.raises(StoreFullError), EpisodeStore(tmp_path / "b", write=True, max_bytes=1000) as tiny:
        tiny.add(numbered(0), labels())


def test_a_full_disk_is_reported_and_leaves_nothing_half(tmp_path, monkeypatch):
    with EpisodeStore(tmp_path, write=True) as store:
        store.add(numbered(0), labels())
        written = []

        def full(path: Path, content: bytes) -> None:
            written.append(path)
            if len(written) > 2:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            path.write_bytes(content)

        with monkeypatch.context() as patch:
            patch.setattr(files, "_write", full)
            with pytest.raises(StoreFullError, match="the disk is full"):
                store.add(numbered(1), labels())
        assert len(list(store)) == 1
        assert not list(tmp_path.glob(".incoming*"))
        store.add(numbered(1), labels())
        store.min_free_bytes = 1 << 60
        written.clear()
        with monkeypatch.context() as patch:
            patch.setattr(files, "_write", full)
            with pytest.raises(StoreFullError, match="stay free"):
                store.add(numbered(2), labels())
        assert written == []  # the reserve is others'
        assert len(list(store)) == 2


def test_stores_are_merged_without_doubles(tmp_path):
    with EpisodeStore(tmp_path / "a", write=True) as a, EpisodeStore(tmp_path / "b", write=True) as b:
        for number in (0, 1):
            a.add(numbered(number), labels())
        for number in (1, 2):
            b.add(numbered(number), labels(Verdict.CORRECTED))
        b.entries()[1].folder.joinpath("before.png").write_bytes(b"damaged")
        assert a.merge(b) == 0
        assert len(b.damaged()) == 1
        c = EpisodeStore(tmp_path / "c", write=True)
        assert c.merge(a) == 2
        assert c.merge(a) == 0
        assert [entry.id for entry in c.entries()] == [entry.id for entry in a.entries()]
        assert [entry.verdict for entry in c.entries()] == [Verdict.CONFIRMED] * 2
        for (_, one, _), (_, other, _) in zip(a, c, strict=True):
            same(one, other)


def test_one_process_writes_and_others_read(tmp_path):
    with EpisodeStore(tmp_path, write=True) as store:
        entry = store.add(numbered(0), labels())
        with pytest.raises(DataError, match="another process"):
            EpisodeStore(tmp_path, write=True)
        reader = EpisodeStore(tmp_path)
        assert len(list(reader)) == 1
        with pytest.raises(DataError, match="opened for reading"):
            reader.add(numbered(1), labels())
        store.relabel(entry, labels(Verdict.MOVED))
        assert reader.entries()[0].verdict == Verdict.MOVED
        store.remove(entry)
        assert reader.entries() == []
        with pytest.raises(DataError):
            reader.read(entry)
    with pytest.raises(DataError, match="no episode store"):
        EpisodeStore(tmp_path / "nowhere")


def rewrite(folder: Path, name: str, **changes: object) -> None:
    record = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(record | changes))


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "before.png").write_bytes((f / "before.png").read_bytes()[:-30]),
        lambda f: (f / "after.depth.png").unlink(),
        lambda f: (f / "episode.json").write_text("{"),
        lambda f: (f / "episode.json").write_text("[]"),
        lambda f: rewrite(f, "episode.json", format=99),
        lambda f: rewrite(f, "episode.json", files={}),
        lambda f: rewrite(
            f, "episode.json", grasp={"grasp_id": "x", "target_id": 1, "outcome": 77, "stamp": 0}
        ),
        lambda f: rewrite(f, "episode.json", before=None),
        lambda f: rewrite(f, "labels.json", verdict="wonderful"),
        lambda f: rewrite(f, "labels.json", masks=["0123"]),
        lambda f: rewrite(f, "labels.json", masks=["\u00fc" * 40]),
        lambda f: rewrite(f, "labels.json", size=[1 << 30, 1 << 30]),
        lambda f: rewrite(f, "labels.json", size=[120, 161]),
        lambda f: (f / "labels.json").unlink(),
    ],
)
def test_damaged_episodes_are_named_and_the_others_are_read(tmp_path, damage):
    with EpisodeStore(tmp_path, write=True) as store:
        for number in range(2):
            store.add(numbered(number), labels())
        broken = store.entries()[0]
        damage(broken.folder)
        assert [entry.stamp for entry, _, _ in store] == [store.entries()[-1].stamp]
        if broken.id in {entry.id for entry in store.entries()}:
            (said,) = store.damaged()
            assert broken.id in said
        store.add(numbered(2), labels())
        assert len(list(store)) == 2


WRITER = """
import sys, itertools
sys.path.insert(0, {tests!r})
from test_grasp_store import labels, numbered
from rise_perception.grasp_learning.labelling.episode_labels import Verdict
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
store = EpisodeStore({root!r}, write=True, max_bytes=1_200_000, min_free_bytes=0)
print("ready", flush=True)
for number in itertools.count({start}):
    store.add(numbered(number), labels((Verdict.CONFIRMED, Verdict.CORRECTED, Verdict.REJECTED)[number % 3]))
"""


@pytest.mark.slow
def test_killed_at_any_moment_it_holds_whole_episodes_only(tmp_path):
    root, rng = tmp_path / "store", random.Random(0)
    known: set[str] = set()
    for attempt in range(6):
        code = WRITER.format(tests=str(Path(__file__).parent), root=str(root), start=1000 * attempt)
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env)
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0.3, 1.2))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait(10)
        reader = EpisodeStore(root)
        assert reader.damaged() == []
        assert len(list(reader)) == len(reader.entries()) > 0
        known |= {entry.id for entry in reader.entries()}
    assert len(known) > len(reader.entries()), "never killed while it evicted"
    with EpisodeStore(root, write=True, max_bytes=1_200_000) as store:
        assert not [p for p in root.iterdir() if p.name.startswith((".incoming", ".trash"))]
        store.add(numbered(99999), labels(Verdict.CORRECTED))
        assert store.size() <= store.max_bytes
    shutil.rmtree(root)
