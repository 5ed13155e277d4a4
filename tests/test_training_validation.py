"""Validation: the threshold that serves best, and figures in the card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config

from rise_perception.core.regions import ImagePair, Region, encode_mask
from rise_perception.data.images import write_image
from rise_perception.network.card import ModelCard, read_card
from rise_perception.network.checkpoint import save_model
from rise_perception.network.rise import RiseNetwork
from rise_perception.training.validation import THRESHOLDS, best_threshold, validate


def region(x: int, score: float, category: str = "object") -> Region:
    """A 10x10 square at column ``x`` of a 20x100 image."""
    mask = np.zeros((20, 100), bool)
    mask[5:15, x : x + 10] = True
    return Region(category, encode_mask(mask), score)


def pair(predicted: list[Region], truth: list[Region]) -> ImagePair:
    return ImagePair("a", 20, 100, predicted, truth)


def test_the_threshold_separates_right_from_wrong() -> None:
    right = [region(0, 0.9), region(20, 0.62), region(40, 0.41)]
    wrong = [region(70, 0.38), region(85, 0.2)]
    truth = [region(x, 1.0) for x in (0, 20, 40)]
    threshold, figures = best_threshold([pair([*wrong, *right], truth)])
    assert threshold == 0.4
    assert figures == {"precision": 1.0, "recall": 1.0}


def test_a_second_guess_for_the_same_object_is_wrong() -> None:
    threshold, figures = best_threshold([pair([region(0, 0.9), region(1, 0.8)], [region(0, 1.0)])])
    assert threshold == pytest.approx(0.9)
    assert figures["precision"] == 1.0


def test_missed_objects_count_in_recall_and_containers_do_not_count() -> None:
    truth = [region(0, 1.0), region(20, 1.0), region(40, 1.0, "container")]
    _, figures = best_threshold([pair([region(0, 0.9), region(40, 0.9, "container")], truth)])
    assert figures["recall"] == 0.5
    assert figures["precision"] == 1.0


def test_nothing_found_gives_zero_and_the_lowest_threshold() -> None:
    threshold, figures = best_threshold([pair([], [region(0, 1.0)]), pair([region(70, 0.9)], [])])
    assert (threshold, figures) == (0.05, {"precision": 0.0, "recall": 0.0})


def test_a_missed_object_weighs_more_than_a_wrong_guess() -> None:
    truth = [region(x, 1.0) for x in (0, 20, 40, 60)]
    right = [region(x, score) for x, score in ((0, 0.9), (20, 0.9), (40, 0.9), (60, 0.31))]
    wrong = [region(10, 0.33), region(80, 0.36)]
    threshold, figures = best_threshold([pair([*right, *wrong], truth)])
    assert threshold == 0.3
    assert figures["recall"] == 1.0


def test_figures_and_threshold_are_written_into_the_card(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = tiny_config(classes=["object"], containers=[])
    before = save_model(tmp_path / "model", RiseNetwork(config), ModelCard("tiny", config, 0.77))
    write_image(tmp_path / "images/a.png", np.zeros((20, 100, 3), np.uint8))
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": region(0, 1.0).rle}
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [annotation],
        "categories": [{"id": 1, "name": "object"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    card = validate(tmp_path / "model", tmp_path / "val.json")
    assert card == read_card(tmp_path / "model")
    assert card.checksum == before.checksum
    assert card.score_threshold in THRESHOLDS
    figures = card.metrics["validation"]
    assert figures["images"] == 1
    assert 0 <= figures["ap50"] <= 1
    assert 0 <= figures["recall"] <= 1


def test_a_set_without_objects_keeps_the_threshold(tmp_path: Path) -> None:
    config = tiny_config(classes=["object"], containers=[])
    save_model(tmp_path / "model", RiseNetwork(config), ModelCard("tiny", config, 0.77))
    write_image(tmp_path / "images/a.png", np.zeros((20, 100, 3), np.uint8))
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [],
        "categories": [{"id": 1, "name": "object"}],
    }
    (tmp_path / "val.json").write_text(json.dumps(content))
    card = validate(tmp_path / "model", tmp_path / "val.json")
    assert card.score_threshold == 0.77
    assert "ap" not in card.metrics["validation"]
