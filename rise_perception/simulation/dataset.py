"""The tote world as a data set: still scenes rendered by worker processes, written as COCO JSON + images.

Layout below the output folder: ``images/SPLIT/NNNNNN.png`` (8-bit RGB), ``depth/SPLIT/NNNNNN.png``
(16-bit millimetres, 0 = none), ``labels/SPLIT/NNNNNN.png`` (16-bit instance map; 0 = background and
container) and ``SPLIT.json``. ``records/`` holds what is known of each finished scene, so that an
interrupted run resumes; ``settings.json`` what the data were made with.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle
from tqdm import tqdm

from rise_perception.core.errors import ConfigError, DataError
from rise_perception.core.files import write_bytes, write_json
from rise_perception.core.json_files import ANNOTATIONS, read_json
from rise_perception.simulation import camera, optics, sensor, viewpoints
from rise_perception.simulation.camera import View
from rise_perception.simulation.render import Renderer, Rendering
from rise_perception.simulation.scene import SPLITS, WORLDS, Scene, make_scene

CATEGORIES = [{"id": 1, "name": "container"}, {"id": 2, "name": "object"}]
MIN_PIXELS, MIN_VISIBLE = 40, 0.1
"""An item with fewer visible pixels, or a smaller part of its silhouette visible, is background."""


def check_size(width: int, height: int) -> None:
    """Raise ConfigError unless pictures of this size can be made."""
    if not (32 <= width <= 2048 and 32 <= height <= 2048):
        raise ConfigError(
            f"the size is {width}x{height}; width and height must be between 32 and 2048 pixels"
        )


@dataclass(frozen=True)
class Settings:
    """What a data set is made with; equal settings give equal bytes, whatever the number of workers.

    Attributes:
        train, val, test: numbers of images.
        width, height: pixels.
        views: pictures of each settled scene.
        seed: data sets of different seeds show different scenes.
        world: version of the tote world, one of :data:`rise_perception.simulation.scene.WORLDS`.
    """

    train: int
    val: int
    test: int
    width: int = 320
    height: int = 240
    views: int = 4
    seed: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        for name in ("train", "val", "test", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")
        if self.train + self.val + self.test == 0:
            raise ConfigError("train, val and test are all 0: nothing to render; ask for at least one image")
        check_size(self.width, self.height)
        if not 1 <= self.views <= 64:
            raise ConfigError(f"views is {self.views}; it must be between 1 and 64")
        if self.world not in WORLDS:
            raise ConfigError(f"world is {self.world}; it must be one of {', '.join(map(str, WORLDS))}")

    def scenes(self, split: str) -> int:
        """How many scenes ``split`` needs."""
        return -(-getattr(self, split) // self.views)


@dataclass(frozen=True)
class Shot:
    """One finished picture.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) uint16 millimetres, 0 = none.
        labels: (H, W) uint16 instance map, items only.
        container: (H, W) bool.
        amodal: label -> (H, W) bool, for the labels in ``labels``.
        view: the camera.
    """

    image: np.ndarray
    depth: np.ndarray
    labels: np.ndarray
    container: np.ndarray
    amodal: dict[int, np.ndarray]
    view: View


def expose(
    scene: Scene, rendering: Rendering, view: View, rng: np.random.Generator, grain: np.random.Generator
) -> Shot:
    """Add the sensor's noise to a rendering and drop the items too small or too hidden to be labelled.

    What the sensor is like is drawn from ``rng``, the noise of this picture from ``grain``.
    """
    focal = view.camera.fx
    eye = sensor if scene.world == 1 else optics
    image = eye.photograph(rng, grain, rendering.image, rendering.depth, focal)
    shiny = np.isin(rendering.labels, [label for label in scene.labels if scene.item(label).shiny])
    depth = eye.measure_depth(rng, grain, rendering.depth, focal, shiny, image)
    labels = np.maximum(rendering.labels, 0).astype(np.uint16)
    amodal = {}
    for label, whole in rendering.amodal.items():
        visible = int((labels == label).sum())
        if visible < MIN_PIXELS or visible < MIN_VISIBLE * int(whole.sum()):
            labels[labels == label] = 0
        else:
            amodal[label] = whole
    return Shot(image, depth, labels, rendering.labels == -1, amodal, view)


def good_view(rng: np.random.Generator, scene: Scene, renderer: Renderer, enough: int = 3) -> View:
    """A view that shows ``enough`` items and is not blocked; the best of several if none is good."""
    best: tuple[int, View] | None = None
    for _ in range(8):
        draw = camera.draw_view if scene.world == 1 else viewpoints.draw_view
        view = draw(rng, scene, renderer.width, renderer.height)
        labels, depth = renderer.labels(view)
        counts = np.bincount(labels[labels > 0], minlength=1)
        seen = int((counts >= 150).sum())
        large = counts.max(initial=0) > 0.4 * labels.size
        score = seen - 10 * (int(large) + int((depth < 0.2).mean() > 0.15))
        if best is None or score > best[0]:
            best = (score, view)
        if score >= min(enough, len(scene.labels)):
            break
    assert best is not None
    return best[1]


def still_shots(
    settings: Settings, split: str, index: int, renderer: Renderer
) -> Iterator[tuple[Scene, Shot]]:
    """The views of one still scene."""
    scene = make_scene(settings.seed, split, index, settings.width, settings.height, world=settings.world)
    renderer.load(scene)
    rng = np.random.default_rng([settings.seed, SPLITS.index(split), index, 1])
    amount = min(settings.views, getattr(settings, split) - index * settings.views)
    for _ in range(amount):
        view = good_view(rng, scene, renderer)
        yield scene, expose(scene, renderer.render(view, rng), view, rng, rng)


def encode(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length encoding of a (H, W) mask, with ``counts`` as text."""
    code = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(s) for s in code["size"]], "counts": code["counts"].decode("ascii")}


def annotate(scene: Scene, shot: Shot) -> list[dict[str, Any]]:
    """COCO annotations of one picture, without ids."""
    out = []
    for label in [0, *shot.amodal]:
        mask = shot.labels == label if label else shot.container
        if not mask.any():
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        entry: dict[str, Any] = {
            "category_id": 2 if label else 1,
            "label": label,
            "segmentation": encode(mask),
            "bbox": [int(v) for v in box],
            "area": int(mask.sum()),
            "iscrowd": 0,
        }
        if label:
            item = scene.item(label)
            entry |= {"amodal": encode(shot.amodal[label]), "kind": item.kind, "recipe": item.recipe}
        out.append(entry)
    return out


def _png(picture: np.ndarray) -> bytes:
    colour = picture[..., ::-1] if picture.ndim == 3 else picture
    return cv2.imencode(".png", colour, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


def write_shot(out: Path, name: str, scene: Scene, shot: Shot) -> dict[str, Any]:
    """Write the three pictures of a shot as ``name`` (relative, .png) and return its record."""
    for folder, picture in (("images", shot.image), ("depth", shot.depth), ("labels", shot.labels)):
        path = out / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, _png(picture))
    camera = shot.view.camera
    return {
        "file_name": name,
        "depth_file": name,
        "depth_scale": 0.001,
        "width": camera.width,
        "height": camera.height,
        "camera": {key: getattr(camera, key) for key in ("fx", "fy", "cx", "cy")},
        "place": scene.place.kind,
        "annotations": annotate(scene, shot),
    }


def coco(records: list[dict[str, Any]], description: str) -> dict[str, Any]:
    """A COCO data set of :func:`write_shot`'s records, with ids counted from 1."""
    images: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    for number, record in enumerate(records, 1):
        images.append({"id": number, **{k: v for k, v in record.items() if k != "annotations"}})
        for note in record["annotations"]:
            notes.append({"id": len(notes) + 1, "image_id": number, **note})
    return {
        "info": {"description": description},
        "images": images,
        "annotations": notes,
        "categories": CATEGORIES,
    }


_renderers: dict[tuple[int, int, int], Renderer] = {}


def start_worker(parent: int) -> None:
    """Make this process a worker that ends with process ``parent``."""

    def leave_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)  # the command was killed: a worker must not go on without it

    threading.Thread(target=leave_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool
    os.environ["LP_NUM_THREADS"] = "1"
    cv2.setNumThreads(1)


def render_scene(out: Path, settings: Settings, split: str, index: int) -> int:
    """Render one scene and write its record; returns the number of its pictures."""
    # A context of OpenGL does not survive a fork.
    key = (os.getpid(), settings.width, settings.height)
    if key not in _renderers:
        _renderers[key] = Renderer(settings.width, settings.height)
    records = []
    for k, (scene, shot) in enumerate(still_shots(settings, split, index, _renderers[key])):
        name = f"{split}/{index * settings.views + k:06d}.png"
        records.append({**write_shot(out, name, scene, shot), "scene": index, "seed": settings.seed})
    path = out / "records" / split / f"{index:06d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, records)
    return len(records)


def _check_settings(out: Path, settings: Settings) -> None:
    path = out / "settings.json"
    if path.exists():
        before = {"world": 1} | read_json(path)
        if before != asdict(settings):
            raise DataError(
                f"{out} holds a data set made with {before}, not with {asdict(settings)}; "
                "give another folder, or the same settings to go on with it"
            )
    elif out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty and holds no data set of the tote world; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(settings))


def write_dataset(out: Path, settings: Settings, workers: int = 1) -> dict[str, int]:
    """Render a data set into ``out``, going on with an unfinished one; returns images per split.

    A split's JSON appears as soon as all its scenes are there (val and test come first).

    Raises:
        ConfigError: ``workers`` below 1.
        DataError: ``out`` holds something else.
        MissingDependencyError: no MuJoCo, or no off-screen OpenGL.
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}; at least 1 process is needed")
    _check_settings(out, settings)
    done: dict[str, int] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=spawn, initializer=start_worker, initargs=(os.getpid(),)
    ) as pool:
        for split in ("val", "test", "train"):
            total = getattr(settings, split)
            folder = out / "records" / split
            missing = [k for k in range(settings.scenes(split)) if not (folder / f"{k:06d}.json").exists()]
            have = total - sum(min(settings.views, total - k * settings.views) for k in missing)
            with tqdm(total=total, initial=have, desc=split, unit="img", smoothing=0.05) as bar:
                jobs = [pool.submit(render_scene, out, settings, split, k) for k in missing]
                try:
                    for job in as_completed(jobs):
                        bar.update(job.result())
                except BrokenProcessPool as error:
                    raise DataError(
                        f"a worker process died while rendering {split} (out of memory?); "
                        f"give the same command again to go on with {out}, perhaps with fewer workers"
                    ) from error
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            paths = [folder / f"{k:06d}.json" for k in range(settings.scenes(split))]
            records = [record for path in paths for record in read_json(path, ANNOTATIONS, bulk=True)]
            if total:
                write_json(out / f"{split}.json", coco(records, f"tote world, {split}, seed {settings.seed}"))
            done[split] = len(records)
    return done
