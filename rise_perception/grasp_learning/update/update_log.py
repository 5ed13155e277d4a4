"""The diary of the updates: a line of JSON for each one that ended, in the folder of the models."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from rise_perception.core.errors import DataError
from rise_perception.core.files import read_bounded, write_text
from rise_perception.core.json_files import parse_json
from rise_perception.grasp_learning.update.model_store import ModelStore

DIARY = "updates.jsonl"
LONGEST = 1000
MAX_BYTES = 4 << 20


def write_down(root: Path, facts: dict[str, Any]) -> None:
    """Add an update to the diary below ``root``, with the time; the oldest lines go."""
    path = root / DIARY
    line = json.dumps(_finite({"stamp": time.time_ns(), **facts}))
    lines = _lines(path)
    write_text(path, "\n".join([*lines[1 - LONGEST :], line]) + "\n")


def complete_history(models: ModelStore) -> None:
    """Add the promotions that are missing: a process may end between a promotion and its line."""
    current = models.current()
    if current is None:
        return
    told = {line.get("candidate") for line in read_history(models.root) if line.get("verdict") == "promoted"}
    for model in reversed(models.versions()):
        served = model.version == current.version or model.version in current.history
        if served and model.facts.get("parent") and not model.facts.get("kept") and model.version not in told:
            facts = {"candidate": model.version, "parent": model.facts["parent"], "verdict": "promoted"}
            reason = f"{model.facts.get('note', '')} (the process ended before this line)"
            write_down(
                models.root, {**facts, "reason": reason, "episodes": len(model.facts.get("episodes", ()))}
            )


def read_history(root: Path) -> list[dict[str, Any]]:
    """The updates below ``root``, oldest first; a damaged line is left out.

    Each has ``stamp`` (ns), ``verdict`` ("promoted", "accepted" or "rejected"), ``reason``, ``parent`` and
    ``candidate`` (versions); one that was trained and measured also ``episodes``, ``steps``, ``seconds``,
    and ``anchor_ap`` and ``heldout`` (each the serving model's and the candidate's).
    """
    found = []
    for line in _lines(root / DIARY):
        try:
            facts = parse_json(line, DIARY)
        except DataError:
            continue
        if isinstance(facts, dict):
            found.append(facts)
    return found


def _lines(path: Path) -> list[str]:
    """Those of the diary; none where there is none, or one that has grown beyond measure."""
    try:
        return read_bounded(path, MAX_BYTES, DataError, "remove it").decode(errors="replace").splitlines()
    except DataError:
        return []


def _finite(value: Any) -> Any:
    """What was not measured is NaN here and null in JSON."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
