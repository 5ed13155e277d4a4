"""Which images of a data set are labelled and which are not: drawn by seed, stored as lists of ids."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rise_perception.core.errors import DataError
from rise_perception.core.files import write_json
from rise_perception.core.json_files import ANNOTATIONS, read_json

#: An image's id and its file name: together they say which data set an id belongs to.
Key = tuple[int | str, str]

_VERSION = 1
_BEGINNING = re.compile(rb'\s*\{\s*"rise_split"')
_FIELDS = {"source": str, "source_sha256": str, "labelled": list, "unlabelled": list}


@dataclass(frozen=True)
class Part:
    """The labelled or the unlabelled images of a split.

    Attributes:
        split: the split file.
        name: "labelled" or "unlabelled".
        ids: ids of its images.
        digest: SHA-256 of the data set's keys at the time of the split.
    """

    split: Path
    name: str
    ids: tuple[int | str, ...]
    digest: str

    def select(self, source: Path, keys: Sequence[Key]) -> list[int]:
        """Positions of this part's images among the ``keys`` of a data set, in its order.

        Raises:
            DataError: the split was made of other images, or the part is empty.
        """
        if _digest(keys) != self.digest:
            raise DataError(
                f"{self.split} is a split of other images than those of {source} (the ids and names differ); "
                f"split again: rise split {source} ..."
            )
        wanted = set(self.ids)
        unknown = wanted - {identity for identity, _ in keys}
        if unknown:
            raise DataError(f"{self.split}: {source} has no image {min(unknown, key=str)!r}; split again")
        if not wanted:
            raise DataError(f"{self.split} has no {self.name} image; split again at another rate")
        return [position for position, (identity, _) in enumerate(keys) if identity in wanted]


@dataclass(frozen=True)
class Split:
    """A data set in two parts.

    Attributes:
        source: the annotation file or folder.
        labelled, unlabelled: its parts; each image is in one.
    """

    source: Path
    labelled: Part
    unlabelled: Part


def write_split(
    out: str | Path, source: Path, keys: Sequence[Key], rate: float, seed: int, views: int = 1
) -> tuple[int, int]:
    """Draw the labelled images without replacement and store the split atomically.

    The images are ranked by a hash of seed, id and name, and the first are labelled. So the labelled images
    of a smaller rate are among those of a larger one with the same seed, whatever the order of the file.

    Args:
        out: the file to write; it refers to ``source`` relative to its own folder.
        source: annotation file or folder.
        keys: ids and names of the images of ``source``.
        rate: fraction that is labelled, above 0 and at most 1; at least one image is.
        seed: another seed, another draw.
        views: so many images in a row show one scene (:func:`draw_parts`).

    Returns:
        number of labelled and of unlabelled images.

    Raises:
        DataError: a rate out of range, or ``out`` is ``source`` itself.
    """
    out = Path(out)
    if not 0 < rate <= 1:
        raise DataError(
            f"--labelled {rate} is no fraction of the images; give one above 0 and at most 1 (0.01: 1 %)"
        )
    if out.resolve() == source.resolve():
        raise DataError(f"--out {out} is the data set itself; give another file")
    parts = draw_parts(keys, rate, seed, views)
    content = {
        "rise_split": _VERSION,  # first, so that a split is recognised without reading all of a file
        "source": Path(os.path.relpath(source.resolve(), out.resolve().parent)).as_posix(),
        "source_sha256": _digest(keys),
        "rate": rate,
        "seed": seed,
        "labelled": parts[True],
        "unlabelled": parts[False],
    }
    write_json(out, content)
    return len(parts[True]), len(parts[False])


def draw_parts(keys: Sequence[Key], rate: float, seed: int, views: int = 1) -> dict[bool, list[int | str]]:
    """The ids of the labelled (True) and of the unlabelled images (False).

    Where several views show one scene, another view of a labelled image is no unlabelled image: it would give
    away what the labelled one teaches. Labelled are single views of as many scenes as possible; the other
    views of these scenes are in neither part.

    Args:
        keys, rate, seed: as for :func:`write_split`.
        views: so many images in a row show one scene.
    """

    def rank(*what: int | str) -> bytes:
        return hashlib.sha256(json.dumps([seed, *what]).encode()).digest()

    scenes = [list(keys[first : first + views]) for first in range(0, len(keys), views)]
    for scene in scenes:
        scene.sort(key=lambda key: rank(*key))
    scenes.sort(key=lambda scene: rank(*scene[0]))
    # One view of each scene, then a second one of each, and so on.
    ranked = sorted((place, n) for n, scene in enumerate(scenes) for place in range(len(scene)))
    chosen = ranked[: max(1, round(rate * len(keys)))]
    labelled = {scenes[n][place][0] for place, n in chosen}
    seen = {key[0] for n in {n for _, n in chosen} for key in scenes[n]}
    return {
        True: [identity for identity, _ in keys if identity in labelled],
        False: [identity for identity, _ in keys if identity not in seen],
    }


def is_split(path: Path) -> bool:
    """Whether ``path`` is a file that :func:`write_split` wrote."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return bool(_BEGINNING.match(stream.read(256)))


def read_split(path: Path) -> Split:
    """Read a split.

    Raises:
        DataError: the file is damaged, of a later version, or has an image in both parts or twice.
    """
    content: dict[str, Any] = read_json(path, ANNOTATIONS, remedy="split again", bulk=True)
    if content["rise_split"] != _VERSION:
        raise DataError(
            f"{path} is a split of version {content['rise_split']!r}, known is {_VERSION}; split again"
        )
    for name, kind in _FIELDS.items():
        if not isinstance(content.get(name), kind):
            raise DataError(f"{path} has no {name!r}; split again")
    ids = content["labelled"] + content["unlabelled"]
    if not all(isinstance(identity, (int, str)) for identity in ids):
        raise DataError(f"{path} has ids that are neither numbers nor text; split again")
    twice = [identity for identity, count in Counter(ids).items() if count > 1]
    if twice:
        raise DataError(f"{path} has image {twice[0]!r} twice; split again")
    digest = content["source_sha256"]
    labelled, unlabelled = (
        Part(path, name, tuple(content[name]), digest) for name in ("labelled", "unlabelled")
    )
    return Split(path.parent / content["source"], labelled, unlabelled)


def _digest(keys: Sequence[Key]) -> str:
    return hashlib.sha256("\n".join(sorted(json.dumps(key) for key in keys)).encode()).hexdigest()
