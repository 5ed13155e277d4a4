"""Where a training's images come from: one call for labelled sources, one for unlabelled ones."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from rise_perception.core.errors import DataError
from rise_perception.data.bag_images import BagImages
from rise_perception.data.bag_recovery import storage_files
from rise_perception.data.coco import CocoDataset, CocoImages, LabelledImage
from rise_perception.data.folder import FolderImages
from rise_perception.data.ocid import OcidDataset, OcidImages, ocid_sequences
from rise_perception.data.splits import Part, is_split, read_split


class ImageSource(Protocol):
    """Images in a fixed order."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> LabelledImage:
        """Image ``index``.

        Raises:
            DataError: this image or what belongs to it is missing or broken; the others can still be read.
        """

    def after(self, index: int) -> LabelledImage | None:
        """A real later frame of the scene of image ``index``, ids shared; None where there is none.

        Raises:
            DataError: as ``__getitem__``.
        """


def open_labelled(path: str | Path, classes: tuple[str, ...], with_depth: bool) -> ImageSource:
    """Open a labelled source.

    Args:
        path: a COCO JSON file, an OCID folder, or a split (of which the labelled images are taken).
        classes: class names, in the order of the class indices.
        with_depth: read depth as well.

    Raises:
        RiseError: it is missing, is none of these, or cannot give the classes.
    """
    path, part = Path(path), None
    if is_split(path):
        split = read_split(path)
        path, part = split.source, split.labelled
    if path.is_dir():
        return OcidDataset(path, classes, with_depth, part)
    return CocoDataset(path, classes, with_depth, part)


def open_unlabelled(path: str | Path, with_depth: bool) -> ImageSource:
    """Open a source whose annotations, if it has any, are never looked at: all masks are (0, H, W).

    Args:
        path: a COCO JSON file, an OCID folder, a split (of which the unlabelled images are taken), a folder
            of pictures, or a bag.
        with_depth: read depth as well.

    Raises:
        RiseError: it is missing, is none of these, or has no depth although it is wanted.
    """
    path = Path(path)
    if is_split(path):
        split = read_split(path)
        return open_images(split.source, with_depth, split.unlabelled)
    if not path.exists():
        raise DataError(
            f"{path} does not exist; give a COCO JSON file, a split, an OCID folder, a folder of pictures, "
            "or a bag"
        )
    if storage_files(path):
        return BagImages(path, with_depth)
    if path.is_dir() and not ocid_sequences(path):
        return FolderImages(path, with_depth)
    return open_images(path, with_depth)


def open_images(path: Path, with_depth: bool = False, part: Part | None = None) -> CocoImages | OcidImages:
    """The images of a data set that has labels: a COCO JSON file or an OCID folder.

    Raises:
        DataError: it is missing or is neither.
    """
    return OcidImages(path, with_depth, part) if path.is_dir() else CocoImages(path, with_depth, part)
