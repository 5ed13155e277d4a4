"""The grasp segmenter: its films and pairs, its input, its training, its file, and what labels make of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from grasping import episode, picture

from benchmarks.disturbed_trials import CONDITIONS, disturbed_trials
from rise_perception.core import resources
from rise_perception.core.errors import ConfigError, DataError, ModelError
from rise_perception.core.regions import mask_iou
from rise_perception.grasp_learning.capture.episode import Outcome
from rise_perception.grasp_learning.labelling import label_episode as labelling
from rise_perception.grasp_learning.labelling.change import find_change
from rise_perception.grasp_learning.labelling.label_episode import label_change, label_episode
from rise_perception.grasp_learning.labelling.learned_labels import candidate_masks, distinct
from rise_perception.grasp_learning.labelling.registration import Exposure
from rise_perception.grasp_learning.segmenter import model, training
from rise_perception.grasp_learning.segmenter.config import (
    SegmenterSteps,
    is_segmenter_training,
    read_segmenter_training,
)
from rise_perception.grasp_learning.segmenter.inputs import expose_alike, pair_input
from rise_perception.grasp_learning.segmenter.network import CHANNELS, MAX_PARAMETERS, SIZE, GraspSegmenter
from rise_perception.grasp_learning.segmenter.pairs import draw_pair
from rise_perception.grasp_learning.segmenter.trainer import choose_quality
from rise_perception.grasp_learning.segmenter.training import train_network
from rise_perception.simulation.disturbed_grasps import GraspFilm, film_grasps, read_film
from rise_perception.simulation.render import Renderer
from rise_perception.training.train_state import save_state

CONFIG = Path(__file__).resolve().parents[1] / "config/train/grasp_segmenter.yaml"
#: Of the two items of the painted film: rows, columns, colour.
FIRST, SECOND = (slice(60, 120), slice(40, 110)), (slice(130, 200), slice(180, 250))


def painted_film() -> GraspFilm:
    """Three states on grey ground: both items, the second elsewhere, and the first gone."""
    images = np.full((3, *SIZE, 3), 120, np.uint8)
    images += np.random.default_rng(0).integers(0, 12, images.shape).astype(np.uint8)
    depths = np.full((3, *SIZE), 1000, np.uint16)
    labels = np.zeros((3, *SIZE), np.uint16)
    for state in range(3):
        rows, columns = SECOND
        if state > 0:
            columns = slice(columns.start + 20, columns.stop + 20)
        for label, place, colour in ((1, FIRST, (220, 40, 40)), (2, (rows, columns), (40, 60, 220))):
            if label == 1 and state == 2:
                continue
            images[state][place], depths[state][place], labels[state][place] = colour, 940, label
    poses = np.zeros((3, 2, 7), np.float32)
    poses[..., 3] = 1
    poses[1:, 1, 0] = 0.05
    present = np.array([[True, True], [True, True], [False, True]])
    return GraspFilm(
        images,
        depths,
        labels,
        poses,
        present,
        np.full(2, 0.05, np.float32),
        np.array(["nothing", "push", "take"]),
        np.array([0, 2, 1]),
    )


def test_a_film_knows_what_left_and_what_moved():
    film = painted_film()
    assert film.left(0, 1).tolist() == []
    assert film.moved(0, 1).tolist() == [2]
    assert film.left(1, 2).tolist() == [1]
    assert film.moved(1, 2).tolist() == []
    assert film.left(0, 2).tolist() == [1]
    assert film.moved(0, 2).tolist() == [2]
    assert film.left(2, 0).tolist() == []  # who came has not left


def test_an_item_that_turned_has_moved():
    film = painted_film()
    film.poses[1, 0, 3:] = (np.cos(0.1), 0, 0, np.sin(0.1))  # 0.2 radians, at 5 cm from its middle
    assert film.moved(0, 1).tolist() == [1, 2]


def test_the_same_seed_films_the_same_bytes():
    with Renderer(64, 48) as renderer:
        films = [film_grasps(3, "train", 1, renderer, steps=2) for _ in range(2)]
    for field in dataclasses.fields(GraspFilm):
        np.testing.assert_array_equal(*(getattr(film, field.name) for film in films))
    assert films[0].labels.max() > 0


def test_a_damaged_film_is_named(tmp_path):
    path = tmp_path / "film.npz"
    path.write_bytes(b"PK no film")
    with pytest.raises(DataError, match=r"film\.npz is no film of grasps"):
        read_film(path)


def test_the_same_seed_draws_the_same_pair():
    films = [painted_film()]
    first, second, other = (draw_pair(films, np.random.default_rng(k)) for k in (1, 1, 2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.image, other.image)


def test_truth_lies_where_the_frames_differ():
    """Whatever flips, zooms, lights and pastes do, what left is where it was in the frame before."""
    films = [painted_film()]
    clear = []
    for seed in range(24):
        pair = draw_pair(films, np.random.default_rng(seed))
        assert np.isfinite(pair.image).all()
        changed = (pair.truth[0] * pair.known.all(0)).astype(np.uint8)
        inner = cv2.erode(changed, np.ones((5, 5), np.uint8)) > 0
        if inner.sum() < 200:
            continue
        difference = np.abs(pair.image[6:9]).max(0)
        clear.append(np.median(difference[inner]) > 2 * np.median(difference[pair.truth.any(0) == 0]))
        union = pair.items.sum(0)
        left = cv2.resize(pair.truth[0], union.shape[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(union - left).max() < 1e-3
    assert len(clear) >= 10
    assert np.mean(clear) > 0.8


def test_an_input_without_depth_or_with_holes_is_finite():
    images = painted_film().images
    seen = np.ones(SIZE, bool)
    bare = pair_input(images[0], images[2], None, None, seen)
    assert bare.shape == (CHANNELS, *SIZE)
    assert not bare[9:15].any()
    depth = np.full(SIZE, np.nan, np.float32)
    depth[:50] = 0
    holes = pair_input(images[0], images[2], (depth, depth), seen, seen)
    assert np.isfinite(holes).all()
    np.testing.assert_array_equal(holes[9:14], 0)


def test_another_exposure_is_taken_back():
    image = painted_film().images[0]
    darker = np.clip(image * 0.7 + 6, 0, 255).astype(np.uint8)
    exposure = Exposure(np.full(3, 0.7), np.full(3, 6.0), np.ones(256, np.float32), 0.0)
    assert np.abs(expose_alike(darker, exposure).astype(int) - image).max() <= 3
    unknown = Exposure(np.zeros(3), np.zeros(3), np.ones(256, np.float32), 1.0)
    np.testing.assert_array_equal(expose_alike(darker, unknown), darker)


def test_the_network_is_small_and_sees_a_pair_alone_as_in_a_batch():
    torch.manual_seed(0)
    network = GraspSegmenter().eval()
    assert sum(p.numel() for p in network.parameters()) <= MAX_PARAMETERS
    pairs = torch.randn(2, CHANNELS, 48, 64)
    with torch.no_grad():
        both, maps = network(pairs)
        alone, _ = network(pairs[:1])
        masks = torch.zeros(2, 3, 24, 32)  # empty masks are judged as well
        quality = network.quality(maps, both[:, :1, ::2, ::2].sigmoid(), masks)
    assert both.shape == (2, 2, 48, 64)
    torch.testing.assert_close(both[:1], alone, atol=1e-4, rtol=1e-4)
    assert quality.shape == (2, 3)
    assert torch.isfinite(quality).all()


def test_an_interrupted_training_ends_where_the_other_does(tmp_path, monkeypatch):
    films = [painted_film()]
    steps = SegmenterSteps(rounds=2, pairs=2, repeats=1, batch=2)

    def fresh() -> GraspSegmenter:
        torch.manual_seed(0)
        return GraspSegmenter()

    through = fresh()
    assert train_network(through, films, steps, tmp_path / "a.safetensors") == 2

    def killed(*state: object) -> None:
        save_state(*state)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_state", killed)  # as a kill right after the state is written
    with pytest.raises(KeyboardInterrupt):
        train_network(fresh(), films, steps, tmp_path / "b.safetensors")
    monkeypatch.undo()
    resumed = GraspSegmenter()
    assert train_network(resumed, films, steps, tmp_path / "b.safetensors") == 2
    for a, b in zip(through.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_quality_of_a_label_is_chosen_from_wrong_ones():
    quality = np.linspace(0.5, 1, 101)
    overlap = np.where(quality < 0.7, 0.1, 0.9)
    assert choose_quality(quality, overlap) == pytest.approx(0.74, abs=0.03)
    assert choose_quality(quality, np.zeros(101)) == 0.95
    assert choose_quality(np.zeros(0), np.zeros(0)) == 0.55


def test_candidates_hold_what_left_and_the_predictions_that_are_gone():
    left = np.zeros(SIZE, np.float32)
    left[FIRST] = 0.9
    gone, stayed = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    gone[FIRST[0], 40:75] = True
    stayed[SECOND] = True
    found = candidate_masks(left, [gone, stayed], ())
    assert any(mask_iou(mask, left > 0.5) > 0.97 for mask in found)
    assert any(mask_iou(mask, gone) == 1 for mask in found)
    assert not any((mask & stayed).any() for mask in found)
    kept = distinct([left > 0.5, gone, stayed], np.array([0.9, 0.8, 0.3]))
    assert [k for k, _ in kept] == [0, 2]  # half of an item is no second one


def test_the_configuration_is_read_and_wrong_keys_are_named(tmp_path):
    assert is_segmenter_training(CONFIG)
    assert not is_segmenter_training(CONFIG.parent / "refer_small.yaml")
    assert read_segmenter_training(CONFIG).name == model.SHIPPED
    path = tmp_path / "wrong.yaml"
    path.write_text("{name: a, out: b, films: {count: 3}}")
    with pytest.raises(ConfigError, match=r"films\.count is not a known key"):
        read_segmenter_training(path)
    path.write_text("{name: a, out: b, films: {}, optimisation: {rounds: 0}}")
    with pytest.raises(ConfigError, match=r"optimisation\.rounds is 0"):
        read_segmenter_training(path)


@pytest.fixture
def shipped(tmp_path) -> Path:
    """A copy of the model that ships."""
    folder = tmp_path / model.SHIPPED
    shutil.copytree(resources.find("models") / model.SHIPPED, folder)
    return folder


def test_the_shipped_model_is_small_and_whole(shipped):
    assert (shipped / "model.safetensors").stat().st_size <= 2_000_000
    assert model.load_segmenter(shipped).card.version.startswith(f"{model.SHIPPED}-")


def test_a_damaged_model_is_refused_in_one_sentence(shipped):
    path = shipped / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="the weights are damaged or belong to another card") as error:
        model.load_segmenter(shipped)
    assert "\n" not in str(error.value)
    card = json.loads((shipped / "card.json").read_text())
    (shipped / "card.json").write_text(json.dumps(card | {"min_quality": 2.0}))
    with pytest.raises(ModelError, match=r"min_quality is 2\.0"):
        model.load_segmenter(shipped)
    (shipped / "card.json").write_text("{}")
    with pytest.raises(ModelError, match="it has no entry 'grasp_segmenter'"):
        model.load_segmenter(shipped)


@pytest.mark.parametrize("damaged", [False, True], ids=["missing", "damaged"])
def test_without_its_weights_the_analysis_of_the_change_decides(damaged, shipped, monkeypatch, caplog):
    if damaged:
        (shipped / "model.safetensors").write_bytes(b"no weights")
    else:
        shutil.rmtree(shipped)
    monkeypatch.setattr(
        resources, "find", lambda _: shipped.parent
    )  # a copy may be damaged, the original not
    model.shipped_segmenter.cache_clear()
    try:
        seen = episode(picture(1, 2, 3), picture(2, 3, seed=1))
        labels = label_episode(seen)
    finally:
        model.shipped_segmenter.cache_clear()
    analysed = label_change(find_change(seen.before, seen.after), seen.before, seen.grasp)
    assert labels.reason == analysed.reason
    np.testing.assert_array_equal(labels.masks, analysed.masks)
    assert "grasps are labelled without the grasp segmenter" in caplog.text


def test_it_is_asked_only_where_there_is_depth(monkeypatch):
    asked: list[bool] = []
    # Sees whether it is asked for; what it answers is tested below.
    monkeypatch.setattr(labelling, "_segmenter", lambda: asked.append(True))
    for depth in (False, True):
        label_episode(episode(picture(1, 2, 3, depth=depth), picture(2, 3, seed=1, depth=depth)))
        assert asked == [True] * depth


@pytest.mark.parametrize("agrees", [True, False])
def test_where_both_agree_the_outline_is_the_networks_and_else_the_analysis_decides(agrees, monkeypatch):
    seen = episode(picture(1, 2, 3, depth=True), picture(2, 3, seed=1, depth=True))
    (item,) = label_change(find_change(seen.before, seen.after), seen.before, seen.grasp).masks
    wider = cv2.dilate(item.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    half = item & (np.arange(item.shape[1]) < np.nonzero(item)[1].mean())
    said = wider if agrees else half
    assert mask_iou(item, said) < 0.97
    # Sure of one mask; what the shipped one says of these pictures may change with its weights.
    answer = SimpleNamespace(
        left=said.astype(np.float32),
        min_quality=0.8,
        quality=lambda masks: np.array([mask_iou(mask, said) for mask in masks]),
    )
    monkeypatch.setattr(labelling, "_segmenter", lambda: lambda *_: answer)
    (found,) = label_episode(seen).masks
    assert mask_iou(found, wider if agrees else item) > 0.97


@pytest.mark.slow
def test_the_command_films_trains_and_writes_a_model(tmp_path, rise):
    config = tmp_path / "small.yaml"
    films = f"{{folder: {tmp_path / 'films'}, train: 1, validation: 1}}"
    steps = "{rounds: 1, pairs: 4, repeats: 1, batch: 2}"
    config.write_text(f"name: small\nout: {tmp_path / 'out'}\nfilms: {films}\noptimisation: {steps}\n")
    status, out, err = rise("train", config)
    assert status == 0, err
    card = model.load_segmenter(tmp_path / "out").card
    assert f"model {card.version} is in" in out
    assert card.command == f"rise train {config}"
    assert card.metrics["validation"].keys() >= {"labels", "wrong", "median_iou"}


def test_conditions_of_the_benchmark_tell_grasps_apart():
    film = painted_film()
    trials = {name: list(disturbed_trials([film], name, True)) for name in CONDITIONS}
    assert {name: len(found) for name, found in trials.items() if found} == {"undisturbed": 1}
    (trial,) = trials["undisturbed"]
    assert trial.target == 1
    film.poses[2, 1, 0] += 0.02
    assert [len(list(disturbed_trials([film], name, False))) for name in CONDITIONS][:2] == [0, 1]
    both = dataclasses.replace(film, actions=np.array(["nothing", "push", "take two"]))
    both.present[2] = False
    (trial,) = disturbed_trials([both], "two left, predicted as one", False)
    assert len(trial.episode.before.instances) == 1
    assert trial.episode.grasp.outcome == Outcome.SUCCESS
    assert trial.episode.before.frame.depth is None
