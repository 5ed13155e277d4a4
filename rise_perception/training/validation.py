"""What a trained model reaches on its validation set, and the score threshold that serves it best."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pycocotools import mask as coco_mask
from tqdm import tqdm

from rise_perception.core.errors import ModelError
from rise_perception.core.files import write_json
from rise_perception.core.regions import ImagePair, Region, category_name, encode_mask, regions_of
from rise_perception.data.coco import CocoDataset, LabelledImage
from rise_perception.evaluation.coco import coco_scores
from rise_perception.evaluation.counts import calibration_error
from rise_perception.inference.segmenter import Segmenter
from rise_perception.network.card import CARD, ModelCard, read_card

#: AP counts every guess that scores above this.
LOWEST_SCORE = 0.02
#: A guess is right when it overlaps a true object by at least this (intersection over union).
MATCH_IOU = 0.5
#: Recall counts this many times as much as precision (F-beta): a grasp planner can drop instances by their
#: score and cannot pick what was never reported, but a wall that is reported costs a grasp, too.
RECALL_WEIGHT = 1.5
#: Thresholds to choose from.
THRESHOLDS = np.round(np.arange(0.05, 0.91, 0.05), 2)


class LabelledImages(Protocol):
    """Labelled images in a fixed order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabelledImage:
        """Image ``index``."""


def validate(folder: str | Path, annotations: str | Path | LabelledImages, device: str = "cpu") -> ModelCard:
    """Measure a model on a labelled set, and write figures and threshold into its card.

    The threshold is the one with the best F-beta at an IoU of 0.5, over the objects (no containers).

    Args:
        folder: the model.
        annotations: COCO annotation file, or labelled images.
        device: where the network runs.

    Returns:
        the card with ``score_threshold`` and ``metrics["validation"]``: ``ap``, ``ap50``, ``ap75``, ``ar``,
        ``precision`` and ``recall`` at the threshold, and ``images``. A set without objects leaves the
        threshold alone.
    """
    card = read_card(folder)
    pairs = predicted_pairs(folder, annotations, device)
    scores = coco_scores(pairs)
    name = str(getattr(annotations, "path", annotations))
    metrics: dict[str, Any] = {"data": name, "images": len(pairs)}
    if scores.ap is not None:
        metrics |= {"ap": scores.ap, "ap50": scores.ap50, "ap75": scores.ap75, "ar": scores.ar}
        threshold, best = best_threshold(pairs)
        card = dataclasses.replace(card, score_threshold=threshold)
        guesses = rated(pairs)
        kept = guesses.scores >= threshold
        metrics |= best
        metrics["calibration_error"] = calibration_error(guesses.scores[kept], guesses.right[kept])
    card = dataclasses.replace(card, metrics=card.metrics | {"validation": metrics})
    write_json(Path(folder) / CARD, dataclasses.asdict(card))
    return card


def predicted_pairs(
    folder: str | Path,
    annotations: str | Path | LabelledImages,
    device: str = "cpu",
    threshold: float = LOWEST_SCORE,
) -> list[ImagePair]:
    """What a model finds on each image of a labelled set.

    Args:
        folder: the model.
        annotations: COCO annotation file, or labelled images.
        device: where the network runs.
        threshold: scores below are left out.
    """
    network = read_card(folder).network
    segmenter = Segmenter.load(folder, device, threshold)
    images = (
        CocoDataset(annotations, network.classes, network.sees_depth)
        if isinstance(annotations, (str, Path))
        else annotations
    )
    names = network.classes
    return [
        pair_of(images[k], segmenter, names)
        for k in tqdm(range(len(images)), unit="image", file=sys.stderr, mininterval=2)
    ]


@dataclass(frozen=True)
class Guesses:
    """All predicted objects of a labelled set.

    Attributes:
        scores: (N,) float.
        right: (N,) bool; it overlaps a true object that no better scored one has found.
        objects: how many there are.
    """

    scores: np.ndarray
    right: np.ndarray
    objects: int


def rated(pairs: list[ImagePair]) -> Guesses:
    """Which of the guesses are right, at an IoU of :data:`MATCH_IOU`."""
    score, right, objects = [], [], 0
    for pair in pairs:
        truth = [r.rle for r in pair.truth if r.is_object]
        guesses = sorted((r for r in pair.predicted if r.is_object), key=lambda r: -r.score)
        objects += len(truth)
        score += [guess.score for guess in guesses]
        right += _found([guess.rle for guess in guesses], truth)
    return Guesses(np.array(score), np.array(right, bool), objects)


def ap50(folder: str | Path, images: LabelledImages, count: int, device: str) -> float:
    """AP50 of a model on the first ``count`` labelled images; 0 where none of them has an object."""
    network = read_card(folder).network
    segmenter = Segmenter.load(folder, device, LOWEST_SCORE)
    pairs = [pair_of(images[k], segmenter, network.classes) for k in range(count)]
    return coco_scores(pairs).ap50 or 0.0


def best_threshold(pairs: list[ImagePair]) -> tuple[float, dict[str, float]]:
    """The threshold of :data:`THRESHOLDS` with the best F-beta, and its ``precision`` and ``recall``."""
    guesses = rated(pairs)
    best, chosen, figures = 0.0, float(THRESHOLDS[0]), {"precision": 0.0, "recall": 0.0}
    for threshold in THRESHOLDS:
        kept = guesses.scores >= threshold
        found = int(guesses.right[kept].sum())
        if not found:
            continue
        precision, recall = found / int(kept.sum()), found / guesses.objects
        weight = RECALL_WEIGHT**2
        f_beta = (1 + weight) * precision * recall / (weight * precision + recall)
        if f_beta >= best:  # of equal ones the highest, which is the furthest from letting noise in
            best, chosen, figures = f_beta, float(threshold), {"precision": precision, "recall": recall}
    return chosen, figures


def _found(guesses: list[dict[str, Any]], truth: list[dict[str, Any]]) -> list[bool]:
    """Whether each guess, best first, finds an object that none before it has found."""
    if not guesses or not truth:
        return [False] * len(guesses)
    overlap = np.array(coco_mask.iou(guesses, truth, [0] * len(truth)))  # (guesses, objects)
    result = []
    for row in overlap:
        index = int(row.argmax())
        result.append(bool(row[index] >= MATCH_IOU))
        if result[-1]:
            overlap[:, index] = 0.0
    return result


def pair_of(sample: LabelledImage, segmenter: Segmenter, class_names: tuple[str, ...]) -> ImagePair:
    """What a segmenter finds in a labelled image, beside the truth, whose classes have these names."""
    names = [class_names[c] for c in sample.classes]
    truth = [
        Region(category_name(name), encode_mask(mask), name=name)
        for name, mask in zip(names, sample.masks, strict=True)
    ]
    try:
        predicted = regions_of(segmenter(sample.image, sample.depth))
    except ModelError:  # an image whose depth is all holes: a model that needs depth finds nothing there
        predicted = []
    height, width = sample.image.shape[:2]
    return ImagePair(sample.name, height, width, predicted, truth)
