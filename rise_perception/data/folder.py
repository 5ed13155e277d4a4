"""A folder of unlabelled pictures, with depth by the names of files and folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from rise_perception.core.errors import DataError, ImageError
from rise_perception.core.frame import check_depth
from rise_perception.data.coco import LabelledImage
from rise_perception.data.images import (
    SUFFIXES,
    find_companion,
    list_images,
    natural_order,
    picture_folders,
    read_depth,
    read_image,
)

#: In the place of the last folder of this name, a folder ``depth`` holds the depth.
PICTURE_FOLDERS = ("images", "image", "rgb", "color", "colour")


class FolderImages(Dataset[LabelledImage]):
    """All pictures in a folder and the folders in it, in natural order.

    Left out are files named like companions of a picture (``X-depth.png``, ``X.label.png``, ...) and folders
    named so (``depth``, ``label``, ``labels``, ``segm``, ``mask``, ``overlay``), and what is hidden.
    The depth of ``X.png`` is ``X-depth.png`` beside it (or another name that
    :func:`~rise_perception.data.images.find_companion` knows), or ``X.png`` or ``X-depth.png`` in a folder
    ``depth`` where its path has ``images`` or ``rgb``: ``depth/train/X.png`` for ``images/train/X.png``.
    Integers are millimetres, floats are metres.

    Args:
        root: the folder.
        with_depth: read the depth maps.

    Raises:
        DataError: no picture in the folder. Reading an image: it or its depth is missing or broken.
    """

    def __init__(self, root: str | Path, with_depth: bool = False) -> None:
        self.path = Path(root)
        self.with_depth = with_depth
        self.pictures: list[Path] = []
        for folder in picture_folders(self.path):
            self.pictures += list_images([folder])
        self.pictures.sort(key=natural_order)
        if not self.pictures:
            raise DataError(f"{self.path} holds no pictures (looked for {', '.join(SUFFIXES)})")

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> LabelledImage:
        picture = self.pictures[index]
        try:
            image = read_image(picture)
            depth = self._read_depth(picture, image) if self.with_depth else None
        except ImageError as error:
            raise DataError(f"{self.path}: image {picture.relative_to(self.path)}: {error}") from error
        return LabelledImage.unlabelled(picture.relative_to(self.path).as_posix(), image, depth)

    def after(self, index: int) -> LabelledImage | None:
        """None: the pictures of a folder need not show one scene."""
        return None

    def _read_depth(self, picture: Path, image: np.ndarray) -> np.ndarray:
        for folder in _depth_folders(picture.parent):
            path = find_companion(folder, picture.stem, ("depth",))
            if path and not path.samefile(picture):
                depth = read_depth(path)
                check_depth(depth, image)
                return depth
        raise DataError(
            f"{self.path}: image {picture.relative_to(self.path)} has no depth; expected "
            f"{picture.stem}-depth.png beside it, or a folder depth in place of images or rgb; or set "
            "network.input to rgb"
        )


def _depth_folders(folder: Path) -> list[Path]:
    """Where the depth of the pictures in ``folder`` may lie."""
    parts = folder.resolve().parts
    places = [k for k, part in enumerate(parts) if part.lower() in PICTURE_FOLDERS]
    mirrored = [Path(*parts[: places[-1]], "depth", *parts[places[-1] + 1 :])] if places else []
    return [folder, *mirrored]
