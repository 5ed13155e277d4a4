"""What the learner remembers, in the folder of the models, so that it outlasts the process."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from rise_perception.core.errors import DataError, require
from rise_perception.core.files import write_json
from rise_perception.core.json_files import read_record
from rise_perception.grasp_learning.update.canary import Trial

MEMORY = "learner.json"
#: Bytes of it: the ids of a quarter of a million episodes.
MAX_MEMORY_BYTES = 16 << 20


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
        trial: of a candidate that has some of the grasps, see :mod:`.canary`.
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
    trial: Trial = field(default_factory=Trial)

    def __post_init__(self) -> None:
        for count in (self.rejected, self.looks, self.outcomes):
            require(0 <= count < 2**32, "a count of the learner", count, "32 bits without a sign")
        for figures in self.anchors.values():
            require(len(figures) == 4, "anchors", len(figures), "four figures each")


def read_memory(root: Path) -> tuple[Memory, str]:
    """What an earlier process wrote, and why it could not be read; episodes are then learned again."""
    path = root / MEMORY
    if not path.exists():
        return Memory(), ""
    try:
        remedy = "every episode is new to the learner"
        return read_record(path, Memory, MAX_MEMORY_BYTES, remedy=remedy), ""
    except DataError as error:
        return Memory(), str(error)


def write_memory(root: Path, memory: Memory) -> None:
    """Replace what is remembered, atomically."""
    write_json(root / MEMORY, dataclasses.asdict(memory))
