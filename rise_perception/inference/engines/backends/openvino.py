"""OpenVINO on the CPU; an engine is its compiled model, which another version or processor cannot read."""

from __future__ import annotations

import io
import math
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rise_perception.inference.engines.backends.nncf import check_nncf, quantise
from rise_perception.inference.engines.runner import EngineError, Progress, RuntimeUnavailableError, processor
from rise_perception.inference.engines.spec import OUTPUTS
from rise_perception.inference.postprocess import DecodedQueries
from rise_perception.inference.threads import cpu_threads

#: What is left in floating point.
_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}


def package() -> Any:
    """The package openvino.

    Raises:
        RuntimeUnavailableError: it is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise RuntimeUnavailableError("runtime 'openvino' is not installed; pip install openvino") from error
    return openvino


@cache
def core() -> Any:
    """The one openvino.Core of this process, which is never freed.

    OpenVINO's CPU plugin replaces the thread's alternate signal stack. When two plugins are freed in the
    order in which they were made, the second one puts back the stack of the first, which is gone by then: the
    next signal that Python handles (a child that ends, Ctrl-C) kills the process without a word.

    Raises:
        RuntimeUnavailableError: openvino is not installed.
    """
    return package().Core()


def settings(precision: str) -> dict[str, Any]:
    """What a model is compiled with, and has to be imported with again.

    An imported model does not keep the precision that it was compiled with: without the hint OpenVINO takes
    the processor's default, which is BF16 wherever the processor has it.
    """
    return {
        "INFERENCE_NUM_THREADS": cpu_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
    }


class OpenVino:
    """Builds and loads OpenVINO engines; see :class:`rise_perception.inference.engines.runner.Runtime`."""

    name = "openvino"
    precisions: tuple[str, ...] = ("fp32", "bf16", "int8")

    def identity(self) -> dict[str, str]:
        """Version, processor, what it can compute in, and threads: what a compiled model depends on."""
        return {
            "openvino": package().__version__,
            "processor": processor(),
            # Hypervisors give processors with and without AVX-512 BF16 or AMX the same name.
            "capabilities": " ".join(sorted(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))),
            "system": platform.platform(),
            "threads": str(cpu_threads()),
        }

    def check(self, precision: str) -> None:
        """See :class:`rise_perception.inference.engines.runner.Runtime`."""
        capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and "BF16" not in capabilities:
            raise RuntimeUnavailableError(
                f"openvino computes no BF16 on this processor ({processor()}); use fp32"
            )
        if precision == "int8":
            check_nncf()

    def build(
        self,
        graph: bytes,
        precision: str,
        progress: Progress,
        samples: Sequence[dict[str, np.ndarray]] = (),
    ) -> bytes:
        """See :class:`rise_perception.inference.engines.runner.Runtime`."""
        self.check(precision)
        try:
            model = core().read_model(io.BytesIO(graph))
            if precision == "int8":
                progress("calibrate", math.nan)
                model = quantise(model, samples)
            compiled = core().compile_model(model, "CPU", settings(precision))
            stream = io.BytesIO()
            compiled.export_model(stream)
        except RuntimeError as error:
            raise EngineError(f"openvino cannot compile the graph: {error}") from error
        return stream.getvalue()

    def load(self, engine: bytes, precision: str, beside: Path) -> OpenVinoRunner:
        """See :class:`rise_perception.inference.engines.runner.Runtime`."""
        try:
            compiled = core().import_model(io.BytesIO(engine), "CPU", settings(precision))
            names = {name for output in compiled.outputs for name in output.get_names()}
        except RuntimeError as error:
            raise EngineError(f"openvino refuses the engine: {error}") from error
        if not names >= set(OUTPUTS):
            raise EngineError(f"the engine's outputs are {sorted(names)}, not {OUTPUTS}")
        return OpenVinoRunner(compiled, precision)


class OpenVinoRunner:
    """A compiled model and its one request."""

    name = "openvino"

    def __init__(self, compiled: Any, precision: str) -> None:
        self.precision = precision
        self._request = compiled.create_infer_request()

    def __call__(self, feeds: dict[str, np.ndarray]) -> DecodedQueries:
        """See :class:`rise_perception.inference.engines.runner.Runner`."""
        results = self._request.infer(feeds)
        return DecodedQueries(*(np.array(results[name]) for name in OUTPUTS))
