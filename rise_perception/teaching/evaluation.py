"""How good a model is on annotated pictures, and the score threshold that serves it there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from rise_perception.core.errors import ModelError
from rise_perception.core.instances import Instances
from rise_perception.core.regions import CONTAINER, ImagePair, Region, category_name, encode_mask, regions_of
from rise_perception.data.coco import LabelledImage
from rise_perception.evaluation.classes import above, class_scores, without_ignored
from rise_perception.evaluation.coco import coco_scores
from rise_perception.evaluation.counts import Counts, count
from rise_perception.inference.segmenter import Segmenter
from rise_perception.synthesis.augmentation import GeometricAugmentation, WeakColour
from rise_perception.synthesis.compositing import weak_view
from rise_perception.training.validation import LOWEST_SCORE, THRESHOLDS, best_threshold

#: So much AP50 the threshold may cost; where it costs more, a lower one is taken.
THRESHOLD_COST = 0.01
#: Views of the only picture that choose the threshold.
VIEWS = 12

#: A picture with (H, W) bool where nothing is known.
EvaluationPicture = tuple[LabelledImage, np.ndarray]


@dataclass(frozen=True)
class Verdict:
    """Figures of a model on pictures.

    Attributes:
        ap, ap50: of the objects, whatever their class, over all scores.
        ap50_at_threshold: of those that score at least ``threshold``.
        threshold: score threshold.
        counts: found, false, merged at the threshold.
        classes: AP50 of each class, a prediction counting only for its own.
        pairs: what it found, at scores from :data:`rise_perception.training.validation.LOWEST_SCORE` on.
    """

    ap: float
    ap50: float
    ap50_at_threshold: float
    threshold: float
    counts: Counts
    classes: dict[str, float]
    pairs: list[ImagePair]

    @property
    def quality(self) -> float:
        """What two models are compared by: AP and AP50, or the mean AP50 of several classes."""
        if len(self.classes) > 1:
            return float(np.mean(list(self.classes.values())))
        return (self.ap + self.ap50) / 2


def predict(
    model: Path, pictures: Sequence[EvaluationPicture], classes: tuple[str, ...], device: str
) -> list[ImagePair]:
    """What a model finds on pictures, beside their truth.

    Args:
        model: its folder.
        pictures: predictions that lie mostly on what nobody knows do not count.
        classes: names of the pictures' classes.
        device: where the network runs.
    """
    return predicted_by(Segmenter.load(model, device, LOWEST_SCORE), pictures, classes)


def predicted_by(
    segmenter: Callable[[np.ndarray, np.ndarray | None], Instances],
    pictures: Sequence[EvaluationPicture],
    classes: tuple[str, ...],
) -> list[ImagePair]:
    """:func:`predict` with a segmenter, or with whatever stands in for one; asked in the pictures' order."""
    items = [name for name in classes if category_name(name) != CONTAINER]
    pairs = []
    for sample, ignored in pictures:
        try:
            predicted = regions_of(segmenter(sample.image, sample.depth))
        except ModelError:  # depth that is all holes
            predicted = []
        if len(items) == 1:  # a model that knows objects only calls this class so
            predicted = [replace(r, name=items[0] if r.is_object else r.name) for r in predicted]
        names = [classes[k] for k in sample.classes]
        truth = [
            Region(category_name(n), encode_mask(m), name=n) for n, m in zip(names, sample.masks, strict=True)
        ]
        height, width = sample.image.shape[:2]
        pairs.append(without_ignored(ImagePair(sample.name, height, width, predicted, truth), ignored))
    return pairs


def verdict(pairs: list[ImagePair], threshold: float | None = None) -> Verdict:
    """Figures at a threshold, or at the one that is best here.

    The best has the best F-beta of :func:`rise_perception.training.validation.best_threshold`, lowered as
    far as it takes to lose at most :data:`THRESHOLD_COST` of AP50.
    """
    scores = coco_scores(pairs)
    ap, ap50 = scores.ap or 0.0, scores.ap50 or 0.0
    chosen = best_threshold(pairs)[0] if threshold is None else threshold
    at_threshold = coco_scores(above(pairs, chosen)).ap50 or 0.0
    if threshold is None:
        for lower in reversed([float(t) for t in THRESHOLDS if t < chosen]):
            if at_threshold >= ap50 - THRESHOLD_COST:
                break
            chosen = lower
            at_threshold = coco_scores(above(pairs, chosen)).ap50 or 0.0
    known = {region.name for pair in pairs for region in pair.truth}
    by_class = {name: s.ap50 for name, s in class_scores(pairs).items() if name in known}
    classes = {name: value for name, value in by_class.items() if value is not None}
    return Verdict(ap, ap50, at_threshold, chosen, count(above(pairs, chosen)), classes, pairs)


def views(only: EvaluationPicture, seed: int) -> list[EvaluationPicture]:
    """Views of one picture, turned, scaled and coloured a little, for where nothing is held out."""
    sample, ignored = only
    torch.manual_seed(seed)
    geometry, colour = GeometricAugmentation((0.85, 1.2), rotation=6.0), WeakColour()
    found = []
    everything = replace(
        sample,
        masks=np.concatenate([sample.masks, ignored[None]]),
        classes=np.append(sample.classes, 0),
        ids=np.append(sample.ids, -1),
    )
    for number in range(VIEWS):
        seen = weak_view(everything, geometry.draw(*sample.image.shape[:2]), colour)
        visible = seen.masks[:-1].sum((1, 2)) >= 0.5 * sample.masks.sum((1, 2))
        picture = LabelledImage(
            f"{sample.name} view {number}",
            seen.image,
            seen.depth,
            seen.masks[:-1][visible],
            sample.classes[visible],
            sample.ids[visible],
        )
        cut_off = seen.masks[:-1][~visible].any(0) if (~visible).any() else np.zeros(ignored.shape, bool)
        found.append((picture, seen.masks[-1] | cut_off))
    return found
