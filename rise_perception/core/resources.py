"""Files that come with the package: in the checkout while developing, below share/ once installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rise_perception.core.errors import RiseError

_CHECKOUT = Path(__file__).resolve().parents[2]
# name -> (place in the checkout, place below an installation prefix)
_PLACES = {
    "models": ("models", "share/rise_perception/models"),
    "config": ("config", "share/rise_perception/config"),
    "launch": ("launch", "share/rise_perception/launch"),
    "msg": ("ros2_ws/src/rise_msgs/msg", "share/rise_msgs/msg"),
}


def checkout() -> Path | None:
    """The root of the checkout that this code runs from; None for an installed package."""
    return _CHECKOUT if (_CHECKOUT / "package.xml").is_file() else None


def find(name: str) -> Path:
    """The folder ``name``: "models", "config", "launch" or "msg" (the .msg files of rise_msgs).

    A checkout wins over an installation, so that an edited file is the one in use. Installed files
    are looked for below every prefix of ``AMENT_PREFIX_PATH`` (colcon, a sourced workspace), then
    below ``sys.prefix`` (pip).

    Raises:
        RiseError: the folder is nowhere; the message lists the places.
    """
    if name not in _PLACES:
        raise RiseError(f"there is no resource folder {name!r}; known: {', '.join(sorted(_PLACES))}")
    in_checkout, installed = _PLACES[name]
    root = checkout()
    candidates = [root / in_checkout] if root else []
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    candidates += [Path(prefix) / installed for prefix in [*prefixes, sys.prefix]]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    places = ", ".join(map(str, candidates))
    raise RiseError(f"the folder {name!r} of rise_perception is in none of: {places}; reinstall the package")
