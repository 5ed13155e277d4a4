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
