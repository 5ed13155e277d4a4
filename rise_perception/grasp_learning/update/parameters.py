"""The learner's settings with a sentence and a range each: for the node's parameters and the command line."""

from __future__ import annotations

from typing import Any

from rise_perception.grasp_learning.update.config import LearnerConfig
from rise_perception.grasp_learning.update.gate import GateConfig
from rise_perception.grasp_learning.update.update import UpdateConfig

_About = tuple[str, "tuple[float, float] | None"]
_UPDATE: dict[str, _About] = {
    "parameters": ("What an update trains: adapter (norms, biases, class heads) or all.", None),
    "iterations": ("Most steps of an update.", (1, 1_000_000)),
    "seconds": ("Most seconds of an update's training.", (1.0, 1e6)),
    "batch": ("Views of anchors in a step, an even number.", (2, 256)),
    "episode_batch": ("Views of episodes in a step, an even number.", (2, 256)),
    "learning_rate": ("Learning rate.", (1e-7, 1.0)),
    "average": ("Decay of the averaged weights that teach and become the candidate.", (0.5, 0.9999)),
    "objects": ("Most cut-outs that are pasted on an image.", (0, 50)),
    "threads": ("CPU threads of the learner.", (1, 64)),
}
_GATE: dict[str, _About] = {
    "max_anchor_drop": (
        "AP that a candidate may lose on the held-out anchors against the first model.",
        (0.0, 1.0),
    ),
    "max_checked_drop": (
        "AP that a candidate may lose on the hand-checked frames against the better of the first and the "
        "serving model.",
        (0.0, 1.0),
    ),
    "max_false_rise": ("Fraction by which false masks on the anchors may become more.", (0.0, 10.0)),
    "min_gain": ("Mean quality that it has to win on the held-out interactions.", (0.0, 1.0)),
    "significance": ("Chance that a promotion is luck, spent over the candidates.", (0.0001, 0.5)),
    "min_heldout": ("Held-out items below which nothing is judged.", (2, 10_000)),
    "min_scenes": ("Scenes that they have to come from.", (1, 1000)),
}
_LEARNER: dict[str, _About] = {
    "checked": (
        "Hand-annotated frames of the cell that judge candidates as well: a COCO export, or a folder of "
        "pictures with label maps, as rise teach takes them; empty for none.",
        None,
    ),
    "device": ("Where the networks of the learner run: cpu, cuda, cuda:1 or another.", None),
    "min_new": ("New episodes that begin an update by itself.", (1, 100_000)),
    "max_episodes": ("Episodes that one update learns from, of all that are trusted.", (1, 100_000)),
    "heldout_fraction": ("Fraction of the scenes that judge candidates.", (0.01, 0.99)),
    "max_looks": ("Candidates after which a scene has judged enough, and teaches.", (1, 10_000)),
}
#: name: default, sentence, range of a number.
PARAMETERS: dict[str, tuple[Any, str, tuple[float, float] | None]] = {
    name: (getattr(config, name), *about)
    for config, group in ((LearnerConfig, _LEARNER), (UpdateConfig, _UPDATE), (GateConfig, _GATE))
    for name, about in group.items()
}


def learner_config(anchors: tuple[str, ...], heldout_anchors: str, given: dict[str, Any]) -> LearnerConfig:
    """The learner's configuration from values of :data:`PARAMETERS`.

    Raises:
        ConfigError: values that contradict each other, or no anchors.
    """
    update, gate, own = ({name: given[name] for name in group} for group in (_UPDATE, _GATE, _LEARNER))
    return LearnerConfig(
        anchors=anchors,
        heldout_anchors=heldout_anchors,
        update=UpdateConfig(**update),
        gate=GateConfig(**gate),
        **own,
    )
