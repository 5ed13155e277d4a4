"""Graphs and engines on disk, keyed by all that they depend on; anything that does not fit is made again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rise_perception.core.errors import RiseError
from rise_perception.core.files import write_bytes, write_json
from rise_perception.core.json_files import read_json

#: Bytes that a cache may take. Every set of weights that live learning promotes brings a graph and an engine.
MAX_BYTES = 4 << 30


class CacheError(RiseError):
    """A folder that engines must not be read from."""


def default_folder() -> Path:
    """Where engines go unless a folder is named: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rise_perception/engines"


class EngineCache:
    """A folder of entries: a content, and beside it a JSON file that says what it is.

    The description is written last, so an entry that a crash cut off does not exist. An entry is used only
    when its description repeats every field of the key and its content has the described checksum: one that
    was cut off, changed, or copied from another machine or version is dropped, with a reason in ``dropped``.

    Beyond ``most_bytes`` the entries that were not used for longest go. Those that a cache object of any
    process has given or written are in use for as long as this object lives, and stay.

    Args:
        folder: created when the first entry is written; a private one in the temporary folder stands in for
            one that cannot be written, or that everybody can write: an engine is code.
        most_bytes: that all entries may take.

    Attributes:
        dropped: why entries were not used, newest last.

    Raises:
        CacheError: the private folder is somebody else's.
    """

    def __init__(self, folder: str | Path | None = None, most_bytes: int = MAX_BYTES) -> None:
        self.folder = Path(folder) if folder else default_folder()
        self.dropped: list[str] = []
        self._most_bytes = most_bytes
        self._in_use: dict[Path, IO[bytes]] = {}
        weakref.finalize(self, _close, self._in_use)
        if problem := _problem(self.folder):
            fallback = _private(Path(tempfile.gettempdir()) / f"rise_perception-{os.getuid()}")
            self.dropped.append(f"{self.folder} {problem}; engines go to {fallback}")
            self.folder = fallback

    def path(self, kind: str, key: Mapping[str, Any]) -> Path:
        """Where the entry's content is or would be."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{kind}-{digest[:24]}.bin"

    def beside(self, kind: str, key: Mapping[str, Any]) -> Path:
        """A folder for what a runtime keeps of its own about an entry; it goes with the entry."""
        return self.path(kind, key).with_suffix("")

    def get(self, kind: str, key: Mapping[str, Any]) -> bytes | None:
        """The entry's content, or None when there is none that can be trusted."""
        path = self.path(kind, key)
        description = path.with_suffix(".json")
        if not description.is_file():
            return None
        try:
            self._use(path)
            told = read_json(description, error=CacheError)
            content = path.read_bytes()
        except (OSError, CacheError) as error:
            self.drop(kind, key, f"cannot be read ({error})")
            return None
        if not isinstance(told, dict) or told.get("key") != json.loads(json.dumps(key)):
            self.drop(kind, key, "belongs to another model, version or machine")
            return None
        if hashlib.sha256(content).hexdigest() != told.get("sha256"):
            self.drop(kind, key, "is truncated or damaged")
            return None
        return content

    def put(self, kind: str, key: Mapping[str, Any], content: bytes, notes: Mapping[str, Any]) -> Path:
        """Write an entry; ``notes`` go into its description for a person to read."""
        path = self.path(kind, key)
        path.with_suffix(".json").unlink(missing_ok=True)
        write_bytes(path, content)
        self._use(path)
        digest = hashlib.sha256(content).hexdigest()
        write_json(path.with_suffix(".json"), {"key": dict(key), "sha256": digest, "notes": dict(notes)})
        self._prune()
        return path

    def drop(self, kind: str, key: Mapping[str, Any], reason: str) -> None:
        """Remove an entry that turned out useless."""
        path = self.path(kind, key)
        self.dropped.append(f"{path.name} {reason}")
        self._remove(path)

    def _use(self, path: Path) -> None:
        """Note the time, and keep every process from pruning the entry."""
        self._release(path)
        self._in_use[path] = file = path.open("rb")
        with contextlib.suppress(OSError):  # a file of another user, a disk without locks
            os.utime(path)
            fcntl.flock(file, fcntl.LOCK_SH)

    def _release(self, path: Path) -> None:
        if (file := self._in_use.pop(path, None)) is not None:
            file.close()

    def _prune(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # another process prunes, too
            paths = sorted(self.folder.glob("*.bin"), key=lambda path: path.stat().st_mtime_ns)
            sizes = {path: _size(path) for path in paths}
            excess = sum(sizes.values()) - self._most_bytes
            for path, size in sizes.items():
                if excess > 0 and not _is_in_use(path):
                    self._remove(path)
                    excess -= size

    def _remove(self, path: Path) -> None:
        self._release(path)
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def _close(files: dict[Path, IO[bytes]]) -> None:
    for file in files.values():
        file.close()


def _size(path: Path) -> int:
    """Bytes of an entry, and of what lies beside it."""
    return sum(part.stat().st_size for part in (path, *path.with_suffix("").rglob("*")))


def _is_in_use(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _problem(folder: Path) -> str:
    """Why a folder cannot hold engines, or an empty text; makes it where there is none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.stat().st_mode & stat.S_IWOTH:
            return "can be written by everybody, and an engine is code"
        return "" if os.access(folder, os.W_OK) else "cannot be written"
    except OSError:
        return "cannot be written"


def _private(folder: Path) -> Path:
    """Make a folder of the user's own, under a name that others know: one of theirs could hold any engine.

    Raises:
        CacheError: it is not the user's own.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise CacheError(f"engine cache {folder} cannot be made ({error}); name a folder of yours") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise CacheError(
            f"engine cache {folder} is a link, belongs to another user or can be written by others, and an "
            "engine is code; name a folder of yours (--engine-dir, parameter 'engine_dir') or remove this one"
        )
    return folder
