"""What the learner remembers, in the folder of the models, so that it outlasts the process."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError
from rise_perception.core.files import write_json

MEMORY = "learner.json"


@dataclass(frozen=True)
class Memory:
    """What outlasts the process.

    Attributes:
        learned: ids of the episodes that a promoted candidate was trained on.
        tried: those that a rejected one was trained on; they are not new any more, and go on to teach.
        quarantined: those behind a version that was rolled back; nothing is learned from them.
        looks: candidates that were measured since the last promotion.
        outcomes: grasps that pick success was fitted on when it was last tried.
        anchors: weights and anchors (parts of their checksums) -> what was measured.
        rejected: candidates that the gate refused.
        last_verdict: why the last candidate was promoted or rejected.
        paused: nothing is learned until somebody resumes.
    """

    learned: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    quarantined: tuple[str, ...] = ()
    looks: int = 0
    outcomes: int = 0
    anchors: dict[str, list[float]] = field(default_factory=dict)
    rejected: int = 0
    last_verdict: str = ""
    paused: bool = False


def read_memory(root: Path) -> Memory:
    """What an earlier process wrote; nothing, should it be damaged: episodes are then learned again."""
    try:
        raw = json.loads((root / MEMORY).read_text(encoding="utf-8"))
        lists = {name: tuple(raw[name]) for name in ("learned", "tried", "quarantined")}
        return build_config(Memory, {**raw, **lists}, MEMORY)
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return Memory()


def write_memory(root: Path, memory: Memory) -> None:
    """Replace what is remembered, atomically."""
    write_json(root / MEMORY, dataclasses.asdict(memory))
