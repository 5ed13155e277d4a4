"""How good the analysis of episodes is, on grasps whose truth is known."""

from __future__ import annotations

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
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels, Verdict
from rise_perception.grasp_learning.labelling.label_episode import label_episode

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


def judge(trial: Trial) -> Judged:
    """Analyse a trial and compare with its truth."""
    episode_labels = label_episode(trial.episode)
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
