"""`rise learn`: bags, stores and pictures become episodes once, and these updates; nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import picking
import pytest
import torch
from tiny import tiny_config
from tiny_data import write_data

from rise_perception.data.images import write_image
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.update import learner as learner_module
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.grasp_learning.update.update import Progress
from rise_perception.grasp_learning.update.update_log import read_history
from rise_perception.network.build import build_network
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import save_model

Rise = Callable[..., tuple[int, str, str]]


class Home:
    """Where recordings are brought: anchors, and a model of random weights."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "data").mkdir()
        torch.manual_seed(0)
        network = build_network(tiny_config(**picking.NETWORK))
        save_model(
            folder / "shipped", network, ModelCard("cell", network.config, score_threshold=0.99)
        )  # it finds nothing
        self.anchors = picking.write_anchors(folder / "data/anchors.json", 4, 0)
        self.heldout = picking.write_anchors(folder / "data/heldout.json", 3, 1)
        self.bag = picking.write_bag(folder / "bag", range(16))

    def command(self, out: Path, *sources: object, **options: object) -> list[str]:
        """Arguments: sources, and options that replace the usual ones."""
        usual = {
            "models": out / "models",
            "out": out,
            "model": self.folder / "shipped",
            "anchors": self.anchors,
            "heldout_anchors": self.heldout,
            "iterations": 1,
            "batch": 2,
            "episode_batch": 2,
            "heldout_fraction": 0.25,  # each grasp is a scene
            "min_heldout": 2,
            "min_gain": 0.5,  # more than luck brings random weights
            "threads": 1,
        }
        given = {name: value for name, value in (usual | options).items() if value is not None}
        flags = [
            text for name, value in given.items() for text in (f"--{name.replace('_', '-')}", str(value))
        ]
        return ["learn", *map(str, sources), *flags]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Sixteen grasps in a bag."""
    return Home(tmp_path_factory.mktemp("home"))


def write_store(folder: Path, numbers: range) -> Path:
    with EpisodeStore(folder, write=True, min_free_bytes=0) as store:
        for number in numbers:
            grasp = picking.make_grasp(number)
            store.add(grasp, label_episode(grasp))
    return folder


def test_a_bag_is_taken_in_learned_from_and_shown(rise: Rise, home: Home, tmp_path: Path) -> None:
    status, out, err = rise(*home.command(tmp_path, home.bag))
    assert status == 0, err
    assert f"{home.bag}: 16 new grasps, 0 known" in out
    assert "update 1: rejected: the held-out interactions do not improve by 0.5: anchors AP" in out
    assert "episodes: 16, of which 16 teach and 0 are new" in out
    assert "(as before)" in out
    assert "update 1: 100%" in err
    assert "bag: 100%" in err
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/jpeg") == 12
    assert "held-out grasps, quality" in page
    assert "rise learn" in page
    (line,) = read_history(tmp_path / "models")
    assert (line["verdict"], line["steps"]) == ("rejected", 1)
    (entry, episode, _), *_ = EpisodeStore(tmp_path / "episodes")
    assert episode.model_version == ModelStore(tmp_path / "models").serving().version
    assert entry.session


def test_the_same_command_again_does_nothing(rise: Rise, home: Home, tmp_path: Path) -> None:
    rise(*home.command(tmp_path, home.bag))
    before = sorted(p.name for p in (tmp_path / "episodes").iterdir())
    status, out, _ = rise(*home.command(tmp_path, home.bag, home.bag))
    assert status == 0
    assert out.count(": 0 new grasps, 16 known") == 1  # a source that is named twice is one
    assert "update " not in out
    assert "learned: nothing, for no episode is new" in out
    assert sorted(p.name for p in (tmp_path / "episodes").iterdir()) == before
    assert len(read_history(tmp_path / "models")) == 1


def test_stores_are_merged_without_doubles(rise: Rise, home: Home, tmp_path: Path) -> None:
    """The second robot's store overlaps; the bag holds the same grasps once more, as frames."""
    first, second = write_store(tmp_path / "a", range(10)), write_store(tmp_path / "b", range(6, 16))
    damaged = EpisodeStore(second).entries()[-1]
    (damaged.folder / "after.png").write_bytes(b"x")
    status, out, _ = rise(*home.command(tmp_path / "out", first, second, iterations=1))
    assert status == 2
    assert f"{first}: 10 new grasps, 0 known" in out
    assert f"{second}: 5 new grasps, 4 known" in out
    assert "after.png is damaged" in out
    assert len(EpisodeStore(tmp_path / "out/episodes").entries()) == 15
    assert len(EpisodeStore(first).entries()) == 10  # sources stay as they are


def test_rounds_follow_until_nothing_is_new_and_end_with_the_time(
    rise: Rise, home: Home, tmp_path: Path
) -> None:
    status, out, _ = rise(*home.command(tmp_path, home.bag, max_episodes=5, minutes=1e-9))
    assert status == 2
    assert "not learned: time is over, and 12 episodes are new; run it again" in out
    status, out, _ = rise(*home.command(tmp_path, home.bag, max_episodes=5))
    assert status == 0
    assert "update 3: " in out
    assert "update 4: " not in out
    assert "0 are new" in out


def test_pictures_are_a_sequence_of_grasps(rise: Rise, home: Home, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    masks, colours = picking.scene(rng, new=True)
    ground = picking.make_ground(rng)
    for number in range(4):
        image = picking.picture(rng, ground, masks[number:], colours[number:])
        write_image(tmp_path / "series" / f"{number}.png", image)
    status, out, _ = rise(*home.command(tmp_path, tmp_path / "series"))
    assert f"{tmp_path / 'series'}: 3 new grasps, 0 known" in out
    assert status == 2
    assert "not learned: " in out
    assert "can judge a candidate, gate.min_heldout is 2" in out
    assert "capture more grasps" in out
    assert "What the grasps taught" in (tmp_path / "index.html").read_text()


def test_an_interrupted_update_is_made_up_for(
    rise: Rise, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = learner_module.train_candidate

    def interrupted(*args: object, **kwargs: object) -> None:
        def stop(progress: Progress) -> None:
            if progress.stage == "training":
                raise KeyboardInterrupt

        real(*[stop if callable(a) and getattr(a, "__name__", "") == "report" else a for a in args], **kwargs)

    monkeypatch.setattr(learner_module, "train_candidate", interrupted)
    status, out, err = rise(*home.command(tmp_path, home.bag))
    assert status == 130
    assert "kept" in err
    assert [p.name for p in (tmp_path / "models").glob(".*")] == [".lock"]
    monkeypatch.setattr(learner_module, "train_candidate", real)
    status, out, _ = rise(*home.command(tmp_path, home.bag))
    assert status == 0
    assert ": 0 new grasps, 16 known" in out
    assert "update 1: rejected" in out


@pytest.mark.slow
def test_kill_9_in_the_middle_loses_nothing(rise: Rise, home: Home, tmp_path: Path) -> None:
    """Whatever it is at: what was captured stays, and the same command ends what is left."""
    arguments = home.command(tmp_path, home.bag)
    command = [sys.executable, "-m", "rise_perception.cli.main", *arguments]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    for seconds in (0.5, 1.0, 2.0):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
        while process.poll() is None and not list(tmp_path.glob("episodes/*-*")):
            time.sleep(0.02)
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert EpisodeStore(tmp_path / "episodes").damaged() == []
        assert ModelStore(tmp_path / "models").serving()
    status, out, err = rise(*arguments)
    assert status == 0, err
    assert "episodes: 16, of which 16 teach and 0 are new" in out
    assert len(read_history(tmp_path / "models")) == 1


@pytest.mark.slow
def test_good_grasps_make_a_better_model(rise: Rise, cell_model: Path, tmp_path: Path) -> None:
    """A model that knows light items learns blue ones from a bag; the page says by how much."""
    home = Home(tmp_path)
    home.anchors = picking.write_anchors(tmp_path / "data/train.json", 40, 0)
    home.heldout = picking.write_anchors(tmp_path / "data/val.json", 20, 1)
    bag = picking.write_bag(tmp_path / "forty", range(40))
    options = {"learning_rate": 2e-3, "average": 0.9, "objects": 2, "max_anchor_drop": 0.05}
    status, out, _ = rise(
        *home.command(tmp_path / "out", bag, model=cell_model, min_gain=0.05, iterations=100, **options)
    )
    assert status == 0
    assert "update 1: promoted: anchors AP" in out
    models = ModelStore(tmp_path / "out/models")
    assert models.current().promoted == 1
    assert f"serving: {models.serving().version} (was cell-" in out
    (line,) = read_history(models.root)
    before, after = line["heldout"]
    assert f"held-out grasps, quality: {before:.3f} -> {after:.3f} (" in out
    assert after > before + 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchors": None}, "no labelled anchors to replay"),
        ({"heldout_anchors": None}, "none held out for the gate"),
        ({"anchors": "nowhere.json"}, "nowhere.json does not exist"),
        ({"average": 2.0}, "--average is 2.0; it must lie between 0.5 and 0.9999"),
        ({"minutes": 0}, "--minutes is 0.0"),
        ({"model": "nothing"}, "nothing"),
        ({"color": "/nowhere"}, "no topic '/nowhere' in this bag"),
    ],
)
def test_mistakes_are_named(
    rise: Rise, home: Home, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    status, _, err = rise(*home.command(tmp_path, home.bag, **options))
    assert status == 2
    assert message in err


def test_sources_that_are_none_are_named(rise: Rise, home: Home, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    for source, message in (
        (tmp_path / "nowhere", "nowhere: no such file or folder"),
        (tmp_path / "empty", "empty is neither a bag"),
        (tmp_path / "notes.txt", "notes.txt is neither a bag"),
        (home.folder / "data", "data is neither a bag"),
    ):
        status, _, err = rise(*home.command(tmp_path / "out", source))
        assert status == 2
        assert message in err
    assert not (tmp_path / "out").exists()


def test_folders_in_use_are_left_alone(rise: Rise, home: Home, tmp_path: Path) -> None:
    models = ModelStore(tmp_path / "models", write=True)
    status, _, err = rise(*home.command(tmp_path, home.bag))
    assert status == 2
    assert "another process writes to this model store" in err
    models.close()
    with EpisodeStore(tmp_path / "episodes", write=True):
        status, _, err = rise(*home.command(tmp_path, home.bag))
    assert status == 2
    assert "another process writes to this episode store" in err


def test_a_model_that_needs_depth_leaves_colour_alone_out(rise: Rise, home: Home, tmp_path: Path) -> None:
    network = build_network(tiny_config(**picking.NETWORK, input="rgbd"))
    save_model(tmp_path / "deep", network, ModelCard("deep", network.config))
    anchors = write_data(tmp_path / "anchors")
    changes = {"model": tmp_path / "deep", "anchors": anchors, "heldout_anchors": anchors}
    status, out, _ = rise(*home.command(tmp_path, home.bag, **changes))
    assert status == 2
    assert "left out: it has no depth, which the model needs" in out
    assert "learned: nothing, for no episode is new" in out
