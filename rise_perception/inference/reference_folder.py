"""A reference on disk: a folder of pictures of the place without items, or of captures of it.

A capture is a folder ``capture-NNNNNN`` of pictures with their depth beside them. It comes whole or not at
all, and earlier ones stay; the newest is the reference. A folder without captures is its own pictures.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rise_perception.core.errors import DataError, ImageError
from rise_perception.core.folder_store import FolderStore
from rise_perception.core.frame import Frame
from rise_perception.data.images import list_images, read_depth, read_image, write_image
from rise_perception.data.picture_search import find_depth
from rise_perception.inference.reference import MOST_FRAMES, Reference

_CAPTURE = re.compile(r"capture-(\d+)")
#: Metres that 1 means in the depth of a capture, and the farthest that fits 16 bits.
_DEPTH_UNIT, _FARTHEST = 0.001, 65.535


@dataclass(frozen=True)
class StoredReference:
    """A reference and where it is from.

    Attributes:
        reference: the place.
        folder: of its pictures.
        frames: how many pictures there are.
        taken: when the newest was written, seconds since the epoch.
    """

    reference: Reference
    folder: Path
    frames: int
    taken: float

    @property
    def age(self) -> float:
        """Seconds since it was taken; never below 0, whatever the clock does."""
        return max(0.0, time.time() - self.taken)


def captures(root: Path) -> list[Path]:
    """The captures in a folder, the oldest first."""
    if not root.is_dir():
        return []
    found = [(int(match[1]), p) for p in root.iterdir() if (match := _CAPTURE.fullmatch(p.name))]
    return [path for _, path in sorted(found)]


def newest(root: Path) -> Path:
    """The newest capture of a folder; the folder itself where there is none."""
    return next(reversed(captures(root)), root)


def read_reference(root: Path, depth_scale: float | None = None) -> StoredReference:
    """The reference of a folder.

    Args:
        root: a folder of pictures without items, or of captures.
        depth_scale: metres that 1 means in a depth map; None is the usual. Captures are in millimetres
            always.

    Raises:
        DataError: no picture, pictures of different sizes, one that cannot be read.
    """
    folder = newest(root)
    if _CAPTURE.fullmatch(folder.name):
        depth_scale = _DEPTH_UNIT
    pictures = list_images([folder])
    # More would not be looked at; a folder of a thousand pictures need not be read for fifteen.
    step = np.linspace(0, len(pictures) - 1, min(len(pictures), MOST_FRAMES)).round().astype(int)
    frames = []
    for picture in [pictures[k] for k in dict.fromkeys(step.tolist())]:
        depth = find_depth(picture, folder)
        try:
            frames.append(Frame(read_image(picture), read_depth(depth, depth_scale) if depth else None))
        except ImageError as error:
            raise DataError(f"reference: {error}; remove {picture}, or take the pictures again") from error
    taken = max(picture.stat().st_mtime for picture in pictures)
    return StoredReference(Reference.of(frames), folder, len(pictures), taken)


def write_capture(root: Path, frames: Sequence[Frame]) -> Path:
    """Keep frames of the place without items as the newest capture of a folder; atomic, and nothing goes.

    Args:
        root: the folder; made when it is not there.
        frames: at least one; depth is kept in millimetres.

    Returns:
        the capture's folder.

    Raises:
        DataError: no frame, the folder cannot be written, or another process writes to it now.
    """
    Reference.of(frames)  # what could not be read back is not written
    store = FolderStore(root, True, "reference", DataError)
    try:
        number = max((int(path.name.split("-")[1]) for path in captures(root)), default=0) + 1
        with store.workplace() as place:
            for index, frame in enumerate(frames):
                write_image(place / f"{index}.png", frame.image)
                if frame.depth is not None:
                    depth = np.where(frame.depth <= _FARTHEST, np.nan_to_num(frame.depth), 0)
                    write_image(place / f"{index}-depth.png", (depth / _DEPTH_UNIT).round().astype(np.uint16))
            return store.keep(place, f"capture-{number:06d}")
    except OSError as error:
        raise DataError(
            f"{root}: the reference cannot be written ({error.strerror}); free the disk, or give another "
            "folder"
        ) from None
    finally:
        store.close()
