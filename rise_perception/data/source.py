"""Frames to play: of a bag, with everything it holds, or of a folder of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rise_perception.core.errors import DataError, ImageError
from rise_perception.core.frame import Frame
from rise_perception.data import images
from rise_perception.data.bags import TRUTH_TOPIC, BagReader

PICTURE_PERIOD = 100_000_000  # nanoseconds


class FrameSource:
    """A rosbag2 recording, a folder of pictures, or one picture.

    Frames of a bag keep their stamps; picture number i, from 1, is stamped i * ``PICTURE_PERIOD``.

    Args:
        path: where it is.

    Attributes:
        count: number of frames, should all be readable.
        has_depth, has_truth: whether frames come with depth, with a label map.

    Raises:
        RiseError: nothing there, no picture in the folder, or no colour image in the bag.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._pictures: list[Path] = []
        self.has_depth = self.has_truth = False
        folder = self.path.is_dir()
        self.is_bag = self.path.suffix in (".mcap", ".db3") or (
            folder and any(entry.suffix in (".mcap", ".db3") for entry in self.path.iterdir())
        )
        if not self.is_bag:
            self._pictures = images.list_images([self.path])
            self.count = len(self._pictures)
            return
        with BagReader(self.path) as bag:
            self.count = bag.counts[bag.color_topic()]  # raises when there is no colour topic
            self.has_depth = bag.depth_topic() is not None
            self.has_truth = TRUTH_TOPIC in bag.topics

    def name(self, frame: Frame) -> str:
        """What to call a frame of this source: the picture's name, or the stamp in seconds."""
        if self.is_bag:
            return f"{frame.stamp / 1e9:.3f}"
        return self._pictures[frame.stamp // PICTURE_PERIOD - 1].stem

    def frames(self) -> Iterator[tuple[Frame, np.ndarray | None]]:
        """Yield (frame, (H, W) uint16 truth label map or None), from the beginning at each call.

        Raises:
            RiseError: after the last readable frame, when something was damaged; it says what.
        """
        if self.is_bag:
            with BagReader(self.path) as bag:
                yield from bag.frames(truth=TRUTH_TOPIC if self.has_truth else None)
            return
        problems = []
        for number, path in enumerate(self._pictures, 1):
            try:
                frame = Frame(images.read_image(path), stamp=number * PICTURE_PERIOD)
            except ImageError as error:
                problems.append(str(error))
                continue
            yield frame, None
        if problems:
            shown = "; ".join(problems[:3])
            raise DataError(f"{len(problems)} of {self.count} pictures could not be read: {shown}")
