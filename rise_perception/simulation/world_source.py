"""The tote world as a source of training images: scenes are rendered into a cache while others use it.

The cache is a folder for each world, size, number of views and seed. A scene belongs to whoever holds the
lock of its file; a lock ends with its process, so that any number of processes, of any number of trainings,
may render into one cache and be killed at any time. Equal settings give equal bytes, whoever renders.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from rise_perception.core.errors import ConfigError, DataError, require
from rise_perception.data.coco import LabelledImage, decode_segmentation
from rise_perception.data.images import read_depth, read_image
from rise_perception.simulation.dataset import CATEGORIES, Settings, render_scene, start_worker
from rise_perception.simulation.scene import SPLITS

#: Scenes of which a reader keeps the records.
KEPT = 256
#: Images that are there before the first step; from then on the pool of a training grows.
FIRST_IMAGES = 96
#: Seconds between two looks at a scene that somebody else renders.
PATIENCE = 0.2
#: A scene that ended its process so often (OpenGL and physics are native code) is left alone.
TRIES = 5
#: Seconds between two looks at the renderers.
WATCH = 2.0


@dataclass(frozen=True)
class WorldConfig:
    """Images of the tote world, as a training or a measurement asks for them.

    Attributes:
        world: version of the world.
        seed: another seed, other scenes.
        scenes: how many.
        views: pictures of each.
        split: whose items: ``train``, ``val`` or ``test``.
        width, height: pixels.
        reuse: how many times a training may show an image while others are rendered: of the images that are
            shown so far, one in ``reuse`` is new until all scenes are there. 1 renders most.
    """

    world: int
    scenes: int
    seed: int = 0
    views: int = 4
    split: str = "train"
    width: int = 320
    height: int = 240
    reuse: float = 4.0

    def __post_init__(self) -> None:
        require(self.scenes >= 1, "world.scenes", self.scenes, "at least 1")
        require(self.split in SPLITS, "world.split", self.split, " or ".join(SPLITS))
        require(self.reuse >= 1, "world.reuse", self.reuse, "at least 1")
        self.settings()

    def settings(self) -> Settings:
        """What the generator needs.

        Raises:
            ConfigError: a value that it refuses.
        """
        sizes = {name: self.scenes * self.views if name == self.split else 0 for name in SPLITS}
        return Settings(
            **sizes,
            width=self.width,
            height=self.height,
            views=self.views,
            seed=self.seed,
            world=self.world,
        )

    @property
    def folder(self) -> str:
        """Name of its folder in a cache; shared by sources that differ in split and number only."""
        return f"world{self.world}_{self.width}x{self.height}_{self.views}views_seed{self.seed}"


class WorldImages:
    """The images of a world in the order of the scenes; what is not in the cache is rendered when asked for.

    Args:
        config: which.
        cache: folder that holds the worlds.
        classes: class names, in the order of the class indices; "container" and "object" are there.
        with_depth: read depth as well.

    Raises:
        ConfigError: a class that the world does not have.
    """

    def __init__(
        self, config: WorldConfig, cache: str | Path, classes: tuple[str, ...], with_depth: bool
    ) -> None:
        known = {str(c["name"]): int(str(c["id"])) for c in CATEGORIES}
        unknown = set(classes) - set(known)
        if unknown:
            raise ConfigError(f"the tote world has no class {sorted(unknown)[0]!r}; it has {sorted(known)}")
        self.config, self.path, self.with_depth = config, Path(cache) / config.folder, with_depth
        self._class_of = {known[name]: index for index, name in enumerate(classes)}
        self._records: OrderedDict[int, list[dict[str, Any]]] = OrderedDict()

    def __len__(self) -> int:
        return self.config.scenes * self.config.views

    def __getitem__(self, index: int) -> LabelledImage:
        """Image ``index``; waits for its scene, or renders it."""
        scene, view = divmod(index, self.config.views)
        record = self._scene(scene)[view]
        image = read_image(self.path / "images" / record["file_name"])
        height, width = image.shape[:2]
        depth = None
        if self.with_depth:
            depth = read_depth(self.path / "depth" / record["depth_file"], record["depth_scale"])
        notes = [note for note in record["annotations"] if note["category_id"] in self._class_of]
        masks = np.zeros((len(notes), height, width), bool)
        for mask, note in zip(masks, notes, strict=True):
            mask[:] = decode_segmentation(note, height, width, f"{self.path}: {record['file_name']}")
        classes = np.array([self._class_of[note["category_id"]] for note in notes], np.int64)
        return LabelledImage(record["file_name"], image, depth, masks, classes, np.arange(len(notes)))

    def after(self, index: int) -> LabelledImage | None:
        """None: the views of a scene are not frames of one camera."""
        return None

    def pool(self, shown: int) -> int:
        """How many of the first images a training draws from when it has shown ``shown`` images."""
        return min(len(self), FIRST_IMAGES + int(shown / self.config.reuse))

    def checksum(self, images: int | None = None) -> str:
        """SHA-256 over the first ``images`` images (all if None), their depth and their records."""
        digest = hashlib.sha256()
        count = len(self) if images is None else images
        for index in range(-(-count // self.config.views)):
            for record in self._scene(index):
                digest.update(json.dumps(record, sort_keys=True).encode())
                for kind, name in (("images", "file_name"), ("depth", "depth_file")):
                    digest.update((self.path / kind / record[name]).read_bytes())
        return digest.hexdigest()

    def _scene(self, index: int) -> list[dict[str, Any]]:
        if index not in self._records:
            path = ensure_scene(self.path, self.config, index)
            try:
                self._records[index] = json.loads(path.read_text())
            except (OSError, ValueError) as error:
                raise DataError(
                    f"{path} is damaged ({error}); remove it, and its scene is made again"
                ) from error
            while len(self._records) > KEPT:
                self._records.popitem(last=False)
        self._records.move_to_end(index)
        return self._records[index]


def record_path(folder: Path, config: WorldConfig, index: int) -> Path:
    """The file that says that scene ``index`` is finished."""
    return folder / "records" / config.split / f"{index:06d}.json"


def ensure_scene(folder: Path, config: WorldConfig, index: int, wait: bool = True) -> Path:
    """Render a scene unless it is there.

    Args:
        folder: of this world in the cache.
        config: the world.
        index: of the scene.
        wait: for whoever renders it now; otherwise leave it to them.

    Returns:
        its record's path; without ``wait`` it may not be there yet.

    Raises:
        DataError: whoever tried to render it died, :data:`TRIES` times.
    """
    path = record_path(folder, config, index)
    while not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_suffix(".lock")
        with lock.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    return path
                time.sleep(PATIENCE)
                continue
            if not path.exists():
                _render_counted(folder, config, index, path.with_suffix(".tries"))
            with suppress(FileNotFoundError):
                lock.unlink()
    return path


def _render_counted(folder: Path, config: WorldConfig, index: int, tries: Path) -> None:
    before = tries.stat().st_size if tries.exists() else 0
    if before >= TRIES:
        raise DataError(
            f"scene {index} of {folder} ended its process {before} times; remove {tries} to try again, or "
            "set data.broken to skip to go on without it"
        )
    with tries.open("ab") as stream:
        stream.write(b".")
    render_scene(folder, config.settings(), config.split, index)
    tries.unlink()


def _render_all(parent: int, jobs: list[tuple[Path, WorldConfig, int]], offset: int, step: int) -> None:
    """A worker's life: its share of the scenes first to last, then what others have left."""
    start_worker(parent)
    os.nice(10)  # the training goes first
    most = max(end for _, _, end in jobs)
    for start, stride in ((offset, step), (0, 1)):
        for index in range(start, most, stride):
            for folder, config, end in jobs:
                if index < end:
                    with suppress(DataError):  # whoever needs the scene will say so
                        ensure_scene(folder, config, index, wait=False)


class Renderers:
    """Processes that fill a cache in the order in which a training needs the scenes.

    They end with this process; one that dies is started again. What is missing is rendered by whoever needs
    it, with or without them.

    Args:
        sources: worlds to render.
        workers: how many processes.
    """

    def __init__(self, sources: Sequence[WorldImages], workers: int) -> None:
        self._jobs = [(s.path, s.config, s.config.scenes) for s in sources]
        self._processes = [self._start(k, workers) for k in range(workers if self._jobs else 0)]
        if self._processes:
            threading.Thread(target=self._watch, daemon=True).start()

    def _start(self, number: int, workers: int) -> BaseProcess:
        spawn = multiprocessing.get_context("spawn")
        arguments = (os.getpid(), self._jobs, number, workers)
        process = spawn.Process(target=_render_all, args=arguments, daemon=True)
        process.start()
        return process

    def _watch(self) -> None:
        while any(process.exitcode != 0 for process in self._processes):
            for k, process in enumerate(self._processes):
                if process.exitcode:
                    self._processes[k] = self._start(k, len(self._processes))
            time.sleep(WATCH)

    def wait(self, seconds: float) -> bool:
        """Until all is rendered, for at most so long; whether it is."""
        end = time.monotonic() + seconds
        while (alive := any(p.exitcode != 0 for p in self._processes)) and time.monotonic() < end:
            time.sleep(PATIENCE)
        return not alive


def free_cores(taken: int) -> int:
    """Cores beside those that are taken; at least 1."""
    there = len(os.sched_getaffinity(0)) if sys.platform.startswith("linux") else os.cpu_count() or 1
    return max(1, there - taken)
