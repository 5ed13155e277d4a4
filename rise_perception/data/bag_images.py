"""The frames of a bag as unlabelled images, in any order: indexed once, decoded when asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from rise_perception.core.errors import DataError, RiseError
from rise_perception.data.bags import NO_TOPIC, BagReader
from rise_perception.data.coco import LabelledImage


class BagImages(Dataset[LabelledImage]):
    """The colour images of the usual topic of a rosbag2 recording, with depth paired by stamp.

    Args:
        path: the bag.
        with_depth: read the depth.

    Raises:
        RiseError: no bag, no colour image in it, no depth although it is wanted, or a damaged bag. Reading an
            image (then always a DataError): it cannot be decoded, or has no depth.
    """

    def __init__(self, path: str | Path, with_depth: bool = False) -> None:
        self.path = Path(path)
        self.with_depth = with_depth
        with BagReader(self.path) as bag:
            self.places = bag.index(None if with_depth else NO_TOPIC)
        if not self.places:
            raise DataError(f"{self.path} has no colour image; give another bag")
        if with_depth and not any(place.depth for place in self.places):
            raise DataError(f"{self.path} has no depth beside its images; set network.input to rgb")
        self._bag: tuple[int, BagReader] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> LabelledImage:
        place = self.places[index]
        name = f"{place.stamp / 1e9:.3f}"
        if self.with_depth and place.depth is None:
            raise DataError(f"{self.path}: the frame at {name} s has no depth; set network.input to rgb")
        try:
            frame = self._reader().frame(place)
        except RiseError as error:
            raise DataError(f"{self.path}: the frame at {name} s: {error}") from error
        return LabelledImage.unlabelled(name, frame.image, frame.depth)

    def after(self, index: int) -> LabelledImage | None:
        """None: objects have no known identity in the frames of a bag."""
        return None

    def _reader(self) -> BagReader:
        """This process's own open bag: a loader's worker must not share the file position of its parent."""
        if self._bag is None or self._bag[0] != os.getpid():
            self._bag = os.getpid(), BagReader(self.path).__enter__()
        return self._bag[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_bag": None}
