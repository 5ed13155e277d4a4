"""The diary of the updates: a line of JSON for each one that ended, in the folder of the models."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rise_perception.core.files import write_text

DIARY = "updates.jsonl"
LONGEST = 1000


def write_down(root: Path, facts: dict[str, Any]) -> None:
    """Add an update to the diary below ``root``, with the time; the oldest lines go."""
    path = root / DIARY
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    line = json.dumps({"stamp": time.time_ns(), **facts})
    write_text(path, "\n".join([*lines[1 - LONGEST :], line]) + "\n")


def read_history(root: Path) -> list[dict[str, Any]]:
    """The updates below ``root``, oldest first; a damaged line is left out.

    Each has ``stamp`` (ns), ``verdict`` ("promoted", "accepted" or "rejected"), ``reason``, ``parent`` and
    ``candidate`` (versions); one that was trained and measured also ``episodes``, ``steps``, ``seconds``,
    and ``anchor_ap`` and ``heldout`` (each the serving model's and the candidate's).
    """
    try:
        lines = (root / DIARY).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            facts = json.loads(line)
        except ValueError:
            continue
        if isinstance(facts, dict):
            found.append(facts)
    return found
