"""How many CPU threads a network may use: one setting for every runtime."""

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
