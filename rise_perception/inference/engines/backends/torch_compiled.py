"""The network compiled ahead of time by torch's own compiler (AOTInductor) into a package to load later.

A package is machine code: it comes from the engine cache, whose checks it has passed, and from nowhere else.
"""

from __future__ import annotations

import contextlib
import logging
import math
import platform
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rise_perception.core.errors import RiseError
from rise_perception.inference.engines.backends.torch import autocast, check_precision
from rise_perception.inference.engines.export_module import ExportModule
from rise_perception.inference.engines.runner import (
    EngineError,
    Progress,
    RuntimeUnavailableError,
    processor,
    processor_flags,
)
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.inference.postprocess import DecodedQueries
from rise_perception.inference.threads import cpu_threads
from rise_perception.network.deformable_attention import sample_levels

#: Weights are constants, so that they are packed, and rounded where half precision is asked for, once.
SETTINGS = {"freezing": True}


class TorchCompiled:
    """Compiles and loads packages; see :class:`rise_perception.inference.engines.runner.Compiling`.

    Args:
        device: that the network is compiled for: ``cpu``, ``cuda``, ...
    """

    name = "torch-compiled"
    precisions: tuple[str, ...] = ("fp32", "fp16", "bf16")

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)

    def on(self, device: str) -> TorchCompiled:
        """See :class:`rise_perception.inference.engines.runner.Compiling`."""
        return TorchCompiled(device)

    def identity(self) -> dict[str, str]:
        """Version of torch, processor with its instructions, system, threads; on a GPU also that one."""
        bound = {
            "torch": torch.__version__,
            "device": self._device.type,
            "processor": processor(),
            "instructions": " ".join(sorted(processor_flags())),
            "system": platform.platform(),
            "threads": str(cpu_threads()),
        }
        if self._device.type == "cuda":
            bound["gpu"] = torch.cuda.get_device_name(self._device)
            bound["capability"] = str(torch.cuda.get_device_capability(self._device))
        return bound

    def check(self, precision: str) -> None:
        """See :class:`rise_perception.inference.engines.runner.Runtime`; only building needs a compiler."""
        check_precision(self.name, precision, self._device)

    def compile(self, network: nn.Module, spec: ExportSpec, progress: Progress) -> bytes:
        """See :class:`rise_perception.inference.engines.runner.Compiling`."""
        from torch._inductor import aoti_compile_and_package

        self.check(spec.precision)
        check_compiler()
        with _quiet(), _own_folder() as folder:
            try:
                progress("export", math.nan)
                program = export_program(network, spec, self._device)
                progress("build", math.nan)
                package = folder / "engine.pt2"
                aoti_compile_and_package(program, package_path=str(package), inductor_configs=dict(SETTINGS))
                return package.read_bytes()
            except RiseError:  # no network that can be exported
                raise
            except Exception as error:  # one of many of torch's own
                raise EngineError(
                    f"torch cannot compile the network here: {_first_line(error)}; use torch"
                ) from error

    def load(self, engine: bytes, precision: str, beside: Path) -> TorchCompiledRunner:
        """See :class:`rise_perception.inference.engines.runner.Runtime`."""
        from torch._inductor import aoti_load_package

        # What the cache has checked is what is loaded: a file that nobody else can put something into.
        with _quiet(), tempfile.TemporaryDirectory(prefix="rise_perception-") as folder:
            package = Path(folder) / "engine.pt2"
            package.write_bytes(engine)
            index: dict[str, Any] = {} if self._device.index is None else {"device_index": self._device.index}
            try:
                model = aoti_load_package(str(package), **index)
            except Exception as error:  # of the archive's reader, of the linker
                raise EngineError(f"torch refuses the engine: {_first_line(error)}") from error
        return TorchCompiledRunner(model, precision, self._device)


class TorchCompiledRunner:
    """A loaded package."""

    name = "torch-compiled"

    def __init__(self, model: Callable[..., Any], precision: str, device: torch.device) -> None:
        self.precision = precision
        self._model, self._device = model, device

    def __call__(self, feeds: dict[str, np.ndarray]) -> DecodedQueries:
        """See :class:`rise_perception.inference.engines.runner.Runner`."""
        # A copy of torch's own, as compiled code reads aligned memory.
        inputs = [torch.from_numpy(value).to(self._device, copy=True) for value in feeds.values()]
        with torch.inference_mode():
            results: tuple[Tensor, ...] = self._model(*inputs)
            floats = [part if part.dtype == torch.int64 else part.float() for part in results]
            return DecodedQueries(*(part.cpu().numpy() for part in floats))


def export_program(
    network: nn.Module, spec: ExportSpec, device: torch.device
) -> torch.export.ExportedProgram:
    """The network as a program for one device; in half precision with the casts that autocast makes."""
    module = ExportModule(network, spec, sample=sample_levels).eval().to(device)
    module.network.to(memory_format=torch.channels_last)
    example = tuple(value.to(device) for value in module.example().values())
    with torch.no_grad(), autocast(spec.precision, device):
        program = torch.export.export(module, example)
        # An exported program does not know of autocast until its operators are traced once more.
        return program if spec.precision == "fp32" else program.run_decompositions({})


def check_compiler() -> None:
    """Make sure that there is a C++ compiler.

    Raises:
        RuntimeUnavailableError: there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # torch's own, with a long text
        raise RuntimeUnavailableError(
            "runtime 'torch-compiled' needs a C++ compiler to build its engine and there is none; install "
            "g++ or name one in CXX, or build the engine where there is one and use it here (engine_dir)"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder for what the compiler leaves; its usual one has a known name in /tmp: others could fill it."""
    from torch._inductor.utils import fresh_inductor_cache

    with tempfile.TemporaryDirectory(prefix="rise_perception-") as folder, fresh_inductor_cache(dir=folder):
        yield Path(folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The compiler's chatter, of which nothing concerns a user, goes nowhere."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
