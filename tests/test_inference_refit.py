"""Refit and timing cache around a runtime that offers both, as TensorRT does.

The runtime that stands in for it has real engines: graphs behind a header, which ONNX Runtime runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

for _package in ("onnx", "onnxruntime"):
    pytest.importorskip(
        _package, reason=f"{_package} is not installed; pip install 'rise_perception[deploy]'"
    )

from rise_perception.inference.engines.backends.onnxruntime import OnnxRuntimeRunner  # noqa: E402
from rise_perception.inference.engines.backends.openvino import OpenVino  # noqa: E402
from rise_perception.inference.engines.backends.tensorrt import TensorRT  # noqa: E402
from rise_perception.inference.engines.build import RUNTIMES, Built, build_engine  # noqa: E402
from rise_perception.inference.engines.cache import EngineCache  # noqa: E402
from rise_perception.inference.engines.runner import EngineError, Progress, Refitting, Runner  # noqa: E402
from rise_perception.inference.engines.selftest import checks  # noqa: E402
from rise_perception.inference.engines.spec import ExportSpec  # noqa: E402
from rise_perception.network.checkpoint import load_model, save_model  # noqa: E402

HEADER = b"engine:"


class StandIn:
    """Builds, refits and loads."""

    name = "tensorrt"
    precisions: tuple[str, ...] = ("fp32",)

    def __init__(self) -> None:
        self.timing_cache = b""
        self.builds: list[bytes] = []  # the timing cache that each build began with
        self.refits: list[bytes] = []  # the engine that each refit began with
        self.refit_is = "right"

    def identity(self) -> dict[str, str]:
        return {"stand-in": "1"}

    def check(self, precision: str) -> None:
        pass

    def build(
        self, graph: bytes, precision: str, progress: Progress, samples: Sequence[dict[str, np.ndarray]] = ()
    ) -> bytes:
        self.builds.append(self.timing_cache)
        self.timing_cache = b"timed"
        return HEADER + graph

    def load(self, engine: bytes, precision: str, beside: Path) -> Runner:
        if not engine.startswith(HEADER):
            raise EngineError("no engine")
        return OnnxRuntimeRunner(engine[len(HEADER) :], precision)

    def refit(self, engine: bytes, graph: bytes) -> bytes:
        self.refits.append(engine)
        if self.refit_is == "refused":
            raise EngineError("the graph does not fit")
        return engine if self.refit_is == "without effect" else HEADER + graph


@pytest.fixture(scope="module")
def models(
    tiny_model: Path, tiny_engines: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """A model, the same with other weights, and a cache with their graphs."""
    folder = tmp_path_factory.mktemp("refit")
    network, card = load_model(tiny_model)
    with torch.no_grad():
        network.class_heads[-1].bias.add_(0.3)
    save_model(folder / "changed", network, card)
    shutil.copytree(tiny_engines, folder / "cache")
    build(folder / "changed", EngineCache(folder / "cache"), "onnxruntime")
    return tiny_model, folder / "changed", folder / "cache"


@pytest.fixture
def cache(models: tuple[Path, Path, Path], tmp_path: Path) -> EngineCache:
    shutil.copytree(models[2], tmp_path / "cache")
    return EngineCache(tmp_path / "cache")


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(RUNTIMES, "tensorrt", stand_in)
    return stand_in


def build(model: Path, cache: EngineCache, runtime: str = "tensorrt") -> Built:
    network, card = load_model(model)
    return build_engine(network, card, ExportSpec((96, 128), (120, 128)), runtime, cache)


def test_tensorrt_offers_what_the_protocol_asks_for_and_others_do_not() -> None:
    assert isinstance(TensorRT(), Refitting)
    assert isinstance(StandIn(), Refitting)
    assert not isinstance(OpenVino(), Refitting)


@pytest.mark.slow
def test_other_weights_refit_the_engine_that_is_there(
    models: tuple[Path, Path, Path], cache: EngineCache, runtime: StandIn
) -> None:
    first = build(models[0], cache)
    assert (first.from_cache, first.refitted, runtime.refits) == (False, False, [])
    second = build(models[1], cache)
    assert (second.from_cache, second.refitted) == (False, True)
    assert runtime.refits == [Path(first.path).read_bytes()]
    assert len(runtime.builds) == 1
    assert second.parity.mask_iou >= 0.99
    again = build(models[1], cache)
    assert (again.from_cache, again.refitted) == (True, False)
    assert cache.dropped == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["refused", "without effect"])
def test_an_engine_that_cannot_be_refitted_is_built_with_the_timings_of_the_first(
    models: tuple[Path, Path, Path], cache: EngineCache, runtime: StandIn, how: str
) -> None:
    build(models[0], cache)
    runtime.timing_cache = b"of another process"
    runtime.refit_is = how
    second = build(models[1], cache)
    assert (second.from_cache, second.refitted) == (False, False)
    assert runtime.builds == [b"", b"timed"]
    assert second.parity.mask_iou >= 0.99
    reason = "cannot take other weights" if how == "refused" else "differs from torch"
    assert reason in cache.dropped[-1]
    build(models[0], cache)  # from the cache
    Path(build(models[0], cache).path).unlink()
    runtime.refit_is = "right"
    assert build(models[0], cache).refitted
    assert runtime.refits[-1] == Path(second.path).read_bytes()  # the newest build


@pytest.mark.slow
def test_the_self_test_says_whether_weights_were_refitted(
    models: tuple[Path, Path, Path], runtime: StandIn, tmp_path: Path
) -> None:
    for how, text in (("right", "(the engine was refitted)"), ("refused", "(a new engine was built)")):
        runtime.refit_is = how
        (tmp_path / how / "engines").mkdir(parents=True)
        for graph in tmp_path.glob("right/engines/graph-*"):
            shutil.copy(graph, tmp_path / how / "engines")
        *_, last = checks(models[0], "tensorrt", "fp32", "cpu", tmp_path / how)
        assert text in last


@pytest.mark.slow
def test_an_engine_that_raises_anything_is_built_again(
    models: tuple[Path, Path, Path], cache: EngineCache, runtime: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(models[0], cache)
    honest, loads = runtime.load, []

    class Broken:
        name, precision = "tensorrt", "fp32"

        def __call__(self, feeds: dict[str, np.ndarray]) -> Any:
            raise RuntimeError("device lost")

    def load(engine: bytes, precision: str, beside: Path) -> Any:
        loads.append(engine)
        return Broken() if len(loads) == 1 else honest(engine, precision, beside)

    monkeypatch.setattr(runtime, "load", load)
    assert not build(models[0], cache).from_cache
    assert "cannot run the engine: device lost" in cache.dropped[-1]
