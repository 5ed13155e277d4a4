"""How many CPU threads a network may use: one setting for every runtime."""

from __future__ import annotations

import torch


def cpu_threads() -> int:
    """Torch's number of threads, which follows OMP_NUM_THREADS and the cores that this process may use."""
    return torch.get_num_threads()
