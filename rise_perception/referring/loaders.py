"""Public referring data sets in the layouts that they come in: OCID-VLG, OCID-Ref, RoboRefIt, RefCOCO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from rise_perception.core.errors import DataError, ImageError
from rise_perception.core.frame import check_depth
from rise_perception.data.coco import decode_segmentation
from rise_perception.data.images import find_companion, read_depth, read_image, read_label_map
from rise_perception.referring.pairs import Pair, ReferringData, ReferringImage, ToteWorldPairs

#: Largest annotation file that is read, bytes; RefCOCO's instances take a hundred megabytes.
MAX_BYTES = 1 << 30


def open_pairs(path: str | Path) -> ReferringData:
    """A referring data set by its file.

    Known are ``SPLIT.sentences.jsonl`` (the tote world and one's own data), ``SPLIT_expressions.json``
    (OCID-VLG), ``roborefit_SPLIT.json`` (RoboRefIt), ``refs(...).json`` beside ``instances.json`` (RefCOCO,
    RefCOCO+, RefCOCOg; see :class:`RefCocoPairs`), and other JSON files as OCID-Ref.

    Raises:
        DataError: the file is missing or not of that layout.
    """
    path = Path(path)
    if path.name.endswith(".sentences.jsonl"):
        return ToteWorldPairs(path)
    if path.name.endswith("_expressions.json"):
        return OcidVlgPairs(path)
    if path.name.startswith("roborefit_"):
        return RoboRefItPairs(path)
    if path.name.startswith("refs"):
        return RefCocoPairs(path)
    if path.suffix == ".json":
        return OcidRefPairs(path)
    raise DataError(
        f"{path} is no known file of sentences; known are NAME.sentences.jsonl, SPLIT_expressions.json "
        "(OCID-VLG), roborefit_SPLIT.json, refs(NAME).json (RefCOCO) and OCID-Ref's JSON files"
    )


class _Pairs:
    """Pairs by image, collected one after another.

    Attributes:
        path: the file.
        names: of the images.
        pairs: see :class:`rise_perception.referring.pairs.ReferringData`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.names: list[str] = []
        self.pairs: list[Pair] = []
        self._index: dict[str, int] = {}

    def _image(self, name: str) -> int:
        if name not in self._index:
            self._index[name] = len(self.names)
            self.names.append(name)
        return self._index[name]

    def _field(self, entry: Any, key: str, kinds: tuple[type, ...], where: str) -> Any:
        if not isinstance(entry, dict) or key not in entry:
            raise DataError(f"{self.path}: {where} has no {key!r}; repair or remove it")
        value = entry[key]
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise DataError(f"{self.path}: {where} has the {key} {value!r}; repair or remove it")
        return value

    def _file(self, root: Path, name: str) -> Path:
        """A file below ``root``, whatever slashes its name has; what leads out of it is refused."""
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if not parts or parts[0] == "/" or ".." in parts:
            raise DataError(f"{self.path}: the file name {name!r} leads out of {root}")
        return root.joinpath(*parts)


class OcidVlgPairs(_Pairs):
    """OCID-VLG: ``refer/VERSION/SPLIT_expressions.json`` below the data set's root.

    Each entry of its list ``data`` has ``image_filename`` ("sequence,name"), ``question``, ``answer`` (the id
    of the item in ``SEQUENCE/seg_mask_instances_combi/NAME``) and ``box``. Images lie in ``SEQUENCE/rgb``,
    depth in ``SEQUENCE/depth`` (millimetres).
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        content = _read_json(self.path)
        entries = content.get("data") if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{path} has no list 'data'; it is no file of OCID-VLG")
        self._root = self.path.resolve().parents[2]
        for number, entry in enumerate(entries):
            where = f"data[{number}]"
            name = self._field(entry, "image_filename", (str,), where)
            if name.count(",") != 1:
                raise DataError(f"{path}: {where} has the image_filename {name!r}, not 'sequence,name'")
            sentence = self._field(entry, "question", (str,), where)
            answer = self._field(entry, "answer", (int,), where)
            self.pairs.append(Pair(self._image(name), sentence, (answer,)))

    def __getitem__(self, index: int) -> ReferringImage:
        sequence, name = self.names[index].split(",")
        folder = self._file(self._root, sequence)
        try:
            image = read_image(self._file(folder / "rgb", name))
            depth = _depth(self._file(folder / "depth", name), image, 0.001)
            ids = read_label_map(self._file(folder / "seg_mask_instances_combi", name))
        except ImageError as error:
            raise DataError(f"{self.path}: {error}") from error
        wanted = {label for pair in self.pairs if pair.image == index for label in pair.labels}
        masks = _masks_of_map(ids, image, f"{self.path}: {self.names[index]}")
        missing = wanted - set(masks)
        if missing:
            raise DataError(f"{self.path}: {self.names[index]} has no item {min(missing)} in its masks")
        return ReferringImage(self.names[index], image, depth, masks)


class OcidRefPairs(_Pairs):
    """OCID-Ref: entries with ``scene_path``, ``scene_instance``, ``sentence`` and ``bbox`` (x, y, w, h).

    The file lies in the root of OCID; ``scene_path`` names the colour image, with OCID's label map in
    ``label/`` beside its folder, whose values are the instances.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        content = _read_json(self.path)
        entries = list(content.values()) if isinstance(content, dict) else content
        if not isinstance(entries, list) or not entries:
            raise DataError(f"{path} holds no entries; it is no file of OCID-Ref")
        for number, entry in enumerate(entries):
            where = f"entry {number}"
            name = self._field(entry, "scene_path", (str,), where).replace("\\", "/")
            instance = self._field(entry, "scene_instance", (int, str), where)
            sentence = self._field(entry, "sentence", (str,), where)
            label = str(instance).rpartition("_")[2]
            if not label.isascii() or not label.isdigit():
                raise DataError(f"{path}: {where} has the scene_instance {instance!r}, which is no number")
            self.pairs.append(Pair(self._image(name), sentence, (int(label),)))

    def __getitem__(self, index: int) -> ReferringImage:
        file = self._file(self.path.parent, self.names[index])
        try:
            image = read_image(file)
            depth = _depth(file.parent.parent / "depth" / file.name, image, 0.001)
            labels = read_label_map(file.parent.parent / "label" / file.name)
        except ImageError as error:
            raise DataError(f"{self.path}: {error}") from error
        masks = _masks_of_map(labels, image, f"{self.path}: {self.names[index]}")
        return ReferringImage(self.names[index], image, depth, masks)


class RoboRefItPairs(_Pairs):
    """RoboRefIt: ``roborefit_SPLIT.json``, a list of text, rgb_path, depth_path and mask_path.

    Paths are relative to the file's folder, with slashes of either kind; a mask is an image of its own, not
    0 where the item is.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path)
        entries = _read_json(self.path)
        if not isinstance(entries, list) or not entries:
            raise DataError(f"{path} is no list of entries; it is no file of RoboRefIt")
        self._depths: dict[str, str] = {}
        self._masks: list[dict[int, str]] = []
        for number, entry in enumerate(entries):
            where = f"entry {number}"
            name = self._field(entry, "rgb_path", (str,), where).replace("\\", "/")
            index = self._image(name)
            if index == len(self._masks):
                self._masks.append({})
            depth = entry.get("depth_path")
            if isinstance(depth, str):
                self._depths[name] = depth
            mask = self._field(entry, "mask_path", (str,), where).replace("\\", "/")
            known = {file: label for label, file in self._masks[index].items()}
            label = known.get(mask, len(known) + 1)
            self._masks[index][label] = mask
            self.pairs.append(Pair(index, self._field(entry, "text", (str,), where), (label,)))

    def __getitem__(self, index: int) -> ReferringImage:
        name, root = self.names[index], self.path.parent
        try:
            image = read_image(self._file(root, name))
            depth = None
            if name in self._depths:
                depth = _depth(self._file(root, self._depths[name]), image, 0.001)
            masks: dict[int, np.ndarray] = {}
            for label, file in self._masks[index].items():
                mask = np.asarray(read_image(self._file(root, file)).any(2))
                if mask.shape != image.shape[:2]:
                    raise DataError(f"{self.path}: {file} and {name} differ in size")
                masks[label] = mask
        except ImageError as error:
            raise DataError(f"{self.path}: {error}") from error
        return ReferringImage(name, image, depth, masks)


class RefCocoPairs(_Pairs):
    """RefCOCO, RefCOCO+ and RefCOCOg: ``refs(...).json`` and ``instances.json`` in one folder.

    The data set's own ``refs(unc).p`` is a pickle, which is never opened here; ``docs/refer.md`` shows how to
    turn it into JSON. Images lie in ``images/`` beside the files, or in ``images/mscoco/images/train2014``
    below the folder above, as the data set's own tools have it.

    Args:
        path: the file of references.
        split: train, val, test, testA or testB; None takes all.
    """

    def __init__(self, path: str | Path, split: str | None = None) -> None:
        super().__init__(path)
        refs, instances = _read_json(self.path), _read_json(self.path.parent / "instances.json")
        if not isinstance(refs, list) or not isinstance(instances, dict):
            raise DataError(f"{path} is no list of references, or instances.json beside it no COCO file")
        files = {i["id"]: i["file_name"] for i in instances.get("images", [])}
        notes = {a["id"]: a for a in instances.get("annotations", [])}
        self._notes: list[dict[int, Mapping[str, Any]]] = []
        for number, ref in enumerate(refs):
            where = f"reference {number}"
            if split is not None and self._field(ref, "split", (str,), where) != split:
                continue
            identity, note = (self._field(ref, key, (int,), where) for key in ("image_id", "ann_id"))
            if identity not in files or note not in notes:
                raise DataError(f"{path}: {where} names an image or annotation that instances.json has not")
            index = self._image(files[identity])
            if index == len(self._notes):
                self._notes.append({})
            self._notes[index][note] = notes[note]
            for said in self._field(ref, "sentences", (list,), where):
                self.pairs.append(Pair(index, self._field(said, "sent", (str,), where), (note,)))
        if not self.pairs:
            raise DataError(f"{path} has no reference of the split {split!r}")

    def __getitem__(self, index: int) -> ReferringImage:
        folders = (self.path.parent / "images", self.path.parents[1] / "images/mscoco/images/train2014")
        places = [self._file(folder, self.names[index]) for folder in folders]
        file = next((place for place in places if place.is_file()), places[0])
        try:
            image = read_image(file)
        except ImageError as error:
            raise DataError(f"{self.path}: {error}") from error
        height, width = image.shape[:2]
        masks = {
            label: decode_segmentation(dict(note), height, width, f"{self.path}: annotation {label}")
            for label, note in self._notes[index].items()
        }
        return ReferringImage(self.names[index], image, None, masks)


def _read_json(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is larger than {MAX_BYTES} bytes; it is no annotation file")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}); copy it again") from error


def _depth(path: Path, image: np.ndarray, scale: float) -> np.ndarray | None:
    """Depth of an image; None where the data set has none for it."""
    if not path.is_file() and find_companion(path.parent, path.stem, ()) is None:
        return None
    depth = read_depth(path, scale)
    check_depth(depth, image)
    return depth


def _masks_of_map(labels: np.ndarray, image: np.ndarray, where: str) -> dict[int, np.ndarray]:
    if labels.shape != image.shape[:2]:
        raise DataError(f"{where}: image and masks differ in size; copy both again")
    present: Sequence[int] = np.flatnonzero(np.bincount(labels.ravel())).tolist()
    return {label: labels == label for label in present if label}
