"""The validation gate: what a candidate must reach, against the serving model, before it may serve."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
from rise_perception.training.validation import LOWEST_SCORE, Guesses, LabelledImages, predicted_pairs, rated

#: Draws of the bootstrap: chances down to 1 in 4000 can be told.
DRAWS = 4000
#: A prediction that overlaps a refuted mask by more repeats it.
SAME_MASK = 0.5
#: Rounds and prior of the calibration; Newton's method converges in less.
ROUNDS, PRIOR = 25, 1e-3


#: A held-out episode, the items that are known in its frame before, masks (H, W) bool that are certainly none
#: (by a name that a mask shares with others of the same thing), and the scene.
Interaction = tuple[Episode, Sequence[ItemMask], Mapping[str, np.ndarray], str]


@dataclass(frozen=True)
class GateConfig:
    """What lets a candidate pass.

    Attributes:
        max_anchor_drop: AP that may be lost on the held-out anchors, against the model that the store began
            with, whatever has served since.
        max_checked_drop: AP that may be lost on hand-checked frames of the cell, where there are any, against
            the better of the first and the serving model.
        max_false_rise: fraction by which false masks on the anchors may become more, beyond one in ten
            images.
        min_gain: mean quality that has to be won on the held-out interactions.
        significance: chance of a gain as high without any; spent over the candidates that follow a promotion,
            less for each one, so that it bounds the fraction of promotions that are luck.
        min_heldout: held-out items, and refuted masks, below which nothing can be judged.
        min_scenes: scenes that they have to come from.
    """

    max_anchor_drop: float = 0.01
    max_checked_drop: float = 0.01
    max_false_rise: float = 0.1
    min_gain: float = 0.005
    significance: float = 0.1
    min_heldout: int = 5
    min_scenes: int = 2

    def __post_init__(self) -> None:
        for name in ("max_anchor_drop", "max_checked_drop", "max_false_rise", "min_gain"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"gate.{name} is {value}; it must be 0 or more")
        if not 0 < self.significance <= 0.5:
            raise ConfigError(
                f"gate.significance is {self.significance}; it must lie above 0 and be at most 0.5"
            )
        if self.min_heldout < 2 or self.min_scenes < 1:
            raise ConfigError(
                f"gate.min_heldout is {self.min_heldout} and gate.min_scenes {self.min_scenes}; they must be "
                "at least 2 and 1"
            )

    def chance(self, looks: int) -> float:
        """What of ``significance`` candidate number ``looks`` (from 1) since a promotion may use.

        The parts of all candidates add up to it: 6 / pi^2 is the limit of 1 + 1/4 + 1/9 + ...
        """
        return self.significance * 6 / (math.pi * looks) ** 2


@dataclass(frozen=True)
class AnchorFigures:
    """A model on the held-out anchors.

    Attributes:
        ap: of the objects.
        false_masks: predictions per image that are no object, at the model's own threshold.
        slope, offset: what turns the logit of a score into that of the chance to be right.
    """

    ap: float
    false_masks: float
    slope: float
    offset: float

    def calibrated(self, scores: np.ndarray) -> np.ndarray:
        """(N,) scores -> (N,) chances to be right."""
        return np.asarray(1 / (1 + np.exp(-(self.slope * _logit(scores) + self.offset))))


@dataclass(frozen=True)
class Measured:
    """A model's figures.

    Attributes:
        anchors: on the held-out anchors.
        heldout: (N,) quality of each witness of the held-out interactions. Of an item, IoU times chance to be
            right of the instance that is best in that, the mean over the frames that the item is known in; of
            a refuted mask, the chance that the model gives it to be none. Chances, not scores: a candidate
            that is only bolder wins nothing.
        scenes: of each witness.
    """

    anchors: AnchorFigures
    heldout: np.ndarray
    scenes: tuple[str, ...]

    @property
    def anchor_ap(self) -> float:
        """AP on the held-out anchors."""
        return self.anchors.ap

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
        forgets: it does not pass because of the anchors or the hand-checked frames.
    """

    accepted: bool
    reason: str
    forgets: bool = False


def gate_candidate(
    serving: Measured,
    candidate: Measured,
    base: AnchorFigures,
    config: GateConfig,
    looks: int = 1,
    checked: tuple[float, float] | None = None,
) -> GateDecision:
    """Compare a candidate with the active version; both were measured on the same images and labels.

    Args:
        serving, candidate: their figures.
        base: the model that the store began with.
        config: what has to be reached.
        looks: number of the candidate since the last promotion, from 1.
        checked: AP on hand-checked frames: of the better of the first and the serving model, and of the
            candidate; None without such frames.
    """
    count, scenes = len(serving.heldout), len(set(serving.scenes))
    if count < config.min_heldout or scenes < config.min_scenes:
        return GateDecision(
            False,
            f"{count} held-out items of {scenes} scenes cannot judge it; gate.min_heldout is "
            f"{config.min_heldout}, gate.min_scenes {config.min_scenes}",
        )
    gain = candidate.heldout - serving.heldout
    mean = float(gain.mean())
    luck, allowed = chance_of_no_gain(gain, serving.scenes), config.chance(looks)
    drop = base.ap - candidate.anchor_ap
    most_false = base.false_masks * (1 + config.max_false_rise) + 0.1
    figures = (
        f"anchors AP {serving.anchor_ap:.3f} -> {candidate.anchor_ap:.3f}, false masks per anchor "
        f"{serving.anchors.false_masks:.2f} -> {candidate.anchors.false_masks:.2f}, held-out quality "
        f"{serving.heldout_mean:.3f} -> {candidate.heldout_mean:.3f} over {count} items of {scenes} scenes, "
        f"chance of no gain {luck:.4f}"
    )
    if checked is not None:
        figures += f", AP on hand-checked frames {checked[0]:.3f} -> {checked[1]:.3f}"
    # Written so that a figure that is not a number refuses.
    if not drop <= config.max_anchor_drop:
        reason = f"the anchors drop by more than {config.max_anchor_drop} below {base.ap:.3f}: {figures}"
        return GateDecision(False, reason, True)
    if not candidate.anchors.false_masks <= most_false:
        reason = f"more than {most_false:.2f} false masks on an anchor: {figures}"
        return GateDecision(False, reason, True)
    if checked is not None and not checked[0] - checked[1] <= config.max_checked_drop:
        reason = f"the hand-checked frames drop by more than {config.max_checked_drop}: {figures}"
        return GateDecision(False, reason, True)
    if not mean >= config.min_gain:
        return GateDecision(
            False, f"the held-out interactions do not improve by {config.min_gain}: {figures}"
        )
    if not luck < allowed:
        reason = f"the gain on the held-out interactions may be luck (allowed {allowed:.4f}): {figures}"
        return GateDecision(False, reason)
    return GateDecision(True, figures)


def chance_of_no_gain(gain: np.ndarray, scenes: Sequence[str]) -> float:
    """How probable no gain is: the fraction of paired bootstrap means that are not above zero.

    Scenes are drawn, and items within each: items of one tote are no independent witnesses.

    Args:
        gain: (N,) of each item.
        scenes: of each item.
    """
    names = sorted(set(scenes))
    parts = [gain[[s == name for s in scenes]] for name in names]
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(parts), (DRAWS, len(parts)))
    sums, counts = np.zeros(DRAWS), np.zeros(DRAWS)
    for slot in range(len(parts)):
        for scene, part in enumerate(parts):
            rows = np.flatnonzero(drawn[:, slot] == scene)
            sums[rows] += part[rng.integers(0, len(part), (len(rows), len(part)))].sum(1)
            counts[rows] += len(part)
    # Not-a-number counts as no gain.
    return float((1 + np.count_nonzero(~(sums / counts > 0))) / (DRAWS + 1))


def measure_anchors(folder: Path, anchors: str | Path | LabelledImages, device: str = "cpu") -> AnchorFigures:
    """Measure a model on labelled images, or on a COCO annotation file.

    Raises:
        ConfigError: they hold no object.
    """
    pairs = predicted_pairs(folder, anchors, device)
    ap = coco_scores(pairs).ap
    if ap is None:
        name = getattr(anchors, "path", anchors)
        raise ConfigError(f"{name} holds no object; give images with labelled items to judge by")
    guesses = rated(pairs)
    threshold = Segmenter.load(folder, device).models[0].threshold
    false = np.count_nonzero(~guesses.right & (guesses.scores >= threshold))
    return AnchorFigures(ap, float(false / len(pairs)), *_calibrate(guesses))


def measure(
    folder: Path,
    anchors: AnchorFigures,
    interactions: Iterable[Interaction],
    device: str = "cpu",
) -> Measured:
    """Measure a model on held-out interactions.

    Args:
        folder: of the model.
        anchors: its figures on the anchors, which calibrate its scores.
        interactions: the held-out episodes.
        device: where the network runs.
    """
    # All guesses: what a threshold hides depends on the very boldness that must not count.
    segmenter = Segmenter.load(folder, device, LOWEST_SCORE)
    found: dict[tuple[str, str], list[float]] = {}
    for episode, items, refuted, scene in interactions:
        frame = episode.before.frame
        try:
            instances = segmenter(frame.image, frame.depth)
        except ModelError:  # a model that needs depth finds nothing where there is none
            instances = Instances.empty(*frame.image.shape[:2])
        chances = anchors.calibrated(instances.scores)
        masks = [item.unpacked() for item in items]
        for item, quality in zip(items, qualities(masks, instances, chances), strict=True):
            found.setdefault((scene, item.item), []).append(quality)
        empty = qualities(refuted.values(), instances, chances, at_least=SAME_MASK)
        for name, quality in zip(refuted, empty, strict=True):
            found.setdefault((scene, f"refuted {name}"), []).append(1 - quality)
    # The same item in ten frames is not ten witnesses.
    heldout = np.array([float(np.mean(values)) for values in found.values()])
    return Measured(anchors, heldout, tuple(scene for scene, _ in found))


def qualities(
    masks: Iterable[np.ndarray],
    instances: Instances,
    chances: np.ndarray,
    at_least: float | None = None,
) -> list[float]:
    """For each of N masks (H, W) bool the highest IoU times chance of an item; 0 where none touches it.

    Instances share no pixel, so that guessing many shapes does not help.

    Args:
        masks: that are looked for.
        instances: M of them.
        chances: (M,) to be right.
        at_least: count the chance alone of those that overlap a mask by more than this.
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
        if at_least is not None:
            overlaps = [float(overlap > at_least) for overlap in overlaps]
        rates = [float(chances[row]) for row in items]
        result.append(max((o * r for o, r in zip(overlaps, rates, strict=True)), default=0.0))
    return result


def _logit(scores: np.ndarray) -> np.ndarray:
    clipped = np.clip(np.asarray(scores, np.float64), 1e-4, 1 - 1e-4)
    return np.asarray(np.log(clipped / (1 - clipped)))


def _calibrate(guesses: Guesses) -> tuple[float, float]:
    """Slope and offset of the logistic regression from the logit of a score to being right (Platt)."""
    x = np.stack([_logit(guesses.scores), np.ones(len(guesses.scores))], 1)
    weights, start = np.array([1.0, 0.0]), np.array([1.0, 0.0])
    for _ in range(ROUNDS):
        p = 1 / (1 + np.exp(-(x @ weights)))
        gradient = x.T @ (p - guesses.right) + PRIOR * (weights - start)
        curvature = (x * np.maximum(p * (1 - p), 1e-6)[:, None]).T @ x + PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step * min(1.0, 2.0 / max(1e-9, float(np.linalg.norm(step))))
        if np.abs(step).max() < 1e-7:
            break
    # A model whose scores say nothing, or the wrong way round, has no better than equal chances.
    return max(0.0, float(weights[0])), float(weights[1])
