"""Where a network runs."""

from __future__ import annotations

import torch

from rise_perception.errors import ConfigError


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
