"""A training from its configuration to a model that ships: data, steps, threshold, measurements, page."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rise_perception.core.errors import ConfigError, DataError, RiseError
from rise_perception.core.files import write_json
from rise_perception.data.coco import CocoImages
from rise_perception.evaluation.comparison import Row
from rise_perception.network.card import CARD, ModelCard, file_checksum, read_card
from rise_perception.simulation.world_source import Renderers, WorldConfig, WorldImages, free_cores
from rise_perception.training.assessment import assess
from rise_perception.training.calibration import calibrate
from rise_perception.training.config import TrainConfig
from rise_perception.training.distributed import processes, rank
from rise_perception.training.scenes import open_source
from rise_perception.training.trainer import Trainer
from rise_perception.training.training_page import write_page
from rise_perception.training.validation import predicted_pairs, rated, validate

#: What the steps themselves cannot use of the time that `--hours` gives: threshold and measurements need it.
KEPT_BACK = 0.05


class Interrupted(RiseError):
    """Somebody stopped the training; its state is saved."""


@contextlib.contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Keep other trainings out of ``folder`` for as long as this process lives.

    Raises:
        ConfigError: another training holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process trains into {folder}; wait for it, stop it, or give another `out`"
            ) from None
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def stop_by_signal(trainer: Trainer) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the training after the step that runs; the second Ctrl-C ends it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if trainer.stopping and number == signal.SIGINT:
            raise KeyboardInterrupt
        trainer.stopping = True
        print("the training stops after this step and saves its state", file=sys.stderr)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(
    config: TrainConfig, command: str, device: str = "cpu", revision: str = "", hours: float = 0.0
) -> ModelCard:
    """Train, calibrate, choose the threshold, measure, and write model, card and page into ``config.out``.

    Args:
        config: what to train on what.
        command: the command line, for card and page.
        device: where the network runs.
        revision: of the code.
        hours: end within this time, counted over all runs that were interrupted; 0 goes by the iterations.

    Raises:
        Interrupted: stopped by a signal; the same call goes on.
        RiseError: anything else that ends it; the message says what to do.
    """
    out = Path(config.out)
    with contextlib.ExitStack() as stack:
        if int(os.environ.get("RANK", "0")) == 0:
            stack.enter_context(one_writer(out))
        trainer = Trainer(config, command, device, revision, hours * (1 - KEPT_BACK))
        _render(config)
        with stop_by_signal(trainer):
            trainer.run()
        if trainer.stopping:
            raise Interrupted(
                f"stopped after {trainer.iteration} iterations; the same command goes on from {out}"
            )
        if rank() == 0:
            finish(config, command, str(trainer.device), trainer.shown)
    return read_card(out)


def _render(config: TrainConfig) -> None:
    """Start what fills the caches of the training's worlds; its own processes share them."""
    data = config.data
    worlds = [s for s in (data.validation, *data.train, *(e.world for e in config.evaluation)) if s]
    sources = [
        WorldImages(w, data.cache, ("container", "object"), False)
        for w in worlds
        if isinstance(w, WorldConfig)
    ]
    local = int(os.environ.get("LOCAL_WORLD_SIZE", processes()))
    busy = local * (max(config.optimisation.threads, 1) + data.workers)
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        Renderers(sources, data.renderers or free_cores(busy))


def finish(config: TrainConfig, command: str, device: str, shown: int) -> list[Row]:
    """Calibration, threshold, measurements, data checksum and page of the model in ``config.out``.

    Args:
        config: of its training.
        command: the command line.
        device: where the network runs.
        shown: source images that the training has drawn.

    Returns:
        a row for each set that was there.
    """
    out, cache = Path(config.out), config.data.cache
    if config.data.validation:
        classes, depth = config.network.classes, config.network.sees_depth
        validation: Any = config.data.validation
        if isinstance(validation, WorldConfig):
            validation = WorldImages(validation, cache, classes, depth)
        calibrate(out, lambda model: rated(predicted_pairs(model, validation, device)))
        validate(out, validation, device)
    rows, skipped = [], {}
    for data in config.evaluation:
        try:
            rows.append(assess(out, data, device, cache=cache))
        except DataError as error:
            skipped[data.title] = str(error)
            print(f"not measured on {data.title}: {error}", file=sys.stderr)
    card = read_card(out)
    measured = {r.data: {k: v for k, v in r.to_json().items() if k not in ("data", "model")} for r in rows}
    card = dataclasses.replace(
        card, metrics=card.metrics | measured, data_checksum=data_checksum(config, shown)
    )
    write_json(out / CARD, dataclasses.asdict(card))
    write_page(out, config, command, rows, skipped)
    return rows


def data_checksum(config: TrainConfig, shown: int) -> str:
    """SHA-256 over what the training could have seen: of each source its checksum.

    Args:
        config: names the sources.
        shown: source images that the training has drawn; of worlds only those that were there count.
    """
    digest = hashlib.sha256()
    for source in config.data.train:
        opened = open_source(source, config.data.cache, config.network.classes, False)
        if isinstance(opened, WorldImages):
            digest.update(opened.checksum(opened.pool(shown)).encode())
        elif isinstance(opened, CocoImages):
            digest.update(file_checksum(opened.path).encode())
            digest.update(_checksums(opened.picture_paths()).encode())
        else:
            digest.update(json.dumps(str(source)).encode())
    return digest.hexdigest()


def _checksums(paths: Sequence[Path]) -> str:
    return hashlib.sha256("".join(file_checksum(path) for path in paths).encode()).hexdigest()
