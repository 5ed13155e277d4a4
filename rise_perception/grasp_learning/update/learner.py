"""The learner: from stored episodes to a candidate, through the gate, to the version that serves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, DataError, ModelError
from rise_perception.core.files import write_json
from rise_perception.data.coco import CocoDataset
from rise_perception.data.sources import open_labelled
from rise_perception.grasp_learning.capture.episode import Episode
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.labelling.episode_labels import Verdict
from rise_perception.grasp_learning.labelling.label_propagation import (
    ItemMask,
    KnownItems,
    beside,
    known_items,
)
from rise_perception.grasp_learning.update.gate import (
    GateConfig,
    GateDecision,
    Measured,
    gate_candidate,
    measure,
)
from rise_perception.grasp_learning.update.model_store import ModelStore, StoredModel
from rise_perception.grasp_learning.update.scenes import rejection_reason
from rise_perception.grasp_learning.update.update import (
    Progress,
    Stopped,
    UpdateConfig,
    interpolate_weights,
    train_candidate,
)
from rise_perception.grasp_learning.update.update_log import write_down
from rise_perception.network.checkpoint import file_checksum

#: What the learner remembers, in the folder of the models.
MEMORY = "learner.json"
#: Verdicts that may come with labels.
USABLE = (Verdict.CONFIRMED, Verdict.CORRECTED, Verdict.MOVED, Verdict.DOUBLE)
#: Rejected candidates that an episode may have had a part in before it is left out.
MAX_FAILURES = 3
#: How often a candidate that forgets anchors is drawn back towards the serving model, and to which part.
DRAWN_BACK, PART_OF_THE_WAY = 2, 0.65


class TooFewEpisodesError(DataError):
    """There is too little to learn from, or to judge by; other episodes may come."""


@dataclass(frozen=True)
class LearnerConfig:
    """What the learner learns from, and when.

    Attributes:
        anchors: labelled sources that are replayed in every update.
        heldout_anchors: COCO annotation file of other images, on which nothing may be lost.
        update: how a candidate is trained.
        gate: what it has to reach.
        min_new: episodes that have to be new before an update begins by itself.
        most_new: new episodes that one update takes, the oldest first.
        new_fraction: share of the new ones among an update's episodes; the others are replayed.
        heldout_fraction: fraction of the time, and of recordings, whose episodes validate and are never
            learned from.
        heldout_cycle: seconds after which that comes round: :func:`is_held_out`.
        most_heldout: the newest of them that are looked at.
        device: where networks run.
    """

    anchors: tuple[str, ...]
    heldout_anchors: str
    update: UpdateConfig = field(default_factory=UpdateConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    min_new: int = 8
    most_new: int = 64
    new_fraction: float = 0.25
    heldout_fraction: float = 0.25
    heldout_cycle: float = 120.0
    most_heldout: int = 60
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not self.anchors or not self.heldout_anchors:
            raise ConfigError(
                "no labelled anchors to replay, or none held out for the gate; name both (`rise scenes` "
                "makes some): without them nothing shows what an update destroys"
            )
        for name in ("new_fraction", "heldout_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie between 0 and 1")
        if self.most_new < 1 or not self.heldout_cycle > 0:
            raise ConfigError(
                f"most_new is {self.most_new} and heldout_cycle {self.heldout_cycle}; both must be above 0"
            )
        if self.min_new < 1 or self.most_heldout < self.gate.min_heldout:
            raise ConfigError(
                f"min_new is {self.min_new} and most_heldout {self.most_heldout}; they must be at least 1 "
                f"and gate.min_heldout ({self.gate.min_heldout})"
            )


@dataclass(frozen=True)
class Memory:
    """What outlasts the process.

    Attributes:
        learned: ids of the episodes that a promoted candidate was trained on.
        failures: id -> rejected candidates that it had a part in.
        rejected: candidates that the gate refused.
        last_verdict: why the last candidate was promoted or rejected.
        paused: nothing is learned until somebody resumes.
    """

    learned: tuple[str, ...] = ()
    failures: dict[str, int] = field(default_factory=dict)
    rejected: int = 0
    last_verdict: str = ""
    paused: bool = False


@dataclass(frozen=True)
class Survey:
    """The episodes: all, usable ones, of these new ones, and bytes."""

    total: int
    usable: int
    new: int
    size: int


@dataclass(frozen=True)
class Update:
    """The end of an update.

    Attributes:
        decision: of the gate.
        promoted: it serves now.
        version: of the candidate; a rejected one is not kept.
        serving, candidate: their figures; None when the training failed.
    """

    decision: GateDecision
    promoted: bool
    version: str
    serving: Measured | None = None
    candidate: Measured | None = None


class OnlineLearner:
    """Learns from an episode store into a model store.

    Args:
        config: what from, and when.
        models: opened for writing; has begun.
        episodes: the store of episodes, opened for reading.

    Raises:
        RiseError: the anchors cannot be read.
    """

    def __init__(self, config: LearnerConfig, models: ModelStore, episodes: EpisodeStore) -> None:
        self.config, self.models, self.episodes = config, models, episodes
        network = models.serving().card.network
        depth = network.sees_depth
        # What is wrong with the anchors should show now, not when the first episodes have come.
        for path in config.anchors:
            open_labelled(path, network.classes, depth)
        CocoDataset(config.heldout_anchors, network.classes, depth)
        self.memory = self._remembered()
        self._mutex = Lock()

    # -- what there is -----------------------------------------------------------------------------

    def survey(self) -> Survey:
        """Count the episodes; frames are not read."""
        entries = self.episodes.entries()
        usable = [entry for entry in entries if entry.verdict in USABLE]
        new = [entry for entry in usable if self._is_new(entry)]
        return Survey(len(entries), len(usable), len(new), sum(entry.size for entry in entries))

    def is_due(self) -> bool:
        """True when enough new episodes wait, enough can judge, and nobody has paused."""
        if self.memory.paused or self.survey().new < self.config.min_new:
            return False
        validation = [e for e in self.episodes.entries() if e.verdict in USABLE and self._validates(e)]
        return len(validation) >= self.config.gate.min_heldout

    def pause(self, paused: bool) -> None:
        """Stop or resume; outlasts the process."""
        self._remember(paused=paused)

    def reset(self) -> StoredModel:
        """Serve what the store of models began with; every episode is new to it."""
        current = self.models.reset()
        self._remember(learned=(), failures={})
        return self.models.find(current.version)

    def _validates(self, entry: Entry) -> bool:
        return is_held_out(entry, self.config.heldout_fraction, self.config.heldout_cycle)

    def _is_new(self, entry: Entry) -> bool:
        known = entry.id in self.memory.learned or entry.id in self.memory.failures
        return not known and not self._validates(entry)

    # -- an update ---------------------------------------------------------------------------------

    def update(
        self,
        ids: Sequence[str] = (),
        iterations: int = 0,
        promote: bool = True,
        report: Callable[[Progress], None] = lambda progress: None,
        stop: Event | None = None,
    ) -> Update:
        """Train a candidate, measure it and, when it passes the gate, let it serve.

        Args:
            ids: episodes to learn from; empty: the new ones and some to replay, or all when none is new.
            iterations: 0 is the configured budget.
            promote: False keeps the candidate as a version that does not serve.
            report: told how far it is.
            stop: ends it early; nothing of it stays then.

        Raises:
            TooFewEpisodesError: there is too little to learn from, or to judge by.
            DataError: one of ``ids`` is not stored, or cannot teach.
            Stopped: by ``stop``.
        """
        stop, begun = stop or Event(), time.monotonic()
        report(Progress("loading"))
        parent = self.models.serving()
        heldout, training = self._chosen(parent, ids)
        budget = self.config.update
        if iterations:
            budget = dataclasses.replace(budget, iterations=iterations)
        with self.models.workplace() as place:
            source = (self.episodes, training, self._known(training, judging=False))
            try:
                card, steps = train_candidate(
                    budget, parent, self.config.anchors, source, place, report, stop, self.config.device
                )
            except ModelError as error:  # the loss ran away: a rejected candidate, like any other
                failed = Update(GateDecision(False, f"the training failed: {error}"), False, "")
                self._conclude(failed, training, {"parent": parent.version})
                return failed
            report(Progress("validating", steps, budget.iterations))
            serving = self._measured(parent.folder, heldout, stop)
            # KnownItems by its content: another file under the same name is another measure.
            measure_of = file_checksum(Path(self.config.heldout_anchors))
            line = parent.facts.get("best_anchors", {})
            best = max(serving.anchor_ap, line.get(measure_of, 0.0))
            candidate = self._measured(place, heldout, stop)
            decision = gate_candidate(serving, candidate, self.config.gate, best)
            for _ in range(DRAWN_BACK):
                if not decision.forgets:
                    break
                card = interpolate_weights(place, parent, PART_OF_THE_WAY)
                candidate = self._measured(place, heldout, stop)
                decision = gate_candidate(serving, candidate, self.config.gate, best)
            facts = {
                "parent": parent.version,
                "note": f"{len(training)} episodes, {steps} steps; {decision.reason}",
                "accepted": decision.accepted and promote,
                "anchor_ap": candidate.anchor_ap,
                "heldout": candidate.heldout_mean,
                "best_anchors": line | {measure_of: best},
            }
            if stop.is_set():
                raise Stopped
            if decision.accepted or not promote:
                self.models.add(place, card, facts)
        promoted = decision.accepted and promote
        if promoted:
            try:
                self.models.promote(card.version, parent.version)
            except ModelError as error:
                promoted, decision = False, GateDecision(False, str(error))
        result = Update(decision, promoted, card.version, serving, candidate)
        measured = {
            "parent": parent.version,
            "steps": steps,
            "seconds": round(time.monotonic() - begun, 1),
            "anchor_ap": [serving.anchor_ap, candidate.anchor_ap],
            "heldout": [serving.heldout_mean, candidate.heldout_mean],
        }
        self._conclude(result, training, measured)
        return result

    def _measured(self, folder: Path, heldout: list[Entry], stop: Event) -> Measured:
        """A model's figures.

        Raises:
            Stopped: by ``stop``.
        """
        found = measure(folder, self.config.heldout_anchors, self._read(heldout), self.config.device)
        if stop.is_set():
            raise Stopped
        return found

    def _chosen(self, parent: StoredModel, ids: Sequence[str]) -> tuple[list[Entry], list[Entry]]:
        """Held-out episodes, and those to learn from."""
        depth = parent.card.network.sees_depth
        good = [entry for entry in self.episodes.entries() if entry.verdict in USABLE]
        heldout = [e for e in good if self._validates(e)][::-1][: self.config.most_heldout]
        heldout = [e for e in heldout if not self._objection(e, depth)]
        if len(heldout) < self.config.gate.min_heldout:
            raise TooFewEpisodesError(
                f"{len(heldout)} held-out episodes can judge a candidate, gate.min_heldout is "
                f"{self.config.gate.min_heldout}; capture more grasps"
            )
        training = [e for e in good if not self._validates(e)]
        if ids:
            unknown = sorted(set(ids) - {e.id for e in training})
            if unknown:
                raise DataError(
                    f"episode {unknown[0]!r} is not stored, teaches nothing, or is held out to judge"
                )
            chosen = [e for e in training if e.id in set(ids)]
        else:
            new = [e for e in training if self._is_new(e)]
            failures = self.memory.failures
            old = [e for e in training if e not in new and failures.get(e.id, 0) < MAX_FAILURES]
            new = new[: self.config.most_new]
            chosen = new + replayed(old, len(new), self.config.new_fraction, seed=len(self.memory.learned))
        useless = [e for e in chosen if self._objection(e, depth)]
        if useless:  # or they would count as new for ever
            self._remember(failures=self.memory.failures | {e.id: MAX_FAILURES for e in useless})
        chosen = [e for e in chosen if e not in useless]
        if not chosen:
            raise TooFewEpisodesError("no stored episode teaches anything new; capture more grasps")
        return heldout, chosen

    def _objection(self, entry: Entry, depth: bool) -> str:
        try:
            return rejection_reason(*self.episodes.read(entry), depth)
        except DataError as error:  # damaged, or evicted a moment ago
            return str(error)

    def _known(self, chosen: list[Entry], judging: bool) -> dict[str, KnownItems]:
        """What is certain in the frames of episodes that all judge, or all teach."""
        side = [entry for entry in self.episodes.entries() if self._validates(entry) == judging]
        return known_items(self.episodes, beside(side, chosen))

    def _read(self, entries: list[Entry]) -> Iterator[tuple[Episode, tuple[ItemMask, ...]]]:
        known = self._known(entries, judging=True)
        for entry in entries:
            episode, _ = self.episodes.read(entry)
            yield episode, known[entry.id].before

    # -- what is remembered ------------------------------------------------------------------------

    def _conclude(self, result: Update, training: list[Entry], facts: dict[str, object]) -> None:
        """Write an update down, and what it means for its episodes."""
        accepted, memory = result.decision.accepted, self.memory
        failures, learned = dict(memory.failures), set(memory.learned)
        for entry in training:
            if result.promoted:
                learned.add(entry.id)
                failures.pop(entry.id, None)
            elif not accepted and entry.id not in learned:
                failures[entry.id] = failures.get(entry.id, 0) + 1
        stored = {entry.id for entry in self.episodes.entries()}
        verdict = "promoted" if result.promoted else "accepted" if accepted else "rejected"
        self._remember(
            learned=tuple(sorted(learned & stored)),
            failures={k: v for k, v in failures.items() if k in stored},
            rejected=memory.rejected + (not accepted),
            last_verdict=f"{verdict}: {result.decision.reason}",
        )
        said = {"verdict": verdict, "reason": result.decision.reason, "candidate": result.version}
        write_down(self.models.root, {**said, "episodes": len(training), **facts})

    def _remembered(self) -> Memory:
        """What an earlier process wrote; nothing, should it be damaged: episodes are then learned again."""
        try:
            raw = json.loads((self.models.root / MEMORY).read_text(encoding="utf-8"))
            return build_config(Memory, {**raw, "learned": tuple(raw["learned"])}, MEMORY)
        except (OSError, ValueError, KeyError, TypeError, ConfigError):
            return Memory()

    def _remember(self, **changes: object) -> None:
        with self._mutex:  # somebody may pause while an update ends
            self.memory = dataclasses.replace(self.memory, **changes)  # type: ignore[arg-type]
            write_json(self.models.root / MEMORY, dataclasses.asdict(self.memory))


def is_held_out(entry: Entry, share: float, cycle: float) -> bool:
    """Whether an episode judges instead of teaching, for ever.

    Grasps that follow each other show the same items, so that they go together: the last ``share`` of every
    ``cycle`` seconds judges. In recordings it begins at a moment that depends on their session, so that of
    many short ones a share judges.
    """
    length = round(cycle * 1e9)
    start = int(hashlib.sha256(entry.session.encode()).hexdigest(), 16) % length if entry.session else 0
    return (entry.stamp + start) % length >= (1 - share) * length


def replayed(old: Sequence[Entry], new: int, new_fraction: float, seed: int) -> list[Entry]:
    """Older episodes to go with ``new`` new ones: corrections first, the others drawn without replacement.

    With no new one, all of them.
    """
    count = round(new * (1 - new_fraction) / new_fraction) if new else len(old)
    shuffled = random.Random(seed).sample(list(old), len(old))
    return sorted(shuffled, key=lambda entry: entry.verdict != Verdict.CORRECTED)[:count]
