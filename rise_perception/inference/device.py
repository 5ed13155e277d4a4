"""Where a network runs, and on what machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from rise_perception.core.errors import ConfigError


def choose_device(device: str) -> str:
    """``auto`` becomes cuda where there is one, else cpu.

    Raises:
        ConfigError: a device that this machine does not have.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {device!r} cannot be used here ({reason}); give --device cpu or auto"
        ) from error
    return device


def describe_device(device: str) -> str:
    """The machine in words, for a table of measurements: processor or GPU, and the version of torch."""
    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        cpus = Path("/proc/cpuinfo")
        lines = cpus.read_text().splitlines() if cpus.is_file() else []
        models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        name = f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"
    return f"{name}, torch {torch.__version__}"
