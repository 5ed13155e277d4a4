"""From the outcomes of grasps to the head that foretells them: its other half is in ``inference``.

Every grasp at a mask counts, the failed ones above all: an empty grasp says that nothing can be held there,
whether the mask lies on bare ground or on an item's rim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rise_perception.core.errors import DataError
from rise_perception.grasp_learning.capture.episode import Episode, Grasp, Outcome
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.labelling.episode_labels import Cause, EpisodeLabels, Verdict
from rise_perception.inference.pick_success import FEATURES, PickSuccess, pick_features

#: Outcomes, and those of the rarer kind, from which a head is fitted.
MIN_OUTCOMES, MIN_OF_A_KIND = 8, 2
#: Strength of the prior that a feature, or a value of the embedding, says nothing. With a tenth of it the
#: head of 18 to 36 grasps foretold those in other totes of a simulated cell worse than their rate did.
FEATURE_PRIOR, EMBEDDING_PRIOR = 10.0, 100.0
#: Rounds of Newton's method; it converges in less.
ROUNDS = 25
#: Verdicts and causes in which what the robot reports contradicts what the camera saw.
_CONTRADICTED = (Cause.NOTHING_CHANGED, Cause.CAMERA_MOVED, Cause.TARGET_STAYED)


@dataclass(frozen=True)
class GraspOutcome:
    """One grasp at a mask.

    Attributes:
        scene: the tote or pile that it was in: grasps of one scene resemble each other.
        features: (D,) of the mask, see :func:`rise_perception.inference.pick_success.pick_features`.
        success: one item was held.
        version: of the model whose mask it was.
    """

    scene: str
    features: np.ndarray
    success: bool
    version: str = ""


def succeeded(grasp: Grasp, labels: EpisodeLabels) -> bool | None:
    """Whether a grasp held one item; None where nobody knows, or what is reported contradicts the frames."""
    if grasp.outcome == Outcome.SUCCESS:
        return None if labels.cause in _CONTRADICTED else labels.verdict != Verdict.DOUBLE
    return None if grasp.outcome == Outcome.UNKNOWN else False


def outcome_of(episode: Episode, labels: EpisodeLabels, scene: str) -> GraspOutcome | None:
    """What a grasp says of its mask; None where no mask was aimed at, or nobody knows what came of it."""
    found, grasp = episode.before.instances, episode.grasp
    success = succeeded(grasp, labels)
    if found is None or grasp.target_id < 0 or success is None:
        return None
    rows = np.flatnonzero(found.ids == grasp.target_id)
    if not len(rows):
        return None
    features = pick_features(found, episode.before.frame.depth)[rows[0]]
    return GraspOutcome(scene, features, success, episode.model_version)


class OutcomeReader:
    """The outcomes of stored episodes; the frames of each are read once.

    Args:
        episodes: the store.
    """

    def __init__(self, episodes: EpisodeStore) -> None:
        self._episodes = episodes
        self._found: dict[str, GraspOutcome | None] = {}

    def read(self, entries: Iterable[Entry], scene: Callable[[Entry], str]) -> dict[str, GraspOutcome]:
        """Id -> outcome of the episodes that have one."""
        outcomes = {}
        for entry in entries:
            if entry.id not in self._found:
                try:
                    self._found[entry.id] = outcome_of(*self._episodes.read(entry), scene(entry))
                except DataError:  # damaged, or evicted a moment ago
                    self._found[entry.id] = None
            if (outcome := self._found[entry.id]) is not None:
                outcomes[entry.id] = outcome
        return outcomes


def fit_pick_success(outcomes: Sequence[GraspOutcome]) -> PickSuccess | None:
    """The head that explains the outcomes best; None where they are too few, or all alike.

    A logistic regression with a Gaussian prior on its weights, which keeps a head of few outcomes careful.
    """
    if not outcomes:
        return None
    width = len(outcomes[-1].features)
    usable = [o for o in outcomes if len(o.features) == width]
    truth = np.array([o.success for o in usable], np.float64)
    if len(usable) < MIN_OUTCOMES or min(truth.sum(), (1 - truth).sum()) < MIN_OF_A_KIND:
        return None
    features = np.stack([o.features for o in usable])
    mean, scale = features.mean(0), np.maximum(features.std(0), 1e-3)
    x = np.concatenate([((features - mean) / scale).clip(-4, 4), np.ones((len(usable), 1))], 1)
    prior = np.concatenate(
        [np.full(len(FEATURES), FEATURE_PRIOR), np.full(width - len(FEATURES), EMBEDDING_PRIOR), [1e-3]]
    )
    weights = np.zeros(width + 1)
    weights[-1] = math.log(truth.sum() / (1 - truth).sum())
    for _ in range(ROUNDS):
        p = 1 / (1 + np.exp(-(x @ weights)))
        gradient = x.T @ (p - truth) + prior * weights
        curvature = (x * np.maximum(p * (1 - p), 1e-6)[:, None]).T @ x + np.diag(prior)
        step = np.linalg.solve(curvature, gradient)
        weights -= step * min(1.0, 3.0 / max(1e-9, float(np.linalg.norm(step))))
        if np.abs(step).max() < 1e-6:
            break
    return PickSuccess(mean, scale, weights[:-1], float(weights[-1]), len(usable))


def information(outcomes: Sequence[GraspOutcome], folds: int = 5) -> float:
    """Nats that a head tells per grasp of scenes that it has not seen, beyond the rate of success.

    Positive: the head foretells better than the rate alone. With a single scene its grasps are divided.

    Returns:
        the mean; NaN where it cannot be measured.
    """
    scenes = sorted({o.scene for o in outcomes})
    if len(scenes) > 1:
        group = {scene: rank % folds for rank, scene in enumerate(scenes)}
        fold = np.array([group[o.scene] for o in outcomes])
    else:
        fold = np.arange(len(outcomes)) % folds
    won: list[float] = []
    for number in np.unique(fold):
        rest = [o for o, f in zip(outcomes, fold, strict=True) if f != number]
        head = fit_pick_success(rest)
        if head is None:
            continue
        rate = np.mean([o.success for o in rest])
        for o in (o for o, f in zip(outcomes, fold, strict=True) if f == number):
            told = float(head(o.features[None])[0])
            mine, flat = (told, rate) if o.success else (1 - told, 1 - rate)
            won.append(math.log(max(mine, 1e-3)) - math.log(max(flat, 1e-3)))
    return float(np.mean(won)) if won else math.nan
