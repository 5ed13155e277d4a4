"""What an exported graph is fed with, and the stored frames that it is checked on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from rise_perception.core import resources
from rise_perception.core.errors import DataError
from rise_perception.core.frame import Frame
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.network.config import INPUT_CHANNELS
from rise_perception.network.inputs import depth_features, fit_depth, fit_input

#: The recording that is part of every installation.
STORED = "demo_pick"


def make_feeds(
    spec: ExportSpec, mode: str, image: np.ndarray, depth: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Inputs of a graph, by name.

    Args:
        spec: of the graph.
        mode: the network's input representation.
        image: (H, W, 3) uint8 RGB of ``spec.image``.
        depth: (H, W) float32 metres; needed where the network sees depth.
    """
    if spec.preprocessing == "outside":
        return {"input": fit_input(spec.letterbox, image, depth, mode)[None]}
    feeds = {"image": np.ascontiguousarray(image)}
    if INPUT_CHANNELS[mode] > 3:
        if (fitted := fit_depth(spec.letterbox, depth)) is None:
            raise DataError("a network that sees depth was given none; give depth, or use an RGB model")
        feeds["depth_features"] = depth_features(fitted)[None]
    return feeds


def stored_frames(image_size: tuple[int, int], count: int) -> list[Frame]:
    """:func:`frames_of` the shipped recording."""
    return frames_of(resources.find("models") / STORED, image_size, count)


def frames_of(path: str | Path, image_size: tuple[int, int], count: int) -> list[Frame]:
    """Frames of a recording or a folder of pictures, spread over it, scaled to a camera's size.

    Args:
        path: see :class:`rise_perception.data.source.FrameSource`.
        image_size: height and width.
        count: how many, or all where there are fewer.
    """
    from rise_perception.data.source import FrameSource  # with the readers of bags: not for who serves

    source = FrameSource(path)
    wanted = set(np.linspace(0, source.count - 1, count).round().astype(int).tolist())
    return [scaled(frame, image_size) for index, (frame, _) in enumerate(source.frames()) if index in wanted]


def scaled(frame: Frame, image_size: tuple[int, int]) -> Frame:
    """A frame at another size; it loses its camera."""
    size = image_size[::-1]
    depth = frame.depth
    if depth is not None:
        depth = cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return Frame(cv2.resize(frame.image, size, interpolation=cv2.INTER_LINEAR), depth)


def feeds_of(spec: ExportSpec, mode: str, frames: Iterable[Frame]) -> list[dict[str, np.ndarray]]:
    """:func:`make_feeds` of each frame."""
    return [
        make_feeds(spec, mode, frame.image, frame.depth if INPUT_CHANNELS[mode] > 3 else None)
        for frame in frames
    ]
