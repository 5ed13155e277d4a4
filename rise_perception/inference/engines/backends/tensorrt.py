"""TensorRT through its public Python API. Written against TensorRT 10; has not been run on hardware.

``rise selftest --runtime tensorrt`` checks it where it can run. Kept thin: keys, checks, fallback and swaps
are in :mod:`rise_perception.inference.engines.build`, which the other runtimes exercise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rise_perception.inference.engines.runner import EngineError, Progress, RuntimeUnavailableError
from rise_perception.inference.engines.spec import OUTPUTS
from rise_perception.inference.postprocess import DecodedQueries

if TYPE_CHECKING:
    import tensorrt as trt

WORKSPACE = 2 << 30  # bytes that a layer may use while it runs


def _check_package() -> None:
    """Raises RuntimeUnavailableError unless TensorRT, and a GPU that torch sees, are here."""
    try:
        import tensorrt as trt
    except ImportError as error:
        raise RuntimeUnavailableError(
            "runtime 'tensorrt' is not installed; it comes with JetPack, elsewhere pip install tensorrt"
        ) from error
    if not hasattr(trt, "Builder"):  # a package of types only
        raise RuntimeUnavailableError("runtime 'tensorrt' is not installed, only its types are")
    if not torch.cuda.is_available():
        raise RuntimeUnavailableError("runtime 'tensorrt' needs an NVIDIA GPU that torch can use")


class TensorRT:
    """Builds, refits and loads engines; see :class:`rise_perception.inference.engines.runner.Refitting`."""

    name = "tensorrt"
    precisions: tuple[str, ...] = ("fp32", "fp16", "bf16")

    def __init__(self) -> None:
        self.timing_cache = b""  # timings of kernels

    def identity(self) -> dict[str, str]:
        """Version, GPU and compute capability."""
        _check_package()
        import tensorrt as trt

        major, minor = torch.cuda.get_device_capability()
        return {
            "tensorrt": trt.__version__,
            "gpu": torch.cuda.get_device_name(),
            "compute capability": f"{major}.{minor}",
        }

    def check(self, precision: str) -> None:
        """See :class:`rise_perception.inference.engines.runner.Runtime`."""
        _check_package()

    def build(
        self,
        graph: bytes,
        precision: str,
        progress: Progress,
        samples: Sequence[dict[str, np.ndarray]] = (),
    ) -> bytes:
        """See :class:`rise_perception.inference.engines.runner.Runtime`."""
        _check_package()
        import tensorrt as trt

        logger = trt.Logger(trt.Logger.WARNING)
        builder = trt.Builder(logger)
        # Strongly typed: the precision of each tensor is what the graph says.
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(graph):
            errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
            raise EngineError(f"tensorrt cannot read the graph: {errors}")
        config = builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
        config.set_flag(trt.BuilderFlag.REFIT)
        cache = config.create_timing_cache(self.timing_cache)
        config.set_timing_cache(cache, ignore_mismatch=False)
        config.progress_monitor = _monitor(progress)
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            raise EngineError("tensorrt could not build an engine; its log says why")
        self.timing_cache = bytes(config.get_timing_cache().serialize())
        return bytes(serialized)

    def load(self, engine: bytes, precision: str, beside: Path) -> TensorRTRunner:
        """See :class:`rise_perception.inference.engines.runner.Runtime`."""
        return TensorRTRunner(self._deserialize(engine), precision)

    def refit(self, engine: bytes, graph: bytes) -> bytes:
        """See :class:`rise_perception.inference.engines.runner.Refitting`."""
        loaded = self._deserialize(engine)
        import tensorrt as trt

        logger = trt.Logger(trt.Logger.WARNING)
        refitter = trt.Refitter(loaded, logger)
        if not trt.OnnxParserRefitter(refitter, logger).refit_from_bytes(graph):
            raise EngineError("tensorrt cannot refit the engine: the graph does not fit it")
        if not refitter.refit_cuda_engine():
            raise EngineError("tensorrt could not refit the engine; its log says why")
        return bytes(loaded.serialize())

    @staticmethod
    def _deserialize(engine: bytes) -> trt.ICudaEngine:
        _check_package()
        import tensorrt as trt

        runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise EngineError("tensorrt refuses the engine: damaged, or of another version or GPU")
        return loaded


def _monitor(progress: Progress) -> trt.IProgressMonitor:
    """Passes on the builder's outermost phase."""
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            steps = self._steps.get(phase_name)
            if steps:
                progress("build", min(1.0, (step + 1) / steps))
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            progress("build", 1.0 if phase_name in self._steps else math.nan)

    return Monitor()


class TensorRTRunner:
    """An engine with its buffers, which are torch tensors on the GPU."""

    name = "tensorrt"

    def __init__(self, engine: trt.ICudaEngine, precision: str) -> None:
        import tensorrt as trt

        self.precision = precision
        self._engine = engine
        context = engine.create_execution_context()
        if context is None:
            raise EngineError(
                "tensorrt cannot run the engine here, mostly for want of memory; its log says why"
            )
        self._context = context
        self._stream = torch.cuda.Stream()
        self._buffers: dict[str, torch.Tensor] = {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            dtype = torch.from_numpy(np.empty(0, trt.nptype(engine.get_tensor_dtype(name)))).dtype
            shape = engine.get_tensor_shape(name)
            sizes = [shape[axis] for axis in range(len(shape))]
            buffer = torch.empty(sizes, dtype=dtype, device="cuda")
            self._buffers[name] = buffer
            self._context.set_tensor_address(name, buffer.data_ptr())
        missing = set(OUTPUTS) - set(self._buffers)
        if missing:
            raise EngineError(f"the engine lacks the outputs {sorted(missing)}; build it again")

    def __call__(self, feeds: dict[str, np.ndarray]) -> DecodedQueries:
        """See :class:`rise_perception.inference.engines.runner.Runner`."""
        with torch.cuda.stream(self._stream):
            for name, value in feeds.items():
                self._buffers[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise EngineError("tensorrt could not run the engine; its log says why")
            results = [self._buffers[name].cpu().numpy() for name in OUTPUTS]
        return DecodedQueries(*results)
