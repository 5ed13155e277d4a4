"""Hand-checked frames of the cell: what no mistake of the cell's own labels can reach.

Labels from grasps share their mistakes: who judges by them can be fooled by what fooled them. A person who
outlined every item of a handful of frames made other mistakes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rise_perception.core.errors import ConfigError
from rise_perception.core.regions import CONTAINERS
from rise_perception.data.annotated import AnnotatedPicture, AnnotatedSet, read_annotated
from rise_perception.data.coco import LabelledImage
from rise_perception.network.config import NetworkConfig


class CheckedFrames:
    """Annotated frames in the classes of a network, every item of which is outlined.

    Args:
        path: a COCO export, or a folder of pictures with label maps, as `rise teach` takes them.
        network: whose classes, and whether depth is wanted.

    Raises:
        RiseError: it cannot be read, depth is missing, or parts of a frame are marked as not annotated.
    """

    def __init__(self, path: str | Path, network: NetworkConfig) -> None:
        found = read_annotated(path)
        self.path, self._depth = Path(path), network.sees_depth
        for picture in found.pictures:
            if picture.ignored is not None:
                raise ConfigError(
                    f"{picture.path}: a part of it is marked as not annotated; outline every item of a "
                    "checked frame, or leave the frame out"
                )
            if self._depth and picture.depth is None:
                raise ConfigError(
                    f"{picture.path} has no depth, and the model wants it; give "
                    f"{picture.path.stem}-depth.png beside it"
                )
        self._pictures = found.pictures
        self._classes = _classes(found, network)

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> LabelledImage:
        """Frame ``index``; objects of classes that the network does not have are left out."""
        picture: AnnotatedPicture = self._pictures[index]
        image = picture.load(self._depth)
        classes = np.array([self._classes[c] for c in image.classes], np.int64)
        kept = classes >= 0
        return LabelledImage(
            image.name, image.image, image.depth, image.masks[kept], classes[kept], image.ids[kept]
        )


def _classes(found: AnnotatedSet, network: NetworkConfig) -> list[int]:
    """The network's class of each class of the set: of the same name, else of the same kind; -1 for none."""
    items = [index for index, name in enumerate(network.classes) if name not in network.containers]
    holders = [network.classes.index(name) for name in network.containers]
    result = []
    for name in found.classes:
        same = holders if name.lower() in CONTAINERS else items
        if name in network.classes:
            result.append(network.classes.index(name))
        else:
            result.append(same[0] if same else -1)
    return result
