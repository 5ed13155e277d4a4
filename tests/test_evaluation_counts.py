"""Counts at a threshold, calibration, and models side by side on labelled sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config

from rise_perception.cli.main import main
from rise_perception.core.errors import DataError
from rise_perception.core.regions import ImagePair, Region, encode_mask
from rise_perception.data.images import write_image
from rise_perception.evaluation.comparison import HEAD, markdown
from rise_perception.evaluation.counts import calibration_error, count
from rise_perception.evaluation.labelled_folder import LabelledFolder
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import save_model
from rise_perception.network.rise import RiseNetwork
from rise_perception.training.assessment import EvaluationSet, assess


def region(x0: int, x1: int, score: float = 1.0, category: str = "object") -> Region:
    mask = np.zeros((20, 100), bool)
    mask[5:15, x0:x1] = True
    return Region(category, encode_mask(mask), score)


def test_found_merged_and_false_masks_are_told_apart() -> None:
    truth = [
        region(0, 10),
        region(12, 22),
        region(40, 50),
        region(60, 70),
        region(80, 90, category="container"),
    ]
    predicted = [
        region(0, 22, 0.9),  # covers two
        region(40, 49, 0.8),  # finds
        region(41, 50, 0.7),  # finds the same again: false
        region(62, 63, 0.6),  # a crumb: false
        region(80, 90, 0.5, "container"),  # no object
    ]
    counts = count([ImagePair("a", 20, 100, predicted, truth), ImagePair("b", 20, 100, [region(0, 9)], [])])
    assert (counts.images, counts.items, counts.masks) == (2, 4, 5)
    assert (counts.found, counts.merged, counts.false) == (1, 1, 3)


def test_calibration_error_by_hand() -> None:
    scores = np.array([0.95, 0.95, 0.95, 0.95, 0.25, 0.25])
    right = np.array([True, True, True, False, False, True])
    assert calibration_error(scores, right) == pytest.approx((4 * 0.2 + 2 * 0.25) / 6)
    assert calibration_error([0.5] * 10, [True, False] * 5) == pytest.approx(0)
    assert calibration_error([], []) is None
    assert calibration_error([1.0], [True]) == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    out = tmp_path / "table"
    for name in ("1", "2"):
        labels = np.zeros((48, 64), np.uint8)
        labels[10:30, 10:30], labels[10:30, 40:60] = 7, 9
        write_image(out / f"{name}-color.png", np.full((48, 64, 3), 90, np.uint8))
        write_image(out / f"{name}-label.png", labels)
        write_image(out / f"{name}-depth.png", np.full((48, 64), 8000, np.uint16))
    write_image(out / "3-color.png", np.zeros((48, 64, 3), np.uint8))  # without labels
    return out


def test_a_folder_with_label_images_is_a_labelled_set(folder: Path, tmp_path: Path) -> None:
    images = LabelledFolder(folder, 0.0001)
    assert len(images) == 2
    sample = images[1]
    assert sample.name == "2-color.png"
    assert sample.masks.shape == (2, 48, 64)
    assert sample.ids.tolist() == [7, 9]
    assert sample.depth is not None
    assert sample.depth.max() == pytest.approx(0.8)
    assert LabelledFolder(folder)[0].depth is None
    write_image(tmp_path / "bare/1.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="label image"):
        LabelledFolder(tmp_path / "bare")
    (folder / "1-depth.png").unlink()
    with pytest.raises(DataError, match="no depth map"):
        LabelledFolder(folder, 0.0001)[0]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = tiny_config(classes=["object"], containers=[], input="rgb")
    save_model(tmp_path / "model", RiseNetwork(config), ModelCard("tiny", config, 0.3))
    return tmp_path / "model"


def test_a_model_is_measured_on_a_folder_and_skipped_with_a_reason(folder: Path, model: Path) -> None:
    row = assess(model, EvaluationSet(str(folder)))
    assert (row.counts.images, row.counts.items) == (2, 4)
    assert row.threshold == 0.3
    assert 0 <= row.counts.found <= 4
    assert len(row.cells()) == len(HEAD)
    assert markdown([row]).count("\n") == 2
    with pytest.raises(DataError, match="is not there"):
        assess(model, EvaluationSet(str(folder / "nothing")))
    config = tiny_config(classes=["object"], containers=[], input="rgbd")
    save_model(model.parent / "deep", RiseNetwork(config), ModelCard("deep", config, 0.3))
    with pytest.raises(DataError, match="registered"):
        assess(model.parent / "deep", EvaluationSet(str(folder)))
    assert assess(model.parent / "deep", EvaluationSet(str(folder), depth_scale=0.0001)).counts.images == 2


def test_the_command_prints_a_table_and_names_what_it_skips(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    arguments = ["bench", "models", str(model), "--set", str(folder), "--set", str(tmp_path / "none")]
    assert main([*arguments, "--device", "cpu", "--json", str(out)]) == 0
    said = capsys.readouterr()
    assert "| table | tiny-" in said.out
    assert "none is not there" in said.err
    assert json.loads(out.read_text())[0]["counts"]["items"] == 4
    assert main(["bench", "models", str(model), "--set", f"{folder}:deep"]) == 2
    assert main(["bench", "models", "rise_small_rgb", "--set", str(folder)]) == 0
    assert "| table | rise_small_rgb-" in capsys.readouterr().out
    assert main(["bench", "models", "rise_small", "--set", str(folder)]) == 2
    assert "shipped are" in capsys.readouterr().err
