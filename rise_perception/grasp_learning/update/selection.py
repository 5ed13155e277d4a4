"""Which episodes can be believed, and which of them an update learns from."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

from rise_perception.core.errors import DataError
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.labelling.episode_labels import Verdict
from rise_perception.grasp_learning.labelling.outline_evidence import (
    MIN_LABELS,
    Evidence,
    evidence_of,
    systematic_fault,
)
from rise_perception.grasp_learning.labelling.removal_evidence import (
    Removal,
    removals,
    systematic_removal_fault,
)
from rise_perception.grasp_learning.update.scenes import rejection_reason

#: Verdicts that may come with something to learn.
USABLE = (Verdict.CONFIRMED, Verdict.CORRECTED, Verdict.MOVED, Verdict.DOUBLE, Verdict.EMPTY)
#: Fraction of the labels of a verdict that were right, measured on grasps with known truth: 149 of 151
#: confirmed ones, 49 of 56 corrected ones. The others are as the better of them, an agreement with a
#: prediction.
RELIABILITY = {Verdict.CORRECTED: 0.875}
USUAL_RELIABILITY = 0.987
#: Labels that are judged together: what was wrong in a cell once is mended some day.
NEWEST = 60
#: Why an episode is left out whose frames contradict its label.
CONTRADICTED = "most of what the label holds has stayed"


class EpisodeCheck:
    """Why nothing can be learned from episodes; the frames of each are read once.

    Args:
        episodes: the store.
        with_depth: the model sees depth.
    """

    def __init__(self, episodes: EpisodeStore, with_depth: bool) -> None:
        self._episodes, self._depth = episodes, with_depth
        self._found: dict[tuple[str, Verdict], str] = {}
        self._removals: dict[str, list[Removal]] = {}

    def objection(self, entry: Entry) -> str:
        """Empty when something can be learned."""
        if entry.verdict not in USABLE:
            return entry.verdict.value
        key = entry.id, entry.verdict
        if key not in self._found:
            try:
                self._found[key] = self._look(entry)
            except DataError as error:  # damaged, or evicted a moment ago
                return str(error)
        return self._found[key]

    def contradicts(self, entry: Entry) -> bool:
        """Whether the frames of an episode contradict its label."""
        return self.objection(entry) == CONTRADICTED

    def fault(self, entries: Iterable[Entry]) -> str:
        """Why the newest labels of episodes, oldest first, cannot be right together; empty where they can."""
        usable = [entry for entry in entries if entry.verdict in USABLE]
        for entry in usable:
            self.objection(entry)
        found = [removal for entry in usable for removal in self._removals.get(entry.id, [])]
        return systematic_removal_fault(found[-NEWEST:])

    def _look(self, entry: Entry) -> str:
        episode, labels = self._episodes.read(entry)
        if reason := rejection_reason(episode, labels, self._depth):
            return reason
        found = self._removals[entry.id] = removals(episode, labels)
        return CONTRADICTED if any(removal.contradicted for removal in found) else ""


def sampled(entries: Sequence[Entry], most: int, is_new: Callable[[Entry], bool], seed: int) -> list[Entry]:
    """At most so many episodes, new ones first, in the order of the store.

    Without room for all, the rest is drawn without replacement, more reliable verdicts with a higher chance.
    """
    if len(entries) <= most:
        return list(entries)
    rng = random.Random(seed)

    def key(entry: Entry) -> tuple[bool, float]:
        weight = RELIABILITY.get(entry.verdict, USUAL_RELIABILITY)
        return not is_new(entry), -(rng.random() ** (1 / weight))

    chosen = {entry.id for entry in sorted(entries, key=key)[:most]}
    return [entry for entry in entries if entry.id in chosen]


def faulty_scenes(
    episodes: EpisodeStore, entries: Iterable[Entry], scene: Callable[[Entry], str]
) -> tuple[set[str], str]:
    """Scenes whose labels lie beside the edges of the pictures, and what speaks against all labels together.

    Args:
        episodes: the store.
        entries: episodes that teach or judge.
        scene: of an episode.
    """
    found: dict[str, list[Evidence]] = {}
    for entry in entries:
        try:
            episode, labels = episodes.read(entry)
        except DataError:
            continue
        frame = episode.before.frame
        found.setdefault(scene(entry), []).extend(evidence_of([(frame.image, frame.depth, labels.masks)]))
    faulty = {
        name for name, labels in found.items() if len(labels) >= MIN_LABELS and systematic_fault(labels)
    }
    rest = [evidence for name, labels in found.items() if name not in faulty for evidence in labels]
    everything = [evidence for labels in found.values() for evidence in labels]
    # Should most scenes be faulty, the others are no refuge: what shifted a camera shifts every tote.
    return faulty, systematic_fault(everything) or systematic_fault(rest)
