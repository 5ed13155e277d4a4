"""In which order the images come, and the loader that brings their batches."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from rise_perception.core.errors import RiseError
from rise_perception.training.batches import Batch, collate
from rise_perception.training.distributed import local_part
from rise_perception.training.scenes import Key, Scenes, Sources


class SeededOrder(Sampler[list[Key]]):
    """The keys of this process's share of each step: epochs of shuffled images, the same for the same seed.

    Args:
        images: the labelled and the unlabelled ones: how many, or, where worlds among them are rendered
            meanwhile, the sources: then each image is drawn from those that are there by then.
        scenes: how many of each a step takes, of all processes together.
        steps: first step, and the one after the last.
        seed: of the order.
    """

    def __init__(
        self,
        images: tuple[int | Sources, int | Sources],
        scenes: tuple[int, int],
        steps: tuple[int, int],
        seed: int,
    ) -> None:
        self.images, self.scenes, self.steps, self.seed = images, scenes, steps, seed

    def __len__(self) -> int:
        return self.steps[1] - self.steps[0]

    def __iter__(self) -> Iterator[list[Key]]:
        orders = [
            EpochPermutation(images, [self.seed, 2 + kind])
            if isinstance(images, int)
            else _Drawn(images, [self.seed, 2 + kind])
            for kind, images in enumerate(self.images)
        ]
        total = sum(self.scenes)
        for step in range(*self.steps):
            keys = []
            for kind, count in enumerate(self.scenes):
                for number in local_part(list(range(count))):
                    position = step * total + (self.scenes[0] if kind else 0) + number
                    keys.append(Key(position, kind == 0, orders[kind][step * count + number]))
            yield keys


class _Drawn:
    """An endless order of images of which more and more are there."""

    def __init__(self, sources: Sources, seed: list[int]) -> None:
        self._sources, self._seed = sources, seed

    def __getitem__(self, number: int) -> int:
        return self._sources.drawn(number, self._seed)


class EpochPermutation:
    """An endless order of images: element n of it, epoch by epoch."""

    def __init__(self, size: int, seed: list[int]) -> None:
        self.size, self.seed = size, seed
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __getitem__(self, number: int) -> int:
        epoch = number // self.size
        if epoch != self._epoch:
            self._epoch, self._order = (
                epoch,
                np.random.default_rng([*self.seed, epoch]).permutation(self.size),
            )
        return int(self._order[number % self.size])


def seeded_order(scenes: Scenes, start: int, stop: int) -> SeededOrder:
    """The keys of the steps ``start`` .. ``stop`` - 1 of a run."""
    steps = scenes.config.optimisation
    unlabelled = steps.unlabelled_batch // 2 if len(scenes.unlabelled) else 0
    labelled = scenes.labelled if scenes.labelled.worlds else len(scenes.labelled)
    return SeededOrder(
        (labelled, len(scenes.unlabelled)), (steps.batch // 2, unlabelled), (start, stop), scenes.seed
    )


def training_loader(scenes: Scenes, start: int, stop: int | None = None) -> DataLoader[Batch]:
    """Batches of the steps ``start`` .. ``stop`` - 1 of a run; ``stop`` is ``iterations`` if None."""
    stop = scenes.config.optimisation.iterations if stop is None else stop
    workers = scenes.config.data.workers
    if workers:
        # In this process, before the fork: OpenCV's threads hang a child that inherits them.
        cv2.setNumThreads(1)
    return DataLoader(
        scenes,  # type: ignore[arg-type]
        batch_sampler=seeded_order(scenes, start, stop),
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training stops them when it has saved its state
    # The workers share the cores with the step; their operations are small.
    torch.set_num_threads(1)


def with_plain_errors(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """The batches of a loader, whose workers' errors come without the traceback that it puts around them."""
    try:
        yield from loader
    except RiseError as error:
        raise type(error)(str(error).rsplit(f"{type(error).__name__}: ", 1)[-1].rstrip()) from error
