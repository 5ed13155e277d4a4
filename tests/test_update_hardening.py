"""Model stores from elsewhere: odd cards and files are named and left out; diverged weights do not serve."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from picking import NETWORK
from safetensors.torch import load_file, save_file
from test_update_model_store import promote
from tiny import tiny_config

from rise_perception.core.errors import ConfigError, ModelError
from rise_perception.grasp_learning.update.memory import Memory
from rise_perception.grasp_learning.update.model_store import CURRENT, ModelStore
from rise_perception.grasp_learning.update.update_log import DIARY, read_history, write_down
from rise_perception.inference.segmenter import Segmenter
from rise_perception.network.build import build_network
from rise_perception.network.card import CARD, WEIGHTS, ModelCard, file_checksum, read_card
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.network.config import NetworkConfig


@pytest.fixture
def store(tmp_path: Path, tiny_model: Path) -> ModelStore:
    """A store that serves a version, and holds a newer one that may serve."""
    store = ModelStore(tmp_path / "models", write=True)
    store.begin(tiny_model)
    promote(store, 1)
    store.close()
    return store


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


ODD_CARDS: list[Callable[[dict[str, Any]], object]] = [
    lambda c: c["metrics"]["store"].update(created="x"),
    lambda c: c["metrics"]["store"].update(created=float("inf")),
    lambda c: c["metrics"]["store"].update(created=None),
    lambda c: c["metrics"]["store"].update(created=2**70),
    lambda c: c["metrics"]["store"].update(accepted="no"),
    lambda c: c["metrics"]["store"].update(anchor_ap="good"),
    lambda c: c["metrics"]["store"].update(note={}),
    lambda c: c["metrics"]["store"].update(best_anchors=[1]),
    lambda c: c["metrics"].update(store=7),
    lambda c: c["metrics"].update(other=[[[[[[[[[[[[[[[[[[[[[[[[[[[0]]]]]]]]]]]]]]]]]]]]]]]]]]]),
    lambda c: c.update(score_threshold=float("nan")),
    lambda c: c.update(score_threshold=1.5),
    lambda c: c.update(score_threshold=None),
    lambda c: c.update(checksum="../../etc"),
    lambda c: c.update(name="\ud800"),
    lambda c: c.update(name=""),
    lambda c: c["network"].update(heads=0),
    lambda c: c["network"].update(queries=10**9),
    lambda c: c["network"].update(image_size=[2**30, 2**30]),
    lambda c: c["network"].update(image_size=[64, 64, 64]),
    lambda c: c["network"].update(backbone="hf-hub:someone/model"),
    lambda c: c["network"]["backbone_args"].update(checkpoint_path="/tmp/pickle"),
]


@pytest.mark.parametrize("change", ODD_CARDS)
def test_an_odd_card_is_named_and_the_others_serve(store: ModelStore, change: Callable[..., object]) -> None:
    serving = store.serving()
    other = next(model for model in store.versions() if model.version != serving.version)
    edit(serving.folder / CARD, change)
    reader = ModelStore(store.root)
    assert [model.version for model in reader.versions()] == [other.version]
    (said,) = reader.damaged()
    assert serving.version in said
    assert len(said) < 1500
    assert reader.serving().version == other.version
    with pytest.raises(ModelError, match=serving.version):
        reader.find(serving.version)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b"", b"\xff\xfe", b"null", b"9" * 6000, b" " * (2 << 20)]
)
@pytest.mark.parametrize("name", [CARD, CURRENT])
def test_what_is_no_json_ends_nothing(store: ModelStore, name: str, content: bytes) -> None:
    path = store.serving().folder / CARD if name == CARD else store.root / CURRENT
    path.write_bytes(content)
    reader = ModelStore(store.root)
    assert any(name in said for said in reader.damaged())
    assert reader.serving().version
    ModelStore(store.root, write=True).close()  # repairs what it can
    if name == CURRENT:
        assert reader.damaged() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"database_version": 2**70},
        {"database_version": 2**40},
        {"database_version": -1},
        {"promoted": 0.5},
        {"version": "../x"},
        {"base": None},
        {"history": ["a"] * 1000},
        {"history": "abc"},
        {"surprise": 1},
    ],
)
def test_odd_fields_of_what_serves_are_named_and_repaired(store: ModelStore, changes: dict[str, Any]) -> None:
    edit(store.root / CURRENT, lambda content: content.update(changes))
    reader = ModelStore(store.root)
    assert reader.current() is None
    assert CURRENT in reader.damaged()[0]
    writer = ModelStore(store.root, write=True)
    assert writer.current() is not None
    assert writer.damaged() == []
    writer.close()


def test_a_store_that_was_removed_is_named(store: ModelStore) -> None:
    shutil.rmtree(store.root)
    for look in (store.versions, store.damaged, store.serving):
        with pytest.raises(ModelError, match="cannot be read"):
            look()
    assert store.current() is None


def test_figures_that_were_not_measured_stay_in_the_diary(tmp_path: Path) -> None:
    write_down(tmp_path, {"verdict": "rejected", "anchor_ap": [float("nan"), 0.5]})
    with (tmp_path / DIARY).open("ab") as file:
        file.write(b"[" * 100_000 + b"\n\xff\n[1]\n")
    write_down(tmp_path, {"verdict": "promoted"})
    assert [facts["verdict"] for facts in read_history(tmp_path)] == ["rejected", "promoted"]
    assert read_history(tmp_path)[0]["anchor_ap"] == [None, 0.5]


def test_what_a_learner_remembers_has_ranges() -> None:
    with pytest.raises(ConfigError):
        Memory(rejected=2**40)


def test_a_card_cannot_have_weights_fetched() -> None:
    for backbone in ("hf-hub:a/b", "local-dir:/tmp", "../x", "a/b", ""):
        with pytest.raises(ConfigError, match=r"network\.backbone"):
            NetworkConfig(backbone=backbone)
    with pytest.raises(ConfigError, match="without weights"):
        NetworkConfig(backbone_args={"checkpoint_path": "x"})


# -- models that are to serve ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that finds something everywhere."""
    torch.manual_seed(0)
    network = build_network(tiny_config(**NETWORK))
    folder = tmp_path_factory.mktemp("models") / "lively"
    save_model(folder, network, ModelCard("lively", network.config, score_threshold=0.0))
    return folder


def changed(
    source: Path, folder: Path, change: Callable[[torch.Tensor], torch.Tensor], **card: object
) -> Path:
    """A copy of a model with other weights and a right card."""
    shutil.copytree(source, folder)
    weights = load_file(source / WEIGHTS)
    weights = {k: change(w) if w.is_floating_point() else w for k, w in weights.items()}
    save_file(weights, folder / WEIGHTS)
    fields = dataclasses.asdict(read_card(source)) | {"checksum": file_checksum(folder / WEIGHTS)} | card
    (folder / CARD).write_text(json.dumps(fields))
    return folder


def test_weights_that_are_not_finite_are_not_loaded(lively: Path, tmp_path: Path) -> None:
    broken = changed(lively, tmp_path / "nan", lambda w: torch.full_like(w, torch.nan))
    with pytest.raises(ModelError, match=r"not finite, first .*take another version"):
        load_model(broken)


@pytest.mark.parametrize("size", [1e30, 1e19])
def test_weights_that_compute_no_numbers_do_not_serve(lively: Path, tmp_path: Path, size: float) -> None:
    """Their checksum is right, and somebody accepted them."""
    segmenter = Segmenter.load(lively, "cpu")
    broken = changed(lively, tmp_path / "huge", lambda w: torch.full_like(w, size))
    said: list[str] = []
    segmenter.swap(broken, said.append).join()
    assert "numbers that are not finite" in said[0] or "finds nothing" in said[0]
    assert segmenter.version == read_card(lively).version
    assert len(segmenter(np.zeros((96, 128, 3), np.uint8))) >= 0


def test_a_model_that_finds_nothing_does_not_replace_one_that_does(lively: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.load(lively, "cpu")
    deaf = changed(lively, tmp_path / "deaf", lambda w: w, name="deaf", score_threshold=1.0)
    said: list[str] = []
    segmenter.swap(deaf, said.append).join()
    assert "deaf" in said[0]
    assert "finds nothing in 2 stored frames at score_threshold 1" in said[0]
    assert segmenter.version == read_card(lively).version
    # What finds nothing itself cannot be the measure.
    segmenter = Segmenter.load(deaf, "cpu")
    other = changed(deaf, tmp_path / "other", lambda w: w * 1.001, name="other")
    segmenter.swap(other, said.append).join()
    assert said[1] == ""
    assert segmenter.version == read_card(other).version


def test_the_last_frame_in_which_something_was_found_is_one_to_be_tried_on(lively: Path) -> None:
    segmenter = Segmenter.load(lively, "cpu")
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    assert len(segmenter(image))
    (model,) = segmenter.models
    assert model.last_found is not None
    assert model.last_found.image is image
    assert model.inspect(image, None) == (len(segmenter(image)), True)
