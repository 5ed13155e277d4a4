"""Which version serves: what an update brought, what its grasps say about it, and what was taken back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from threading import Lock

from rise_perception.core.errors import ModelError
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.update.canary import LONGEST_WAIT, Decision, Trial, count_new, decide
from rise_perception.grasp_learning.update.config import LearnerConfig
from rise_perception.grasp_learning.update.memory import read_memory, write_memory
from rise_perception.grasp_learning.update.model_store import Current, ModelStore, StoredModel
from rise_perception.grasp_learning.update.outcomes import OutcomeReader, fit_pick_success, information
from rise_perception.grasp_learning.update.probation import CERTAIN, picks_worse, weights_of
from rise_perception.grasp_learning.update.scene_split import SceneSplit
from rise_perception.grasp_learning.update.update_log import write_down
from rise_perception.inference.pick_success import CARD_KEY

#: The head that foretells outcomes is fitted again when so many are new, and so large a fraction.
NEW_OUTCOMES, NEW_OUTCOME_FRACTION = 5, 0.25
#: What a version that does not serve any more is said to be.
TAKEN_BACK = "taken back"


class ServingVersions:
    """The version that serves, by the grasps that were made with it; what is remembered outlasts the process.

    Args:
        config: of the learner.
        models: opened for writing; has begun.
        episodes: the store of episodes, opened for reading.

    Attributes:
        forgotten: why what an earlier process remembered could not be read; empty when it could.
    """

    def __init__(self, config: LearnerConfig, models: ModelStore, episodes: EpisodeStore) -> None:
        self.config, self.models, self.episodes = config, models, episodes
        self.memory, self.forgotten = read_memory(models.root)
        self.scenes = SceneSplit(models.root, config.heldout_fraction, config.max_looks)
        self._outcomes = OutcomeReader(episodes)
        self._mutex = Lock()
        self._waits: tuple[int, float] = -1, 0.0  # grasps of the trial, and since when there are so many
        if self.memory.trial.version and not config.canary.fraction:
            self._remember(trial=Trial())  # it serves no grasp any more, and would never end

    def rollback(self, version: str = "") -> Current:
        """Serve an earlier version, and learn no more from what the versions since were trained on.

        A version on trial goes as well; without a name, it alone.

        Raises:
            ModelError: there is none, or it is damaged; nothing has changed then.
        """
        left, trial = self.models.serving(), self.memory.trial.version
        current = self.models.rollback(left.version if trial and not version else version)
        kept = set(self.models.find(current.version).facts.get("episodes", ()))
        behind = {*left.facts.get("episodes", ()), *self._episodes_behind(trial)} - kept
        self._remember(trial=Trial(), quarantined=tuple(sorted({*self.memory.quarantined, *behind})))
        return current

    def _episodes_behind(self, version: str) -> list[str]:
        """What a version was trained on; nothing where it is gone."""
        try:
            return list(self.models.find(version).facts.get("episodes", ())) if version else []
        except ModelError:
            return []

    def learn_outcomes(self) -> StoredModel | None:
        """Fit what foretells the success of a grasp; a version with it serves when it tells something.

        It costs milliseconds, and learns from every grasp at a mask.

        Returns:
            the version that serves now; None when nothing has changed.
        """
        if self.memory.paused or self.memory.trial.version:  # a trial compares weights, all else being equal
            return None
        believed = self._believed(self._entries())
        outcomes = self._outcomes.read(believed, self.scenes.scene)
        fitted = self.memory.outcomes
        if len(outcomes) < fitted + max(NEW_OUTCOMES, NEW_OUTCOME_FRACTION * fitted):
            return None
        self._remember(outcomes=len(outcomes))
        head, told = fit_pick_success(list(outcomes.values())), information(list(outcomes.values()))
        if head is None or not told > 0:
            return None
        serving = self.models.serving()
        name = f"{serving.card.name.split('-picks')[0]}-picks{len(outcomes)}"
        card = dataclasses.replace(serving.card, name=name, metrics={CARD_KEY: head.to_json()})
        reason = f"pick success of {len(outcomes)} grasps tells {told:.3f} nats a grasp of other scenes"
        facts: dict[str, object] = {
            **{k: serving.facts[k] for k in ("anchor_ap", "heldout") if k in serving.facts},
            "parent": serving.version,
            "note": reason,
            "accepted": True,
            "episodes": sorted({*serving.facts.get("episodes", ()), *outcomes}),
        }
        with self.models.workplace() as place:
            self.models.copy_weights(serving, place)
            self.models.add(place, card, facts)
        try:
            self.models.promote(card.version, serving.version)
        except ModelError:  # somebody rolled back meanwhile
            return None
        said = {"verdict": "promoted", "reason": reason, "candidate": card.version, "parent": serving.version}
        write_down(self.models.root, {**said, "episodes": len(outcomes)})
        return self.models.find(card.version)

    def watch(self) -> Current | None:
        """Take serving weights back whose grasps succeed less often than those before them.

        A version on trial is promoted, or taken back, where its grasps say enough.

        Returns:
            the version that serves instead; None when nothing has changed.
        """
        serving, current = self.models.serving(), self.models.current()
        if current is None or self.memory.paused:
            return None
        if self.memory.trial.version:
            return self._follow_trial(serving)
        believed = self._believed(self._entries())
        outcomes = list(self._outcomes.read(believed, self.scenes.scene).values())
        loss = picks_worse(outcomes, serving.version)
        earlier = [v for v in current.history if weights_of(v) != weights_of(serving.version)]
        if loss < CERTAIN or not earlier:
            return None
        try:
            result = self.rollback(earlier[-1])
        except ModelError:  # it has gone to make room
            return None
        reason = f"{serving.version} picks worse than {earlier[-1]} before it (probability {loss:.3f})"
        self._remember(last_verdict=f"{TAKEN_BACK}: {reason}")
        write_down(self.models.root, {"verdict": TAKEN_BACK, "reason": reason, "candidate": serving.version})
        return result

    def version_to_serve(self, now: float) -> str:
        """The version for the next grasp: that on trial where it is its turn, otherwise the serving one.

        Args:
            now: seconds of a clock that runs on.
        """
        trial, current = self.memory.trial, self.models.current()
        if trial.version and not self.memory.paused and trial.is_turn(self.config.canary):
            if self._waits[0] != len(trial.grasps):
                self._waits = len(trial.grasps), now
            if now - self._waits[1] < LONGEST_WAIT:
                return trial.version
        return "" if current is None else current.version

    def trial_status(self) -> str:
        """What is on trial, and how its grasps went so far; empty for nothing."""
        trial = self.memory.trial
        return f"{trial.version}: {decide(trial.grasps, self.config.canary)[1]}" if trial.version else ""

    def _follow_trial(self, serving: StoredModel) -> Current | None:
        """Count the grasps of the trial, and end it where they say enough."""
        trial = self.memory.trial
        counted = count_new(trial, serving.version, self.episodes, self._entries())
        with self._mutex:  # somebody may take it back meanwhile
            if self.memory.trial != trial:
                return None
            if counted != trial:
                self.memory = dataclasses.replace(self.memory, trial=counted)
                write_memory(self.models.root, self.memory)
        decision, reason = decide(counted.grasps, self.config.canary)
        said: dict[str, object] = {"candidate": trial.version, "parent": serving.version}
        behind = self._episodes_behind(trial.version)
        result: Current | None = None
        try:
            serves = weights_of(serving.version) == weights_of(trial.version)
            if decision == Decision.UNDECIDED and not serves:
                self.models.find(trial.version)
                return None
            if decision == Decision.TAKE_BACK:
                result = self.rollback()
                verdict = TAKEN_BACK
            else:  # or it serves already: the process ended before this was remembered
                verdict, result = "promoted", self.models.current()
                if not serves:
                    result = self.models.promote(trial.version, serving.version)
                learned = {*self.memory.learned, *behind}
                self._remember(trial=Trial(), learned=tuple(sorted(learned)), looks=0)
        except ModelError as error:  # damaged or gone, or somebody rolled back meanwhile
            verdict, reason = "rejected", f"the trial ends: {error}"
            self._remember(trial=Trial())
        self._remember(last_verdict=f"{verdict}: {trial.version}: {reason}")
        write_down(self.models.root, {**said, "verdict": verdict, "reason": reason, "episodes": len(behind)})
        return result

    def _head(self) -> dict[str, object]:
        """What the serving card says about pick success."""
        metrics = self.models.serving().card.metrics
        return {CARD_KEY: metrics[CARD_KEY]} if CARD_KEY in metrics else {}

    # -- what is remembered ------------------------------------------------------------------------

    def _entries(self) -> list[Entry]:
        entries = self.episodes.entries()
        self.scenes.refresh(self.episodes, entries)
        return entries

    def _believed(self, entries: Iterable[Entry]) -> list[Entry]:
        """The episodes that nobody has taken back."""
        return [entry for entry in entries if entry.id not in self.memory.quarantined]

    def _remember(self, **changes: object) -> None:
        with self._mutex:  # somebody may pause while an update ends
            self.memory = dataclasses.replace(self.memory, **changes)  # type: ignore[arg-type]
            write_memory(self.models.root, self.memory)
