"""OCID: sequences of scenes that are built up one object at a time, as folders of pictures.

A sequence is a folder with "seq" in its name that holds ``rgb/X.png``, ``depth/X.png`` (16-bit, millimetres)
and ``label/X.png``, for example ``ARID20/table/top/seq05``. Sequences that lie below a folder ``table`` label
the table as well.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from rise_perception.core.errors import DataError, ImageError
from rise_perception.core.frame import check_depth
from rise_perception.core.regions import OBJECT, category_name
from rise_perception.data.coco import LabelledImage
from rise_perception.data.images import list_images, natural_order, read_depth, read_image, read_label_map
from rise_perception.data.splits import Key, Part

#: Label values of the surroundings: nothing and the floor; where there is a table, the table.
_FLOOR, _TABLE = 1, 2


def ocid_sequences(root: Path) -> list[Path]:
    """The sequences in the folder ``root`` (or ``root`` itself), in natural order; none if it is no OCID."""
    folders = [root.resolve(), *root.resolve().rglob("*seq*")]
    found = [folder for folder in folders if "seq" in folder.name and (folder / "rgb").is_dir()]
    return sorted(found, key=natural_order)


class OcidImages(Dataset[LabelledImage]):
    """The images of OCID sequences, without a look at the labels.

    Args:
        root: folder with sequences at any depth, or one sequence.
        with_depth: read the depth maps.
        part: the images to take; None takes all.

    Raises:
        DataError: no such folder, no sequence in it, or the part is of another folder. Reading an image: it
            or its depth is missing, broken or of another size.
    """

    def __init__(self, root: str | Path, with_depth: bool = False, part: Part | None = None) -> None:
        self.path = Path(root)
        self.with_depth = with_depth
        sequences = ocid_sequences(self.path)
        if not sequences:
            raise DataError(
                f"{self.path} holds no OCID sequence (a folder with 'seq' in its name and rgb in it); "
                "labelled images come from a COCO JSON file, a split of one, or an OCID folder"
            )
        files = [file for sequence in sequences for file in list_images([sequence / "rgb"])]
        names = [file.relative_to(self.path.resolve()).as_posix() for file in files]
        #: Relative path of every image, as its id and its name.
        self.keys: list[Key] = [(name, name) for name in names]
        chosen = part.select(self.path, self.keys) if part else range(len(names))
        self.names = [names[k] for k in chosen]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> LabelledImage:
        return LabelledImage.unlabelled(self.names[index], *self._read_image(index))

    def after(self, index: int) -> LabelledImage | None:
        """The next frame of the same sequence among these images; None after the last."""
        later = index + 1
        if later < len(self) and Path(self.names[later]).parent == Path(self.names[index]).parent:
            return self[later]
        return None

    def _read_image(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        try:
            image = read_image(self.path / self.names[index])
            if not self.with_depth:
                return image, None
            depth = read_depth(self._beside(index, "depth"), 0.001)
            check_depth(depth, image)
        except ImageError as error:
            raise DataError(f"{self.path}: image {self.names[index]}: {error}") from error
        return image, depth

    def _beside(self, index: int, kind: str) -> Path:
        """The file of an image in another folder of its sequence."""
        file = self.path / self.names[index]
        return file.parent.parent / kind / file.name


class OcidDataset(OcidImages):
    """The images of OCID sequences with masks of the objects.

    Ids are the label values; an object has one value in all frames of a sequence.

    Args:
        root: folder with sequences at any depth, or one sequence.
        classes: names of the network's classes. OCID knows one kind of thing, so exactly one of them must be
            no container (container, tote, bin); containers do not occur in its scenes.
        with_depth: read the depth maps.
        part: the images to take; None takes all.

    Raises:
        DataError: as :class:`OcidImages`; or ``classes`` ask for what OCID does not tell apart. Reading an
            image: its label map is missing, broken or of another size.
    """

    def __init__(
        self,
        root: str | Path,
        classes: tuple[str, ...],
        with_depth: bool = False,
        part: Part | None = None,
    ) -> None:
        super().__init__(root, with_depth, part)
        objects = [index for index, name in enumerate(classes) if category_name(name) == OBJECT]
        if len(objects) != 1:
            raise DataError(
                f"{self.path}: OCID labels objects without their kind, so it cannot give {list(classes)}; "
                "set network.classes to [object] or [container, object]"
            )
        self.class_index = objects[0]

    def __getitem__(self, index: int) -> LabelledImage:
        name = self.names[index]
        image, depth = self._read_image(index)
        try:
            labels = read_label_map(self._beside(index, "label"))
        except ImageError as error:
            raise DataError(f"{self.path}: image {name}: {error}") from error
        if labels.shape != image.shape[:2]:
            raise DataError(
                f"{self.path}: image {name} is {image.shape[1]}x{image.shape[0]}, its label map "
                f"{labels.shape[1]}x{labels.shape[0]}; copy both again"
            )
        present = np.flatnonzero(np.bincount(labels.ravel()))
        ids = present[present > (_TABLE if self._has_table(name) else _FLOOR)]
        masks = labels == ids[:, None, None].astype(labels.dtype)
        return LabelledImage(name, image, depth, masks, np.full(len(ids), self.class_index, np.int64), ids)

    def _has_table(self, name: str) -> bool:
        """By the nearest folder above called ``table`` or ``floor``; without one there is no table."""
        folders = [part.lower() for part in (self.path.resolve() / name).parts]
        return next((part for part in reversed(folders) if part in ("table", "floor")), "floor") == "table"
