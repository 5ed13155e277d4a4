"""What serves goes on serving: through builds that fail or are stopped, and whatever is raised."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(
        _package, reason=f"{_package} is not installed; pip install 'rise_perception[deploy]'"
    )

from rise_perception.inference import served_model  # noqa: E402
from rise_perception.inference.engines.build import RUNTIMES  # noqa: E402
from rise_perception.inference.engines.cache import EngineCache  # noqa: E402
from rise_perception.inference.engines.feeds import stored_frames  # noqa: E402
from rise_perception.inference.segmenter import Segmenter  # noqa: E402
from rise_perception.inference.served_model import ServedModel  # noqa: E402
from rise_perception.network.build import Network  # noqa: E402
from rise_perception.network.card import ModelCard  # noqa: E402
from rise_perception.network.checkpoint import load_model  # noqa: E402

pytestmark = pytest.mark.slow
SIZE = (120, 128)


@pytest.fixture(scope="module")
def cache_folder(tiny_engines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(tiny_engines, tmp_path_factory.mktemp("engines") / "cache")


@pytest.fixture
def image() -> np.ndarray:
    return stored_frames(SIZE, 1)[0].image


@pytest.fixture
def segmenter(tiny_model: Path, cache_folder: Path, image: np.ndarray) -> Segmenter:
    """One that an engine of ONNX Runtime serves."""
    found = Segmenter.load(tiny_model, "cpu", runtime="onnxruntime", engine_dir=cache_folder)
    found(image)
    found.wait_for_engines()
    found(image)
    assert found.last_runtime == "onnxruntime fp32"
    return found


def test_a_build_that_fails_or_is_stopped_leaves_the_engine_that_serves(
    segmenter: Segmenter, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = segmenter.models[0]

    def serves_on() -> None:
        assert not served.is_building
        segmenter(image)
        assert (segmenter.last_runtime, served.fallback) == ("onnxruntime fp32", "")

    failed = served.build(SIZE, "openvino", "fp16", activate=True).wait()
    assert failed is not None
    assert "'fp16'" in failed.error
    serves_on()
    assert served.build(SIZE, "openvino", "fp32", activate=True).stop().error
    serves_on()

    def runs_out(*_: object) -> None:
        raise MemoryError("2 GiB")

    monkeypatch.setattr(RUNTIMES["openvino"], "load", runs_out)  # in this process: the builder has its own
    failed = served.build(SIZE, "openvino", "fp32", activate=True).wait()
    assert failed is not None
    assert "MemoryError: 2 GiB" in failed.error
    serves_on()


def test_an_engine_is_being_built_until_it_serves(
    tiny_model: Path, cache_folder: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter.load(tiny_model, "cpu", runtime="onnxruntime", engine_dir=cache_folder)
    served, honest = segmenter.models[0], RUNTIMES["onnxruntime"].load
    while_loading: list[tuple[bool, str]] = []

    def load(*arguments: Any) -> Any:
        while_loading.append((served.is_building, served.fallback))
        return honest(*arguments)

    monkeypatch.setattr(RUNTIMES["onnxruntime"], "load", load)
    segmenter(image)
    segmenter.wait_for_engines()
    ((building, fallback),) = while_loading
    assert building
    assert fallback.startswith("the engine is being built")
    assert not served.is_building


def test_the_files_of_an_engine_that_serves_stay_in_the_cache(
    tiny_model: Path, cache_folder: Path, tmp_path: Path, image: np.ndarray
) -> None:
    segmenter = Segmenter.load(
        tiny_model, "cpu", engine_dir=shutil.copytree(cache_folder, tmp_path / "cache")
    )
    outcome = segmenter.models[0].build(SIZE, "onnxruntime", "fp32", activate=True).wait()
    assert outcome is not None
    assert outcome.error == ""

    def others() -> list[str]:
        """What is left beside a new entry of a cache for nothing."""
        new = EngineCache(tmp_path / "cache", most_bytes=1).put("new", {}, b"content", {})
        return sorted(path.name.split("-")[0] for path in new.parent.glob("*.bin") if path != new)

    assert others() == ["engine", "graph"]
    assert Path(outcome.engine).is_file()
    del segmenter
    assert others() == []


def test_new_weights_get_an_engine_like_the_one_that_serves(
    tiny_model: Path, cache_folder: Path, tmp_path: Path, image: np.ndarray
) -> None:
    segmenter = Segmenter.load(tiny_model, "cpu", engine_dir=cache_folder)
    segmenter.models[0].build(SIZE, "onnxruntime", "fp32", activate=True).wait()
    segmenter.swap(shutil.copytree(tiny_model, tmp_path / "same")).join()
    segmenter(image)
    assert segmenter.last_runtime == "onnxruntime fp32"


def test_weights_that_were_replaced_behind_a_model_give_it_no_engine(
    tiny_model: Path, cache_folder: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Segmenter.load(tiny_model, "cpu", runtime="onnxruntime", engine_dir=cache_folder)

    def load_others(folder: Path, device: str) -> tuple[Network, ModelCard]:
        network, card = load_model(folder, device)
        return network, dataclasses.replace(card, checksum="0" * 64)

    # As when others are written after the builder's process has read them.
    monkeypatch.setattr(served_model, "load_model", load_others)
    found(image)
    found.wait_for_engines()
    found(image)
    assert found.last_runtime == "torch fp32"
    assert f"{tiny_model} holds other weights than were loaded; reload" in found.models[0].fallback


def test_a_builder_that_cannot_be_started_costs_no_image(
    tiny_model: Path, tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter.load(tiny_model, "cpu", runtime="onnxruntime", engine_dir=tmp_path / "cache")

    def refuses(*_: object, **__: object) -> None:
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", refuses)
    assert len(segmenter(image)) > 0
    assert segmenter.last_runtime == "torch fp32"
    assert "cannot be started (Cannot allocate memory)" in segmenter.models[0].fallback


def test_whatever_a_swap_raises_is_told(
    segmenter: Segmenter, tiny_model: Path, tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model, tmp_path / "same")
    served, told = segmenter.models[0], []

    def runs_out(*_: object) -> None:
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(ServedModel, "__init__", runs_out)
        segmenter.swap(tmp_path / "same", told.append).join()
    assert len(told) == 1
    assert "RuntimeError: CUDA out of memory" in told[0]
    assert str(tmp_path / "same") in told[0]
    assert segmenter.models == [served]

    segmenter.swap(tmp_path / "same", told.append).join()
    assert told[1] == ""
    segmenter(image)
    assert segmenter.last_runtime == "onnxruntime fp32"
