"""A folder of pictures with label images beside them, as public data sets of real frames come."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rise_perception.core.errors import DataError, ImageError
from rise_perception.core.frame import check_depth
from rise_perception.data.coco import LabelledImage
from rise_perception.data.images import (
    COMPANION,
    find_companion,
    list_images,
    read_depth,
    read_image,
    read_label_map,
)
from rise_perception.evaluation.loading import TRUTH_KINDS


class LabelledFolder:
    """The pictures of a folder that have a label image: ``X-color.png`` with ``X-label.png``, and so on.

    Args:
        folder: where they lie.
        depth_scale: metres per unit of the depth maps beside them; None reads no depth.

    Raises:
        DataError: no picture in it has labels. Reading one: it, its labels or its depth is broken.
    """

    def __init__(self, folder: str | Path, depth_scale: float | None = None) -> None:
        self.path, self.depth_scale = Path(folder), depth_scale
        if not self.path.is_dir():
            raise DataError(f"{folder} is no folder; give one with pictures and label images")
        self.frames: list[tuple[Path, Path]] = []
        for picture in list_images([self.path]):
            labels = find_companion(self.path, picture.stem, TRUTH_KINDS)
            if labels is not None and COMPANION.search(labels.stem):
                self.frames.append((picture, labels))
        if not self.frames:
            raise DataError(
                f"{folder}: no picture has a label image (X-label.png, X.segm.png, ...) beside it"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> LabelledImage:
        """Frame ``index``; every label but 0 is an object."""
        picture, labels = self.frames[index]
        image, label_map = read_image(picture), read_label_map(labels)
        if label_map.shape != image.shape[:2]:
            raise DataError(f"{labels} is {label_map.shape}, its picture {image.shape[:2]} (rows, columns)")
        values = np.unique(label_map[label_map > 0])
        masks = label_map[None] == values[:, None, None]
        return LabelledImage(
            picture.name,
            image,
            self._depth(picture, image),
            masks,
            np.zeros(len(values), np.int64),
            values.astype(np.int64),
        )

    def _depth(self, picture: Path, image: np.ndarray) -> np.ndarray | None:
        if self.depth_scale is None:
            return None
        path = find_companion(self.path, picture.stem, ("depth",))
        if path is None or path == picture:
            raise DataError(f"{picture} has no depth map (X-depth.png) beside it")
        try:
            depth = read_depth(path, self.depth_scale)
            check_depth(depth, image)
        except ImageError as error:
            raise DataError(f"{path}: {error}") from error
        return depth
