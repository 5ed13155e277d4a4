"""Pictures in a tree of folders, and which of them an annotation file means by a name."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from rise_perception.core.errors import DataError
from rise_perception.data.images import COMPANION, SUFFIXES, find_companion, natural_order

#: A tree with more pictures than this is no labelling project; searching it would only take long.
MOST_FILES = 20_000
#: Folders that hold something else than pictures.
OTHER_FOLDERS = ("depth", "label", "labels", "segm", "mask", "masks", "overlay")


def picture_files(root: Path) -> list[Path]:
    """All pictures in a folder and the folders in it, in natural order.

    Left out are companions of pictures (``X-depth.png``, ``X.label.png``, ...), folders named so, and what is
    hidden.

    Raises:
        DataError: more than :data:`MOST_FILES`.
    """
    found: list[Path] = []
    for folder, inner, files in os.walk(root, followlinks=True):
        inner[:] = sorted(n for n in inner if not n.startswith(".") and n.lower() not in OTHER_FOLDERS)
        for name in files:
            path = Path(folder) / name
            known = path.suffix.lower() in SUFFIXES and not name.startswith(".")
            if known and not COMPANION.search(path.stem):
                found.append(path)
        if len(found) > MOST_FILES:
            raise DataError(f"{root} holds more than {MOST_FILES} pictures; give the folder of these alone")
    return sorted(found, key=natural_order)


class PictureFinder:
    """Finds the picture that a labelling tool calls ``file_name``, wherever below ``root`` it lies.

    Tools write names with folders of their own, with backslashes, or with a path of the machine on which
    they ran; the longest end of the name that fits exactly one picture counts.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._by_name: dict[str, list[Path]] | None = None

    def find(self, file_name: str) -> Path:
        """The picture.

        Raises:
            DataError: there is none, or several fit equally well.
        """
        name = PurePosixPath(file_name.replace("\\", "/").split("?")[0])
        parts = [p for p in name.parts if p not in ("/", "..", ".") and not p.endswith(":")]
        if not parts:
            raise DataError(f"the file name {file_name!r} names no picture; repair it")
        for folder in (self.root, self.root / "images"):
            if (direct := folder.joinpath(*parts)).is_file():
                return direct
        if self._by_name is None:
            self._by_name = {}
            for path in picture_files(self.root):
                self._by_name.setdefault(path.name.lower(), []).append(path)
        candidates = self._by_name.get(parts[-1].lower(), [])
        if not candidates:
            raise DataError(
                f"picture {file_name!r} is nowhere below {self.root}; copy the pictures beside the JSON file"
            )
        best = max(_common_end(path, parts) for path in candidates)
        fits = [path for path in candidates if _common_end(path, parts) == best]
        if len(fits) > 1:
            raise DataError(
                f"picture {file_name!r} could be {fits[0]} or {fits[1]}; remove one, or write its folder "
                "into the file name"
            )
        return fits[0]


def _common_end(path: Path, parts: list[str]) -> int:
    """How many of the last parts of both are equal."""
    count = 0
    for mine, theirs in zip(reversed(path.parts), reversed(parts), strict=False):
        if mine.lower() != theirs.lower():
            break
        count += 1
    return count


def find_depth(picture: Path, root: Path) -> Path | None:
    """The depth map of a picture, by its name; folders ``depth`` are looked for up to ``root``."""
    folder = picture.parent
    places = [folder]
    for above in (folder, *folder.parents):
        places.append(above / "depth")
        if above != folder:
            places.append(above / "depth" / folder.relative_to(above))
            below = folder.relative_to(above).parts
            places.append(above.joinpath("depth", *below[1:]))  # images/a/x.png, depth/a/x.png
        if above.resolve() == root.resolve() or len(places) > 24:
            break
    for place in places:
        found = find_companion(place, picture.stem, ("depth",))
        if found and not found.samefile(picture):
            return found
    return None
