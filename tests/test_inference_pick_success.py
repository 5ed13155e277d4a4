"""How likely a grasp succeeds: what is measured of a mask, the head, and what is dropped as flat."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from grasping import label_map, picture

from benchmarks.grasp_trials import from_label_map
from rise_perception.core.errors import ModelError
from rise_perception.core.instances import Instances
from rise_perception.inference.pick_success import (
    CARD_KEY,
    FEATURES,
    PickSuccess,
    pick_features,
    with_pick_success,
    without_flat,
)
from rise_perception.simulation.picker import Picker


def seen() -> Instances:
    """Items 1 to 3, and a mask with the label 9 on bare ground."""
    labels = label_map(1, 2, 3)
    labels[5:20, 100:150] = 9
    return replace(from_label_map(labels), embeddings=np.eye(4, 6, dtype=np.float32))


def head(**weights: float) -> PickSuccess:
    size = len(FEATURES) + 6
    told = np.array([weights.get(name.replace(" ", "_"), 0.0) for name in FEATURES] + [0.0] * 6)
    return PickSuccess(np.zeros(size), np.full(size, 10.0), told, -2.0, 30)


def test_a_mask_on_bare_ground_differs_from_items_in_what_depth_says() -> None:
    depth = picture(1, 2, 3).depth
    features = dict(zip(FEATURES, pick_features(seen(), depth).T, strict=False))
    assert features["relief"][:3] == pytest.approx(np.sqrt([200, 150, 120]), abs=0.5)
    assert features["relief"][3] < 2
    assert features["standing"][:3].min() > 0.9 > 0.3 > features["standing"][3]
    assert features["step"][:3].min() > 0.9 > 0.3 > features["step"][3]
    without = dict(zip(FEATURES, pick_features(seen(), None).T, strict=False))
    assert not without["relief"].any()
    assert without["area"].tolist() == features["area"].tolist()


def test_features_do_not_depend_on_where_a_mask_lies() -> None:
    """They are taken from a window around it."""
    moved = replace(
        seen(),
        label_map=np.roll(seen().label_map, 7, 1),
        boxes=seen().boxes + np.array([7, 0, 7, 0], np.float32),
    )
    depth = np.roll(picture(1, 2, 3).depth, 7, 1)
    assert pick_features(moved, depth)[:, :5] == pytest.approx(
        pick_features(seen(), picture(1, 2, 3).depth)[:, :5]
    )


def test_a_head_ranks_and_the_picker_follows_it() -> None:
    depth = picture(1, 2, 3).depth
    told = with_pick_success(seen(), depth, head(relief=5.0))
    assert told.pick_success[:3].min() > 0.9
    assert told.pick_success[3] < 0.3
    rises = depth < 0.95
    bold = replace(told, scores=np.array([0.3, 0.3, 0.3, 0.99], np.float32))
    assert Picker().choose(bold, rises).target_id == 1  # the highest of the items
    assert Picker().choose(replace(bold, pick_success=np.full(4, np.nan, np.float32)), rises).target_id == 9
    assert Picker(0.3).offered(told).labels.tolist() == [1, 2, 3]
    assert len(Picker(0.3).offered(seen())) == 4  # nobody knows


def test_a_head_goes_through_a_card_and_damage_is_named() -> None:
    card = {CARD_KEY: json.loads(json.dumps(head(relief=5.0).to_json()))}
    again = PickSuccess.from_card(card)
    features = pick_features(seen(), picture(1, 2, 3).depth)
    assert again(features) == pytest.approx(head(relief=5.0)(features), abs=1e-4)
    assert PickSuccess.from_card({}) is None
    assert np.isnan(again(features[:, :-1])).all()  # of a network with other embeddings
    for damage in (
        {"scale": [0.0] * 18},
        {"bias": "high"},
        {"mean": [1.0]},
        {"weights": [float("nan")] * 18},
    ):
        with pytest.raises(ModelError, match="pick-success head of a card is damaged"):
            PickSuccess.from_card({CARD_KEY: card[CARD_KEY] | damage})


def test_flat_masks_are_dropped_and_their_pixels_are_background() -> None:
    depth = picture(1, 2, 3).depth
    kept = without_flat(seen(), depth, 10.0)
    assert kept.labels.tolist() == [1, 2, 3]
    assert not (kept.label_map == 9).any()
    assert len(kept.pick_success) == len(kept.embeddings) == 3
    assert without_flat(seen(), np.zeros_like(depth), 10.0).labels.tolist() == [1, 2, 3, 9]
