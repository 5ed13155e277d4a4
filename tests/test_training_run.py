"""One command from nothing to a measured model: worlds as sources, the clock, interruptions, one writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tiny_data import configure, write_data

from rise_perception.cli.main import main
from rise_perception.core.errors import ConfigError, DataError
from rise_perception.data.images import write_image
from rise_perception.network.card import read_card
from rise_perception.network.checkpoint import load_model
from rise_perception.simulation import world_source
from rise_perception.simulation.world_source import (
    FIRST_IMAGES,
    TRIES,
    Renderers,
    WorldConfig,
    WorldImages,
    ensure_scene,
    record_path,
)
from rise_perception.training.assessment import EvaluationSet
from rise_perception.training.config import DataConfig, TrainConfig, read_train_config
from rise_perception.training.loader import training_loader
from rise_perception.training.run import Interrupted, data_checksum, one_writer, train
from rise_perception.training.scenes import Scenes, Sources
from rise_perception.training.trainer import BEST, CHECKPOINT, Trainer
from rise_perception.training.training_page import PAGE, history

WORLD = WorldConfig(world=2, scenes=3, views=2, width=64, height=48)
CLASSES = ("object",)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the scenes of WORLD, rendered by two processes at once."""
    folder = tmp_path_factory.mktemp("cache")
    source = WorldImages(WORLD, folder, CLASSES, True)
    assert Renderers([source], 2).wait(300)
    assert all(record_path(source.path, WORLD, k).exists() for k in range(3))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), [0, 1])


def test_a_world_is_the_same_whoever_renders_it_and_a_lost_scene_comes_back(
    cache: Path, tmp_path: Path
) -> None:
    source = WorldImages(WORLD, cache, CLASSES, True)
    assert len(source) == 6
    sample = source[3]
    assert sample.image.shape == (48, 64, 3)
    assert sample.depth is not None
    assert len(sample.masks) == len(sample.classes) == len(sample.ids)
    alone = WorldImages(WORLD, tmp_path, CLASSES, True)  # nobody has rendered anything here
    assert np.array_equal(alone[3].image, sample.image)
    assert np.array_equal(alone[3].masks, sample.masks)
    assert alone.checksum() == source.checksum()
    assert alone.checksum(2) != source.checksum()
    assert not list(tmp_path.rglob("*.lock"))


def test_who_does_not_wait_leaves_a_scene_to_the_one_that_renders_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def render(folder: Path, settings: Any, split: str, index: int) -> None:
        # While this one is at work, another comes by.
        asked.append(ensure_scene(folder, WORLD, index, wait=False))
        assert not asked[-1].exists()
        asked[-1].write_text("[]")

    # Another process has to come by just while a scene is rendered.
    monkeypatch.setattr(world_source, "render_scene", render)
    path = ensure_scene(tmp_path, WORLD, 1)
    assert path.exists()
    assert len(asked) == 1, "rendered twice"


def test_a_scene_that_kills_its_process_is_left_alone_after_some_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: Any) -> None:
        raise KeyboardInterrupt  # what a native crash leaves behind is the same: nothing is tidied up

    monkeypatch.setattr(world_source, "render_scene", die)
    for _ in range(TRIES):
        with pytest.raises(KeyboardInterrupt):
            ensure_scene(tmp_path, WORLD, 1)
    with pytest.raises(DataError, match=f"{TRIES} times"):
        ensure_scene(tmp_path, WORLD, 1)


def test_a_renderer_that_dies_is_started_again(tmp_path: Path) -> None:
    source = WorldImages(WORLD, tmp_path, CLASSES, False)
    renderers = Renderers([source], 1)
    first = renderers._processes[0]
    assert first.pid is not None
    os.kill(first.pid, signal.SIGKILL)
    assert renderers.wait(300)
    assert renderers._processes[0] is not first
    assert all(record_path(source.path, WORLD, k).exists() for k in range(3))


def test_a_training_draws_from_what_is_there_by_then_and_repeats_itself(cache: Path, data: Path) -> None:
    many = replace(WORLD, scenes=500)
    config = configure(data, cache / "out", images={"cache": str(cache)})
    config = replace(config, data=replace(config.data, train=(str(data), many)))
    sources: Sources = Scenes(config).labelled
    world = sources.worlds[0]
    assert world.pool(0) == FIRST_IMAGES
    assert world.pool(400) == FIRST_IMAGES + 100
    assert world.pool(10**6) == 1000
    early = [sources.drawn(n, [0, 2]) for n in range(200)]
    assert early == [sources.drawn(n, [0, 2]) for n in range(200)]
    assert max(early) < 2 + world.pool(200)
    late = [sources.drawn(n, [0, 2]) for n in range(10**5, 10**5 + 300)]
    assert max(late) > 800
    assert {sources.first(k) for k in range(1002)} == set(range(2 + FIRST_IMAGES))
    order = training_loader(Scenes(config), 5, 9).batch_sampler
    assert [[k.image for k in keys] for keys in order] == [[sources.drawn(n, [0, 2])] for n in range(5, 9)]


def settings(cache: Path, data: Path, out: Path, **optimisation: Any) -> TrainConfig:
    config = configure(data, out, {"classes": ("object",), "input": "rgb"}, {"cache": str(cache)})
    sources = replace(config.data, train=(str(data), WORLD), validation=str(data), renderers=1)
    return replace(config, data=sources, optimisation=replace(config.optimisation, **optimisation))


def test_one_call_trains_measures_and_writes_a_page(cache: Path, data: Path, tmp_path: Path) -> None:
    config = replace(
        settings(cache, data, tmp_path / "out", validate_every=2, validation_images=2),
        evaluation=(
            EvaluationSet(world=WORLD),
            EvaluationSet(str(data), name="squares"),
            EvaluationSet(str(tmp_path / "far")),
        ),
    )
    card = train(config, "rise train x.yaml")
    assert set(card.metrics) == {"calibration", "validation", "world 2, train, seed 0", "squares"}
    assert card.metrics["squares"]["counts"]["images"] == 2
    assert "calibration_error" in card.metrics["validation"]
    assert card.data_checksum == data_checksum(config, 6)
    load_model(tmp_path / "out")
    page = (tmp_path / "out" / PAGE).read_text()
    assert "rise train x.yaml" in page
    assert "is not there" in page
    assert page.count("<img") >= 1 + 3 + 2
    entries = history(tmp_path / "out")
    assert [e["iteration"] for e in entries if "validation/ap50" in e] == [2, 4, 6]
    assert all(e["images/second"] > 0 for e in entries)
    again = train(config, "rise train x.yaml")
    assert again.checksum == card.checksum


def test_the_best_weights_are_kept(
    cache: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.2, 0.7, 0.4])
    # Six steps from random weights give no score to choose by.
    monkeypatch.setattr("rise_perception.training.trainer.ap50", lambda *_: next(scores))
    trainer = Trainer(settings(cache, data, tmp_path / "out", validate_every=2), "t")
    trainer.run()
    best, last = read_card(tmp_path / "out" / BEST), read_card(tmp_path / "out")
    assert best.metrics == {"ap50": 0.7}
    assert last.checksum == best.checksum
    assert "4 iterations" in last.data


def test_it_ends_by_the_clock_with_a_rate_of_zero_and_counts_earlier_runs(
    cache: Path, data: Path, tmp_path: Path
) -> None:
    config = settings(cache, data, tmp_path / "out", decay_from=0.0)
    trainer = Trainer(config, "t", hours=2 / 3600)
    begun = time.monotonic()
    trainer.run()
    assert time.monotonic() - begun < 60
    assert trainer.iteration > 1
    assert trainer.optimiser.param_groups[0]["lr"] < 0.5 * config.optimisation.learning_rate
    resumed = Trainer(config, "t", hours=2 / 3600)
    assert resumed.fraction == 1
    before = resumed.iteration
    resumed.run()
    assert resumed.iteration == before, "its time was over"


def test_a_stopped_run_saves_its_state_and_goes_on_as_if_nothing_had_been(
    cache: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(settings(cache, data, tmp_path / "whole"), "t")
    step = Trainer.step

    def interrupted(self: Trainer, batch: Any) -> dict[str, float]:
        if self.iteration == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch)

    # The signal has to come within a step that is known.
    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(Interrupted, match="after 2 iterations"):
        train(settings(cache, data, tmp_path / "out"), "t")
    assert (tmp_path / "out" / CHECKPOINT).exists()
    monkeypatch.setattr(Trainer, "step", step)
    assert train(settings(cache, data, tmp_path / "out"), "t").checksum == whole.checksum


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\n"
        "from rise_perception.training.run import one_writer\n"
        "with one_writer(pathlib.Path(sys.argv[1])):\n"
        "    print('mine', flush=True)\n"
        "    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(ConfigError, match="another process"), one_writer(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with one_writer(tmp_path):  # a killed one leaves nothing behind
        pass


def test_configurations_name_worlds_and_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = {
        "name": "a",
        "out": "runs/a",
        "data": {
            "train": [{"world": 2, "scenes": 5, "views": 3}, "x.json"],
            "validation": {"world": 1, "scenes": 2},
        },
        "evaluation": [
            {"path": "../real", "depth_scale": "1e-4"},
            {"world": {"world": 1, "scenes": 3, "split": "test"}},
        ],
    }
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(raw))
    config = read_train_config(path)
    assert config.data.train == (WorldConfig(2, 5, views=3), "x.json")
    assert config.evaluation[0].depth_scale == 1e-4
    assert config.evaluation[1].world == WorldConfig(1, 3, split="test")
    for broken, word in (
        ({"data": {"train": [{"world": 3, "scenes": 5}]}}, "world is 3"),
        ({"data": {"train": [{"world": 2, "scenes": 0}]}}, "scenes"),
        ({"data": {"train": [7]}}, r"data\.train\[0\]"),
        ({"evaluation": [{"path": "x", "world": {"world": 1, "scenes": 1}}]}, "one of both"),
        ({"optimisation": {"validate_every": 10}, "data": {"train": ["x.json"]}}, "validate_every"),
    ):
        path.write_text(yaml.safe_dump(raw | broken))
        with pytest.raises(ConfigError, match=word):
            read_train_config(path)
    with pytest.raises(ConfigError):
        DataConfig(("x",), renderers=-1)
    path.write_text(yaml.safe_dump(raw))
    assert main(["train", str(path), "--hours", "-1"]) == 2
    assert "--hours" in capsys.readouterr().err


def test_auto_precision_is_full_on_a_cpu(cache: Path, data: Path, tmp_path: Path) -> None:
    steps = {
        name: Trainer(settings(cache, data, tmp_path / name, precision=name), "t")
        for name in ("auto", "fp32", "bf16")
    }
    batch = next(iter(training_loader(Scenes(steps["auto"].config), 0)))
    total = {name: trainer.losses(batch)[0]["total"] for name, trainer in steps.items()}
    assert total["auto"].dtype == torch.float32
    assert total["auto"].item() == total["fp32"].item() != total["bf16"].item()


def test_pictures_beside_a_coco_file_are_part_of_the_checksum(data: Path, tmp_path: Path) -> None:
    copy = write_data(tmp_path / "copy", [0, 1])
    config = configure(copy, tmp_path / "out")
    before = data_checksum(config, 0)
    assert before == data_checksum(configure(data, tmp_path / "out"), 0)
    write_image(copy.parent / "images/0.png", np.zeros((64, 96, 3), np.uint8))
    assert data_checksum(config, 0) != before
    assert json.loads(copy.read_text())["images"]
