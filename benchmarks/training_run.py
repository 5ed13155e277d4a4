"""Whether the data of a training run keeps up with its step, and what its pseudo-sequences take of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from rise_perception.training.batches import Batch
from rise_perception.training.config import TrainConfig
from rise_perception.training.loader import seeded_order, training_loader
from rise_perception.training.scenes import Scenes
from rise_perception.training.trainer import Trainer

#: Steps before the first that counts.
WARM_UP = 2


@dataclass(frozen=True)
class RunCost:
    """What one training step takes, part by part; milliseconds of each repetition.

    Attributes:
        step: the step itself, on a batch that is there.
        loader: the wait for the next batch when nothing else is done, with the configured workers.
        sequences: the pseudo-sequences of one step made by one process: reading, bank, pasting, augmentation.
        images: images that a step trains on.
    """

    step: list[float]
    loader: list[float]
    sequences: list[float]
    images: int


def measure_run(config: TrainConfig, device: str, repeats: int) -> RunCost:
    """Measure the parts of a training step one after another. Nothing is written to ``config.out``.

    Raises:
        RiseError: as the training itself would.
    """
    # What the workers fetch ahead must be gone before the wait is the loader's own.
    ahead = WARM_UP + 4 * config.data.workers
    needed = ahead + repeats
    scenes = Scenes(_with_iterations(config, max(config.optimisation.iterations, needed)))
    first, loader = _loading(scenes, ahead, repeats)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(replace(config, out=folder), "", device)
        trainer.network.train()
        step = _times(lambda: _finished(trainer, first), WARM_UP + repeats)[WARM_UP:]
    keys = iter(seeded_order(scenes, 0, needed))
    sequences = _times(lambda: [scenes.sequence(key) for key in next(keys)], WARM_UP + repeats)[WARM_UP:]
    return RunCost(step, loader, sequences, len(first.images))


def _loading(scenes: Scenes, ahead: int, repeats: int) -> tuple[Batch, list[float]]:
    """The first batch, and the waits for those that follow the first ``ahead``. Its workers end with it."""
    batches = iter(training_loader(scenes, 0))
    first = next(batches)
    return first, _times(lambda: next(batches), ahead - 1 + repeats)[ahead - 1 :]


def _finished(trainer: Trainer, batch: Batch) -> None:
    trainer.step(batch)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize()


def _with_iterations(config: TrainConfig, iterations: int) -> TrainConfig:
    return replace(config, optimisation=replace(config.optimisation, iterations=iterations))


def _times(call: Callable[[], object], count: int) -> list[float]:
    """Milliseconds of each of ``count`` calls."""
    times = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times
