"""The validation gate: what a candidate must reach, against the serving model, before it may serve."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rise_perception.core.errors import ConfigError, ModelError
from rise_perception.core.instances import Instances
from rise_perception.core.regions import CONTAINER, category_name
from rise_perception.evaluation.coco import coco_scores
from rise_perception.grasp_learning.capture.episode import Episode
from rise_perception.grasp_learning.labelling.label_propagation import ItemMask
from rise_perception.inference.segmenter import Segmenter
from rise_perception.training.validation import predicted_pairs, rated


@dataclass(frozen=True)
class GateConfig:
    """What lets a candidate pass.

    Attributes:
        max_anchor_drop: AP that may be lost on the held-out anchors, all updates together.
        min_gain: mean quality that has to be won on the held-out interactions.
        certainty: standard errors by which the gain has to lie above zero: 1.64 is 5 % significance,
            one-sided.
            Of ten updates on shuffled labels one passed: it had won 0.007, and 0.18 on the anchors.
        min_heldout: held-out items below which nothing can be judged.
    """

    max_anchor_drop: float = 0.01
    min_gain: float = 0.005
    certainty: float = 1.64
    min_heldout: int = 5

    def __post_init__(self) -> None:
        for name in ("max_anchor_drop", "min_gain", "certainty"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"gate.{name} is {value}; it must be 0 or more")
        if self.min_heldout < 2:
            raise ConfigError(f"gate.min_heldout is {self.min_heldout}; it must be at least 2")


@dataclass(frozen=True)
class Measured:
    """A model's figures.

    Attributes:
        anchor_ap: AP of the objects on the held-out anchors.
        anchor_score: mean score of the instances that find them.
        heldout: (N,) for each item of the held-out interactions its quality, which a planner chooses by:
            IoU times score of the instance that is best in that; the mean over the frames that the item is
            known in. IoU alone tells less: what a robot has grasped was outlined well before.
    """

    anchor_ap: float
    anchor_score: float
    heldout: np.ndarray

    @property
    def heldout_mean(self) -> float:
        """NaN without labels."""
        return float(self.heldout.mean()) if len(self.heldout) else math.nan


@dataclass(frozen=True)
class GateDecision:
    """Whether a candidate passes, and why or why not, with the numbers.

    Attributes:
        accepted: it passes.
        reason: one sentence.
        forgets: it does not pass because of the anchors.
    """

    accepted: bool
    reason: str
    forgets: bool = False


def gate_candidate(
    serving: Measured, candidate: Measured, config: GateConfig, best_anchor_ap: float = 0.0
) -> GateDecision:
    """Compare a candidate with what serves; both were measured on the same images and labels.

    Args:
        serving, candidate: their figures.
        config: what has to be reached.
        best_anchor_ap: of all versions that have served: ten updates must not lose ten times a little.
    """
    count = len(serving.heldout)
    if count < config.min_heldout:
        return GateDecision(
            False, f"{count} held-out items cannot judge it; gate.min_heldout is {config.min_heldout}"
        )
    # A candidate that is only bolder is so on the anchors as well.
    bolder = max(1.0, candidate.anchor_score / max(serving.anchor_score, 1e-6))
    gain = candidate.heldout / bolder - serving.heldout
    mean, error = float(gain.mean()), float(gain.std(ddof=1) / math.sqrt(count))
    best = max(serving.anchor_ap, best_anchor_ap)
    drop = best - candidate.anchor_ap
    figures = (
        f"anchors AP {serving.anchor_ap:.3f} -> {candidate.anchor_ap:.3f}, held-out quality "
        f"{serving.heldout_mean:.3f} -> {candidate.heldout_mean / bolder:.3f} over {count} items, "
        f"± {error:.3f}"
    )
    # Written so that a figure that is not a number refuses.
    if not drop <= config.max_anchor_drop:
        return GateDecision(
            False, f"the anchors drop by more than {config.max_anchor_drop} below {best:.3f}: {figures}", True
        )
    if not mean >= config.min_gain:
        return GateDecision(
            False, f"the held-out interactions do not improve by {config.min_gain}: {figures}"
        )
    if not mean > config.certainty * error:
        return GateDecision(False, f"the gain on the held-out interactions may be luck: {figures}")
    return GateDecision(True, figures)


def measure(
    folder: Path,
    anchors: str | Path,
    interactions: Iterable[tuple[Episode, Sequence[ItemMask]]],
    device: str = "cpu",
) -> Measured:
    """Measure a model.

    Args:
        folder: of the model.
        anchors: COCO annotation file of the held-out anchors.
        interactions: the held-out episodes, with the items that are known in their frames before.
        device: where the network runs.

    Raises:
        ConfigError: the anchors hold no object.
    """
    pairs = predicted_pairs(folder, anchors, device)
    anchor_ap = coco_scores(pairs).ap
    if anchor_ap is None:
        raise ConfigError(f"the held-out anchors {anchors} hold no object; give images with labelled items")
    segmenter = Segmenter.load(folder, device)
    found: dict[str, list[float]] = {}
    for episode, items in interactions:
        frame = episode.before.frame
        try:
            instances = segmenter(frame.image, frame.depth)
        except ModelError:  # a model that needs depth finds nothing where there is none
            instances = Instances.empty(*frame.image.shape[:2])
        masks = [item.unpacked() for item in items]
        for item, quality in zip(items, qualities(masks, instances), strict=True):
            found.setdefault(item.item, []).append(quality)
    # The same item in ten frames is not ten witnesses.
    heldout = np.array([float(np.mean(values)) for values in found.values()])
    guesses = rated(pairs)
    score = float(guesses.scores[guesses.right].mean()) if guesses.right.any() else 0.0
    return Measured(anchor_ap, score, heldout)


def qualities(masks: Iterable[np.ndarray], instances: Instances) -> list[float]:
    """For each of N masks (H, W) bool the highest IoU times score of an item; 0 where none touches it.

    Instances share no pixel, so that guessing many shapes does not help.
    """
    names = [category_name(name) for name in instances.class_names]
    items = [row for row in range(len(instances)) if names[int(instances.classes[row])] != CONTAINER]
    areas = instances.areas()
    result = []
    for mask in masks:
        shared = np.bincount(instances.label_map[mask], minlength=int(instances.labels.max(initial=0)) + 1)
        size = int(mask.sum())
        overlaps = [
            int(shared[instances.labels[row]]) / (size + int(areas[row]) - int(shared[instances.labels[row]]))
            for row in items
        ]
        scores = [float(instances.scores[row]) for row in items]
        result.append(max((o * s for o, s in zip(overlaps, scores, strict=True)), default=0.0))
    return result
