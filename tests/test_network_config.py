"""Configurations: unknown and missing keys, and values of the wrong kind or out of range, are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError
from rise_perception.network.config import NetworkConfig
from rise_perception.training.config import read_train_config

MINIMAL = {"name": "m", "out": "runs/m", "data": {"train": ["train.json"]}}


def write(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | changes))
    return path


def test_an_empty_file_section_takes_the_paper(tmp_path: Path) -> None:
    config = read_train_config(write(tmp_path))
    assert config.network == NetworkConfig()
    assert (config.optimisation.iterations, config.optimisation.learning_rate) == (12_000, 1e-4)
    assert (config.loss.box_weight, config.loss.mask_weight, config.loss.embedding_weight) == (2.0, 1.0, 0.05)
    assert config.data.train == ("train.json",)
    assert config.init == ""


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    """YAML 1.1 takes 1e-4 for text and 5 for a whole number."""
    path = tmp_path / "train.yaml"
    path.write_text("name: m\nout: o\ndata: {train: [a]}\noptimisation: {learning_rate: 1e-4, clip: 5}\n")
    optimisation = read_train_config(path).optimisation
    assert (optimisation.learning_rate, optimisation.clip) == (1e-4, 5.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": {"layers": 3}}, ["network.layers", "not a known key", "decoder_layers"]),
        ({"netwrok": {}}, ["configuration.netwrok", "not a known key"]),
        ({"network": {"levels": 7}}, ["network.levels is 7", "between 1 and 4"]),
        ({"network": {"levels": "3"}}, ["network.levels is '3'", "whole number"]),
        ({"network": {"levels": True}}, ["network.levels is True", "whole number"]),
        ({"network": {"frozen_norm": "no way"}}, ["network.frozen_norm", "true or false"]),
        ({"network": {"width": 100}}, ["network.width is 100"]),
        ({"network": {"image_size": 320}}, ["network.image_size is 320", "a list"]),
        ({"network": {"image_size": [240, "x"]}}, ["network.image_size[1] is 'x'", "whole number"]),
        ({"network": {"image_size": [241, 320]}}, ["network.image_size", "multiples of 8"]),
        ({"network": {"image_size": [240]}}, ["network.image_size"]),
        ({"network": {"input": "depth"}}, ["network.input is 'depth'", "rgbd"]),
        ({"network": {"architecture": "yolo"}}, ["network.architecture is 'yolo'", "rise"]),
        ({"network": {"encoder": "light"}}, ["network.encoder is 'light'", "hybrid"]),
        ({"network": {"query_selection": "sparse"}}, ["query_selection is 'sparse'"]),
        ({"network": {"containers": ["box"]}}, ["containers is ['box']", "classes"]),
        ({"network": {"classes": []}}, ["network.classes"]),
        ({"network": {"backbone_args": [1]}}, ["network.backbone_args", "a mapping"]),
        ({"network": {"queries": 0}}, ["network.queries is 0"]),
        ({"network": 3}, ["network is int", "mapping"]),
        ({"data": {"train": "a.json"}}, ["data.train is 'a.json'", "list"]),
        ({"data": {"train": []}}, ["data.train is empty"]),
        ({"data": {}}, ["data.train is missing"]),
        ({"data": {"train": ["a"], "scale": [2.0, 1.0]}}, ["data.scale"]),
        ({"loss": {"matching": "greedy"}}, ["loss.matching is 'greedy'", "hungarian"]),
        ({"loss": {"mask_weight": -1}}, ["loss.mask_weight is -1"]),
        ({"optimisation": {"batch": 3}}, ["optimisation.batch is 3", "even"]),
        ({"optimisation": {"learning_rate": 0}}, ["optimisation.learning_rate"]),
        ({"optimisation": {"learning_rate": "fast"}}, ["learning_rate is 'fast'", "a number"]),
        ({"optimisation": {"iterations": 0}}, ["optimisation.iterations is 0"]),
        ({"optimisation": {"average": 1.0}}, ["optimisation.average"]),
        ({"name": 7}, ["configuration.name is 7", "text"]),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, changes: dict[str, Any], words: list[str]) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(ConfigError) as error:
        read_train_config(path)
    for word in [str(path), *words]:
        assert word in str(error.value)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        read_train_config(tmp_path / "nowhere.yaml")
    path = tmp_path / "broken.yaml"
    for content in ("a: [", "", "- 1", "\x00"):
        path.write_text(content)
        with pytest.raises(ConfigError, match=r"broken\.yaml"):
            read_train_config(path)
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        read_train_config(path)


def test_build_config_keeps_the_types_of_the_fields() -> None:
    config = build_config(
        NetworkConfig, {"image_size": [64, 96], "classes": ["a"], "containers": []}, "network"
    )
    assert config.image_size == (64, 96)
    assert config.classes == ("a",)
    assert hash(config.classes) is not None


#: A table of rows, and the training of another network, have tests of their own.
OTHER = {"tables", "refer_small", "refer_grasps", "grasp_segmenter"}


@pytest.mark.parametrize(
    "path",
    sorted(p for p in (Path(__file__).parents[1] / "config/train").glob("*.yaml") if p.stem not in OTHER),
    ids=lambda p: p.stem,
)
def test_shipped_training_configurations_are_valid(path: Path) -> None:
    assert read_train_config(path).name == path.stem
