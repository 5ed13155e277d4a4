"""torch itself with constant shapes: eager, or as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from rise_perception.inference.engines.export_module import ExportModule
from rise_perception.inference.engines.runner import (
    RuntimeUnavailableError,
    processor,
    processor_flags,
)
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.inference.postprocess import DecodedQueries
from rise_perception.network.deformable_attention import sample_levels

#: How torch runs the network with constant shapes; ``torch`` itself serves any size and needs no engine.
MODES = ("torch-cudagraph",)
#: As it is: what the others are compared with.
EAGER = "torch"
_TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
#: Instructions, in the words of /proc/cpuinfo, of which a CPU needs one: without, torch converts number by
#: number, and takes several times as long as in FP32.
_INSTRUCTIONS = {"fp16": ("avx512_fp16", "amx_fp16", "asimdhp"), "bf16": ("avx512_bf16", "amx_bf16", "bf16")}


class TorchRunner:
    """The export's module in torch; see :class:`rise_perception.inference.engines.runner.Runner`.

    Args:
        network: in FP32; a copy is used.
        spec: shapes and precision.
        mode: one of :data:`MODES`, or :data:`EAGER`.
        device: ``cpu``, ``cuda``, ...

    Raises:
        RuntimeUnavailableError: a CUDA graph without CUDA, or a precision that is not computed here.
    """

    def __init__(self, network: nn.Module, spec: ExportSpec, mode: str, device: str) -> None:
        self._device = torch.device(device)
        if mode == "torch-cudagraph" and self._device.type != "cuda":
            raise RuntimeUnavailableError(
                f"runtime {mode!r} needs an NVIDIA GPU and device is {device!r}; use torch-compiled"
            )
        check_precision(mode, spec.precision, self._device)
        self.name, self.precision = mode, spec.precision
        module = ExportModule(network, spec, sample=sample_levels).eval().to(self._device)
        module.network.to(memory_format=torch.channels_last)
        self._inputs = {name: value.to(self._device) for name, value in module.example().items()}
        self._forward = self._capture(module, mode)

    def _capture(self, module: ExportModule, mode: str) -> Callable[[], tuple[Tensor, ...]]:
        def eager() -> tuple[Tensor, ...]:
            with torch.inference_mode(), autocast(self.precision, self._device):
                return module(*self._inputs.values())

        if mode == EAGER:
            return eager
        stream = torch.cuda.Stream(self._device)
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                eager()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Capturing "global"ly would fail on what the thread that serves meanwhile does.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = eager()

        def replay() -> tuple[Tensor, ...]:
            graph.replay()
            return results

        return replay

    def __call__(self, feeds: dict[str, np.ndarray]) -> DecodedQueries:
        """See :class:`rise_perception.inference.engines.runner.Runner`."""
        with torch.inference_mode():
            for name, value in feeds.items():
                self._inputs[name].copy_(torch.from_numpy(value))
            results = self._forward()
            floats = [part if part.dtype == torch.int64 else part.float() for part in results]
            return DecodedQueries(*(part.cpu().numpy().copy() for part in floats))


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Convolutions and matrix products in a precision."""
    return torch.autocast(device.type, _TYPES[precision], enabled=precision != "fp32", cache_enabled=False)


def check_precision(mode: str, precision: str, device: torch.device) -> None:
    """Make sure that torch computes in a precision here.

    Raises:
        RuntimeUnavailableError: it does not.
    """
    if precision not in _TYPES:
        raise RuntimeUnavailableError(
            f"runtime {mode!r} has no precision {precision!r}, only {', '.join(_TYPES)}"
        )
    wanted = _INSTRUCTIONS.get(precision)
    if device.type == "cpu" and wanted is not None and not processor_flags() & set(wanted):
        raise RuntimeUnavailableError(
            f"torch computes no {precision.upper()} on this processor ({processor()}); use fp32"
        )
