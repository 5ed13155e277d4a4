"""What grasps say about sentences: right items and wrong ones, as data that a referring model learns from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from grasping import episode, label_map, picture

from benchmarks.grasp_trials import from_label_map
from rise_perception.core.errors import DataError
from rise_perception.core.instances import Instances
from rise_perception.grasp_learning.capture.episode import Episode, Referred
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.grasp_sentences import write_grasp_sentences
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.referring.features import compute_features
from rise_perception.referring.head import HeadConfig
from rise_perception.referring.head_training import make_examples
from rise_perception.referring.loaders import open_pairs
from rise_perception.referring.model import ReferringConfig, ReferringModel
from rise_perception.referring.pairs import ToteWorldPairs
from rise_perception.referring.priors import grammar_prior, no_prior


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
