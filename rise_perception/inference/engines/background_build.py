"""Builds an engine in a process of its own, at low priority, while another runtime serves.

A builder that runs out of memory or crashes takes nothing with it: its engine is in the cache only when it
is whole. ``python -m rise_perception.inference.engines.background_build`` is that process; it says how far
it is on stdout, a line of JSON each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rise_perception.core.errors import RiseError
from rise_perception.inference.engines.runner import EngineError
from rise_perception.inference.engines.spec import ExportSpec

NICENESS = 10
#: Makes the outcome final, in the thread that follows the builder.
Finish = Callable[["Outcome"], "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """How a build ended.

    Attributes:
        error: why there is no engine; empty when there is one.
        runtime, precision: what was built; ``auto`` is resolved.
        engine: its path; empty for torch.
        from_cache: it had been there already.
        mask_iou: against torch; NaN for torch itself.
    """

    error: str = ""
    runtime: str = ""
    precision: str = ""
    engine: str = ""
    from_cache: bool = False
    mask_iou: float = math.nan


class BackgroundBuild:
    """One build, running.

    Args:
        folder: of the model.
        spec: shapes and precision.
        runtime: one of :data:`rise_perception.inference.engines.build.NAMES` but ``torch``.
        cache: folder of the engine cache.
        device: for ``auto`` and torch's own modes.
        finish: called once, when the builder has ended; raises nothing. Until it returns, the build goes on.

    Attributes:
        stage, fraction: how far it is; the fraction is NaN where the builder does not tell.
        outcome: None while it runs.

    Raises:
        EngineError: no process can be started.
    """

    def __init__(
        self, folder: Path, spec: ExportSpec, runtime: str, cache: Path, device: str, finish: Finish
    ) -> None:
        self.stage, self.fraction = "start", math.nan
        self.outcome: Outcome | None = None
        self._started = time.monotonic()
        self._finish = finish
        job = {
            "model": str(folder),
            "spec": asdict(spec),
            "runtime": runtime,
            "cache": str(cache),
            "device": device,
        }
        module = "rise_perception.inference.engines.background_build"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(job)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise EngineError(
                f"the engine's builder cannot be started ({error}); free memory, then ask for it again"
            ) from error
        self._complaints: list[str] = []
        reader = threading.Thread(target=self._read_errors, daemon=True)
        reader.start()
        self._thread = threading.Thread(target=self._follow, args=(reader,), name="engine build", daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """The outcome, or None when it is not there after ``timeout`` seconds."""
        self._thread.join(timeout)
        return self.outcome

    def stop(self) -> Outcome:
        """End the process; the cache holds no half engine. What it had done already stays done."""
        self._process.kill()
        self._thread.join()
        assert self.outcome is not None
        return self.outcome

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._complaints = [*self._complaints[-20:], line.rstrip()]

    def _follow(self, reader: threading.Thread) -> None:
        assert self._process.stdout is not None
        outcome: Outcome | None = None
        for line in self._process.stdout:
            told = None
            with contextlib.suppress(ValueError):
                told = json.loads(line)
            if not isinstance(told, dict):
                continue  # a library that prints
            if "outcome" in told:
                outcome = Outcome(**told["outcome"])
            else:
                self.stage, self.fraction = told["stage"], float(told["fraction"])
        status = self._process.wait()
        reader.join()
        if outcome is None:
            last = self._complaints[-1] if self._complaints else "nothing"
            outcome = Outcome(error=f"the engine's builder ended with status {status}; it said: {last}")
        self.outcome = self._finish(outcome)
        del self._finish  # a model that keeps its last build would keep itself, and its engines


def build(job: dict[str, object], say: Callable[[dict[str, object]], None]) -> Outcome:
    """What the process does: choose if it has to, then build."""
    from rise_perception.inference.engines.autoselect import choose
    from rise_perception.inference.engines.build import build_engine
    from rise_perception.inference.engines.cache import EngineCache
    from rise_perception.network.checkpoint import load_model

    def progress(stage: str, fraction: float) -> None:
        say({"stage": stage, "fraction": fraction})

    fields = dict(job["spec"])  # type: ignore[call-overload]
    fields["size"], fields["image"] = tuple(fields["size"]), tuple(fields["image"])
    spec, runtime, device = ExportSpec(**fields), str(job["runtime"]), str(job["device"])
    network, card = load_model(str(job["model"]))
    cache = EngineCache(str(job["cache"]))
    precision = spec.precision
    if runtime == "auto":
        choice = choose(network, card, spec, cache, device, progress)
        runtime, precision = choice.runtime, choice.precision
        spec = ExportSpec(**{**fields, "precision": precision})
    if runtime == "torch":
        return Outcome(runtime=runtime, precision=precision)
    built = build_engine(network, card, spec, runtime, cache, progress, device)
    return Outcome("", runtime, precision, built.path, built.from_cache, built.parity.mask_iou)


def main() -> int:
    """Runs one job; the outcome is its last line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=json.loads)
    job = parser.parse_args().job
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    lines = sys.stdout

    def say(told: dict[str, object]) -> None:
        print(json.dumps(told), file=lines, flush=True)

    # What libraries print must not get between the lines.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            outcome = build(job, say)
        except RiseError as error:
            outcome = Outcome(error=str(error))
    say({"outcome": asdict(outcome)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
