"""A candidate on trial: its share of the grasps, what they decide, and what is remembered of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import picking
import pytest
import torch
from tiny import tiny_config

from rise_perception.core.errors import ConfigError, DataError, ModelError
from rise_perception.grasp_learning.capture.episode import Outcome
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.update.canary import (
    LONGEST_WAIT,
    MAX_MUTE,
    TURN,
    CanaryConfig,
    Decision,
    Trial,
    decide,
)
from rise_perception.grasp_learning.update.config import LearnerConfig
from rise_perception.grasp_learning.update.gate import GateDecision
from rise_perception.grasp_learning.update.learner import OnlineLearner
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.grasp_learning.update.update import UpdateConfig
from rise_perception.grasp_learning.update.update_log import read_history
from rise_perception.network.build import build_network
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import save_model

HALF = CanaryConfig(0.5)


def letters(serving: float, candidate: float, config: CanaryConfig, count: int, seed: int) -> str:
    """Grasps of a trial in which both succeed with these rates."""
    rng, trial = np.random.default_rng(seed), Trial("cell-12345678")
    for _ in range(count):
        mine = trial.is_turn(config)
        success = bool(rng.random() < (candidate if mine else serving))
        trial = trial.counted(0, ("cC" if mine else "sS")[success])
    return trial.grasps


def first_decision(grasps: str, config: CanaryConfig) -> Decision:
    for end in range(TURN, len(grasps), 2 * TURN):  # as it is looked at: again and again
        decision, _ = decide(grasps[:end], config)
        if decision != Decision.UNDECIDED:
            return decision
    return Decision.UNDECIDED


def test_a_tenth_of_the_grasps_are_the_candidates_in_turns_at_drawn_places() -> None:
    grasps = letters(1, 1, CanaryConfig(0.1), 2000, 0)
    assert grasps.count("C") == 200
    cycles = [grasps[k : k + 10 * TURN] for k in range(0, 2000, 10 * TURN)]
    assert all("C" * TURN in cycle and cycle.count("C") == TURN for cycle in cycles)
    assert len({cycle.index("C") for cycle in cycles}) > 5


@pytest.mark.parametrize(
    ("serving", "candidate", "wanted"),
    [(0.7, 0.4, Decision.TAKE_BACK), (0.7, 0.9, Decision.KEEP), (0.9, 0.9, Decision.KEEP)],
)
def test_the_grasps_decide(serving: float, candidate: float, wanted: Decision) -> None:
    ends = [first_decision(letters(serving, candidate, HALF, 800, seed), HALF) for seed in range(12)]
    assert ends.count(wanted) >= 11


def test_wrong_decisions_are_as_seldom_as_promised() -> None:
    alike = [first_decision(letters(0.7, 0.7, HALF, 500, seed), HALF) for seed in range(40)]
    worse = [first_decision(letters(0.7, 0.6, HALF, 500, seed), HALF) for seed in range(40)]
    # Binomial with a chance of a tenth: more than nine of forty come in one of a hundred.
    assert alike.count(Decision.TAKE_BACK) <= 9
    assert worse.count(Decision.KEEP) <= 9


def test_a_candidate_that_nothing_is_grasped_with_is_taken_back() -> None:
    cycle = HALF.runs * TURN
    assert decide("S" * (MAX_MUTE * cycle - 1), HALF)[0] == Decision.UNDECIDED
    assert decide("", HALF)[0] == Decision.UNDECIDED
    decision, reason = decide("C" + "S" * MAX_MUTE * cycle, HALF)
    assert decision == Decision.TAKE_BACK
    assert f"none of the last {MAX_MUTE * cycle} grasps" in reason


@pytest.mark.parametrize("values", [(0.01,), (0.6,), (0.1, 0.0), (0.1, 0.1, 0.7), (-0.1,)])
def test_trials_that_could_not_end_are_refused(values: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="canary"):
        CanaryConfig(*values)


class Robot:
    """A learner with a version on trial, and grasps with whatever it says is to serve."""

    def __init__(self, folder: Path, config: CanaryConfig = HALF) -> None:
        (folder / "data").mkdir()
        anchors = str(picking.write_anchors(folder / "data/anchors.json", 4, 0))
        heldout = str(picking.write_anchors(folder / "data/heldout.json", 3, 1))
        update = UpdateConfig(iterations=1, batch=2, episode_batch=2)
        self.config = LearnerConfig((anchors,), heldout, update, canary=config)
        self.models = ModelStore(folder / "models", write=True)
        self.models.begin(self._model(folder / "base", 0))
        self.base = self.models.serving().version
        self.episodes = EpisodeStore(folder / "episodes", write=True, min_free_bytes=0)
        self.learner = OnlineLearner(self.config, self.models, self.episodes)
        self.count = 0

    @staticmethod
    def _model(folder: Path, seed: int) -> Path:
        torch.manual_seed(seed)
        network = build_network(tiny_config(**picking.NETWORK))
        save_model(folder, network, ModelCard("cell", network.config, score_threshold=0.0))
        return folder

    def begin_trial(self, behind: tuple[str, ...] = ("a", "b")) -> str:
        with self.models.workplace() as place:
            torch.manual_seed(1)
            base = self.models.serving().card
            card = save_model(place, build_network(base.network), replace(base, metrics={}))
            facts = {"parent": self.base, "accepted": True, "episodes": list(behind)}
            self.models.add(place, card, facts)
        self.learner._remember(trial=Trial(card.version))
        return card.version

    def restart(self) -> None:
        """What a kill leaves: the files."""
        self.learner = OnlineLearner(self.config, self.models, self.episodes)

    def grasp(self, good: str) -> None:
        """One grasp, which succeeds with the version ``good`` alone."""
        version = self.learner.version_to_serve(0.0)
        outcome = Outcome.SUCCESS if version == good else Outcome.EMPTY
        episode = picking.make_grasp(self.count, outcome=outcome, gone=version == good)
        episode = replace(episode, before=replace(episode.before, model_version=version))
        self.episodes.add(episode, label_episode(episode))
        self.count += 1

    def last(self) -> dict[str, object]:
        return read_history(self.models.root)[-1]


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[Robot]:
    robot = Robot(tmp_path)
    yield robot
    robot.models.close()
    robot.episodes.close()


@pytest.mark.parametrize("better", [True, False])
def test_its_grasps_promote_a_candidate_or_take_it_back_across_kills(robot: Robot, better: bool) -> None:
    candidate = robot.begin_trial()
    served = set()
    while robot.learner.memory.trial.version:
        assert robot.count < 40
        served.add(robot.learner.version_to_serve(0.0))
        robot.grasp(candidate if better else robot.base)
        robot.restart()
        assert robot.learner.waiting() == f"{candidate} is on trial"
        assert robot.learner.learn_outcomes() is None
        assert len(robot.learner.memory.trial.grasps) == robot.count - 1  # each once, whatever the kills
        robot.learner.watch()
    assert served == {robot.base, candidate}
    robot.restart()
    serving = candidate if better else robot.base
    assert (robot.models.serving().version, robot.learner.version_to_serve(0.0)) == (serving, serving)
    memory = robot.learner.memory
    assert set(memory.quarantined) == (set() if better else {"a", "b"})
    assert set(memory.learned) == ({"a", "b"} if better else set())
    assert robot.last()["verdict"] == ("promoted" if better else "taken back")
    assert "grasps succeeded with it" in str(robot.last()["reason"])


def test_killed_between_the_promotion_and_its_memory_the_trial_is_over(robot: Robot) -> None:
    candidate = robot.begin_trial()
    robot.models.promote(candidate, robot.base)
    robot.restart()
    result = robot.learner.watch()
    assert result is not None
    assert result.version == candidate
    assert not robot.learner.memory.trial.version
    assert set(robot.learner.memory.learned) == {"a", "b"}


def test_a_rollback_without_a_name_takes_back_the_candidate_alone(robot: Robot) -> None:
    candidate = robot.begin_trial()
    assert robot.learner.rollback().version == robot.base
    assert robot.learner.memory.trial == Trial()
    assert set(robot.learner.memory.quarantined) == {"a", "b"}
    with pytest.raises(ModelError, match="first version"):
        robot.learner.rollback()
    assert robot.models.find(candidate)  # it may be asked for by name


def test_a_candidate_that_is_damaged_ends_the_trial(robot: Robot) -> None:
    candidate = robot.begin_trial()
    (robot.models.root / candidate / "model.safetensors").write_bytes(b"")
    assert robot.learner.watch() is None
    assert not robot.learner.memory.trial.version
    assert robot.last()["verdict"] == "rejected"


def test_a_turn_without_grasps_ends_and_pausing_serves_what_is_proven(robot: Robot) -> None:
    candidate = robot.begin_trial()
    while robot.learner.version_to_serve(0.0) != candidate:
        robot.grasp(robot.base)
        robot.learner.watch()
    assert robot.learner.version_to_serve(LONGEST_WAIT - 1) == candidate
    assert robot.learner.version_to_serve(LONGEST_WAIT) == robot.base
    robot.grasp(robot.base)
    robot.learner.watch()
    assert robot.learner.version_to_serve(LONGEST_WAIT + 1) == candidate
    robot.learner.pause(True)
    assert robot.learner.version_to_serve(LONGEST_WAIT + 1) == robot.base


def test_a_learner_that_tries_nothing_any_more_forgets_the_trial(robot: Robot) -> None:
    robot.begin_trial()
    robot.config = replace(robot.config, canary=CanaryConfig())
    robot.restart()
    assert robot.learner.version_to_serve(0.0) == robot.base
    assert not robot.learner.memory.trial.version


def test_what_passes_the_gate_is_tried_first(robot: Robot, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(24):
        episode = picking.make_grasp(number)
        robot.episodes.add(episode, label_episode(episode))
    monkeypatch.setattr(
        "rise_perception.grasp_learning.update.learner.gate_candidate", lambda *_: GateDecision(True, "good")
    )
    update = robot.learner.update()
    assert (update.decision.accepted, update.promoted) == (True, False)
    assert robot.models.serving().version == robot.base
    assert robot.learner.memory.trial.version == update.version
    assert robot.learner.watch() is None
    assert robot.learner.memory.trial.grasps == ""  # what was there before is no grasp of the trial
    with pytest.raises(DataError, match="is on trial"):
        robot.learner.update()
