"""Engines of the other runtimes: built once, checked against torch, distrusted when anything is odd."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

for _package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(
        _package, reason=f"{_package} is not installed; pip install 'rise_perception[deploy]'"
    )

from rise_perception.core.errors import ConfigError, ModelError  # noqa: E402
from rise_perception.inference.engines import autoselect  # noqa: E402
from rise_perception.inference.engines.autoselect import choose  # noqa: E402
from rise_perception.inference.engines.build import RUNTIMES, Built, build_engine, check_name  # noqa: E402
from rise_perception.inference.engines.cache import EngineCache  # noqa: E402
from rise_perception.inference.engines.feeds import stored_frames  # noqa: E402
from rise_perception.inference.engines.parity import ParityError  # noqa: E402
from rise_perception.inference.engines.runner import EngineError, RuntimeUnavailableError  # noqa: E402
from rise_perception.inference.engines.spec import ExportSpec  # noqa: E402
from rise_perception.inference.segmenter import Segmenter  # noqa: E402
from rise_perception.network.card import read_card  # noqa: E402
from rise_perception.network.checkpoint import load_model, save_model  # noqa: E402

pytestmark = pytest.mark.slow
#: The camera's images: of another shape than the network's input.
SIZE = (120, 128)


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "tiny"
    shutil.copytree(tiny_model, folder)
    return folder


@pytest.fixture(scope="module")
def cache_folder(model: Path) -> Path:
    return model.parent / "cache"


@pytest.fixture
def cache(cache_folder: Path) -> EngineCache:
    return EngineCache(cache_folder)


def build(model: Path, cache: EngineCache, runtime: str = "openvino", precision: str = "fp32") -> Built:
    network, card = load_model(model)
    return build_engine(network, card, ExportSpec((96, 128), SIZE, precision=precision), runtime, cache)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_engine_is_built_once_and_agrees_with_torch(model: Path, cache: EngineCache, runtime: str) -> None:
    stages: list[str] = []
    network, card = load_model(model)
    spec = ExportSpec((96, 128), SIZE)
    built = build_engine(network, card, spec, runtime, cache, lambda stage, _: stages.append(stage))
    assert not built.from_cache
    assert stages[-3:] == ["build", "load", "check"]
    assert built.parity.mask_iou >= 0.99
    assert built.parity.instances > 0
    assert Path(built.path).is_file()
    stages.clear()
    again = build_engine(network, card, spec, runtime, cache, lambda stage, _: stages.append(stage))
    assert again.from_cache
    assert stages == ["load", "check"]
    assert cache.dropped == []


def damage(built: Built, how: str) -> None:
    path = Path(built.path)
    description = path.with_suffix(".json")
    told = json.loads(description.read_text())
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "description":
        description.write_text(description.read_text()[:50])
    elif how == "foreign":
        told["key"]["processor"] = "another"
        description.write_text(json.dumps(told))
    elif how == "gone":
        path.unlink()
    else:  # whole, and yet no engine
        import hashlib

        garbage = b"\x00garbage" * 100 if how == "garbage" else b""
        path.write_bytes(garbage)
        told["sha256"] = hashlib.sha256(garbage).hexdigest()
        description.write_text(json.dumps(told))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("how", ["truncated", "description", "foreign", "gone", "garbage", "empty"])
def test_an_engine_that_is_not_right_is_built_again(
    model: Path, cache: EngineCache, runtime: str, how: str
) -> None:
    damage(build(model, cache, runtime), how)
    rebuilt = build(model, cache, runtime)
    assert not rebuilt.from_cache
    assert len(cache.dropped) == 1
    assert Path(rebuilt.path).name in cache.dropped[0]
    assert build(model, cache, runtime).from_cache


def test_another_version_another_size_another_model_have_engines_of_their_own(
    model: Path, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build(model, cache)
    identity = RUNTIMES["openvino"].identity()
    # There is one version of OpenVINO here.
    monkeypatch.setattr(type(RUNTIMES["openvino"]), "identity", lambda self: {**identity, "openvino": "0.0"})
    second = build(model, cache)
    assert not second.from_cache
    assert second.path != first.path


def test_an_engine_that_disagrees_with_torch_never_serves(
    model: Path, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(model, cache)
    honest = RUNTIMES["openvino"].load

    def spoilt(*arguments: Any) -> Any:
        runner = honest(*arguments)

        class Spoilt:
            name, precision = "openvino", "fp32"

            def __call__(self, feeds: dict[str, np.ndarray]) -> Any:
                drawn = runner(feeds)
                return drawn._replace(masks=np.roll(drawn.masks, 7, axis=-1), boxes=drawn.boxes + 0.1)

        return Spoilt()

    # No runtime here computes anything wrong.
    monkeypatch.setattr(RUNTIMES["openvino"], "load", spoilt)
    with pytest.raises(ParityError, match="openvino differs from torch"):
        build(model, cache)


def test_runtimes_that_cannot_run_here_say_so(model: Path, cache: EngineCache) -> None:
    with pytest.raises(ConfigError, match="'onnxruntme'"):
        check_name("onnxruntme")
    with pytest.raises(RuntimeUnavailableError, match="'fp16'"):
        build(model, cache, "onnxruntime", "fp16")
    if not torch.cuda.is_available():
        for runtime, word in (("tensorrt", "tensorrt"), ("onnxruntime-cuda", "onnxruntime-gpu")):
            with pytest.raises(RuntimeUnavailableError, match=word):
                build(model, cache, runtime)
        with pytest.raises(RuntimeUnavailableError, match="NVIDIA"):
            build(model, cache, "torch-cudagraph")


def test_the_fastest_is_measured_once(
    model: Path, cache: EngineCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = tuple(pair for pair in autoselect.CANDIDATES["cpu"] if pair[0] != "torch-compiled")
    monkeypatch.setattr(autoselect, "CANDIDATES", {"cpu": quick})
    network, card = load_model(model)
    spec = ExportSpec((96, 128), SIZE)
    choice = choose(network, card, spec, cache)
    fastest = min(choice.milliseconds, key=lambda name: choice.milliseconds[name])
    assert f"{choice.runtime} {choice.precision}" == fastest
    assert {"torch fp32", "onnxruntime fp32", "openvino fp32"} <= set(choice.milliseconds)

    def again(*_: object) -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr(autoselect, "milliseconds", again)
    assert choose(network, card, spec, cache) == choice


def images() -> list[np.ndarray]:
    return [frame.image for frame in stored_frames(SIZE, 2)]


def test_torch_serves_until_the_engine_is_there_and_wherever_it_fails(
    model: Path, cache_folder: Path
) -> None:
    plain = Segmenter.load(model, "cpu")
    segmenter = Segmenter.load(model, "cpu", runtime="openvino", engine_dir=cache_folder)
    served = segmenter.models[0]
    first, second = images()
    expected = plain(first)
    assert np.array_equal(segmenter(first).label_map, expected.label_map)
    assert segmenter.last_runtime == "torch fp32"
    assert "being built" in served.fallback
    segmenter.wait_for_engines()
    found = segmenter(first)
    assert (segmenter.last_runtime, served.fallback) == ("openvino fp32", "")
    assert "128x120" in served.engine
    assert np.mean(found.label_map == expected.label_map) > 0.98
    assert len(found) == len(expected)
    larger = np.repeat(np.repeat(first, 2, 0), 2, 1)
    assert np.array_equal(segmenter(larger).label_map, plain(larger).label_map)

    segmenter.wait_for_engines()
    segmenter(first)
    assert segmenter.last_runtime == "openvino fp32"  # one engine for each size
    engine = served._last
    assert engine is not None

    def fails(feeds: object) -> None:
        raise RuntimeError("device lost")

    object.__setattr__(engine, "runner", type("Broken", (), {"name": "openvino", "precision": "fp32"})())
    type(engine.runner).__call__ = lambda self, feeds: fails(feeds)
    assert np.array_equal(segmenter(second).label_map, plain(second).label_map)
    assert segmenter.last_runtime == "torch fp32"
    assert "device lost" in served.fallback
    segmenter.close()


def test_a_builder_that_dies_leaves_torch_serving_and_no_engine(model: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.load(model, "cpu", runtime="onnxruntime", engine_dir=tmp_path / "cache")
    image = images()[0]
    segmenter(image)
    segmenter.close()  # kills it while it works
    assert segmenter.models[0].fallback.startswith("the engine's builder ended with status -9")
    segmenter(image)
    assert segmenter.last_runtime == "torch fp32"
    assert not list((tmp_path / "cache").glob("engine-*"))


def test_new_weights_take_over_with_an_engine_of_their_own(
    model: Path, cache_folder: Path, tmp_path: Path
) -> None:
    segmenter = Segmenter.load(model, "cpu", runtime="onnxruntime", engine_dir=cache_folder)
    image = images()[0]
    segmenter(image)
    segmenter.wait_for_engines()
    segmenter(image)
    old = segmenter.version
    assert segmenter.last_runtime == "onnxruntime fp32"

    network, card = load_model(model)
    with torch.no_grad():
        network.class_heads[-1].bias.add_(0.3)
    new = save_model(tmp_path / "new", network, card)
    told: list[str] = []
    swap = segmenter.swap(tmp_path / "new", told.append)
    while swap.is_alive():  # every image is answered meanwhile, by one model or the other
        segmenter(image)
        assert segmenter.last_model in (old, new.version)
        assert segmenter.last_runtime == "onnxruntime fp32"
    swap.join()
    assert told == [""]
    found = segmenter(image)
    assert segmenter.version == segmenter.last_model == new.version
    assert segmenter.last_runtime == "onnxruntime fp32"
    expected = Segmenter.load(tmp_path / "new", "cpu")(image)
    assert np.mean(found.label_map == expected.label_map) > 0.98

    weights = tmp_path / "new/model.safetensors"
    shutil.copytree(tmp_path / "new", tmp_path / "broken")
    (tmp_path / "broken/model.safetensors").write_bytes(weights.read_bytes()[:-10])
    segmenter.swap(tmp_path / "broken", told.append).join()
    assert "damaged" in told[-1]
    segmenter.swap(tmp_path / "nowhere", told.append).join()
    assert "nowhere" in told[-1]
    assert segmenter.version == new.version
    segmenter(image)
    assert segmenter.last_runtime == "onnxruntime fp32"


def test_new_weights_serve_with_torch_when_their_engine_is_not_right(
    model: Path, cache_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Segmenter.load(model, "cpu", runtime="onnxruntime", engine_dir=cache_folder)
    image = images()[0]
    segmenter(image)
    segmenter.wait_for_engines()
    shutil.copytree(model, tmp_path / "same")

    def refuses(*_: object) -> Any:
        raise EngineError("no memory left on the device")

    monkeypatch.setattr(type(RUNTIMES["onnxruntime"]), "load", refuses)
    told: list[str] = []
    segmenter.swap(tmp_path / "same", told.append).join()
    assert "no memory left" in told[0]
    assert segmenter.models[0].folder == tmp_path / "same"
    assert len(segmenter(image)) > 0
    assert segmenter.last_runtime == "torch fp32"


def test_models_of_other_classes_cannot_take_over(model: Path, tmp_path: Path) -> None:
    import dataclasses

    from rise_perception.network.build import build_network

    card = read_card(model)
    other = dataclasses.replace(card.network, classes=("box", "bag", "cup"), containers=())
    save_model(tmp_path / "other", build_network(other), dataclasses.replace(card, network=other))
    segmenter = Segmenter.load(model, "cpu")
    with pytest.raises(ModelError, match=r"box, bag, cup.*cannot replace"):
        segmenter._swap(tmp_path / "other")
    assert segmenter.models[0].folder == model
