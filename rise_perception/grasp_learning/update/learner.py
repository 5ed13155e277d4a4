"""The learner: from stored episodes to a candidate, through the gate, to the version that serves."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from rise_perception.core.errors import DataError, ModelError
from rise_perception.core.frame import Frame
from rise_perception.data.coco import CocoDataset
from rise_perception.data.sources import open_labelled
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.labelling.background import (
    MAX_TOTES,
    FalsePlaces,
    find_false_places,
    learn_background,
)
from rise_perception.grasp_learning.labelling.failures import refuted_mask
from rise_perception.grasp_learning.labelling.label_propagation import (
    KnownItems,
    beside,
    known_items,
)
from rise_perception.grasp_learning.update.canary import Trial
from rise_perception.grasp_learning.update.checked import CheckedFrames
from rise_perception.grasp_learning.update.config import LearnerConfig
from rise_perception.grasp_learning.update.gate import (
    AnchorFigures,
    GateDecision,
    Interaction,
    Measured,
    gate_candidate,
    measure,
    measure_anchors,
)
from rise_perception.grasp_learning.update.model_store import ModelStore, StoredModel
from rise_perception.grasp_learning.update.probation import weights_of
from rise_perception.grasp_learning.update.selection import EpisodeCheck, faulty_scenes, sampled
from rise_perception.grasp_learning.update.serving_versions import ServingVersions
from rise_perception.grasp_learning.update.update import (
    Progress,
    Stopped,
    interpolate_weights,
    train_candidate,
)
from rise_perception.grasp_learning.update.update_log import complete_history, write_down
from rise_perception.network.card import ModelCard, file_checksum

#: How often a candidate that forgets anchors is interpolated with the first model, and by how much.
DRAWN_BACK, PART_OF_THE_WAY = 2, 0.65
#: Versions whose figures on the anchors are remembered.
MAX_MEASURED = 50


class TooFewEpisodesError(DataError):
    """There is too little to learn from, or to judge by; other episodes may come."""


@dataclass(frozen=True)
class Survey:
    """The episodes: all, those that teach or judge, of these new ones, and bytes."""

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


class OnlineLearner(ServingVersions):
    """Learns from an episode store into a model store.

    Args:
        config: what from, and when.
        models: opened for writing; has begun.
        episodes: the store of episodes, opened for reading.

    Raises:
        RiseError: the anchors, or the checked frames, cannot be read.
    """

    def __init__(self, config: LearnerConfig, models: ModelStore, episodes: EpisodeStore) -> None:
        super().__init__(config, models, episodes)
        network = models.serving().card.network
        depth = network.sees_depth
        # What is wrong with the anchors should show now, not when the first episodes have come.
        for path in config.anchors:
            open_labelled(path, network.classes, depth)
        CocoDataset(config.heldout_anchors, network.classes, depth)
        self._checked = CheckedFrames(config.checked, network) if config.checked else None
        self._checked_ap: dict[str, float] = {}  # weights -> AP on the checked frames
        self._check = EpisodeCheck(episodes, depth)
        complete_history(models)

    # -- what there is -----------------------------------------------------------------------------

    def survey(self) -> Survey:
        """Count the episodes; the frames of each are read once."""
        entries = self._entries()
        usable = [entry for entry in entries if self._trusted(entry)]
        new = [entry for entry in usable if self._is_new(entry)]
        return Survey(len(entries), len(usable), len(new), sum(entry.size for entry in entries))

    def is_due(self) -> bool:
        """True when enough new episodes wait, enough can judge, and nobody has paused."""
        return not self.waiting()

    def waiting(self) -> str:
        """Why no update is due; empty when one is."""
        if self.memory.paused:
            return "paused by request"
        if trial := self.memory.trial.version:
            return f"{trial} is on trial"
        entries = self._entries()
        if fault := self._check.fault(self._believed(entries)):
            return fault
        usable = [entry for entry in entries if self._trusted(entry)]
        new = sum(self._is_new(entry) for entry in usable)
        if new < self.config.min_new:
            return f"{new} new episodes teach something, min_new is {self.config.min_new}"
        return self._too_few_heldout([e for e in usable if self.scenes.holds_out(e)])

    def pause(self, paused: bool) -> None:
        """Stop or resume; outlasts the process."""
        self._remember(paused=paused)

    def reset(self) -> StoredModel:
        """Serve what the store of models began with; every episode is new to it."""
        current = self.models.reset()
        self._remember(learned=(), tried=(), quarantined=(), looks=0, trial=Trial())
        return self.models.find(current.version)

    def _trusted(self, entry: Entry) -> bool:
        """Whether an episode shows something, and nobody has taken back what was learned from it."""
        return entry.id not in self.memory.quarantined and not self._check.objection(entry)

    def _is_new(self, entry: Entry) -> bool:
        known = entry.id in self.memory.learned or entry.id in self.memory.tried
        return not known and not self.scenes.holds_out(entry)

    def _too_few_heldout(self, heldout: Sequence[Entry]) -> str:
        count, scenes = len(heldout), len({self.scenes.scene(e) for e in heldout})
        gate = self.config.gate
        if count >= gate.min_heldout and scenes >= gate.min_scenes:
            return ""
        return (
            f"{count} held-out episodes of {scenes} scenes can judge a candidate, gate.min_heldout is "
            f"{gate.min_heldout} and gate.min_scenes {gate.min_scenes}; capture more grasps"
        )

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
            ids: episodes to learn from; empty: all that are trusted.
            iterations: 0 is the configured budget.
            promote: False keeps the candidate as a version that does not serve.
            report: told how far it is.
            stop: ends it early; nothing of it stays then.

        Raises:
            TooFewEpisodesError: there is too little to learn from, or to judge by.
            DataError: one of ``ids`` is not stored, or cannot teach; or a version is on trial, and this
                one may serve.
            Stopped: by ``stop``.
        """
        if promote and (trial := self.memory.trial.version):
            raise DataError(f"{trial} is on trial; wait for its end, or roll it back")
        stop, begun = stop or Event(), time.monotonic()
        report(Progress("loading"))
        serving, base = self.models.serving(), self.models.base()
        heldout, training, fault = self._chosen(ids)
        if fault:
            failed = Update(GateDecision(False, fault), False, "")
            self._conclude(failed, training, {"parent": serving.version})
            return failed
        budget = self.config.update
        if iterations:
            budget = dataclasses.replace(budget, iterations=iterations)
        with self.models.workplace() as place:
            known = self._known(training, heldout=False)
            source = (self.episodes, training, known, self._false_places(training))
            try:
                card, steps = train_candidate(
                    budget, base, self.config.anchors, source, place, report, stop, self.config.device
                )
            except ModelError as error:  # the loss ran away: a rejected candidate, like any other
                failed = Update(GateDecision(False, f"the training failed: {error}"), False, "")
                self._conclude(failed, training, {"parent": serving.version})
                return failed
            report(Progress("validating", steps, budget.iterations))
            card, decision, before, candidate = self.evaluate_candidate(place, card, heldout, stop)
            card = dataclasses.replace(card, metrics={**card.metrics, **self._head()})
            facts = {
                "parent": serving.version,
                "base": base.version,
                "note": f"{len(training)} episodes, {steps} steps; {decision.reason}",
                "accepted": decision.accepted and promote,
                "anchor_ap": candidate.anchor_ap,
                "heldout": candidate.heldout_mean,
                "episodes": sorted({*serving.facts.get("episodes", ()), *(e.id for e in training)}),
            }
            if stop.is_set():
                raise Stopped
            if decision.accepted or not promote:
                self.models.add(place, card, facts)
        promoted = decision.accepted and promote
        if promoted and self.config.canary.fraction:
            promoted = False
            newest = max((entry.stamp for entry in self.episodes.entries()), default=0)
            self._remember(trial=Trial(card.version, newest))
        elif promoted:
            try:
                self.models.promote(card.version, serving.version)
            except ModelError as error:
                promoted, decision = False, GateDecision(False, str(error))
        result = Update(decision, promoted, card.version, before, candidate)
        measured = {
            "parent": serving.version,
            "steps": steps,
            "seconds": round(time.monotonic() - begun, 1),
            "anchor_ap": [before.anchor_ap, candidate.anchor_ap],
            "heldout": [before.heldout_mean, candidate.heldout_mean],
        }
        self.scenes.looked(self.scenes.scene(e) for e in heldout)
        self._conclude(result, training, measured)
        return result

    def evaluate_candidate(
        self, place: Path, card: ModelCard, heldout: list[Entry], stop: Event
    ) -> tuple[ModelCard, GateDecision, Measured, Measured]:
        """The gate's decision on the candidate in ``place``, interpolated where it forgets.

        Args:
            place: folder of the candidate; the weights in it may be replaced.
            card: of the candidate.
            heldout: episodes of :meth:`heldout`.
            stop: ends it early.

        Returns:
            the card of what is in ``place`` then; the decision, the serving model's and the candidate's
            figures.

        Raises:
            Stopped: by ``stop``.
        """
        serving, base = self.models.serving(), self.models.base()
        first = self._anchors(base.folder, base.version, stop)
        places = self._false_places(heldout)
        anchors = self._anchors(serving.folder, serving.version, stop)
        before = self._measured(serving.folder, anchors, heldout, places)
        looks = self.memory.looks + 1
        for drawn in range(1 + DRAWN_BACK):
            if drawn:
                card = interpolate_weights(place, base, PART_OF_THE_WAY)
            candidate = self._measured(place, self._anchors(place, "", stop), heldout, places)
            if stop.is_set():
                raise Stopped
            checked = None
            if self._checked is not None:
                floor = max(self._on_checked(base), self._on_checked(serving))
                checked = floor, measure_anchors(place, self._checked, self.config.device).ap
            decision = gate_candidate(before, candidate, first, self.config.gate, looks, checked)
            if not decision.forgets:
                break
        return card, decision, before, candidate

    def _anchors(self, folder: Path, version: str, stop: Event) -> AnchorFigures:
        """A model's figures on the held-out anchors; those of a ``version`` are measured once.

        Raises:
            Stopped: by ``stop``.
        """
        # By the anchors' content: another file under the same name is another measure.
        key = (
            f"{weights_of(version)} {file_checksum(Path(self.config.heldout_anchors))[:16]}"
            if version
            else ""
        )
        if key and key in self.memory.anchors:
            return AnchorFigures(*self.memory.anchors[key])
        found = measure_anchors(folder, self.config.heldout_anchors, self.config.device)
        if stop.is_set():
            raise Stopped
        if key:
            kept = list(self.memory.anchors.items())[1 - MAX_MEASURED :]
            self._remember(anchors=dict([*kept, (key, list(dataclasses.astuple(found)))]))
        return found

    def _on_checked(self, model: StoredModel) -> float:
        """AP of a version on the hand-checked frames, measured once."""
        key = weights_of(model.version)
        if key not in self._checked_ap:
            assert self._checked is not None
            self._checked_ap[key] = measure_anchors(model.folder, self._checked, self.config.device).ap
        return self._checked_ap[key]

    def _measured(
        self, folder: Path, anchors: AnchorFigures, heldout: list[Entry], places: FalsePlaces | None
    ) -> Measured:
        return measure(folder, anchors, self._read(heldout, places), self.config.device)

    def heldout(self) -> list[Entry]:
        """The episodes that judge, the newest first."""
        heldout = [e for e in self._entries() if self._trusted(e) and self.scenes.holds_out(e)]
        return heldout[::-1][: self.config.max_heldout]

    def _chosen(self, ids: Sequence[str]) -> tuple[list[Entry], list[Entry], str]:
        """Held-out episodes, those to learn from, and why none of them can be believed."""
        entries = self._entries()
        good = [entry for entry in entries if self._trusted(entry)]
        if fault := self._check.fault(self._believed(entries)):
            return [], [e for e in entries if not self.scenes.holds_out(e)], fault
        heldout = [e for e in good if self.scenes.holds_out(e)]
        if problem := self._too_few_heldout(heldout):
            raise TooFewEpisodesError(problem)
        training = [e for e in good if not self.scenes.holds_out(e)]
        if ids:
            unknown = sorted(set(ids) - {e.id for e in training})
            if unknown:
                raise DataError(
                    f"episode {unknown[0]!r} is not stored, teaches nothing, or is held out to judge"
                )
            training = [e for e in training if e.id in set(ids)]
        if not training:
            raise TooFewEpisodesError("no stored episode teaches anything; capture more grasps")
        training = sampled(training, self.config.max_episodes, self._is_new, seed=len(self.memory.tried))
        both = [*heldout, *training]
        faulty, fault = faulty_scenes(self.episodes, both, self.scenes.scene)
        if fault:
            return heldout, training, fault
        heldout = [e for e in heldout if self.scenes.scene(e) not in faulty]
        training = [e for e in training if self.scenes.scene(e) not in faulty]
        if problem := self._too_few_heldout(heldout):
            return heldout, training, f"{len(faulty)} scenes have outlines beside the edges; {problem}"
        return heldout[::-1][: self.config.max_heldout], training, ""

    def _known(self, chosen: list[Entry], heldout: bool) -> dict[str, KnownItems]:
        """What is certain in the frames of episodes that all judge, or all teach."""
        every = self.episodes.entries()
        side = [e for e in every if self.scenes.holds_out(e) == heldout and not self._check.contradicts(e)]
        return known_items(self.episodes, beside(side, chosen))

    def _read(self, entries: list[Entry], places: FalsePlaces | None) -> Iterator[Interaction]:
        known = self._known(entries, heldout=True)
        for entry in entries:
            episode, labels = self.episodes.read(entry)
            certain = known[entry.id].before
            seen = {} if places is None else places.in_frame(episode.before.frame)
            refuted = {f"place {number}": mask for number, mask in seen.items()}
            if (mask := refuted_mask(episode, labels)) is not None:
                refuted[entry.id] = mask
            yield episode, certain, refuted, self.scenes.scene(entry)

    def _false_places(self, entries: list[Entry]) -> FalsePlaces | None:
        """Where the background has been taken for items in these episodes; None where it is not known."""
        last = {self.scenes.scene(entry): entry for entry in self._believed(self._entries())}
        frames: list[Frame] = []
        for entry in list(last.values())[-MAX_TOTES:]:
            with contextlib.suppress(DataError):  # damaged, or evicted a moment ago
                frames.append(self.episodes.read(entry)[0].after.frame)
        background = learn_background(frames)
        if background is None:
            return None
        return find_false_places(background, (self.episodes.read(e)[0].before for e in reversed(entries)))

    # -- what is remembered ------------------------------------------------------------------------

    def _conclude(self, result: Update, training: list[Entry], facts: dict[str, object]) -> None:
        """Write an update down, and what it means for its episodes."""
        accepted, memory = result.decision.accepted, self.memory
        ids = {entry.id for entry in training}
        stored = {entry.id for entry in self.episodes.entries()}
        learned = {*memory.learned, *ids} if result.promoted else set(memory.learned)
        verdict = "promoted" if result.promoted else "accepted" if accepted else "rejected"
        self._remember(
            learned=tuple(sorted(learned & stored)),
            tried=tuple(sorted({*memory.tried, *(() if accepted else ids)} & stored)),
            rejected=memory.rejected + (not accepted),
            looks=0 if result.promoted else memory.looks + (result.candidate is not None),
            last_verdict=f"{verdict}: {result.decision.reason}",
        )
        said = {"verdict": verdict, "reason": result.decision.reason, "candidate": result.version}
        write_down(self.models.root, {**said, "episodes": len(training), **facts})
