"""Episodes as training images: what is known is taught, what is not is left alone."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from grasping import HEIGHT, WIDTH, episode, label_map, picture
from tiny import box_targets, tiny_config
from tiny_data import configure, write_data

from rise_perception.core.errors import ConfigError
from rise_perception.core.frame import Frame
from rise_perception.core.regions import mask_iou
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.labelling.label_propagation import known_items
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.grasp_learning.update.scenes import (
    FIRST_UNMOVED,
    ROBOT,
    EpisodeImages,
    EpisodeScenes,
    is_certain,
    rejection_reason,
)
from rise_perception.grasp_learning.update.update import (
    SILENT,
    EpisodeTrainer,
    Progress,
    Stopped,
    UpdateConfig,
    interpolate_weights,
    is_judged,
    train_candidate,
    training_config,
    without_unknown,
)
from rise_perception.network.build import build_network
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.batches import Batch, collate
from rise_perception.training.boxes import fraction_on
from rise_perception.training.criterion import LossConfig, supervised_loss
from rise_perception.training.loader import seeded_order
from rise_perception.training.matching import Targets
from rise_perception.training.pseudo_labels import UNKNOWN
from rise_perception.training.sequence import FIRST_PASTED
from rise_perception.training.trainer import rate_factor

CLASSES = {"classes": ("object",), "containers": ()}


@pytest.fixture
def episodes(tmp_path: Path) -> EpisodeStore:
    store = EpisodeStore(tmp_path / "episodes", write=True, min_free_bytes=0)
    for seed in (1, 3, 5):
        grasp = episode(picture(1, 2, 3, seed=seed), picture(2, 3, seed=seed + 1))
        store.add(grasp, label_episode(grasp))
    return store


@pytest.fixture
def images(episodes: EpisodeStore) -> EpisodeImages:
    entries = episodes.entries()
    return EpisodeImages(episodes, entries, tiny_config(**CLASSES), known_items(episodes, entries))


@pytest.fixture
def parent(tmp_path: Path) -> ModelStore:
    torch.manual_seed(0)
    network = build_network(tiny_config(**CLASSES, query_selection="dense"))
    save_model(tmp_path / "shipped", network, ModelCard("tiny", network.config))
    store = ModelStore(tmp_path / "models", write=True)
    store.begin(tmp_path / "shipped")
    return store


def test_the_frame_before_has_the_label_and_what_did_not_move(images: EpisodeImages) -> None:
    before, after = images[0], images.after(0)
    assert after is not None
    label, *unmoved = before.masks
    assert mask_iou(label, label_map(1) > 0) > 0.9
    assert before.ids.tolist() == [0, FIRST_UNMOVED + 2, FIRST_UNMOVED + 3]
    assert after.ids.tolist() == [FIRST_UNMOVED + 2, FIRST_UNMOVED + 3]  # what was taken is in no later frame
    for here, there, number in zip(unmoved, after.masks, (2, 3), strict=True):
        assert mask_iou(here, label_map(number) > 0) > 0.99
        assert mask_iou(here, there) > 0.95
    assert is_certain(before.ids).tolist() == [True, False, False]
    assert is_certain(np.array([FIRST_PASTED + 1])).all()


def test_the_frame_after_is_an_image_of_its_own_without_labels(images: EpisodeImages) -> None:
    assert len(images) == 6
    assert len(images[1].masks) == 0
    assert images.after(1) is None
    assert not np.array_equal(images[1].image, images[0].image)
    assert images[0].depth is None  # the model sees colour alone


def test_what_later_grasps_took_is_known_in_both_frames_and_judged_no_more_as_a_guess(tmp_path: Path) -> None:
    store = EpisodeStore(tmp_path / "chain", write=True, min_free_bytes=0)
    for seed, here, there in ((1, (1, 2, 3), (2, 3)), (3, (2, 3), (3,))):
        grasp = episode(picture(*here, seed=seed), picture(*there, seed=seed + 1), target=here[0])
        store.add(grasp, label_episode(grasp))
    entries = store.entries()
    images = EpisodeImages(store, entries, tiny_config(**CLASSES), known_items(store, entries))
    before, after, alone = images[0], images.after(0), images[1]
    assert after is not None
    assert before.ids.tolist() == [0, 1, FIRST_UNMOVED + 3]  # item 2 is certain, item 3 a prediction
    assert after.ids.tolist() == [1, FIRST_UNMOVED + 3]
    assert alone.ids.tolist() == [1]
    assert mask_iou(alone.masks[0], label_map(2) > 0) > 0.9
    assert images.taught(0).ids.tolist() == [0]  # only what was taken is in full sight for certain


def test_masks_follow_a_camera_that_moved(tmp_path: Path, episodes: EpisodeStore) -> None:
    grasp = episode(picture(1, 2, 3, seed=9), picture(2, 3, seed=10))
    labels = replace(label_episode(grasp), to_after=np.array([[1.0, 0, 7], [0, 1, -4]]))
    store = EpisodeStore(tmp_path / "other", write=True, min_free_bytes=0)
    entries = [store.add(grasp, labels)]
    images = EpisodeImages(store, entries, tiny_config(**CLASSES), known_items(store, entries))
    before, after = images[0], images.after(0)
    assert np.array_equal(np.roll(before.masks[1], (-4, 7), (0, 1)), after.masks[0])


def test_the_bank_holds_labels_of_episodes_and_no_mere_predictions(
    tmp_path: Path, images: EpisodeImages
) -> None:
    scenes = EpisodeScenes(configure(write_data(tmp_path), tmp_path, network=CLASSES, iterations=1), images)
    bank = scenes.bank.at(0)
    cuts = [bank[k] for k in range(len(bank))]
    items = [cut for cut in cuts if cut.image[cut.mask].mean(0)[0] > 150 and cut.mask.shape != (20, 32)]
    anchors = len(scenes._bank_image(0).masks)
    assert scenes.banked_anchors == 1
    assert len(cuts) <= anchors + 3  # three labels, and none of the six predictions beside them
    assert len(items) >= 3


@pytest.mark.parametrize("case", ["no label", "small", "blank", "depth"])
def test_what_is_not_learned_from(case: str) -> None:
    grasp = episode(picture(1, 2, 3), picture(2, 3, seed=1))
    labels = label_episode(grasp)
    assert rejection_reason(grasp, labels, with_depth=True) == ""
    if case == "no label":
        labels = replace(labels, masks=labels.masks[:0])
    elif case == "small":
        labels = replace(labels, masks=np.zeros((1, HEIGHT, WIDTH), bool))
    elif case == "blank":
        black = Frame(np.zeros((HEIGHT, WIDTH, 3), np.uint8), None, None, grasp.after.frame.stamp)
        grasp = replace(grasp, after=replace(grasp.after, frame=black))
    else:
        frame = replace(grasp.before.frame, depth=None)
        grasp = replace(grasp, before=replace(grasp.before, frame=frame))
    assert case in rejection_reason(grasp, labels, with_depth=True)


def test_queries_on_known_objects_are_judged_and_no_others() -> None:
    known = torch.tensor([[0.3, 0.3, 0.2, 0.2]])
    boxes = torch.tensor(
        [
            [0.3, 0.3, 0.2, 0.2],  # the object
            [0.4, 0.3, 0.4, 0.2],  # it and its neighbour, as one: wrong, and told so
            [0.5, 0.3, 0.25, 0.2],  # the neighbour, whose box touches
            [0.8, 0.8, 0.1, 0.1],  # something else
            [0.32, 0.32, 0.9, 0.9],  # everything, around the object's centre
        ]
    )
    assert is_judged(boxes, known).tolist() == [True, True, False, False, True]
    assert not is_judged(boxes, known[:0]).any()


def test_what_nobody_knows_is_not_taught_as_background() -> None:
    """The class loss of an episode's image moves the queries on its objects, and no others at all."""
    torch.manual_seed(0)
    boxes = torch.rand(2, 8, 4) * 0.3 + torch.tensor([0.35, 0.35, 0.05, 0.05])
    boxes[1, :4, :2] = 0.1  # off the object
    logits = torch.zeros(2, 8, 1, requires_grad=True)
    targets = [box_targets([[0.2, 0.2, 0.1, 0.1]]), box_targets([[0.5, 0.5, 0.3, 0.3]])]
    auxiliary = [QueryOutputs(logits * 1, boxes, None, None)]
    outputs = QueryOutputs(logits * 1, boxes, None, None, auxiliary)
    judged = is_judged(boxes[1], targets[1].boxes)
    assert 0 < int(judged.sum()) < 8
    silenced = without_unknown(outputs, torch.tensor([1]), targets[1:], {})
    supervised_loss(silenced, targets, LossConfig())["classes"].backward()
    assert (logits.grad[0] != 0).all()  # a labelled image teaches everywhere
    assert (logits.grad[1, judged] != 0).all()
    assert (logits.grad[1, ~judged] == 0).all()
    assert (silenced.logits[1, ~judged] == SILENT).all()


def test_the_fraction_of_a_box_on_the_robot_is_that_of_its_pixels() -> None:
    robot = torch.zeros(40, 80, dtype=torch.bool)
    robot[:, 40:] = True
    robot[20:, 60:] = False
    boxes = torch.tensor(
        [[0.25, 0.5, 0.2, 0.2], [0.5, 0.25, 0.4, 0.4], [0.8, 0.25, 0.2, 0.4], [0.75, 0.5, 0.5, 1.0]]
    )
    assert fraction_on(boxes, robot).tolist() == pytest.approx([0.0, 0.5, 1.0, 0.75])


def with_robot(folder: Path) -> EpisodeImages:
    """A grasp of item 1 while the robot stood before item 2, and the next grasp, which took item 3."""
    robot = np.zeros((HEIGHT, WIDTH), bool)
    robot[:60, 70:] = True
    store = EpisodeStore(folder / "with-robot", write=True, min_free_bytes=0)
    grasps = [
        episode(picture(1, 2, 3, seed=1), picture(2, 3, seed=2), robot=robot),
        episode(picture(2, 3, seed=3), picture(2, seed=4), target=3),
    ]
    first = replace(grasps[0], before=replace(grasps[0].before, robot=robot))
    for grasp in (first, grasps[1]):
        store.add(grasp, label_episode(grasp))
    entries = store.entries()
    return EpisodeImages(store, entries, tiny_config(**CLASSES), known_items(store, entries))


def test_the_robot_goes_along_and_neither_labels_nor_cut_outs_hold_it(tmp_path: Path) -> None:
    images = with_robot(tmp_path)
    before, after = images[0], images.after(0)
    assert after is not None
    for image in (before, after):
        (robot,) = image.masks[image.ids == ROBOT]
        assert robot[:60, 70:].all()
        assert not (image.masks[image.ids != ROBOT] & robot).any()
    assert (before.ids == 0).any()  # item 1 is known all the same
    assert FIRST_UNMOVED + 2 not in before.ids  # the item behind the robot is not
    assert ROBOT not in images.taught(0).ids
    assert not is_certain(np.array([ROBOT])).any()
    assert ROBOT not in images[2].ids  # where there was none


@pytest.mark.parametrize("classification", ["focal", "quality"])
def test_a_model_goes_on_learning_what_its_scores_mean(
    tmp_path: Path, parent: ModelStore, classification: str
) -> None:
    serving = parent.serving()
    serving = dataclasses.replace(
        serving, card=dataclasses.replace(serving.card, classification=classification)
    )
    config = training_config(UpdateConfig(), serving, (str(write_data(tmp_path)),), tmp_path)
    assert config.loss.classification == classification


def test_nothing_is_learned_where_the_robot_is(tmp_path: Path, parent: ModelStore) -> None:
    """The teacher sees items on the robot and beside it; the student's queries lie on both."""
    config = training_config(
        UpdateConfig(objects=0, augmentation=0.0, scale=(1.0, 1.0)),
        parent.serving(),
        (str(write_data(tmp_path)),),
        tmp_path,
    )
    images = with_robot(tmp_path)
    images.entries = images.entries[:1]
    scenes = EpisodeScenes(config, images)
    batch = collate([scenes[key] for key in next(iter(seeded_order(scenes, 0, 1)))])
    trainer = EpisodeTrainer(config, "t", "cpu", 1e9)
    seen: list[tuple[list[Targets], QueryOutputs]] = []
    real = trainer.predictions

    def predictions(batch: Batch, pseudo: list[Targets]) -> QueryOutputs:
        assert all(ROBOT not in targets.ids for targets in batch.targets)
        seen.append((pseudo, real(batch, pseudo)))
        return seen[-1][1]

    def everywhere(*args: object) -> list[Targets]:
        """A teacher that sees an object in each quarter of the picture."""
        quarters = box_targets([[x, y, 0.4, 0.4] for x in (0.25, 0.75) for y in (0.25, 0.75)], size=100)
        masks = torch.nn.functional.interpolate(
            quarters.masks[None].float(), batch.targets[0].masks.shape[1:]
        )
        marked = replace(quarters, masks=masks[0] > 0, ids=torch.full((4,), UNKNOWN))
        return [marked for targets in args[1]]

    trainer.predictions = predictions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rise_perception.training.trainer.pseudo_targets", everywhere)
        trainer.losses(batch)
    (pseudo, outputs), first = seen[0], int((~batch.labelled).nonzero()[0])
    robot = batch.targets[first].masks[batch.targets[first].ids == ROBOT].any(0)
    assert robot.any()
    for targets in pseudo:
        assert 0 < len(targets) < 4
        assert all(float((mask & robot).sum() / mask.sum()) <= 0.3 for mask in targets.masks)
    on_robot = fraction_on(outputs.boxes[first].detach(), robot) > 0.3
    assert on_robot.any()
    assert (outputs.logits[first, on_robot] == SILENT).all()
    assert (outputs.logits[first] > SILENT).any()


def test_certain_objects_join_the_pseudo_labels_and_predictions_do_not(
    tmp_path: Path, images: EpisodeImages, parent: ModelStore
) -> None:
    config = training_config(
        UpdateConfig(objects=2), parent.serving(), (str(write_data(tmp_path)),), tmp_path
    )
    scenes = EpisodeScenes(config, images)
    batches = [collate([scenes[key] for key in keys]) for keys in seeded_order(scenes, 0, 6)]
    trainer = EpisodeTrainer(config, "t", "cpu", 1e9)
    with_labels = 0
    for batch in batches:
        pseudo = trainer.pseudo_labels(batch)
        first = (~batch.labelled).nonzero().flatten()[::2].tolist()
        for index, targets in zip(first, pseudo, strict=True):
            known = batch.targets[index].ids
            assert not ((targets.ids >= FIRST_UNMOVED) & (targets.ids < FIRST_PASTED)).any()
            assert set(known[is_certain(known.numpy())].tolist()) <= set(targets.ids.tolist())
            with_labels += int((targets.ids == 0).any())
        outputs = trainer.predictions(batch, pseudo)
        views = set(range(len(batch.images))) - set(first)
        assert (outputs.logits[sorted(views)] > SILENT).all()  # only the judged views are silenced
    assert with_labels > 0
    assert any((batch.targets[k].ids == FIRST_UNMOVED + 2).any() for batch in batches for k in range(4, 8))


def test_an_update_starts_from_the_parent_ends_in_its_budget_and_can_be_stopped(
    tmp_path: Path, episodes: EpisodeStore, parent: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = EpisodeTrainer.step

    def slow(self: EpisodeTrainer, batch: Batch) -> dict[str, float]:
        losses = real(self, batch)
        time.sleep(1.0)
        return losses

    # A step of this network takes milliseconds; the budget is of seconds.
    monkeypatch.setattr(EpisodeTrainer, "step", slow)
    said: list[Progress] = []
    anchors, source = (str(write_data(tmp_path)),), (episodes, episodes.entries(), {}, None)
    serving = parent.serving()
    short = UpdateConfig(iterations=50, seconds=1.0, batch=2, episode_batch=2)
    card, steps = train_candidate(short, serving, anchors, source, tmp_path / "c", said.append, Event())
    assert steps == 1
    assert (said[-1].iteration, said[-1].iterations) == (1, 50)
    assert card.name == "tiny"
    assert card.checksum != serving.card.checksum
    old, new = (load_model(f)[0].state_dict() for f in (serving.folder, tmp_path / "c"))
    off = max(float((old[n] - t).abs().max()) for n, t in new.items() if t.is_floating_point())
    assert 0 < off < 1e-3  # one step of a warm-up, averaged
    stop = Event()
    stop.set()
    with pytest.raises(Stopped):
        train_candidate(short, serving, anchors, source, tmp_path / "d", said.append, stop)
    assert not (tmp_path / "d/model.safetensors").exists()


@pytest.mark.parametrize("values", [{"iterations": 0}, {"seconds": 0.0}, {"average": 1.0}])
def test_budgets_that_are_none(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        UpdateConfig(**values)  # type: ignore[arg-type]


def test_the_rate_reaches_zero_with_the_steps_or_with_the_time(
    tmp_path: Path, parent: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever budget ends first: weights that still jump about must not become a candidate."""
    config = training_config(
        UpdateConfig(iterations=100), parent.serving(), (str(write_data(tmp_path)),), tmp_path
    )
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    trainer = EpisodeTrainer(config, "t", "cpu", 50.0)
    clock[0] = 7.0
    assert trainer.fraction == 0.0  # the time before the first step does not count
    trainer._begun = clock[0] = 0.0
    found = []
    for iteration, seconds in ((20, 1.0), (65, 1.0), (100, 1.0), (20, 32.5), (20, 50.0), (20, 80.0)):
        trainer.iteration, clock[0] = iteration, seconds
        found.append(rate_factor(trainer.iteration, config.optimisation, trainer.fraction))
    assert found == pytest.approx([1.0, 0.5, 0.0, 0.5, 0.0, 0.0])


def test_a_candidate_is_drawn_back_on_the_straight_way_to_its_parent(
    tmp_path: Path, parent: ModelStore
) -> None:
    serving = parent.serving()
    network, card = load_model(serving.folder)
    begin = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for tensor in network.parameters():
            tensor.add_(1.0)
    place = tmp_path / "place"
    trained = save_model(place, network, card)
    drawn = interpolate_weights(place, serving, 0.25)
    assert drawn.checksum not in (trained.checksum, serving.card.checksum)
    assert drawn.data.endswith("25% of the way")
    state = load_model(place)[0].state_dict()
    for name, _ in network.named_parameters():
        assert torch.allclose(state[name], begin[name] + 0.25, atol=1e-6), name
