"""`rise show-batch`: pictures of what the training sees, by the training's own data path."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from tiny import tiny_config
from tiny_data import configure, write_data

from rise_perception.cli.main import main
from rise_perception.evaluation.overlay import id_color
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import save_model
from rise_perception.network.rise import RiseNetwork
from rise_perception.training.batch_pictures import PANEL, draw_scene
from rise_perception.training.config import DataConfig, read_train_config
from rise_perception.training.pseudo_labels import SelfSupervisionConfig
from rise_perception.training.scenes import Key, Scenes


@pytest.fixture
def config(tmp_path: Path) -> Path:
    data = str(write_data(tmp_path / "data"))
    content = {
        "name": "x",
        "out": str(tmp_path / "run"),
        "data": {"train": [data], "unlabelled": [data], "workers": 0},
        "network": {"image_size": [64, 96], "input": "rgbd", "classes": ["object"], "containers": []},
        "optimisation": {"iterations": 8, "batch": 2, "unlabelled_batch": 2},
    }
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_one_picture_a_step(config: Path, tmp_path: Path) -> None:
    command = ["show-batch", str(config), "--out"]
    assert main([*command, str(tmp_path / "a"), "--step", "6", "--steps", "5"]) == 0
    pictures = sorted((tmp_path / "a").iterdir())
    assert [p.name for p in pictures] == ["step_000006.png", "step_000007.png"]
    picture = cv2.imread(str(pictures[0]))
    assert picture.shape[0] > 2 * PANEL  # a labelled and an unlabelled scene
    assert main([*command, str(tmp_path / "b"), "--step", "6"]) == 0
    for name in ("step_000006.png", "step_000007.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_steps_outside_the_training_are_refused(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show-batch", str(config), "--out", str(tmp_path / "a"), "--step", "8"]) == 2
    assert "it has steps 0 to 7" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


def test_objects_have_the_colour_of_their_identity(config: Path) -> None:
    scenes = Scenes(read_train_config(config))
    key = Key(3, True, 1)
    row, sequence = draw_scene(scenes, key), scenes.sequence(key)
    assert row.shape[1] > 4 * PANEL * 96 / 64  # x, x1, x2, x3 and depth
    for identity in {*sequence.before.ids.tolist(), *sequence.after.ids.tolist()}:
        assert (row == id_color(identity)).all(-1).any(), identity


def test_a_teachers_pseudo_labels_are_white(tmp_path: Path) -> None:
    data = str(write_data(tmp_path / "data"))
    run = configure(
        data,
        tmp_path / "run",
        images={"unlabelled": (data,)},
        sections={
            "self_supervision": SelfSupervisionConfig(class_threshold=(0.0, 0.0), selector="threshold")
        },
    )
    assert isinstance(run.data, DataConfig)
    network = RiseNetwork(
        tiny_config(classes=("object",), containers=(), query_selection="dense", mask_stride=4)
    )
    scenes, white, seen = Scenes(run), (255, 255, 255), 0
    for position in range(6):  # the view of the student may leave the labels of one scene outside
        key = Key(position, False, 2)
        without = draw_scene(scenes, key)
        row = draw_scene(scenes, key, network.eval())
        assert np.array_equal(row[:, : without.shape[1]], without)
        seen = max(seen, int((row[30:, without.shape[1] :] == white).all(-1).sum()))
    assert seen > 20


def test_the_model_must_see_what_the_training_sees(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = RiseNetwork(tiny_config(input="rgb"))
    card = ModelCard(name="m", network=network.config, data="", command="", git_revision="", notes="")
    save_model(tmp_path / "m", network, card)
    command = ["show-batch", str(config), "--out", str(tmp_path / "a"), "--model", str(tmp_path / "m")]
    assert main(command) == 2
    assert "sees rgb, the training rgbd" in capsys.readouterr().err
