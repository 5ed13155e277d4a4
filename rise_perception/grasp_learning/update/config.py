"""What the learner learns from, and when."""

from __future__ import annotations

from dataclasses import dataclass, field

from rise_perception.core.errors import ConfigError
from rise_perception.grasp_learning.update.canary import CanaryConfig
from rise_perception.grasp_learning.update.gate import GateConfig
from rise_perception.grasp_learning.update.update import UpdateConfig


@dataclass(frozen=True)
class LearnerConfig:
    """What the learner learns from, and when.

    Attributes:
        anchors: labelled sources that are replayed in every update.
        heldout_anchors: COCO annotation file of other images, on which nothing may be lost.
        checked: hand-checked frames of the cell, see :mod:`.checked`; empty for none.
        update: how a candidate is trained.
        gate: what it has to reach.
        min_new: episodes that have to be new before an update begins by itself.
        max_episodes: that one update learns from, drawn from all that are trusted.
        heldout_fraction: fraction of the scenes (totes, piles) whose episodes judge, and are never learned
            from while they do.
        max_looks: candidates after which a scene has judged enough, and teaches.
        max_heldout: the newest held-out episodes that are looked at.
        device: where networks run.
        canary: how a candidate that has passed the gate is tried.
    """

    anchors: tuple[str, ...]
    heldout_anchors: str
    update: UpdateConfig = field(default_factory=UpdateConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    min_new: int = 8
    max_episodes: int = 96
    heldout_fraction: float = 0.34
    max_looks: int = 6
    max_heldout: int = 60
    device: str = "cpu"
    checked: str = ""
    canary: CanaryConfig = field(default_factory=CanaryConfig)

    def __post_init__(self) -> None:
        if not self.anchors or not self.heldout_anchors:
            raise ConfigError(
                "no labelled anchors to replay, or none held out for the gate; name both (`rise scenes` "
                "makes some): without them nothing shows what an update destroys"
            )
        if not 0 < self.heldout_fraction < 1:
            raise ConfigError(f"heldout_fraction is {self.heldout_fraction}; it must lie between 0 and 1")
        for name in ("min_new", "max_episodes", "max_looks"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_heldout < self.gate.min_heldout:
            raise ConfigError(
                f"max_heldout is {self.max_heldout}; it must be at least gate.min_heldout "
                f"({self.gate.min_heldout})"
            )
