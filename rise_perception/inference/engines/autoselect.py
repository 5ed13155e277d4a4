"""Which runtime is fastest here: measured once for a model, a size and a machine, then remembered."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from rise_perception.core.config import build_config
from rise_perception.core.errors import RiseError
from rise_perception.core.json_files import parse_json
from rise_perception.inference.engines.backends.torch import EAGER, TorchRunner
from rise_perception.inference.engines.backends.torch_compiled import check_compiler
from rise_perception.inference.engines.build import RUNTIMES, build_engine, milliseconds
from rise_perception.inference.engines.cache import EngineCache
from rise_perception.inference.engines.runner import Progress, RuntimeUnavailableError, processor
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.inference.threads import cpu_threads
from rise_perception.network.card import ModelCard

#: What is tried on a device; torch is always measured, too. What the processor does not compute is left out.
CANDIDATES = {
    "cpu": (
        ("onnxruntime", "fp32"),
        ("openvino", "fp32"),
        ("openvino", "bf16"),
        ("torch-compiled", "fp32"),
        ("torch-compiled", "bf16"),
    ),
    "cuda": (
        ("torch-compiled", "fp16"),
        ("torch-cudagraph", "fp16"),
        ("tensorrt", "fp16"),
        ("onnxruntime-tensorrt", "fp16"),
        ("onnxruntime-cuda", "fp16"),
    ),
}


@dataclass(frozen=True)
class Choice:
    """What to serve with.

    Attributes:
        runtime: ``torch``, or one that needs an engine.
        precision: of the engine.
        milliseconds: medians of everything that was tried, by "runtime precision".
        refused: why the others were not, by the same names.
    """

    runtime: str
    precision: str
    milliseconds: dict[str, float]
    refused: dict[str, str]


def choose(
    network: nn.Module,
    card: ModelCard,
    spec: ExportSpec,
    cache: EngineCache,
    device: str = "cpu",
    progress: Progress = lambda stage, fraction: None,
) -> Choice:
    """The fastest runtime whose results are torch's, from the cache where it was measured before.

    Args:
        network: as it was loaded, in FP32, on the CPU.
        card: of the network.
        spec: shapes; the precision is chosen.
        cache: where the choice is remembered, and engines are kept.
        device: ``cpu`` or ``cuda...``.
        progress: told what is being built or measured.
    """
    key = _key(card, spec, device)
    if (known := cache.get("choice", key)) is not None:
        try:
            choice: Choice = build_config(Choice, parse_json(known, "choice"), "choice")
            return choice
        except RiseError as error:  # of another version of this package
            cache.drop("choice", key, f"is none that is understood ({error})")
    torch_runner = TorchRunner(network, dataclasses.replace(spec, precision="fp32"), EAGER, device)
    progress("measure torch", math.nan)
    times = {"torch fp32": milliseconds(torch_runner, card, spec)}
    refused: dict[str, str] = {}
    best = ("torch", "fp32")
    for runtime, precision in CANDIDATES[device.split(":")[0]]:
        name = f"{runtime} {precision}"

        def told(stage: str, fraction: float, name: str = name) -> None:
            progress(f"{stage} {name}", fraction)

        wanted = dataclasses.replace(spec, precision=precision)
        try:
            built = build_engine(network, card, wanted, runtime, cache, told, device)
            told("measure", math.nan)
            times[name] = milliseconds(built.runner, card, wanted)
        except RiseError as error:
            refused[name] = str(error)
            continue
        if times[name] < times[" ".join(best)]:
            best = (runtime, precision)
    choice = Choice(*best, times, refused)
    cache.put("choice", key, json.dumps(asdict(choice)).encode(), {"model": card.version})
    return choice


def _key(card: ModelCard, spec: ExportSpec, device: str) -> dict[str, Any]:
    """The machine, the network's shape (not its weights) and what is installed."""
    installed = {}
    for name, runtime in RUNTIMES.items():
        try:
            installed[name] = runtime.identity()
        except RuntimeUnavailableError:
            continue
    with contextlib.suppress(RuntimeUnavailableError):
        check_compiler()
        installed["compiler"] = {"found": "yes"}
    return {
        "network": json.loads(json.dumps(asdict(card.network))),
        "spec": json.loads(json.dumps(asdict(spec))),
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else processor(),
        "threads": cpu_threads(),
        "torch": torch.__version__,
        "installed": installed,
    }
