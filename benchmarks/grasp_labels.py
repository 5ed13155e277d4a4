"""How good the analysis of episodes is, on grasps whose truth is known."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.grasp_trials import Trial, altered, expected_verdicts, read_trials
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.core.regions import mask_iou
from rise_perception.grasp_learning.capture.episode import Observation
from rise_perception.grasp_learning.labelling.change import find_change
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels, Verdict
from rise_perception.grasp_learning.labelling.label_episode import label_change, label_compared

#: A label that overlaps no item by more is wrong.
WRONG = 0.5
#: What is done to the frames, besides nothing.
ALTERATIONS = ("exposure", "shift", "noise", "shadow")
LIES = ("lie", "camera moved", "exposure jump")


@dataclass(frozen=True)
class Judged:
    """A trial with what the analysis made of it.

    Attributes:
        trial: the grasp.
        episode_labels: the analysis.
        overlaps: of each label, the intersection over union with the item that it fits best.
    """

    trial: Trial
    episode_labels: EpisodeLabels
    overlaps: tuple[float, ...]

    @property
    def expected(self) -> Verdict:
        """The right verdict: the one found, if it is one of those."""
        right = self.trial.expected
        return self.episode_labels.verdict if self.episode_labels.verdict in right else sorted(right)[0]


#: Who labels: what serves, and its peer, the analysis of the change alone.
LABELLERS = ("serving", "analysis")


def judge(trial: Trial) -> dict[str, Judged]:
    """Let each of ``LABELLERS`` analyse a trial, and compare with its truth."""
    episode = trial.episode
    change = find_change(episode.before, episode.after)
    made = label_compared(episode, change), label_change(change, episode.before, episode.grasp)
    return {name: _judged(trial, labels) for name, labels in zip(LABELLERS, made, strict=True)}


def _judged(trial: Trial, episode_labels: EpisodeLabels) -> Judged:
    items = [trial.before == label for label in np.unique(trial.before[trial.before > 0])]
    overlaps = tuple(
        max((mask_iou(mask, item) for item in items), default=0.0) for mask in episode_labels.masks
    )
    return Judged(trial, episode_labels, overlaps)


def conditions(
    folders: list[Path], with_depth: bool, segmenter: Any | None, altering: bool
) -> Iterator[tuple[str, Iterable[Trial]]]:
    """Names of conditions and their trials.

    Args:
        folders: pick sequences.
        with_depth: False leaves depth out.
        segmenter: gives predictions of its own in one more condition; None for none.
        altering: also worsen the frames, and let the robot be wrong.
    """

    def trials() -> Iterator[Trial]:
        for number, folder in enumerate(folders):
            yield from read_trials(folder, seed=number, with_depth=with_depth)

    yield "as it is", trials()
    if segmenter is not None:
        yield "predictions of the model", (predicted(trial, segmenter) for trial in trials())
    if altering:
        for how in (*ALTERATIONS, *LIES):
            rng = np.random.default_rng(7)
            yield how, (altered(trial, how, rng) for trial in trials() if how != "lie" or trial.can_lie)


def predicted(trial: Trial, segmenter: Any) -> Trial:
    """The trial with the predictions that a segmenter makes of the frame before."""
    frame: Frame = trial.episode.before.frame
    instances: Instances = segmenter(frame.image, frame.depth)
    aimed = trial.before == trial.target
    hit = np.bincount(instances.label_map[aimed], minlength=2)
    hit[0] = 0
    chosen = instances.ids[instances.labels == hit.argmax()] if hit.any() else [-1]
    grasp = replace(trial.episode.grasp, target_id=int(chosen[0]))
    episode = replace(trial.episode, before=Observation(frame, instances), grasp=grasp)
    return replace(
        trial,
        name=f"{trial.name}, model",
        episode=episode,
        expected=expected_verdicts(grasp.outcome, trial.before, trial.after, trial.target, instances),
    )


def wilson(hits: int, count: int) -> list[float] | None:
    """Bounds of Wilson's interval of 95 % for a rate; None of nothing."""
    if not count:
        return None
    z, rate = 1.96, hits / count
    middle = rate + z * z / (2 * count)
    spread = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return [max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)]


def summary(name: str, judged: list[Judged]) -> dict[str, Any]:
    """The figures of one condition, as JSON; None where there is nothing to divide by."""
    labels = [value for j in judged for value in j.overlaps]
    wrong = sum(value < WRONG for value in labels)
    clean = [j for j in judged if j.trial.clean]
    accepted = [max(j.overlaps) for j in clean if j.overlaps]
    found = Counter(j.episode_labels.verdict for j in judged)
    right = Counter(j.episode_labels.verdict for j in judged if j.episode_labels.verdict in j.trial.expected)
    wanted = Counter(j.expected for j in judged)

    def fraction(part: float, whole: float) -> float | None:
        return part / whole if whole else None

    return {
        "condition": name,
        "grasps": len(judged),
        "labels": len(labels),
        "wrong_labels": wrong,
        "wrong_share": fraction(wrong, len(labels)),
        "wrong_interval": wilson(wrong, len(labels)),
        "median_iou": float(np.median(labels)) if labels else None,
        "clean_picks": len(clean),
        "clean_labelled": len(accepted),
        "clean_median_iou": float(np.median(accepted)) if accepted else None,
        "verdicts": {
            verdict.value: {
                "true": wanted[verdict],
                "found": found[verdict],
                "precision": fraction(right[verdict], found[verdict]),
                "recall": fraction(right[verdict], wanted[verdict]),
            }
            for verdict in Verdict
        },
        "causes": dict(
            Counter(f"{j.episode_labels.verdict.value}: {j.episode_labels.cause.value}" for j in judged)
        ),
    }
