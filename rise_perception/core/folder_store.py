"""A folder of folders that come and go whole: one writer, any number of readers, kill -9 at any moment.

An entry is written under a hidden name, flushed, and renamed when all of it is on the disk; it is removed by
renaming it to a hidden name first. So a process that is killed leaves whole entries, and the next writer
clears away the rest.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rise_perception.core.errors import RiseError
from rise_perception.core.files import flush

#: Names that begin like this are being written or removed; no reader looks at them.
HIDDEN = "."
_INCOMING, _TRASH = f"{HIDDEN}incoming-", f"{HIDDEN}trash-"


class FolderStore:
    """See the module. What an entry holds, and which entries there may be, is its owner's matter.

    Args:
        root: the folder; created when ``write``.
        write: needed for everything that changes it. A lock sees to it that one process writes.
        kind: what to call it in messages, for example "model store".
        error: what is raised.

    Raises:
        RiseError: of the class ``error``: it cannot be made, or another process writes to it; or there is
            none, and it was to be read.
    """

    def __init__(self, root: str | Path, write: bool, kind: str, error: type[RiseError]) -> None:
        self.root, self._kind, self._error = Path(root), kind, error
        self._lock: int | None = None
        if write:
            self._open()
        elif not self.root.is_dir():
            raise error(f"{self.root}: no {kind} there; give another folder, or make one by writing to it")

    def _open(self) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.root / f"{HIDDEN}lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise self._error(
                f"{self.root}: another process writes to this {self._kind}; end it, or give another folder"
            ) from None
        except OSError as problem:
            self.close()
            raise self._error(
                f"{self.root}: no {self._kind} can be made here ({problem.strerror}); give another folder"
            ) from None
        self._clear_away()

    def close(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def must_write(self) -> None:
        """Raise unless the store was opened for writing."""
        if self._lock is None:
            raise self._error(
                f"{self.root}: this {self._kind} was opened for reading; open it with write=True"
            )

    def entries(self) -> list[Path]:
        """The folders that are whole, in no order. Files and hidden folders are none.

        Raises:
            RiseError: the store has been removed.
        """
        try:
            with os.scandir(self.root) as found:
                return [
                    self.root / entry.name
                    for entry in found
                    if not entry.name.startswith(HIDDEN) and (entry.is_dir() or entry.is_symlink())
                ]
        except OSError as problem:
            raise self._error(
                f"{self.root}: the {self._kind} cannot be read ({problem.strerror}); bring the folder back, "
                "then start again"
            ) from None

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """A hidden folder, removed in the end unless it was kept.

        Raises:
            OSError: the disk is full, or not writable.
        """
        self.must_write()
        place = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self.root))
        place.chmod(0o755)  # mkdtemp makes folders private; readers may be other users
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def keep(self, place: Path, name: str) -> Path:
        """Give a workplace, whose files are flushed, its name; one that is there already stays as it is.

        Raises:
            OSError: the disk is full, or not writable.
        """
        target = self.root / name
        if not target.exists():
            flush(place)
            os.replace(place, target)
            flush(self.root)
        return target

    def discard(self, entry: Path) -> None:
        """Remove an entry.

        Raises:
            OSError: the disk is not writable.
        """
        self.must_write()
        trash = Path(tempfile.mkdtemp(prefix=_TRASH, dir=self.root))
        os.replace(entry, trash)
        shutil.rmtree(trash, ignore_errors=True)

    def _clear_away(self) -> None:
        """Remove what a killed writer left."""
        for leftover in self.root.glob(f"{HIDDEN}*-*"):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
