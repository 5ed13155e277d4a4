"""The small interface behind which every runtime builds, loads and runs an exported graph."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from rise_perception.core.errors import RiseError
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.inference.postprocess import DecodedQueries

if TYPE_CHECKING:  # an exported file is served without torch
    from torch import nn

#: Told (stage, fraction done in [0, 1] or NaN where the builder does not tell).
Progress = Callable[[str, float], None]


class RuntimeUnavailableError(RiseError):
    """A runtime that is not installed, or cannot run here; the message says what to do."""


class EngineError(RiseError):
    """An engine that cannot be built, or a file that is no engine of this runtime."""


class Runner(Protocol):
    """A graph that is ready to run; called by one thread at a time.

    Attributes:
        name: of the runtime.
        precision: what it computes in.
    """

    name: str
    precision: str

    def __call__(self, feeds: dict[str, np.ndarray]) -> DecodedQueries:
        """Run one image.

        Args:
            feeds: inputs by name, as :func:`rise_perception.inference.engines.feeds.make_feeds` makes them.

        Returns:
            The K best instances, K constant; nothing is filtered yet.
        """
        ...


class Loader(Protocol):
    """Turns an engine into a runner.

    Attributes:
        name: of the runtime.
        precisions: of engines that it makes.
    """

    name: str
    precisions: tuple[str, ...]

    def identity(self) -> dict[str, str]:
        """All that an engine is bound to: versions, processor or GPU. Part of the engine cache's key.

        Raises:
            RuntimeUnavailableError: it cannot run here.
        """
        ...

    def check(self, precision: str) -> None:
        """Make sure that it runs here in a precision.

        Raises:
            RuntimeUnavailableError: it does not.
        """
        ...

    def load(self, engine: bytes, precision: str, beside: Path) -> Runner:
        """Make an engine ready.

        Args:
            engine: as the runtime made it.
            precision: of the engine.
            beside: a folder of this engine alone, for a runtime that keeps files of its own; files for any
                engine may lie in the folder above.

        Raises:
            EngineError: damaged, or made by another version or for other hardware.
            RuntimeUnavailableError: it cannot run here.
        """
        ...


class Runtime(Loader, Protocol):
    """Makes its engine of an exported graph."""

    def build(
        self,
        graph: bytes,
        precision: str,
        progress: Progress,
        samples: Sequence[dict[str, np.ndarray]] = (),
    ) -> bytes:
        """The engine of an ONNX graph; ``int8`` is calibrated on ``samples``, which are feeds.

        Raises:
            EngineError: the runtime refuses the graph.
            RuntimeUnavailableError: it cannot run here.
        """
        ...


@runtime_checkable
class Compiling(Loader, Protocol):
    """Makes its engine of the network itself."""

    def on(self, device: str) -> Compiling:
        """The same for a device: ``cpu``, ``cuda``, ..."""
        ...

    def compile(self, network: nn.Module, spec: ExportSpec, progress: Progress) -> bytes:
        """The engine of a network in FP32, which stays as it is; tells ``export`` and ``build``.

        Raises:
            EngineError: the network cannot be compiled.
            RuntimeUnavailableError: nothing can be compiled here.
        """
        ...


@runtime_checkable
class Refitting(Runtime, Protocol):
    """A runtime whose engines take other weights, and whose builder learns from earlier builds.

    Attributes:
        timing_cache: what it learnt, read and replaced by a build; empty at first.
    """

    timing_cache: bytes

    def refit(self, engine: bytes, graph: bytes) -> bytes:
        """An engine with the weights of another graph of the same structure: seconds instead of a build.

        Raises:
            EngineError: the graph does not fit the engine.
        """
        ...


def processor() -> str:
    """The CPU's model name, which decides the kernels that a compiled model contains."""
    return _cpuinfo("model name", "Model") or platform.processor() or platform.machine()


def processor_flags() -> set[str]:
    """Extensions of the CPU's instructions, as Linux names them; empty elsewhere."""
    return set(_cpuinfo("flags", "Features").split())


def _cpuinfo(*keys: str) -> str:
    """The first entry of /proc/cpuinfo whose line begins with one of these."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(keys):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return ""
