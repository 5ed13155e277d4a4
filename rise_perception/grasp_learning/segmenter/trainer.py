"""A grasp segmenter from a configuration: films, training, thresholds on films that taught nothing, card."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rise_perception.core.frame import Frame
from rise_perception.core.regions import mask_iou
from rise_perception.grasp_learning.capture.episode import Observation
from rise_perception.grasp_learning.labelling.change import find_change
from rise_perception.grasp_learning.labelling.learned_labels import candidate_masks, distinct
from rise_perception.grasp_learning.segmenter.config import SegmenterTraining
from rise_perception.grasp_learning.segmenter.model import LoadedSegmenter, SegmenterCard, save_segmenter
from rise_perception.grasp_learning.segmenter.network import GraspSegmenter
from rise_perception.grasp_learning.segmenter.pairs import flawed
from rise_perception.grasp_learning.segmenter.training import train_network
from rise_perception.simulation.disturbed_grasps import GraspFilm, write_films

STATE = "state.safetensors"
#: A label that overlaps the item by less is wrong; of the validation films' labels, so many may be.
WRONG, MAX_WRONG = 0.5, 0.05
#: Cameras are not the simulated ones: by so much surer than there a mask has to be.
MARGIN = 0.05
#: No threshold is lower, and none higher.
LOWEST, HIGHEST = 0.5, 0.95
#: Pixels that an item that left shows at least.
_SEEN = 40


def train_segmenter(
    config: SegmenterTraining, command: str, revision: str = "", hours: float = 0.0
) -> SegmenterCard:
    """Render films that are missing, train, choose thresholds, and write the model.

    Rerun to resume. Only runs without ``hours`` repeat themselves to the bit.

    Args:
        config: what to train on what.
        command: the command line, for the card.
        revision: git revision of the code, for the card.
        hours: the training, without the rendering, ends within them; 0 for no limit.
    """
    films, steps, out = config.films, config.optimisation, Path(config.out)
    if steps.threads:
        torch.set_num_threads(steps.threads)
    out.mkdir(parents=True, exist_ok=True)
    train = write_films(Path(films.folder), films.seed, "train", films.train)
    validation = write_films(Path(films.folder), films.seed, "val", films.validation)
    torch.manual_seed(steps.seed)
    network = GraspSegmenter()
    rounds = train_network(network, train, steps, out / STATE, hours * 3600 if hours else math.inf)
    judged = {
        depth: judge_films(LoadedSegmenter(network, SegmenterCard("")), validation, depth)
        for depth in (True, False)
    }
    least = {depth: choose_quality(*values) for depth, values in judged.items()}
    metrics = {
        name: figures(*judged[depth], least[depth])
        for name, depth in (("validation", True), ("validation_rgb", False))
    }
    print(f"validation: {metrics}", file=sys.stderr)
    card = SegmenterCard(
        config.name,
        min_quality=least[True],
        min_quality_rgb=least[False],
        data=f"{len(train)} films of simulated grasps, worlds 1 and 2, seed {films.seed}; {rounds} rounds",
        command=command,
        metrics=metrics,
        git_revision=revision,
        notes=config.notes,
    )
    return save_segmenter(out, network, card)


def judge_films(
    segmenter: LoadedSegmenter, films: Sequence[GraspFilm], with_depth: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) quality of the masks that would be labels, and (N,) IoU of each with the best item that left."""
    quality: list[float] = []
    overlap: list[float] = []
    for number, film in enumerate(films):
        rng = np.random.default_rng(number)
        for before in range(len(film.images) - 1):
            first, second = (_observation(film, k, with_depth) for k in (before, before + 1))
            labels = film.labels[before]
            shown = [k for k in np.unique(labels).tolist() if k > 0]
            target = int(film.targets[before + 1])
            predicted = [flawed(labels, k, rng) if k == target else labels == k for k in shown]
            aimed = predicted[shown.index(target)] if target in shown else None
            removal = segmenter(first, second, find_change(first, second), aimed)
            candidates = candidate_masks(removal.left, predicted, ())
            left = [labels == k for k in film.left(before, before + 1)]
            left = [mask for mask in left if mask.sum() >= _SEEN]
            for k, value in distinct(candidates, removal.quality(candidates)):
                quality.append(value)
                overlap.append(max((mask_iou(candidates[k], mask) for mask in left), default=0.0))
    return np.array(quality), np.array(overlap)


def choose_quality(quality: np.ndarray, overlap: np.ndarray) -> float:
    """The lowest quality from which at most ``MAX_WRONG`` of the masks are wrong, and ``MARGIN`` more."""
    for least in np.arange(LOWEST, HIGHEST, 0.01):
        wrong = overlap[quality >= least] < WRONG
        if wrong.sum() <= MAX_WRONG * len(wrong):
            return round(min(float(least) + MARGIN, HIGHEST), 2)
    return HIGHEST


def figures(quality: np.ndarray, overlap: np.ndarray, least: float) -> dict[str, Any]:
    """Labels from a quality on, how many are wrong, and their median IoU."""
    kept = overlap[quality >= least]
    return {
        "labels": len(kept),
        "wrong": int((kept < WRONG).sum()),
        "median_iou": round(float(np.median(kept)), 3) if len(kept) else None,
        "note": "the thresholds were chosen on it",
    }


def _observation(film: GraspFilm, state: int, with_depth: bool) -> Observation:
    depth = film.depths[state].astype(np.float32) / 1000 if with_depth else None
    return Observation(Frame(film.images[state], depth, None, state + 1))
