"""Report sections about learning: what the grasps taught, the updates, the versions of the model."""

from __future__ import annotations

import datetime
from collections import Counter

from rise_perception.core.errors import DataError
from rise_perception.evaluation.report import Picture, Section, Table
from rise_perception.grasp_learning.capture.episode_store import USEFULNESS, Entry, EpisodeStore
from rise_perception.grasp_learning.labelling.episode_labels import Cause, EpisodeLabels, Verdict
from rise_perception.grasp_learning.labelling.pictures import draw_labels
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.grasp_learning.update.update_log import read_history

#: What follows from a verdict, in plain words; where a cause says more, it goes first.
_MEANING: dict[Verdict | Cause, str] = {
    Cause.UNDER_SEGMENTED: "The prediction held more than the item; the model is shown where the item ends.",
    Cause.OVER_SEGMENTED: "The item was taken for several; the model is shown that it is one.",
    Cause.MISSED: "The model had overlooked the item, and is shown it.",
    Cause.OUTLINE: "The prediction covered only a part of the item; the model is shown the whole.",
    Verdict.CONFIRMED: "The prediction was right; its mask is a label now.",
    Verdict.MOVED: "What a prediction agrees with is a label; nothing was taken.",
    Verdict.DOUBLE: "Each item that a prediction agrees with is a label.",
    Verdict.EMPTY: "There is no label in it.",
    Verdict.REJECTED: "Nothing is learned from it.",
}


def labels_section(episodes: EpisodeStore, most: int = 12) -> Section:
    """The most instructive episodes as pictures, and how many there are of each kind.

    Corrections go first, rejected ones last; within a verdict its causes take turns, newest first.

    Args:
        episodes: the store; damaged episodes are left out.
        most: pictures.
    """
    counts: Counter[tuple[Verdict, Cause]] = Counter()
    found: list[tuple[tuple[int, int, int], Entry]] = []
    for entry in reversed(episodes.entries()):
        try:
            labels = episodes.read_labels(entry)
        except DataError:
            continue
        kind = labels.verdict, labels.cause
        found.append(((-USEFULNESS.index(labels.verdict), counts[kind], -entry.stamp), entry))
        counts[kind] += 1
    pictures: list[Picture] = []
    for _, entry in sorted(found, key=lambda pair: pair[0]):
        if len(pictures) == most:
            break
        try:
            episode, labels = episodes.read(entry)
        except DataError:
            continue
        pictures.append(Picture.of(draw_labels(episode, labels, zoom=True), in_words(labels)))
    rows = [
        (f"{verdict.value}: {cause.value}", str(count))
        for (verdict, cause), count in sorted(
            counts.items(), key=lambda pair: (-USEFULNESS.index(pair[0][0]), -pair[1])
        )
    ]
    text = (
        f"{sum(counts.values())} grasps. The last panel shows what was removed in red, what was added in "
        "blue, and in its colours, outlined in green, what is a label since."
    )
    return Section("What the grasps taught", text, [Table(("verdict", "grasps"), rows)], pictures)


def in_words(labels: EpisodeLabels) -> str:
    """Verdict, reason and what follows, for a person."""
    meaning = _MEANING[labels.cause if labels.cause in _MEANING else labels.verdict]
    if labels.verdict not in (Verdict.EMPTY, Verdict.REJECTED) and not labels.teaches:
        meaning = "No prediction agrees, so that there is no label in it."
    return f"{labels.verdict.value.capitalize()}: {labels.reason}. {meaning}"


def updates_section(models: ModelStore) -> Section:
    """Every update, newest first, with the gate's figures and reason."""
    rows = []
    for facts in reversed(read_history(models.root)):
        rows.append(
            (
                f"{_time(facts.get('stamp', 0))} {facts.get('verdict', '?')}: {facts.get('reason', '?')}",
                str(facts.get("episodes", "-")),
                str(facts.get("steps", "-")),
                _change(facts.get("anchor_ap")),
                _change(facts.get("heldout")),
            )
        )
    head = ("update", "episodes", "steps", "anchors AP", "held-out quality")
    if not rows:
        return Section("Updates", "There was none.")
    text = "Figures of the version that served, and of the candidate; quality is IoU times score."
    return Section("Updates", text, [Table(head, rows)])


def versions_section(models: ModelStore) -> Section:
    """Every version of the model, newest first; the active one, and what it came from."""
    current = models.current()
    serving = "" if current is None else current.version
    rows = [
        (
            f"{model.version}{' (serves)' if model.version == serving else ''}",
            str(model.facts.get("parent") or "-"),
            _time(model.created),
            _figure(model.facts.get("anchor_ap")),
            _figure(model.facts.get("heldout")),
        )
        for model in models.versions()
    ]
    head = ("version", "trained from", "since", "anchors AP", "held-out quality")
    return Section("Versions of the model", "", [Table(head, rows)])


def _time(stamp: object) -> str:
    """Nanoseconds as local time."""
    if not isinstance(stamp, int):
        return "?"
    return datetime.datetime.fromtimestamp(stamp / 1e9).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _figure(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, (int, float)) else "-"


def _change(pair: object) -> str:
    if not isinstance(pair, list) or len(pair) != 2:
        return "-"
    return f"{_figure(pair[0])} \N{RIGHTWARDS ARROW} {_figure(pair[1])}"
