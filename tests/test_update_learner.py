"""The learner: good grasps end in a promotion, poison does not, and what happened is remembered."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import cv2
import numpy as np
import picking
import pytest

from rise_perception.core.errors import ConfigError, DataError, ModelError
from rise_perception.core.frame import Frame
from rise_perception.data.images import write_image
from rise_perception.grasp_learning.capture.episode import Episode, Outcome
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.labelling.episode_labels import Cause, EpisodeLabels, Verdict
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.update import learner as learner_room
from rise_perception.grasp_learning.update.config import LearnerConfig
from rise_perception.grasp_learning.update.gate import AnchorFigures, GateConfig, GateDecision, Measured
from rise_perception.grasp_learning.update.learner import OnlineLearner, TooFewEpisodesError
from rise_perception.grasp_learning.update.memory import MEMORY
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.grasp_learning.update.selection import sampled
from rise_perception.grasp_learning.update.update import Progress, Stopped, UpdateConfig
from rise_perception.grasp_learning.update.update_log import read_history
from rise_perception.network.checkpoint import load_model

Alter = Callable[[Episode, EpisodeLabels], tuple[Episode, EpisodeLabels]]
#: The small model's anchors jump about; poison meets the default gate.
GATE = GateConfig(max_anchor_drop=0.05)
UPDATE = UpdateConfig(
    parameters="all",
    iterations=100,
    batch=2,
    episode_batch=2,
    learning_rate=2e-3,
    average=0.9,
    objects=2,
    augmentation=1.0,
)


class Cell:
    """Anchors, and a model that was trained on them: one that is there, or by a single step."""

    def __init__(self, folder: Path, model: Path | None = None) -> None:
        self.folder = folder
        (folder / "data").mkdir()
        self.anchors = picking.write_anchors(folder / "data/anchors.json", 40, 0)
        self.heldout = picking.write_anchors(folder / "data/heldout.json", 20, 1)
        self.model = model or picking.train_model(folder / "model", self.anchors, self.heldout, 1)

    def learner(
        self, folder: Path, grasps: int = 0, alter: Alter | None = None, gate: GateConfig = GATE
    ) -> OnlineLearner:
        """A learner with its stores; ``alter`` spoils episodes before they are stored."""
        source = folder / "episodes" if alter else self.folder / f"episodes-{grasps}"
        if not source.exists():
            with EpisodeStore(source, write=True, min_free_bytes=0) as store:
                for number in range(grasps):
                    grasp = picking.make_grasp(number)
                    store.add(*(alter or (lambda *pair: pair))(grasp, label_episode(grasp)))
        if not alter:
            shutil.copytree(source, folder / "episodes")
        episodes = EpisodeStore(folder / "episodes", write=True, min_free_bytes=0)
        models = ModelStore(folder / "models", write=True)
        models.begin(self.model)
        # Each grasp shows a scene of its own; every fourth one judges.
        config = LearnerConfig((str(self.anchors),), str(self.heldout), UPDATE, gate, heldout_fraction=0.25)
        return OnlineLearner(config, models, episodes)


@pytest.fixture(scope="module")
def cell(cell_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Cell:
    """A cell whose model knows its anchors."""
    return Cell(tmp_path_factory.mktemp("cell"), cell_model)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Cell:
    return Cell(tmp_path_factory.mktemp("untrained"))


def decide(monkeypatch: pytest.MonkeyPatch, verdict: Callable[..., GateDecision]) -> None:
    """Put a verdict in the gate's place, whose own are in test_update_gate.py: one step from random weights
    passes no gate, and here it matters what an update does with a verdict.
    """
    monkeypatch.setattr(learner_room, "gate_candidate", verdict)


def last_line(learner: OnlineLearner) -> dict[str, object]:
    return read_history(learner.models.root)[-1]


@pytest.mark.slow
def test_good_grasps_end_in_a_promotion_that_can_be_taken_back(cell: Cell, tmp_path: Path) -> None:
    learner = cell.learner(tmp_path, 40)
    base = learner.models.serving()
    assert learner.is_due()
    said: list[Progress] = []
    update = learner.update(report=said.append)
    assert update.promoted, update.decision.reason
    assert update.candidate.heldout_mean > update.serving.heldout_mean + 0.1
    assert update.candidate.anchor_ap > update.serving.anchor_ap - GATE.max_anchor_drop
    assert [p.stage for p in said[:2] + said[-1:]] == ["loading", "training", "validating"]

    serving, current = learner.models.serving(), learner.models.current()
    assert (serving.version, current.database_version, current.promoted) == (update.version, 2, 1)
    assert serving.facts["parent"] == base.version
    assert serving.facts["anchor_ap"] == update.candidate.anchor_ap
    assert load_model(serving.folder)[1].version == update.version
    line = last_line(learner)
    assert (line["verdict"], line["candidate"]) == ("promoted", update.version)
    assert line["heldout"] == [update.serving.heldout_mean, update.candidate.heldout_mean]
    assert learner.memory.last_verdict.startswith("promoted: anchors AP")
    assert (learner.survey().new, learner.is_due()) == (0, False)
    again = OnlineLearner(learner.config, learner.models, learner.episodes)
    assert again.memory == learner.memory
    assert len(serving.facts["episodes"]) == 30

    assert learner.rollback().version == base.version
    assert learner.survey().usable == 10  # what was taken back would only come again
    with pytest.raises(TooFewEpisodesError, match="no stored episode teaches"):
        learner.update()
    assert learner.reset().version == base.version
    assert learner.survey().new == 30


def shuffled(grasp: Episode, labels: EpisodeLabels) -> tuple[Episode, EpisodeLabels]:
    """The label of another scene."""
    other = label_episode(picking.make_grasp(1000 + grasp.grasp.stamp // 10**9))
    return grasp, replace(labels, masks=other.masks, verdict=Verdict.CORRECTED)


def blackened(grasp: Episode, labels: EpisodeLabels) -> tuple[Episode, EpisodeLabels]:
    """A covered camera, with a label all the same."""

    def black(frame: Frame) -> Frame:
        return replace(frame, image=np.zeros_like(frame.image))

    before, after = (replace(side, frame=black(side.frame)) for side in (grasp.before, grasp.after))
    return replace(grasp, before=before, after=after), replace(labels, verdict=Verdict.CORRECTED)


def darkened(grasp: Episode, labels: EpisodeLabels) -> tuple[Episode, EpisodeLabels]:
    """So dark that it teaches nothing, but with some noise, so that it passes for a picture."""
    dark, labels = blackened(grasp, labels)
    rng = np.random.default_rng(grasp.grasp.stamp)
    noise = rng.integers(0, 40, dark.before.frame.image.shape).astype(np.uint8)
    sides = (replace(s, frame=replace(s.frame, image=noise)) for s in (dark.before, dark.after))
    return replace(dark, **dict(zip(("before", "after"), sides, strict=True))), labels


def fooled(grasp: Episode, labels: EpisodeLabels) -> tuple[Episode, EpisodeLabels]:
    """Success is reported, nothing was taken, and the analysis believed it: the label is bare ground."""
    number = grasp.grasp.stamp // 10**10 - 1
    lie = picking.make_grasp(number, gone=False, outcome=Outcome.SUCCESS)
    bare = np.abs(lie.before.frame.image.astype(int) - 105).max(-1) < 35  # the ground's brightness
    rng = np.random.default_rng([3, number])
    while True:
        y, x = rng.integers(2, 44), rng.integers(2, 70)
        mask = np.zeros((1, *bare.shape), bool)
        mask[0, y : y + 16, x : x + 20] = True
        if bare[mask[0]].mean() > 0.9:
            return lie, replace(labels, masks=mask, verdict=Verdict.CORRECTED)


@pytest.mark.slow
@pytest.mark.parametrize(
    "poison",
    [shuffled, darkened, fooled],
)
def test_training_on_poison_ends_in_a_rejected_candidate(cell: Cell, tmp_path: Path, poison: Alter) -> None:
    learner = cell.learner(tmp_path, 40, poison, GateConfig())
    base = learner.models.serving().version
    update = learner.update(iterations=25)
    assert not update.promoted
    assert not update.decision.accepted
    assert learner.models.serving().version == base
    assert [m.version for m in learner.models.versions()] == [base]  # a rejected candidate leaves no version
    assert learner.memory.rejected == 1
    assert learner.memory.last_verdict.startswith("rejected: ")
    assert last_line(learner)["verdict"] == "rejected"
    assert not learner.is_due()  # and is not tried again and again


@pytest.mark.slow
def test_black_frames_are_not_learned_from_and_cannot_judge(untrained: Cell, tmp_path: Path) -> None:
    learner = untrained.learner(tmp_path, 40, blackened)
    with pytest.raises(TooFewEpisodesError, match="0 held-out episodes of 0 scenes can judge"):
        learner.update()
    assert learner.waiting() == "0 new episodes teach something, min_new is 8"
    assert learner.models.current().database_version == 1


@pytest.mark.slow
def test_lying_success_flags_leave_nothing_to_learn(untrained: Cell, tmp_path: Path) -> None:
    """Success is reported and nothing was taken: the analysis sees through it, and no label is stored."""
    learner = untrained.learner(tmp_path)
    for number in range(30):
        grasp = picking.make_grasp(number, gone=False, outcome=Outcome.SUCCESS)
        labels = label_episode(grasp)
        assert labels.cause == Cause.NOTHING_CHANGED
        learner.episodes.add(grasp, labels)
    assert (learner.survey().total, learner.survey().usable) == (30, 0)
    assert not learner.is_due()
    with pytest.raises(DataError, match="held-out"):
        learner.update()


@pytest.mark.slow
def test_a_candidate_that_must_not_serve_is_measured_and_kept(
    untrained: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = untrained.learner(tmp_path, 24)
    decide(monkeypatch, lambda *_: GateDecision(True, "good"))
    update = learner.update(iterations=1, promote=False)
    assert not update.promoted
    assert {m.version for m in learner.models.versions()} == {
        update.version,
        learner.models.serving().version,
    }
    assert learner.models.current().database_version == 1
    assert learner.survey().new == 18  # it has still to be learned
    with pytest.raises(ModelError, match="kept to be looked at, and may not serve: 18 episodes, 1 steps"):
        learner.models.rollback(update.version)


def test_with_nothing_new_all_is_learned_again(untrained: Cell, tmp_path: Path) -> None:
    learner = untrained.learner(tmp_path, 24)
    learner.update(iterations=1)
    assert learner.survey().new == 0
    learner.update(iterations=1)
    assert last_line(learner)["episodes"] == 18


def test_an_update_that_is_stopped_in_the_end_does_not_serve(
    untrained: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = untrained.learner(tmp_path, 24)
    stop = Event()

    def verdict(*_: object) -> GateDecision:
        stop.set()
        return GateDecision(True, "good")

    decide(monkeypatch, verdict)
    with pytest.raises(Stopped):
        learner.update(iterations=1, stop=stop)
    assert learner.models.current().database_version == 1


def test_other_anchors_under_the_same_name_are_another_measure(
    untrained: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version is measured on the anchors once, and again when their file has changed."""
    learner = untrained.learner(tmp_path, 24)
    anchors = tmp_path / "heldout.json"
    shutil.copytree(untrained.heldout.parent / "images", tmp_path / "images")
    shutil.copyfile(untrained.heldout, anchors)
    learner.config = replace(learner.config, heldout_anchors=str(anchors))
    floors = []

    def verdict(serving: Measured, candidate: Measured, base: AnchorFigures, *_: object) -> GateDecision:
        floors.append(base.ap)
        return GateDecision(True, "good")

    decide(monkeypatch, verdict)
    real = learner_room.measure_anchors
    aps = iter([0.5, 0.45, 0.44, 0.41, 0.40, 0.3, 0.2, 0.1])
    # Figures that are known: weights of one step are all alike.
    monkeypatch.setattr(learner_room, "measure_anchors", lambda *given: replace(real(*given), ap=next(aps)))
    learner.update(iterations=1)
    learner.update(iterations=1)
    anchors.write_text(anchors.read_text() + " ")
    learner.update(iterations=1)
    assert floors[:2] == [0.5, 0.5]  # of the first model, not of what served since
    assert floors[2] < 0.42  # measured anew


def test_hand_checked_frames_judge_with_the_better_of_first_and_serving_model(
    untrained: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = untrained.learner(tmp_path, 24)
    rng = np.random.default_rng(4)
    masks, colours = picking.scene(rng, new=True)
    image = picking.picture(rng, picking.make_ground(rng), masks, colours)
    write_image(tmp_path / "checked/a.png", image)
    labels = np.sum([(1 + k) * mask for k, mask in enumerate(masks)], axis=0)
    write_image(tmp_path / "checked/a-label.png", labels.astype(np.uint8))
    config = replace(learner.config, checked=str(tmp_path / "checked"))
    learner = OnlineLearner(config, learner.models, learner.episodes)
    asked = []

    def verdict(*given: object) -> GateDecision:
        asked.append(given[5])
        return GateDecision(len(asked) == 1, "it says so")

    real = learner_room.measure_anchors
    aps = iter([0.5, 0.6, 0.4, 0.3])  # the first model, two candidates, and the one that serves by then

    def on_checked(folder: Path, anchors: object, device: str) -> AnchorFigures:
        figures = real(folder, anchors, device)
        return figures if isinstance(anchors, str) else replace(figures, ap=next(aps))

    decide(monkeypatch, verdict)
    # Figures that are known: weights of one step are all alike.
    monkeypatch.setattr(learner_room, "measure_anchors", on_checked)
    assert learner.update(iterations=1).promoted
    learner.update(iterations=1)
    assert asked == [(0.5, 0.6), (0.5, 0.3)]


def test_an_update_that_is_stopped_leaves_nothing(untrained: Cell, tmp_path: Path) -> None:
    learner = untrained.learner(tmp_path, 24)
    stop = Event()
    with pytest.raises(Stopped):
        learner.update(report=lambda p: stop.set() if p.iteration == 1 else None, stop=stop)
    assert read_history(learner.models.root) == []
    assert learner.is_due()
    assert [p.name for p in learner.models.root.glob(".*")] == [".lock"]


def test_a_loss_that_runs_away_is_a_rejected_candidate(untrained: Cell, tmp_path: Path) -> None:
    learner = untrained.learner(tmp_path, 24)
    learner.config = replace(learner.config, update=replace(UPDATE, learning_rate=float("inf"), iterations=3))
    update = learner.update()
    assert "the training failed: the loss is" in update.decision.reason
    assert (learner.memory.rejected, learner.survey().new) == (1, 0)


def test_a_rollback_meanwhile_keeps_the_candidate_from_serving(
    untrained: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = untrained.learner(tmp_path, 24)

    def promote(version: str, parent: str) -> None:
        raise ModelError(f"{version} was trained from {parent}, and another serves by now")

    # The rollback has to come between the gate's verdict and the promotion.
    monkeypatch.setattr(learner.models, "promote", promote)
    decide(monkeypatch, lambda *_: GateDecision(True, "good"))
    update = learner.update(iterations=1)
    assert not update.promoted
    assert "another serves by now" in update.decision.reason


@pytest.mark.parametrize("passes", [1, 2, 3, None])
def test_a_candidate_that_forgets_anchors_is_drawn_back_until_it_passes(
    untrained: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int | None
) -> None:
    learner = untrained.learner(tmp_path, 24)
    asked = []

    def verdict(*_: object) -> GateDecision:
        asked.append(1)
        return GateDecision(True, "good") if len(asked) == passes else GateDecision(False, "forgets", True)

    decide(monkeypatch, verdict)
    update = learner.update(iterations=2)
    assert update.promoted == (passes is not None)
    assert len(asked) == (passes or 3)  # and then it gives up
    if update.promoted:
        card = learner.models.serving().card
        assert card.version == update.version
        assert card.data.count("65% of the way") == len(asked) - 1


def test_pausing_outlasts_the_process_and_damage_is_survived(untrained: Cell, tmp_path: Path) -> None:
    learner = untrained.learner(tmp_path, 24)
    learner.pause(True)
    again = OnlineLearner(learner.config, learner.models, learner.episodes)
    assert again.memory.paused
    assert not again.is_due()
    (learner.models.root / MEMORY).write_text('{"learned": 3')
    assert not OnlineLearner(learner.config, learner.models, learner.episodes).memory.paused


def test_chosen_episodes_have_to_be_there(untrained: Cell, tmp_path: Path) -> None:
    learner = untrained.learner(tmp_path, 24)
    with pytest.raises(DataError, match="'nothing' is not stored"):
        learner.update(ids=["nothing"])
    with pytest.raises(DataError, match="held out to judge"):
        learner.update(ids=[learner.heldout()[0].id])


def test_what_is_due_and_what_an_update_finds_are_the_same(untrained: Cell, tmp_path: Path) -> None:
    learner = untrained.learner(tmp_path, 24)
    assert (learner.waiting(), learner.is_due()) == ("", True)
    learner.config = replace(learner.config, gate=replace(GATE, min_scenes=7))
    reason = (
        "6 held-out episodes of 6 scenes can judge a candidate, gate.min_heldout is 5 and gate.min_scenes 7"
    )
    assert learner.waiting().startswith(reason)
    with pytest.raises(TooFewEpisodesError, match=reason):
        learner.update()


def dilated(grasp: Episode, labels: EpisodeLabels) -> tuple[Episode, EpisodeLabels]:
    """All outlines five pixels too far out, those of the judges as well."""
    kernel = np.ones((11, 11), np.uint8)
    masks = np.stack([cv2.dilate(m.astype(np.uint8), kernel) > 0 for m in labels.masks])
    return grasp, replace(labels, masks=masks)


def test_labels_that_are_all_too_large_are_seen_through_without_training(
    untrained: Cell, tmp_path: Path
) -> None:
    learner = untrained.learner(tmp_path, 24, dilated)
    update = learner.update()
    assert not update.decision.accepted
    assert "too large" in update.decision.reason
    assert update.candidate is None
    assert learner.memory.looks == 0  # nothing was measured
    assert not learner.is_due()


def test_scenes_that_have_judged_often_enough_teach(untrained: Cell, tmp_path: Path) -> None:
    learner = untrained.learner(tmp_path, 24)
    learner.scenes.max_looks = 2
    first = {e.id for e in learner.heldout()}
    learner.update(iterations=1)
    assert {e.id for e in learner.heldout()} == first
    learner.update(iterations=1)
    assert not {e.id for e in learner.heldout()} & first
    assert learner.survey().new == len(first)


def test_with_more_episodes_than_an_update_takes_new_ones_go_first(tmp_path: Path) -> None:
    entries = [Entry(str(k), tmp_path, Verdict.CONFIRMED, 1) for k in range(30)]
    drawn = sampled(entries, 15, lambda e: int(e.id) % 6 == 0, seed=0)
    assert len(drawn) == len({e.id for e in drawn}) == 15
    assert {e.id for e in drawn} >= {"0", "6", "12", "18", "24"}
    assert drawn == sampled(entries, 15, lambda e: int(e.id) % 6 == 0, seed=0)
    assert drawn != sampled(entries, 15, lambda e: int(e.id) % 6 == 0, seed=1)
    assert sampled(entries, 30, lambda e: True, seed=0) == entries


def test_a_promotion_that_the_diary_missed_is_added(untrained: Cell, tmp_path: Path) -> None:
    """The process ended between the promotion and its line."""
    learner = untrained.learner(tmp_path, 24)
    base = learner.models.serving()
    with learner.models.workplace() as place:
        learner.models.copy_weights(base, place)
        card = replace(base.card, name="next")
        facts = {"parent": base.version, "note": "18 episodes", "accepted": True, "episodes": ["a"]}
        learner.models.add(place, card, facts)
    learner.models.promote(card.version, base.version)
    for _ in range(2):
        OnlineLearner(learner.config, learner.models, learner.episodes)
        (line,) = read_history(learner.models.root)
        assert (line["verdict"], line["candidate"]) == ("promoted", card.version)
        assert line["reason"] == "18 episodes (the process ended before this line)"


@pytest.mark.parametrize(
    "values",
    [
        {"anchors": ()},
        {"heldout_anchors": ""},
        {"heldout_fraction": 1.0},
        {"min_new": 0},
        {"max_episodes": 0},
        {"max_looks": 0},
        {"max_heldout": 1},
    ],
)
def test_configurations_without_a_safety_net_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        LearnerConfig(**({"anchors": ("a",), "heldout_anchors": "b"} | values))  # type: ignore[arg-type]


def test_broken_anchors_show_at_once(untrained: Cell, tmp_path: Path) -> None:
    learner = untrained.learner(tmp_path)
    for config in (
        replace(learner.config, anchors=("nowhere.json",)),
        replace(learner.config, heldout_anchors="nowhere.json"),
    ):
        with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
            OnlineLearner(config, learner.models, learner.episodes)
