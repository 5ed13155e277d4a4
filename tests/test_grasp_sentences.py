"""What grasps say about sentences: right items and wrong ones, as data that a referring model learns from."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from grasping import episode, label_map, picture

from benchmarks.grasp_trials import from_label_map
from rise_perception.core.errors import ConfigError, DataError
from rise_perception.core.instances import Instances
from rise_perception.data.images import write_image
from rise_perception.grasp_learning.capture.episode import Episode, Referred
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.grasp_sentences import write_grasp_sentences
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.language.vocabulary import KINDS
from rise_perception.network.card import file_checksum
from rise_perception.referring import grasp_training
from rise_perception.referring.config import (
    ReferringDataConfig,
    ReferringSteps,
    ReferringTraining,
    read_referring_training,
)
from rise_perception.referring.features import compute_features
from rise_perception.referring.head import HeadConfig
from rise_perception.referring.head_training import make_examples
from rise_perception.referring.loaders import open_pairs
from rise_perception.referring.model import (
    ReferringCard,
    ReferringConfig,
    ReferringModel,
    load_referring_model,
    save_referring_model,
)
from rise_perception.referring.pairs import ToteWorldPairs
from rise_perception.referring.priors import grammar_prior, no_prior
from rise_perception.referring.referrer import encode
from rise_perception.referring.scene import make_scene


def said(sentence: str, referred: Referred, number: int) -> Episode:
    """A grasp of the red item 1, which leaves."""
    whole = episode(picture(1, 2, 3), picture(2, 3, seed=1))
    grasp = dataclasses.replace(
        whole.grasp, grasp_id=f"grasp-{number}", expression=sentence, referred=referred
    )
    return dataclasses.replace(whole, grasp=grasp)


class Eyes:
    """A segmenter that sees the three items."""

    version = "eyes"

    def __call__(self, image: np.ndarray, depth: np.ndarray | None) -> Instances:
        return from_label_map(label_map(1, 2, 3))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("episodes") / "store"
    grasps = [("the red box", Referred.RIGHT), ("the blue thing", Referred.WRONG), ("", Referred.RIGHT),
              ("the green thing", Referred.UNKNOWN), ("the flurb", Referred.WRONG)]  # fmt: skip
    with EpisodeStore(folder, write=True) as target:
        for number, (sentence, referred) in enumerate(grasps):
            whole = said(sentence, referred, number)
            target.add(whole, label_episode(whole))
    return folder


def test_grasps_become_sentences_that_teach(rise, store, tmp_path):
    status, out, err = rise("episodes", store, "--sentences", tmp_path)
    assert status == 0, err
    assert "1 not understood, 2 nothing said, 1 right, 1 wrong" in out
    data = open_pairs(tmp_path / "grasps.sentences.jsonl")
    pairs = {pair.sentence: pair for pair in data.pairs}
    assert (pairs["the red box"].labels, pairs["the red box"].wrong) == ((1,), ())
    assert (pairs["the blue thing"].labels, pairs["the blue thing"].wrong) == ((), (1,))
    seen = data[pairs["the red box"].image]
    truth = label_map(1) == 1
    assert (seen.masks[1] & truth).sum() / (seen.masks[1] | truth).sum() > 0.8
    assert dict(seen.kinds) == {1: "box"}
    assert abs(np.median(seen.depth[truth]) - 0.8) < 0.01
    assert not data[pairs["the blue thing"].image].kinds  # what it is nobody said

    torch.manual_seed(0)
    head = HeadConfig(crop=8, embedding=4, width=16, heads=2, layers=1, text_layers=1, residual=0)
    model = ReferringModel(ReferringConfig(head))
    features = compute_features(data, Eyes(), tmp_path / "cache")
    for prior in (grammar_prior, no_prior):
        examples = make_examples(features, data.names, model, prior)
        targets = {pair.sentence: e.target for pair, e in zip(features.pairs, examples, strict=True)}
        assert targets["the red box"].tolist() == [1, 0, 0, 0]
        assert targets["the blue thing"][0] == 0  # this one it was not; the prior says what else it may be
        assert targets["the blue thing"].sum() == pytest.approx(1)
    believed = make_examples(features, data.names, model, grammar_prior)
    blue = next(e for p, e in zip(features.pairs, believed, strict=True) if p.wrong)
    assert blue.target.argmax() == 2
    assert blue.mask is None


def test_what_was_aimed_at_stands_in_where_nothing_certain_left(tmp_path):
    whole = said("the red thing", Referred.RIGHT, 0)
    labels = label_episode(whole)
    vague = dataclasses.replace(labels, masks=labels.masks[:0])
    assert write_grasp_sentences(tmp_path, [("a", whole, vague)]) == {"right": 1}
    masks = ToteWorldPairs(tmp_path / "grasps.sentences.jsonl")[0].masks
    assert np.array_equal(masks[1], label_map(1) == 1)
    nobody = dataclasses.replace(whole, grasp=dataclasses.replace(whole.grasp, target_id=-1))
    assert write_grasp_sentences(tmp_path, [("a", nobody, vague)]) == {"no item": 1}


def test_a_line_cannot_say_both(tmp_path):
    whole = said("the red thing", Referred.RIGHT, 0)
    write_grasp_sentences(tmp_path, [("a", whole, label_episode(whole))])
    path = tmp_path / "grasps.sentences.jsonl"
    path.write_text(path.read_text().replace('"label": 1', '"label": 1, "not": [1]'))
    with pytest.raises(DataError, match="what is meant, and what is not"):
        ToteWorldPairs(path)


def test_names_of_a_catalogue_become_words_that_all_know(rise, store, tmp_path):
    (tmp_path / "names.json").write_text('{"flurb": "blue box"}')
    status, out, err = rise(
        "episodes", store, "--sentences", tmp_path, "--catalogue", tmp_path / "names.json"
    )
    assert status == 0, err
    assert "2 nothing said, 1 right, 2 wrong" in out
    said = [pair.sentence for pair in open_pairs(tmp_path / "grasps.sentences.jsonl").pairs]
    assert sorted(said) == ["the blue box", "the blue thing", "the red box"]


# ---- what the grasps teach


def rehearse(folder: Path) -> str:
    """A file of sentences about the three items; the box, the can and the cup of elsewhere."""
    whole = episode(picture(1, 2, 3), picture(2, 3))
    write_image(folder / "images/0.png", whole.before.frame.image)
    write_image(folder / "labels/0.png", label_map(1, 2, 3))
    notes = [{"image_id": 0, "label": k, "kind": kind} for k, kind in ((1, "box"), (2, "can"), (3, "mug"))]
    content = {"images": [{"id": 0, "file_name": "0.png"}], "annotations": notes}
    (folder / "known.json").write_text(json.dumps(content))
    said = [("the red box", 1), ("the green can", 2), ("the blue cup", 3), ("the pink thing", None)]
    lines = [json.dumps({"file_name": "0.png", "sentence": s, "label": k}) for s, k in said]
    (folder / "known.sentences.jsonl").write_text("\n".join(lines))
    return str(folder / "known.sentences.jsonl")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that nobody has taught anything: it repeats the grammar."""
    torch.manual_seed(0)
    head = HeadConfig(crop=16, embedding=4, width=16, heads=2, layers=1, text_layers=1, residual=0)
    folder = tmp_path_factory.mktemp("start")
    model = ReferringModel(ReferringConfig(head))
    save_referring_model(folder, model, ReferringCard("start", model.config))
    return folder


def learn(folder: Path, start: Path, grasps: list[tuple[str, Referred]], monkeypatch) -> ReferringCard:
    """What a model makes of grasps of item 1."""
    told = [
        (f"{k:03d}", whole, label_episode(whole))
        for k, (s, r) in enumerate(grasps)
        for whole in [said(s, r, k)]
    ]
    write_grasp_sentences(folder, told)
    known = rehearse(folder)
    config = ReferringTraining(
        "taught",
        str(folder / "model"),
        ReferringDataConfig(
            (known,), (known,), known, (str(folder / "grasps.sentences.jsonl"),), cache=str(folder / "cache")
        ),
        optimisation=ReferringSteps(kind_epochs=60, epochs=2, rate=1e-4, threads=1, pixels=0.0),
        init=str(start),
    )  # fmt: skip
    monkeypatch.setattr(grasp_training.Segmenter, "load", lambda *_: Eyes())
    return grasp_training.learn_from_grasps(config, "")


def test_a_model_learns_what_its_grasps_call_an_item(tmp_path, start, monkeypatch):
    card = learn(tmp_path, start, [("the ball", Referred.RIGHT)] * 10, monkeypatch)
    figures = card.metrics["grasps"]
    assert figures["reason"].startswith("learned")
    assert figures["after"]["held_out"] == 2
    assert figures["after"]["likelihood"] > figures["before"]["likelihood"]
    assert card.version != load_referring_model(start)[1].version
    model, _ = load_referring_model(tmp_path / "model")
    frame = picture(1, 2, 3, seed=9)
    scene = make_scene(frame.image, frame.depth, from_label_map(label_map(1, 2, 3)))
    with torch.inference_mode():
        known, _ = encode(model, scene, torch.device("cpu"))
    assert known.things.kinds[:, KINDS.index("ball")].argmax() == 0


def test_what_is_not_better_replaces_nothing(tmp_path, start, monkeypatch):
    # It was the one ten times; of the newest two, which judge, it was not.
    told = [("the ball", Referred.RIGHT)] * 10 + [("the ball", Referred.WRONG)] * 3
    card = learn(tmp_path, start, told, monkeypatch)
    assert card.metrics["grasps"]["reason"].startswith("kept the start: not certainly better")
    assert file_checksum(tmp_path / "model/model.safetensors") == file_checksum(start / "model.safetensors")


def test_what_has_forgotten_replaces_nothing(tmp_path, start, monkeypatch):
    monkeypatch.setattr(grasp_training, "FORGOTTEN", -1.1)  # as if any loss were too much
    card = learn(tmp_path, start, [("the ball", Referred.RIGHT)] * 10, monkeypatch)
    assert "it has forgotten" in card.metrics["grasps"]["reason"]
    assert file_checksum(tmp_path / "model/model.safetensors") == file_checksum(start / "model.safetensors")


def test_too_few_grasps_are_named(tmp_path, start, monkeypatch):
    with pytest.raises(DataError, match="2 sentences; at least 3"):
        learn(tmp_path, start, [("the ball", Referred.RIGHT)] * 2, monkeypatch)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"init": ""}, "together with init"),
        ({"data": ReferringDataConfig(("k",), ("t",), "", ("g",))}, "judges what was forgotten"),
        ({"referring": ReferringConfig(HeadConfig(crop=8))}, "sizes are those of start"),
    ],
)
def test_a_configuration_that_does_not_go_on_from_a_model_is_named(changes, reason):
    whole = {"init": "start", "data": ReferringDataConfig(("k",), ("t",), "v", ("g",))} | changes
    with pytest.raises(ConfigError, match=reason):
        ReferringTraining("taught", "out", **whole)


def test_the_shipped_configuration_goes_on_from_the_shipped_model():
    config = read_referring_training(Path(__file__).resolve().parents[1] / "config/train/refer_grasps.yaml")
    assert config.init == "rise_refer_small"
    assert config.data.grasps
