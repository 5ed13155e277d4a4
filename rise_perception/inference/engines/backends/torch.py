"""torch itself with constant shapes: eager, compiled, or as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from rise_perception.inference.engines.export_module import ExportModule
from rise_perception.inference.engines.runner import (
    EngineError,
    RuntimeUnavailableError,
    processor,
    processor_flags,
)
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.inference.postprocess import DecodedQueries
from rise_perception.network.deformable_attention import sample_levels

#: How torch runs the network with constant shapes; ``torch`` itself serves any size and needs no engine.
MODES = ("torch-compiled", "torch-cudagraph")
#: Uncompiled: what the others are compared with.
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
        EngineError: the network cannot be compiled here.
    """

    def __init__(self, network: nn.Module, spec: ExportSpec, mode: str, device: str) -> None:
        self._device = torch.device(device)
        if (problem := _problem(mode, spec.precision, self._device)) is not None:
            raise RuntimeUnavailableError(problem)
        self.name, self.precision = mode, spec.precision
        module = ExportModule(network, spec, sample=sample_levels).eval().to(self._device)
        module.network.to(memory_format=torch.channels_last)
        self._inputs = {name: value.to(self._device) for name, value in module.example().items()}
        self._forward = self._capture(module, mode)

    def _capture(self, module: ExportModule, mode: str) -> Callable[[], tuple[Tensor, ...]]:
        autocast = torch.autocast(
            self._device.type, _TYPES[self.precision], enabled=self.precision != "fp32", cache_enabled=False
        )

        def eager() -> tuple[Tensor, ...]:
            with torch.inference_mode(), autocast:
                return module(*self._inputs.values())

        if mode == EAGER:
            return eager
        if mode == "torch-compiled":
            compiled = torch.compile(module, dynamic=False)

            def run() -> tuple[Tensor, ...]:
                with torch.inference_mode(), autocast:
                    return compiled(*self._inputs.values())

            try:
                run()
            except Exception as error:  # no compiler, or one of many of inductor's own errors
                raise EngineError(f"torch cannot compile the network here: {error}") from error
            return run
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


def _problem(mode: str, precision: str, device: torch.device) -> str | None:
    """Why torch cannot run so, or None."""
    if mode == "torch-cudagraph" and device.type != "cuda":
        return f"runtime {mode!r} needs an NVIDIA GPU and device is {str(device)!r}; use torch-compiled"
    if precision not in _TYPES:
        return f"runtime {mode!r} has no precision {precision!r}, only {', '.join(_TYPES)}"
    wanted = _INSTRUCTIONS.get(precision)
    if device.type == "cpu" and wanted is not None and not processor_flags() & set(wanted):
        return f"torch computes no {precision.upper()} on this processor ({processor()}); use fp32"
    return None
