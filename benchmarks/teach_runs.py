"""One piece of the benchmark of teaching: the pictures of its cell, its training, and what it is worth."""

from __future__ import annotations

import json
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.teach_plan import MOST_PICTURES, PICTURES, ROWS, Piece, Row
from rise_perception.core.files import write_json
from rise_perception.core.instances import Instances
from rise_perception.core.letterbox import Letterbox
from rise_perception.data.annotated import read_annotated
from rise_perception.evaluation.coco import coco_scores
from rise_perception.inference.segmenter import Segmenter, find_model
from rise_perception.inference.served_model import ServedModel
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.network.representation import InputRepresentation
from rise_perception.simulation.cell import CellSettings
from rise_perception.simulation.cell_pictures import PictureSettings, write_cell_pictures
from rise_perception.simulation.dataset import Settings, write_dataset
from rise_perception.synthesis.collage import CollageConfig
from rise_perception.teaching.config import Recipe, Round, TeachConfig
from rise_perception.teaching.evaluation import EvaluationPicture, predicted_by
from rise_perception.teaching.reading import read_given
from rise_perception.teaching.rounds import prepare_round
from rise_perception.training.validation import LOWEST_SCORE

WIDTH, HEIGHT = 160, 120
EMPTY = 8
WORLD_SEED = 31
#: Pictures of the tote worlds that are rehearsed.
REHEARSED = Recipe.rehearsed
#: Intersection over union to which M is corrupted at the test.
CORRUPTED_IOU = 0.5
#: What M is at the test, beside the network's own.
FOREGROUNDS = ("corrupted", "absent", "true")


@dataclass(frozen=True)
class Task:
    """What is measured.

    Attributes:
        out: folder; what is finished in it is kept.
        steps: of a training.
        test: pictures of each cell, and again with recoloured goods.
        world: pictures of the tote world that show what was forgotten.
        size: height and width of the taught networks' input.
    """

    out: Path
    steps: int = 160
    test: int = 40
    world: int = 40
    size: tuple[int, int] = (HEIGHT, WIDTH)


def run_piece(task: Task, piece: Piece) -> dict[str, Any]:
    """The figures of a piece; of one that is finished they are read."""
    folder = task.out / "runs" / f"{piece.name}-{task.steps}"
    path = folder / "row.json"
    if path.is_file():
        return dict(json.loads(path.read_bytes()))
    cell, world, row = cell_pictures(task, piece.cell), world_pictures(task), ROWS[piece.row]
    begun = time.monotonic()
    if row.taught:
        model = train(task, piece, cell, folder)
    else:
        model = find_model(row.start) if row.own_size else at_size(find_model(row.start), task.size, folder)
    seconds = time.monotonic() - begun
    depth = row.input.endswith("d")
    segmenter = Segmenter.load(model, "cpu", LOWEST_SCORE)
    test = _evaluation_pictures(cell / "test.json", depth)
    milliseconds: list[float] = []
    figures = _figures(_timed(segmenter, milliseconds), test)
    result: dict[str, Any] = {
        "row": piece.row,
        "cell": piece.cell,
        "seed": piece.seed,
        "steps": task.steps if row.taught else 0,
        "ap": figures[0],
        "ap50": figures[1],
        "recoloured_ap50": _figures(segmenter, _evaluation_pictures(cell / "recoloured.json", depth))[1],
        "world_ap": _figures(segmenter, _evaluation_pictures(world / "test.json", depth))[0],
        "milliseconds_95": round(float(np.quantile(milliseconds, 0.95)), 2),
        "seconds": round(seconds, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    if segmenter.models[0].card.network.sees_foreground:
        for kind in FOREGROUNDS:
            result[f"ap50_{kind}"] = _figures(_given(segmenter, test, kind), test)[1]
    write_json(path, result)
    for left in folder.glob("*.safetensors*"):  # the figures are what counts
        left.unlink()
    return result


def train(task: Task, piece: Piece, cell: Path, folder: Path) -> Path:
    """Teach a row's network; a run that was killed goes on. Returns the model's folder."""
    row = ROWS[piece.row]
    config = teach_config(task, row, piece.seed, cell, folder)
    given = read_given(config)
    place = Round("all", tuple(range(len(given.pictures))), (), 1.0)
    trainer, scenes = prepare_round(config, given, place, given.start, folder, task.steps, 1e9, "fp32")
    trainer.train(scenes, [], lambda fraction: None)
    trainer.write_model()
    return folder


def at_size(model: Path, size: tuple[int, int], folder: Path) -> Path:
    """Write a model with another input size, the peer of what is taught at that size; returns its folder."""
    network, card = load_model(model)
    network.config = replace(network.config, image_size=size)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, network, card)
    return folder


def teach_config(task: Task, row: Row, seed: int, cell: Path, folder: Path) -> TeachConfig:
    """What `rise teach` would be asked for."""
    changes = dict(row.recipe)
    collage = CollageConfig(fakes=changes.pop("fakes", CollageConfig.fakes))
    return TeachConfig(
        source=cell / f"annotated-{row.pictures}.json",
        out=folder,
        start=row.start,
        input=row.input,
        empty=cell / "empty",
        unlabelled=cell / "unlabelled" if row.unlabelled else None,
        steps=task.steps,
        with_depth=row.input.endswith("d"),
        seed=seed,
        recipe=Recipe(
            precision="fp32", image_size=task.size, collage=collage, rehearsed=REHEARSED, **changes
        ),
    )


# ---- pictures ----


def cell_pictures(task: Task, cell: int) -> Path:
    """The folder of a cell's pictures, rendered where they are missing."""
    folder = task.out / "data" / f"cell-{cell}-{task.test}"
    if folder.is_dir():
        return folder
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    settings = CellSettings(cell, width=WIDTH, height=HEIGHT)
    write_cell_pictures(part, PictureSettings(MOST_PICTURES, EMPTY, task.test, True, settings))
    content = json.loads((part / "annotated.json").read_bytes())
    for count in {row.pictures for row in ROWS.values()}:
        write_json(part / f"annotated-{count}.json", _first(content, count))
    (part / "unlabelled").mkdir()
    for image in content["images"][PICTURES:]:
        name = Path(image["file_name"])
        shutil.copyfile(part / "images" / name, part / "unlabelled" / name.name)
        shutil.copyfile(part / "depth" / name, part / "unlabelled" / f"{name.stem}-depth.png")
    part.rename(folder)
    return folder


def _first(content: dict[str, Any], count: int) -> dict[str, Any]:
    """The first pictures of a COCO data set."""
    images = content["images"][:count]
    ids = {image["id"] for image in images}
    notes = [note for note in content["annotations"] if note["image_id"] in ids]
    return {**content, "images": images, "annotations": notes}


def world_pictures(task: Task) -> Path:
    """The folder of pictures of the tote world, which the shipped models have learned from its like."""
    folder = task.out / "data" / f"world-{task.world}"
    if not (folder / "test.json").is_file():
        write_dataset(folder, Settings(0, 0, task.world, WIDTH, HEIGHT, 2, WORLD_SEED, 2), workers=1)
    return folder


def _evaluation_pictures(annotations: Path, with_depth: bool) -> list[EvaluationPicture]:
    annotated = read_annotated(annotations)
    found = []
    for picture in annotated.pictures:
        sample, ignored = picture.load(with_depth), picture.ignored_mask()
        items = np.array([annotated.classes[k] not in annotated.containers for k in sample.classes], bool)
        classes = np.zeros(int(items.sum()), np.int64)
        found.append(
            (replace(sample, masks=sample.masks[items], ids=sample.ids[items], classes=classes), ignored)
        )
    return found


# ---- figures ----


def _figures(segmenter: Any, pictures: Sequence[EvaluationPicture]) -> tuple[float, float]:
    """AP and AP50 of the items."""
    scores = coco_scores(predicted_by(segmenter, pictures, ("object",)))
    return round(scores.ap or 0.0, 4), round(scores.ap50 or 0.0, 4)


def _timed(segmenter: Segmenter, milliseconds: list[float]) -> Any:
    def look(image: np.ndarray, depth: np.ndarray | None) -> Instances:
        begun = time.perf_counter()
        found = segmenter(image, depth)
        milliseconds.append((time.perf_counter() - begun) * 1e3)
        return found

    return look


def _given(segmenter: Segmenter, pictures: Sequence[EvaluationPicture], kind: str) -> Any:
    """A segmenter whose network is given M instead of making it."""
    (model,) = segmenter.models
    assert isinstance(model, ServedModel)
    represent = next(m for m in model.network.modules() if isinstance(m, InputRepresentation))
    foregrounds: Iterator[np.ndarray] = (
        foreground(np.any(sample.masks, axis=0), kind, number) for number, (sample, _) in enumerate(pictures)
    )

    def look(image: np.ndarray, depth: np.ndarray | None) -> Instances:
        box = Letterbox((image.shape[0], image.shape[1]), model.card.network.image_size)
        fitted = box.fit(next(foregrounds).astype(np.float32), border=0.0)
        represent.given = torch.from_numpy(fitted)[None, None]
        try:
            return segmenter(image, depth)
        finally:
            represent.given = None

    return look


def foreground(truth: np.ndarray, kind: str, seed: int) -> np.ndarray:
    """(H, W) bool: M of a kind of :data:`FOREGROUNDS`, from where items truly are (H, W) bool."""
    if kind == "true":
        return truth
    if kind == "absent":
        return np.zeros_like(truth)
    rng = np.random.default_rng(seed)
    found, (height, width) = truth.copy(), truth.shape
    while truth.any() and (found & truth).sum() > CORRUPTED_IOU * (found | truth).sum():
        centre = int(rng.integers(width)), int(rng.integers(height))
        axes = tuple(int(v) for v in rng.integers(3, max(4, height // 8), 2))
        patch = cv2.ellipse(np.zeros((height, width), np.uint8), centre, axes, 0, 0, 360, 1, -1) > 0
        found[patch] = bool(rng.random() < 0.5)
    return found
