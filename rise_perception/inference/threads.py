"""How many CPU threads a network may use, one setting for every runtime, and how they wait for each other."""

from __future__ import annotations

import os
import sys


def cpu_threads() -> int:
    """OMP_NUM_THREADS, or the cores that this process may use; torch's own number where torch is loaded."""
    if (torch := sys.modules.get("torch")) is not None:
        return int(torch.get_num_threads())
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


#: Turns for which torch's threads spin before they sleep: some microseconds.
SPIN_COUNT = 3000


def spin_briefly() -> None:
    """Lets torch's threads sleep soon while they wait, where the user has not said how they wait.

    By default they spin for milliseconds, which pays only while nothing else wants the cores: on a busy
    machine they use up the time that the thread they wait for needs, and a frame takes seconds instead of
    milliseconds. OpenMP reads this once, so it has to be called before torch is imported; processes that this
    one starts inherit it.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPIN_COUNT))
