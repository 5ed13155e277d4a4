"""Pairs of image and sentence, with masks where they are known: the form of every referring data set here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rise_perception.core.errors import DataError, ImageError
from rise_perception.core.frame import check_depth
from rise_perception.data.images import read_depth, read_image, read_label_map
from rise_perception.language.vocabulary import KIND_OF_SHAPE

#: Longest line of a sentence file that is read, bytes.
MAX_LINE = 1 << 16


@dataclass(frozen=True)
class Pair:
    """A sentence about an image.

    Attributes:
        image: index of the image.
        sentence: the words.
        labels: ids of the items that it fits: one, none, or several.
        wrong: ids of items that it does not mean, where that is all that is known; ``labels`` is empty then.
    """

    image: int
    sentence: str
    labels: tuple[int, ...]
    wrong: tuple[int, ...] = ()


@dataclass(frozen=True)
class ReferringImage:
    """One image of a referring data set.

    Attributes:
        name: file name.
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres, 0 = none; or None.
        masks: id -> (H, W) bool, of the items whose masks are known; they may overlap.
        kinds: id -> kind, one of :data:`rise_perception.language.vocabulary.KINDS` or "" for an item whose
            kind has no name; ids whose kind is unknown are missing.
    """

    name: str
    image: np.ndarray
    depth: np.ndarray | None
    masks: Mapping[int, np.ndarray]
    kinds: Mapping[int, str] = field(default_factory=dict)


class ReferringData(Protocol):
    """Images and the pairs that belong to them."""

    @property
    def names(self) -> Sequence[str]:
        """File name of each image."""

    @property
    def pairs(self) -> Sequence[Pair]:
        """All pairs, in the order of their files."""

    def __getitem__(self, index: int) -> ReferringImage:
        """One image; DataError where it, its depth or a mask is missing or broken."""


def read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """The values of a file of JSON lines, each with its line number from 1; empty lines are left out.

    Raises:
        DataError: the file is missing, or a line is too long or no JSON.
    """
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from error
    with stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE:
                raise DataError(f"{path}, line {number}: longer than {MAX_LINE} bytes; one object a line")
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(
                    f"{path}, line {number}: no JSON ({error}); repair or remove the line"
                ) from error


class ToteWorldPairs:
    """``SPLIT.sentences.jsonl`` of the tote world, or one's own such file beside COCO JSON and label maps.

    Args:
        path: the sentences; ``SPLIT.json`` lies beside it, label maps in ``labels/``, images in ``images/``.

    Raises:
        DataError: a file is missing or broken, a line lacks a field, names an image that is not in the COCO
            file or a label that its image has not.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.folder = self.path.parent
        suffix = ".sentences.jsonl"
        if not self.path.name.endswith(suffix):
            raise DataError(f"{path} is no file of sentences; expected the name NAME{suffix}")
        coco = self.folder / f"{self.path.name[: -len(suffix)]}.json"
        try:
            content = json.loads(coco.read_bytes())
            self._images: list[dict[str, Any]] = content["images"]
            notes = content["annotations"]
            index = {image["file_name"]: k for k, image in enumerate(self._images)}
            by_id = {image["id"]: k for k, image in enumerate(self._images)}
            self._kinds: list[dict[int, str | None]] = [{} for _ in self._images]
            for note in notes:
                if note.get("label"):
                    self._kinds[by_id[note["image_id"]]][int(note["label"])] = note.get("kind")
        except OSError as error:
            raise DataError(f"{coco} cannot be read ({error.strerror}); it belongs to {path}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{coco} is no COCO file of the tote world ({error!r})") from error
        self.names = [image["file_name"] for image in self._images]
        self.pairs = [self._pair(number, line, index) for number, line in read_lines(self.path)]
        if not self.pairs:
            raise DataError(f"{path} holds no sentence; make it again by `rise scenes stills --sentences`")

    def _pair(self, number: int, line: Any, index: Mapping[str, int]) -> Pair:
        where = f"{self.path}, line {number}"
        if not isinstance(line, dict):
            raise DataError(f"{where}: no mapping; expected file_name, sentence and label")
        for key in ("file_name", "sentence", "label"):
            if key not in line:
                raise DataError(f"{where} has no {key!r}; add it (label: null where nothing fits)")
        if not isinstance(line["sentence"], str):
            raise DataError(f"{where}: sentence is {line['sentence']!r}; it must be text")
        if line["file_name"] not in index:
            raise DataError(f"{where}: image {line['file_name']!r} is not in the COCO file beside it")
        image = index[line["file_name"]]
        given = line.get("labels", [] if line["label"] is None else [line["label"]])
        wrong = line.get("not", [])
        for labels in (given, wrong):
            if not isinstance(labels, list) or not all(type(label) is int for label in labels):
                raise DataError(f"{where}: labels {labels!r}; expected whole numbers")
        if given and wrong:
            raise DataError(f'{where}: it says what is meant, and what is not; leave "not" out')
        unknown = [label for label in (*given, *wrong) if label not in self._kinds[image]]
        if unknown:
            raise DataError(f"{where}: its image has no item with the label {unknown[0]}")
        return Pair(image, line["sentence"], tuple(given), tuple(wrong))

    def __getitem__(self, index: int) -> ReferringImage:
        entry = self._images[index]
        try:
            image = read_image(self.folder / "images" / entry["file_name"])
            depth = None
            if "depth_file" in entry:
                depth = read_depth(
                    self.folder / "depth" / entry["depth_file"], entry.get("depth_scale", 0.001)
                )
                check_depth(depth, image)
            labels = read_label_map(self.folder / "labels" / entry["file_name"])
        except ImageError as error:
            raise DataError(f"{self.path}: {error}") from error
        if labels.shape != image.shape[:2]:
            raise DataError(f"{self.path}: {entry['file_name']} and its label map differ in size")
        return ReferringImage(
            entry["file_name"],
            image,
            depth,
            {label: labels == label for label in self._kinds[index]},
            {k: KIND_OF_SHAPE.get(str(s), "") for k, s in self._kinds[index].items() if s is not None},
        )
