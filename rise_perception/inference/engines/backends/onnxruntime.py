"""ONNX Runtime on the CPU, on CUDA, or through its TensorRT provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rise_perception.inference.engines.runner import EngineError, Progress, RuntimeUnavailableError, processor
from rise_perception.inference.engines.spec import OUTPUTS
from rise_perception.inference.postprocess import DecodedQueries
from rise_perception.inference.threads import cpu_threads

#: A provider's name, or name and options.
Provider = str | tuple[str, dict[str, Any]]
#: ONNX Runtime's providers by our device; each leaves nodes that it lacks to the next.
PROVIDERS: dict[str, list[str]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}


def package() -> Any:
    """The package onnxruntime.

    Raises:
        RuntimeUnavailableError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailableError(
            "runtime 'onnxruntime' is not installed; pip install onnxruntime (onnxruntime-gpu for CUDA)"
        ) from error
    return onnxruntime


class OnnxRuntime:
    """Runs graphs as they are; see :class:`rise_perception.inference.engines.runner.Runtime`.

    Args:
        device: a key of :data:`PROVIDERS`.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.name = "onnxruntime" if device == "cpu" else f"onnxruntime-{device}"
        # Its CPU kernels lack BF16, and cast FP16 up at every node.
        self.precisions: tuple[str, ...] = ("fp32",) if device == "cpu" else ("fp32", "fp16")

    def identity(self) -> dict[str, str]:
        """Version and processor."""
        self.check("fp32")
        return {"onnxruntime": package().__version__, "processor": processor()}

    def check(self, precision: str) -> None:
        """See :class:`rise_perception.inference.engines.runner.Runtime`."""
        provider, available = PROVIDERS[self._device][0], package().get_available_providers()
        if provider not in available:
            raise RuntimeUnavailableError(
                f"this onnxruntime has no {provider}, only {', '.join(available)}; pip install "
                "onnxruntime-gpu on a machine with an NVIDIA GPU, or use runtime onnxruntime"
            )

    def build(
        self,
        graph: bytes,
        precision: str,
        progress: Progress,
        samples: Sequence[dict[str, np.ndarray]] = (),
    ) -> bytes:
        """The graph itself: a session optimises it in seconds, and its TensorRT keeps what it builds."""
        return graph

    def load(self, engine: bytes, precision: str, beside: Path) -> OnnxRuntimeRunner:
        """See :class:`rise_perception.inference.engines.runner.Runtime`."""
        self.check(precision)
        return OnnxRuntimeRunner(engine, precision, _providers(self._device, precision, beside), self.name)


def _providers(device: str, precision: str, beside: Path) -> list[Provider]:
    """The providers of a device, with their options."""
    names = PROVIDERS[device]
    if device != "tensorrt":
        return list(names)
    beside.mkdir(parents=True, exist_ok=True)
    options = {
        "trt_engine_cache_enable": True,
        # It knows its engines by the names in the graph: those of other weights must lie elsewhere.
        "trt_engine_cache_path": str(beside),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(beside.parent),
        "trt_fp16_enable": precision == "fp16",
    }
    return [(names[0], options), *names[1:]]


class OnnxRuntimeRunner:
    """A session on an ONNX graph.

    Args:
        graph: the ONNX file's content.
        precision: of the graph.
        providers: that run it, with or without options.
        name: of the runtime.

    Raises:
        EngineError: the graph is refused.
    """

    def __init__(
        self,
        graph: bytes,
        precision: str,
        providers: Sequence[Provider] = PROVIDERS["cpu"],
        name: str = "onnxruntime",
    ) -> None:
        ort = package()
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = cpu_threads()
        settings.log_severity_level = 4  # what is fatal is raised
        # Spinning threads would take the cores from camera and robot between two frames.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(graph, settings, providers=list(providers))
        except Exception as error:  # ONNX Runtime's exceptions have no other common base
            raise EngineError(f"onnxruntime refuses the graph: {error}") from error
        names = {output.name for output in self._session.get_outputs()}
        if not names >= set(OUTPUTS):
            raise EngineError(f"the graph's outputs are {sorted(names)}, not {OUTPUTS}; use `rise export`")
        self.name, self.precision = name, precision

    def __call__(self, feeds: dict[str, np.ndarray]) -> DecodedQueries:
        """See :class:`rise_perception.inference.engines.runner.Runner`."""
        return DecodedQueries(*self._session.run(list(OUTPUTS), feeds))
