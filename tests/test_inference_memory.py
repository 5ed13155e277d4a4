"""Freed arrays are reused instead of being faulted in again for every frame."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
