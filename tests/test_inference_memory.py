"""Freed arrays are reused instead of being faulted in again for every frame."""

from __future__ import annotations

import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

from rise_perception.inference import segmenter
from rise_perception.inference.segmenter import Segmenter

FAULTS = """
import resource
import numpy as np
from rise_perception.inference.malloc_tuning import keep_freed_memory
if {keep}:
    keep_freed_memory()
def frame():
    return [np.ones(150_000) for _ in range(20)]  # 1.2 MB each
for _ in range(5):
    frame()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    frame()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is the GNU C library's")
def test_freed_arrays_are_reused() -> None:
    kept, default = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS.format(keep=keep)], timeout=120))
        for keep in (True, False)
    )
    assert kept < 100
    assert kept < default / 10


PEAK = """
import numpy as np
from rise_perception.inference.malloc_tuning import give_back_freed_memory, keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20
keep_freed_memory()
before = resident()
much = [np.ones(150_000) for _ in range(100)]  # 114 MB
kept = np.ones(150_000)  # lies above: nothing can be cut off at the end
del much
print(resident() - before)
give_back_freed_memory()
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the function is the GNU C library's")
def test_what_two_models_took_is_given_back(
    tiny_model: Path, scene: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = subprocess.check_output([sys.executable, "-c", PEAK], timeout=120).split()
    freed, given_back = (float(number) for number in told)
    assert freed > 100
    assert given_back < 20

    served = Segmenter.load(tiny_model, "cpu")
    old = weakref.ref(served.models[0])
    alive: list[bool] = []
    monkeypatch.setattr(segmenter, "give_back_freed_memory", lambda: alive.append(old() is not None))
    served.swap(tiny_model).join()
    assert alive == [False], "the old model is still there when memory is given back"
    assert len(served(scene[0])) > 0
