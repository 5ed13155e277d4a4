"""One round of a teaching: its configuration, its trainer, its scenes, and what it leaves on disk."""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rise_perception.network.card import read_card
from rise_perception.network.config import NetworkConfig
from rise_perception.teaching.config import Recipe, Round, TeachConfig
from rise_perception.teaching.foreground import (
    STEPS,
    VIEWS,
    Foreground,
    ForegroundScenes,
    load_foreground,
    train_foreground,
)
from rise_perception.teaching.reading import Given
from rise_perception.teaching.scenes import TeachScenes
from rise_perception.teaching.trainer import WARM_UP, TeachTrainer
from rise_perception.training.config import DataConfig, OptimisationConfig, SequenceConfig, TrainConfig
from rise_perception.training.criterion import LossConfig
from rise_perception.training.pseudo_labels import SelfSupervisionConfig

#: Steps that are timed, after one that is not.
TIMED_STEPS = 3
CURVE = "curve.json"
FOREGROUND = "foreground.safetensors"
BEST = "best"


def prepare_round(
    config: TeachConfig,
    given: Given,
    place: Round,
    start: Path,
    folder: Path,
    steps: int,
    seconds: float,
    precision: str,
) -> tuple[TeachTrainer, TeachScenes]:
    """The trainer of a round, and what its steps see.

    Args:
        config: what is asked for.
        given: what it is taught with.
        place: the round.
        start: folder of the model that it goes on from.
        folder: where it is trained; one that a killed run has left is gone on with.
        steps: of the round.
        seconds: that it may take.
        precision: ``fp32`` or ``bf16``.
    """
    train = round_config(config, given.network, start, folder, steps, precision)
    finish = config.recipe.finish
    material, unlabelled = given.material(place.teaches), list(given.unlabelled)
    if not given.network.sees_foreground:
        trainer = TeachTrainer(train, config.device, seconds, finish)
        return trainer, TeachScenes(train, material, config.recipe, unlabelled)
    foreground = _foreground(config, given, place, folder, train)
    trainer = TeachTrainer(train, config.device, seconds, finish, foreground.whole)
    scenes = ForegroundScenes(train, material, config.recipe, unlabelled)
    scenes.foreground = foreground
    return trainer, scenes


def _foreground(
    config: TeachConfig, given: Given, place: Round, folder: Path, train: TrainConfig
) -> Foreground:
    """The foreground networks of a round, trained first and kept beside its checkpoint."""
    path = folder / FOREGROUND
    if not path.is_file():
        halves = [place.teaches[k::2] or place.teaches for k in range(2)]
        steps = min(STEPS, config.steps or STEPS)
        made = train_foreground(
            [TeachScenes(train, given.material(half), config.recipe, []) for half in halves],
            steps,
            min(VIEWS, 4 * steps),
        )
        made.save(path)
    return load_foreground(path, given.network)


def round_config(
    config: TeachConfig, network: NetworkConfig, start: Path, out: Path, steps: int, precision: str
) -> TrainConfig:
    """The training room's configuration of a round."""
    recipe: Recipe = config.recipe
    return TrainConfig(
        name=config.out.name,
        out=str(out),
        init=str(start),
        data=DataConfig(
            train=(str(config.source),),
            broken="skip",
            augmentation=recipe.augmentation,
            scale=recipe.scale,
            workers=0 if config.device == "cpu" else 4,
        ),
        network=network,
        # Scores go on to mean what they mean in the start.
        loss=LossConfig(masks_per_image=16, classification=read_card(start).classification),
        sequences=SequenceConfig(objects=recipe.objects),
        self_supervision=SelfSupervisionConfig(teacher="average"),
        optimisation=OptimisationConfig(
            iterations=steps,
            batch=recipe.batch,
            unlabelled_batch=2,
            learning_rate=recipe.learning_rate,
            weight_decay=0.05,
            warmup=min(WARM_UP, steps),
            drop_at=2.0,
            decay_from=recipe.decay_from,
            clip=5.0,
            average=recipe.average,
            precision=precision,
            seed=config.seed,
        ),
    )


def time_steps(trainer: TeachTrainer, scenes: TeachScenes) -> float:
    """Median seconds of a few steps."""
    times: list[float] = []
    timed: Callable[[Any], dict[str, float]] = trainer.step

    def step(batch: Any) -> dict[str, float]:
        if len(times) > TIMED_STEPS:
            raise _Measured
        begun = time.perf_counter()
        values = timed(batch)
        times.append(time.perf_counter() - begun)
        return values

    trainer.step = step  # type: ignore[method-assign]
    with contextlib.suppress(_Measured):
        trainer.train(scenes, [], lambda fraction: None)
    return statistics.median(times[1:])


class _Measured(Exception):
    """Enough steps were timed."""


def read_curve(folder: Path) -> list[list[float]]:
    """(fraction, AP50, quality) where a round was evaluated."""
    path = folder / CURVE
    return list(json.loads(path.read_bytes())) if path.is_file() else []


def replace_model(target: Path, model: Path) -> None:
    """Copy weights and card of a model; killed on the way, it leaves a folder without a card."""
    target.mkdir(exist_ok=True)
    (target / "card.json").unlink(missing_ok=True)
    for name in ("model.safetensors", "card.json"):
        shutil.copyfile(model / name, target / name)
