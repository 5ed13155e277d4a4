"""The parameters of the learner node."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from rise_perception.grasp_learning.update import parameters
from rise_perception.grasp_learning.update.canary import CanaryConfig
from rise_perception.grasp_learning.update.config import LearnerConfig
from rise_perception.nodes.parameter_table import Parameter, ParameterTable

#: Settings that stay in the code: nobody who looks after a robot can choose them better.
NOT_HERE = (
    "heldout_fraction",
    "max_looks",
    "max_false_rise",
    "significance",
    "min_scenes",
    "average",
    "objects",
)

TABLE = ParameterTable(
    "learner_node",
    {
        "Models and data": {
            "episode_store": Parameter(
                "~/.rise_perception/episodes",
                "Folder of the interaction node's episodes; it is only read.",
            ),
            "model_store": Parameter(
                "~/.rise_perception/models",
                "Folder of the versions; the segmentation node's model_store names the same one.",
            ),
            "model": Parameter(
                "rise_small_rgbd",
                "What an empty folder of versions begins with: a model folder, or the name of a shipped "
                "model.",
            ),
            "max_versions": Parameter(
                20,
                "Versions that are kept. The active one, the one before it, the first one and snapshots "
                "always stay.",
                (4, 1000),
            ),
            "anchors": Parameter(
                "",
                "Labelled images that every update replays, so that nothing is forgotten: COCO JSON, split "
                "or "
                "OCID folder.",
            ),
            "heldout_anchors": Parameter(
                "", "COCO JSON of other labelled images: a candidate that loses AP on them is not promoted."
            ),
            "segmentation_node": Parameter(
                "segmentation_node",
                "Node that is told when another version is to serve, relative to this namespace; empty for "
                "none.",
            ),
            "nice": Parameter(10, "Niceness of the learner: its priority below other processes.", (0, 19)),
        },
        "Updates": {
            name: Parameter(default, sentence, limits)
            for name, (default, sentence, limits) in parameters.PARAMETERS.items()
            if name not in NOT_HERE
        }
        | {
            "canary_fraction": Parameter(
                0.0,
                "Share of the grasps that are made with a version that has passed the gate, until they show "
                "that it picks no worse, or that it does; 0: it serves at once. Between 0.02 and 0.5.",
                (0.0, 0.5),
            )
        },
    },
)


def learner_config(given: SimpleNamespace) -> LearnerConfig:
    """The learner's configuration.

    Raises:
        ConfigError: values that contradict each other, or no anchors.
    """
    anchors = (given.anchors,) if given.anchors else ()
    defaults = {name: default for name, (default, _, _) in parameters.PARAMETERS.items()}
    config = parameters.learner_config(anchors, given.heldout_anchors, defaults | vars(given))
    return replace(config, canary=CanaryConfig(given.canary_fraction))
