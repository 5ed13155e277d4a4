"""From a model to a checked runner of any runtime, through the engine cache."""

from __future__ import annotations

import contextlib
import hashlib
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import rise_perception
from rise_perception.core.errors import ConfigError
from rise_perception.core.frame import Frame
from rise_perception.inference.engines.backends.onnxruntime import OnnxRuntime
from rise_perception.inference.engines.backends.openvino import OpenVino
from rise_perception.inference.engines.backends.tensorrt import TensorRT
from rise_perception.inference.engines.backends.torch import MODES, TorchRunner
from rise_perception.inference.engines.backends.torch_compiled import TorchCompiled
from rise_perception.inference.engines.cache import EngineCache
from rise_perception.inference.engines.feeds import feeds_of, frames_of, stored_frames
from rise_perception.inference.engines.onnx_export import check_graph, export_graph
from rise_perception.inference.engines.parity import Parity, ParityError, compare, limits_of, reference
from rise_perception.inference.engines.runner import (
    Compiling,
    EngineError,
    Progress,
    Refitting,
    Runner,
    Runtime,
    RuntimeUnavailableError,
)
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.network.card import ModelCard

#: Runtimes with engines, by the name that a user gives.
RUNTIMES: dict[str, Runtime | Compiling] = {
    "torch-compiled": TorchCompiled(),
    "onnxruntime": OnnxRuntime("cpu"),
    "onnxruntime-cuda": OnnxRuntime("cuda"),
    "onnxruntime-tensorrt": OnnxRuntime("tensorrt"),
    "openvino": OpenVino(),
    "tensorrt": TensorRT(),
}
#: Everything that may be named; ``torch`` needs no engine, ``auto`` is whichever is fastest here.
NAMES = ("auto", "torch", *MODES, *RUNTIMES)
#: Frames of the shipped recording that parity and speed are measured on.
FRAMES = 3
#: Frames that int8 is calibrated on.
CALIBRATION_FRAMES = 32
TIMED_RUNS = 5


@dataclass(frozen=True)
class Built:
    """An engine that passed its check.

    Attributes:
        runner: ready to run.
        spec: what it was made for.
        path: in the engine cache; empty for torch.
        from_cache: nothing had to be built.
        parity: against torch, measured just now.
        refitted: an engine of other weights has taken these.
    """

    runner: Runner
    spec: ExportSpec
    path: str
    from_cache: bool
    parity: Parity
    refitted: bool = False


def serving_spec(
    card: ModelCard, image: tuple[int, int], precision: str, device: str, calibration: str = ""
) -> ExportSpec:
    """What an engine for a camera is made for; the letterbox is the GPU's work where there is one."""
    where = "inside" if device.startswith("cuda") else "outside"
    size = card.network.image_size
    return ExportSpec(size, image, precision=precision, preprocessing=where, calibration=calibration)


def check_name(runtime: str) -> None:
    """Refuse names that are not in :data:`NAMES`.

    Raises:
        ConfigError: unknown runtime.
    """
    if runtime not in NAMES:
        raise ConfigError(f"runtime {runtime!r} is unknown; there are {', '.join(NAMES)}")


def runtime_on(runtime: str, device: str) -> Runtime | Compiling:
    """A runtime with engines, as it runs on a device.

    Raises:
        ConfigError: unknown runtime.
    """
    check_name(runtime)
    backend = RUNTIMES[runtime]
    return backend.on(device) if isinstance(backend, Compiling) else backend


def build_engine(
    network: nn.Module,
    card: ModelCard,
    spec: ExportSpec,
    runtime: str,
    cache: EngineCache,
    progress: Progress = lambda stage, fraction: None,
    device: str = "cpu",
) -> Built:
    """Load the engine from the cache, or export and build it; either way compare it with torch.

    Args:
        network: as it was loaded, in FP32.
        card: of the network.
        spec: shapes and precision.
        runtime: one of :data:`NAMES` but ``auto`` and ``torch``.
        cache: where graphs and engines are kept.
        progress: told the stages ``export``, ``build``, ``load``, ``check``.
        device: for torch's own.

    Raises:
        RuntimeUnavailableError: the runtime cannot run here, or not in this precision.
        EngineError: it cannot build or run the network.
        ParityError: it does, but its results differ from torch's.
    """
    frames = stored_frames(spec.image, FRAMES)
    if runtime in MODES:
        progress("build", math.nan)
        runner: Runner = TorchRunner(network, spec, runtime, device)
        progress("check", math.nan)
        return Built(runner, spec, "", False, _parity(runner, network, card, spec, frames))
    backend = runtime_on(runtime, device)
    if spec.precision not in backend.precisions:
        raise RuntimeUnavailableError(
            f"runtime {runtime!r} has no precision {spec.precision!r}, only {', '.join(backend.precisions)}"
        )
    backend.check(spec.precision)
    if isinstance(backend, Compiling):
        key = _engine_key(backend, _graph_key(card, spec), spec, [])
    else:
        graph = _graph(network, card, spec.graph, frames, cache, progress)
        samples = _samples(card, spec)
        key = _engine_key(backend, _digest(graph), spec, samples)

    def checked(engine: bytes) -> tuple[Runner, Parity]:
        try:
            progress("load", math.nan)
            runner = backend.load(engine, spec.precision, cache.beside("engine", key))
            progress("check", math.nan)
            return runner, _parity(runner, network, card, spec, frames)
        except (EngineError, ParityError) as error:
            cache.drop("engine", key, f"does not work ({error})")
            raise

    def stored(engine: bytes, refitted: bool = False) -> Built:
        runner, parity = checked(engine)
        path = cache.put("engine", key, engine, {"model": card.version, "parity": asdict(parity)})
        return Built(runner, spec, str(path), False, parity, refitted)

    if (engine := cache.get("engine", key)) is not None:
        with contextlib.suppress(EngineError, ParityError):
            runner, parity = checked(engine)
            return Built(runner, spec, str(cache.path("engine", key)), True, parity)
    if isinstance(backend, Compiling):
        return stored(backend.compile(network, spec, progress))
    progress("build", math.nan)
    if (engine := _refit(backend, graph, card, spec, cache)) is not None:
        with contextlib.suppress(EngineError, ParityError):
            return stored(engine, refitted=True)
    return stored(_make_engine(backend, graph, card, spec, samples, cache, progress))


def find_engine(
    card: ModelCard, spec: ExportSpec, runtime: str, cache: EngineCache, device: str = "cpu"
) -> Runner:
    """The runner of an engine that was built and checked before.

    Raises:
        EngineError: the cache does not hold it.
    """
    backend = runtime_on(runtime, device)
    engine = None
    if isinstance(backend, Compiling):
        key = _engine_key(backend, _graph_key(card, spec), spec, [])
        engine = cache.get("engine", key)
    elif (graph := cache.get("graph", _graph_key(card, spec.graph))) is not None:
        key = _engine_key(backend, _digest(graph), spec, _samples(card, spec))
        engine = cache.get("engine", key)
    if engine is None:
        raise EngineError(f"{cache.folder} holds no {runtime} engine of {card.version} in {spec.precision}")
    return backend.load(engine, spec.precision, cache.beside("engine", key))


def _graph_key(card: ModelCard, spec: ExportSpec) -> dict[str, Any]:
    return {
        "weights": card.checksum,
        "spec": asdict(spec),
        "exporter": f"{rise_perception.__version__} torch {torch.__version__}",
    }


def _graph(
    network: nn.Module,
    card: ModelCard,
    spec: ExportSpec,
    frames: Sequence[Frame],
    cache: EngineCache,
    progress: Progress,
) -> bytes:
    """The checked ONNX graph."""
    key = _graph_key(card, spec)
    graph = cache.get("graph", key)
    if graph is None:
        progress("export", math.nan)
        exported = export_graph(network.cpu(), card, spec)
        expected = reference(network, spec, frames, card.score_threshold)
        check_graph(exported, spec, card.network.input, frames, expected)
        graph = exported.content
        cache.put("graph", key, graph, {"model": card.version})
    return graph


def _samples(card: ModelCard, spec: ExportSpec) -> list[dict[str, np.ndarray]]:
    """What an int8 engine is calibrated on; nothing for the other precisions."""
    if spec.precision != "int8":
        return []
    if spec.calibration:
        frames = frames_of(spec.calibration, spec.image, CALIBRATION_FRAMES)
    else:
        frames = stored_frames(spec.image, CALIBRATION_FRAMES)
    if card.network.sees_depth and any(frame.depth is None for frame in frames):
        raise ConfigError(
            f"calibration {spec.calibration!r} has images without depth and {card.version} sees depth; "
            "give a recording with depth, or nothing for the shipped one"
        )
    return feeds_of(spec, card.network.input, frames)


def _digest(graph: bytes) -> dict[str, Any]:
    return {"graph": hashlib.sha256(graph).hexdigest()}


def _engine_key(
    backend: Runtime | Compiling,
    made_of: dict[str, Any],
    spec: ExportSpec,
    samples: Sequence[dict[str, np.ndarray]],
) -> dict[str, Any]:
    seen = hashlib.sha256()
    for feeds in samples:
        for array in feeds.values():
            seen.update(array.tobytes())
    return {
        **made_of,
        "calibration": seen.hexdigest(),
        "runtime": backend.name,
        "precision": spec.precision,
        "size": list(spec.size),
        "image": list(spec.image),
        **backend.identity(),
    }


def _shape(backend: Runtime, card: ModelCard, spec: ExportSpec) -> dict[str, Any]:
    """What engines have in common between which weights can be exchanged."""
    return {"network": asdict(card.network), "spec": asdict(spec), **backend.identity()}


def _refit(
    backend: Runtime, graph: bytes, card: ModelCard, spec: ExportSpec, cache: EngineCache
) -> bytes | None:
    """The engine of earlier weights with those of the graph; None where that cannot be."""
    if not isinstance(backend, Refitting):
        return None
    shape = _shape(backend, card, spec)
    if (earlier := cache.get("refit", shape)) is None:
        return None
    try:
        return backend.refit(earlier, graph)
    except EngineError as error:
        cache.drop("refit", shape, f"cannot take other weights ({error})")
        return None


def _make_engine(
    backend: Runtime,
    graph: bytes,
    card: ModelCard,
    spec: ExportSpec,
    samples: Sequence[dict[str, np.ndarray]],
    cache: EngineCache,
    progress: Progress,
) -> bytes:
    """Build an engine; where weights can be exchanged, it and the builder's timings are kept for the next."""
    if not isinstance(backend, Refitting):
        return backend.build(graph, spec.precision, progress, samples)
    identity = backend.identity()
    backend.timing_cache = cache.get("timing", identity) or b""
    engine = backend.build(graph, spec.precision, progress, samples)
    cache.put("timing", identity, backend.timing_cache, {})
    cache.put("refit", _shape(backend, card, spec), engine, {"model": card.version})
    return engine


def _parity(
    runner: Runner, network: nn.Module, card: ModelCard, spec: ExportSpec, frames: Sequence[Frame]
) -> Parity:
    """Compare with torch.

    Raises:
        EngineError: the runner cannot run.
        ParityError: the results differ by more than the precision allows.
    """
    expected = reference(network, spec, frames, card.score_threshold)
    try:
        got = [runner(feeds) for feeds in feeds_of(spec, card.network.input, frames)]
    except Exception as error:  # each runtime raises its own, with no common base
        raise EngineError(f"{runner.name} cannot run the engine: {error}; use torch") from error
    parity = compare(expected, got)
    if problems := parity.problems(limits_of(spec.precision)):
        raise ParityError(
            f"{runner.name} differs from torch in {spec.precision}: {'; '.join(problems)}; use torch"
        )
    return parity


def milliseconds(runner: Runner, card: ModelCard, spec: ExportSpec, runs: int = TIMED_RUNS) -> float:
    """Median time of a runner on a stored frame, after one to warm up."""
    feeds = feeds_of(spec, card.network.input, stored_frames(spec.image, 1))[0]
    runner(feeds)
    spent = []
    for _ in range(runs):
        start = time.perf_counter()
        runner(feeds)
        spent.append((time.perf_counter() - start) * 1e3)
    return statistics.median(spent)
