"""The parameters of the learner node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rclpy.node import Node

from rise_perception.grasp_learning.update import parameters
from rise_perception.grasp_learning.update.learner import LearnerConfig
from rise_perception.nodes.parameters import declare

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
    "nice": (10, "By how much the learner stands back from other processes.", (0, 19)),
    **parameters.PARAMETERS,
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
    anchors = (given.anchors,) if given.anchors else ()
    return parameters.learner_config(anchors, given.heldout_anchors, vars(given))
