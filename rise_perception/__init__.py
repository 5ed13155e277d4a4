"""Grasp-scene perception for ROS 2: instance masks that a robot arm can pick from.

Data flows one way: camera -> :class:`Frame` -> :class:`Segmenter` -> :class:`Instances` -> message.
Everything outside :mod:`rise_perception.nodes` imports without ROS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rise_perception.core.frame import CameraIntrinsics, Frame
    from rise_perception.core.instances import Instances
    from rise_perception.inference.segmenter import Segmenter

__version__ = "0.1.0"
__all__ = ["CameraIntrinsics", "Frame", "Instances", "Segmenter", "__version__"]

#: The rooms of the package, from the bottom up: a module imports only from its own room and those before it.
ROOMS = (
    "core",  # the vocabulary: frames, instances, errors, camera geometry, masks, files
    "network",  # the network and its configuration
    "data",  # where images come from: COCO, folders, OCID, bags, ROS encodings
    "synthesis",  # composite images: cut-outs, placement, compositing, augmentation
    "evaluation",  # how good masks are: AP, overlap, overlays, report pages
    "inference",  # from a frame to instances; in `engines` the other runtimes
    "planning",  # what grasp planners take: clouds, hulls, suction candidates, files
    "language",  # sentences about items: vocabulary, colours, grammar
    "simulation",  # the tote world and the simulated cell
    "selection",  # which pseudo-labels to trust: rules, a regressor, a learned policy
    "training",  # losses, matching, pseudo-labels, the trainer
    "referring",  # the item that a sentence means: priors, head, answers, loaders
    "grasp_learning",  # capture -> labelling -> update
    "teaching",  # from a handful of annotated pictures to a model of this cell
    "nodes",  # ROS 2; the only room that imports it
    "cli",  # the `rise` command
)

#: The public names and their modules, imported on first use: `rise --version` must not load torch.
_PUBLIC = {
    "CameraIntrinsics": "rise_perception.core.frame",
    "Frame": "rise_perception.core.frame",
    "Instances": "rise_perception.core.instances",
    "Segmenter": "rise_perception.inference.segmenter",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        import importlib

        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
