"""The parameters of the learner node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rclpy.node import Node

from rise_perception.nodes.parameters import declare
from rise_perception.online.gate import GateConfig
from rise_perception.online.learner import LearnerConfig
from rise_perception.online.update import UpdateConfig

# name: default, sentence, range of a number
PARAMETERS: dict[str, tuple[Any, str, tuple[float, float] | None]] = {
    "store": ("~/.rise_perception/episodes", "Folder of the episodes, which is only read.", None),
    "models": ("~/.rise_perception/models", "Folder of the versions of the model.", None),
    "model": (
        "rise_small_rgbd",
        "Model folder, or name of a shipped model, that an empty folder of versions begins with.",
        None,
    ),
    "max_versions": (20, "Versions that are kept; the oldest go first.", (4, 1000)),
    "anchors": ("", "Labelled images that every update replays: COCO JSON, split or OCID folder.", None),
    "heldout_anchors": ("", "COCO JSON of other labelled images, on which nothing may be lost.", None),
    "segmentation_node": (
        "/segmentation_node",
        "Node that is told when another version is to serve; empty: none.",
        None,
    ),
    "device": ("cpu", "Where the networks of the learner run: cpu, cuda, cuda:1, ...", None),
    "threads": (1, "CPU threads of the learner.", (1, 64)),
    "nice": (10, "By how much the learner stands back from other processes.", (0, 19)),
    "min_new": (8, "New episodes that begin an update.", (1, 100_000)),
    "new_share": (0.5, "Share of new episodes in an update; the others are replayed.", (0.01, 0.99)),
    "heldout_share": (0.25, "Share of the episodes that judge and are never learned from.", (0.01, 0.99)),
    "iterations": (200, "Most steps of an update.", (1, 1_000_000)),
    "seconds": (600.0, "Most seconds of an update's training.", (1.0, 1e6)),
    "batch": (4, "Views of anchors in a step, an even number.", (2, 256)),
    "episode_batch": (4, "Views of episodes in a step, an even number.", (2, 256)),
    "learning_rate": (1e-4, "Learning rate.", (1e-7, 1.0)),
    "average": (0.98, "Decay of the averaged weights that teach and become the candidate.", (0.5, 0.9999)),
    "objects": (4, "Most cut-outs that are pasted on an image.", (0, 50)),
    "max_anchor_drop": (0.01, "AP that a candidate may lose on the held-out anchors.", (0.0, 1.0)),
    "min_gain": (0.01, "Mean IoU that it has to win on the held-out interactions.", (0.0, 1.0)),
    "certainty": (1.0, "Standard errors by which that gain lies above zero.", (0.0, 10.0)),
    "min_heldout": (5, "Held-out episodes below which nothing is judged.", (2, 10_000)),
}


def declare_all(node: Node) -> SimpleNamespace:
    """Declares every parameter; gives the values."""
    return SimpleNamespace(
        **{
            name: declare(node, name, default, sentence, between=limits)
            for name, (default, sentence, limits) in PARAMETERS.items()
        }
    )


def learner_config(given: SimpleNamespace) -> LearnerConfig:
    """The learner's configuration.

    Raises:
        ConfigError: values that contradict each other, or no anchors.
    """
    return LearnerConfig(
        anchors=(given.anchors,) if given.anchors else (),
        heldout_anchors=given.heldout_anchors,
        update=UpdateConfig(
            iterations=given.iterations,
            seconds=given.seconds,
            batch=given.batch,
            episode_batch=given.episode_batch,
            learning_rate=given.learning_rate,
            average=given.average,
            objects=given.objects,
            threads=given.threads,
        ),
        gate=GateConfig(given.max_anchor_drop, given.min_gain, given.certainty, given.min_heldout),
        min_new=given.min_new,
        new_share=given.new_share,
        heldout_share=given.heldout_share,
        device=given.device,
    )
