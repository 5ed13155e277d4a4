"""Trials of films of grasps, by what happened around each: neighbours fall, two leave, one is put back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.grasp_trials import Trial, from_label_map, make_trial
from rise_perception.core.frame import Frame
from rise_perception.grasp_learning.capture.episode import Outcome
from rise_perception.grasp_learning.labelling.episode_labels import Verdict
from rise_perception.simulation.disturbed_grasps import GraspFilm

#: What is filmed, and how often.
FILMED = {"take": 0.35, "nudge": 0.25, "take two": 0.25, "place back": 0.15}
#: Condition -> action, what is reported, and whether one prediction holds both items.
CONDITIONS = {
    "undisturbed": ("take", Outcome.SUCCESS, False),
    "neighbours moved": ("take", Outcome.SUCCESS, False),
    "neighbours pushed": ("nudge", Outcome.SUCCESS, False),
    "two left, one reported": ("take two", Outcome.SUCCESS, False),
    "two left, predicted as one": ("take two", Outcome.SUCCESS, True),
    "placed back, unknown outcome": ("place back", Outcome.UNKNOWN, False),
    "placed back, success reported": ("place back", Outcome.SUCCESS, False),
}


def disturbed_trials(films: Sequence[GraspFilm], condition: str, with_depth: bool) -> Iterator[Trial]:
    """The grasps of a condition.

    Args:
        films: see :func:`rise_perception.simulation.disturbed_grasps.film_grasps`.
        condition: a key of :data:`CONDITIONS`.
        with_depth: False leaves depth out.
    """
    action, outcome, merged = CONDITIONS[condition]
    for number, film in enumerate(films):
        for before in range(len(film.images) - 1):
            after, target = before + 1, int(film.targets[before + 1])
            labels = film.labels[before]
            left = [k for k in film.left(before, after).tolist() if (labels == k).any()]
            if film.actions[after] != action:
                continue
            if action == "take":
                disturbed = any((labels == k).any() for k in film.moved(before, after)) or left != [target]
                if disturbed != (condition == "neighbours moved"):
                    continue
            if action == "take two" and len(left) < 2:
                continue
            first, second = (_frame(film, k, with_depth) for k in (before, after))
            trial = make_trial(
                f"film {number}, {before}",
                first,
                labels,
                second,
                film.labels[after],
                target,
                outcome,
                np.random.default_rng([number, before]),
            )
            yield _as(trial, condition, left if merged else [])


def _as(trial: Trial, condition: str, together: list[int]) -> Trial:
    """The trial with the verdicts that are right under a condition; ``together`` are predicted as one."""
    expected = trial.expected
    if condition.startswith("two"):
        expected = frozenset({Verdict.DOUBLE, Verdict.REJECTED})
    elif condition.startswith("placed"):
        expected = frozenset({Verdict.MOVED, Verdict.REJECTED})
    episode = trial.episode
    if together:
        made = trial.before.copy()
        made[np.isin(made, together)] = together[0]
        before = replace(episode.before, instances=from_label_map(made))
        grasp = replace(episode.grasp, target_id=together[0])
        episode = replace(episode, before=before, grasp=grasp)
    return replace(trial, name=f"{trial.name}, {condition}", episode=episode, expected=expected)


def _frame(film: GraspFilm, state: int, with_depth: bool) -> Frame:
    depth = film.depths[state].astype(np.float32) / 1000 if with_depth else None
    return Frame(film.images[state], depth, None, state + 1)
