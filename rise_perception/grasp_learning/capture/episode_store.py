"""The store of episodes on disk: whole episodes or none, within a bound, whatever stops the process."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from rise_perception.core.errors import DataError, RiseError
from rise_perception.core.files import flush
from rise_perception.grasp_learning.capture.episode import Episode
from rise_perception.grasp_learning.capture.episode_io import (
    EPISODE,
    LABELS,
    read_episode,
    read_labels,
    read_verdict,
    write_episode,
    write_labels,
)
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels, Verdict

#: The order in which episodes go when space is short: the least useful first, the oldest of them first.
USEFULNESS = (
    Verdict.REJECTED,
    Verdict.EMPTY,
    Verdict.CONFIRMED,
    Verdict.MOVED,
    Verdict.DOUBLE,
    Verdict.CORRECTED,
)
#: Names that begin like this are being written or removed; no reader looks at them.
UNFINISHED = "."
_FULL = (errno.ENOSPC, errno.EDQUOT)


class StoreFullError(RiseError):
    """The disk, or what the store may take of it, is full; nothing was stored, everything else is intact."""


@dataclass(frozen=True)
class Entry:
    """An episode in the store: its id, folder, verdict and size in bytes."""

    id: str
    folder: Path
    verdict: Verdict
    size: int

    @property
    def stamp(self) -> int:
        """Nanoseconds, of the frame after: the first part of the id."""
        return int(self.id.split("-")[0])

    @property
    def session(self) -> str:
        """Of the episode: the middle of the id; empty where there is none."""
        return "".join(self.id.split("-")[1:-1])


class EpisodeStore:
    """A folder with one folder an episode, named ``<stamp>-<digest>`` or ``<stamp>-<session>-<digest>``.

    An episode is written under a hidden name and renamed when all of it is on the disk; one is removed by
    renaming it to a hidden name first. So a process that is killed at any moment leaves whole episodes, and
    the next writer clears away the rest. Equal episodes have equal names: merging stores cannot double them.

    Any number of processes may read; one may write, which a lock sees to.
    """

    def __init__(
        self, root: str | Path, write: bool = False, max_bytes: int = 4 << 30, min_free_bytes: int = 256 << 20
    ) -> None:
        """Open a store.

        Args:
            root: the folder; created when ``write``.
            write: needed to add, remove or relabel.
            max_bytes: what all episodes may take together.
            min_free_bytes: what stays free on the disk for everybody else.

        Raises:
            DataError: there is no store, or another process writes to it.
        """
        self.root = Path(root)
        self.max_bytes, self.min_free_bytes = max_bytes, min_free_bytes
        self._lock: int | None = None
        self._known: dict[tuple[str, int, int], Entry] = {}
        if write:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                self._lock = os.open(self.root / f"{UNFINISHED}lock", os.O_CREAT | os.O_RDWR, 0o666)
            except OSError as error:
                raise DataError(f"{self.root}: no store can be made here ({error.strerror})") from None
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(self._lock)
                raise DataError(f"{self.root}: another process writes to this store") from None
            self._clear_away()
        elif not self.root.is_dir():
            raise DataError(f"{self.root}: no episode store there")

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # -- reading -----------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """What is in the store, oldest first. An episode whose labels is damaged counts as rejected."""
        found: dict[tuple[str, int, int], Entry] = {}
        for folder in self.root.iterdir():
            stamp, _, digest = folder.name.partition("-")
            if not (stamp.isdigit() and digest and (folder / EPISODE).is_file()):
                continue
            try:
                key = _state(folder)
                found[key] = self._known.get(key) or _entry(folder)
            except FileNotFoundError:  # a writer evicts it at this moment
                continue
        self._known = found
        return sorted(found.values(), key=lambda entry: (entry.stamp, entry.id))

    def read(self, entry: Entry) -> tuple[Episode, EpisodeLabels]:
        """An episode with its labels.

        Raises:
            DataError: it is damaged, or has been evicted since.
        """
        return read_episode(entry.folder), self.read_labels(entry)

    def read_labels(self, entry: Entry) -> EpisodeLabels:
        """An episode's labels, without its frames.

        Raises:
            DataError: it is damaged, or has been evicted since.
        """
        return read_labels(entry.folder)

    def __iter__(self) -> Iterator[tuple[Entry, Episode, EpisodeLabels]]:
        """Every readable episode, oldest first; damaged ones are left out (:meth:`damaged` names them)."""
        for entry in self.entries():
            try:
                yield entry, *self.read(entry)
            except DataError:
                continue

    def damaged(self) -> list[str]:
        """A sentence for each episode that cannot be read."""
        found = []
        for entry in self.entries():
            try:
                self.read(entry)
            except DataError as error:
                found.append(str(error))
        return found

    def size(self) -> int:
        """Bytes of all episodes."""
        return sum(entry.size for entry in self.entries())

    def holds(self, episode: Episode) -> bool:
        """True when the same grasp is stored, with whatever predictions: both its frames are equal."""
        for folder in self.root.glob(f"{episode.after.frame.stamp}-*"):
            try:
                stored = read_episode(folder)
            except DataError:
                continue
            pairs = ((stored.before, episode.before), (stored.after, episode.after))
            if all(np.array_equal(mine.frame.image, theirs.frame.image) for mine, theirs in pairs):
                return True
        return False

    # -- writing -----------------------------------------------------------------------------------

    def add(self, episode: Episode, labels: EpisodeLabels) -> Entry:
        """Store an episode; one that is there already stays as it is.

        Raises:
            StoreFullError: the disk is full, or all that is stored is more useful than this one.
        """
        self._must_write()
        self.check_disk()
        temporary = self._hidden("incoming")
        try:
            digest = write_episode(temporary, episode)
            write_labels(temporary, labels)
            parts = (str(episode.after.frame.stamp), episode.session, digest[:16])
            return self._keep(temporary, "-".join(filter(None, parts)), labels.verdict)
        except OSError as error:
            raise self._full(error) from None
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def check_disk(self) -> None:
        """See that as much of the disk is free as has to stay free.

        Raises:
            StoreFullError: less is.
        """
        free = shutil.disk_usage(self.root).free
        if free < self.min_free_bytes:
            raise StoreFullError(
                f"{self.root}: {free >> 20} MiB are free on this disk and {self.min_free_bytes >> 20} "
                "have to stay free; make room, or lower min_free_bytes"
            )

    def relabel(self, entry: Entry, labels: EpisodeLabels) -> None:
        """Replace an episode's labels, for example by that of a newer analysis."""
        self._must_write()
        try:
            write_labels(entry.folder, labels)
        except OSError as error:
            raise self._full(error) from None

    def remove(self, entry: Entry) -> None:
        """Remove an episode."""
        self._must_write()
        trash = self._hidden("trash")
        os.replace(entry.folder, trash)
        shutil.rmtree(trash, ignore_errors=True)

    def merge(self, other: EpisodeStore, step: Callable[[], object] = lambda: None) -> int:
        """Copy what ``other`` has and this store has not; returns how many. Damaged episodes stay behind.

        Args:
            other: the store to copy from.
            step: called before each of its episodes.

        Raises:
            StoreFullError: it does not fit; what was copied so far stays.
        """
        self._must_write()
        added = 0
        for entry in other.entries():
            step()
            if (self.root / entry.id).exists():
                continue
            try:
                episode, _ = other.read(entry)
            except DataError:
                continue
            if self.holds(episode):
                continue
            self.check_disk()
            temporary = self._hidden("incoming")
            try:
                for file in entry.folder.iterdir():
                    shutil.copyfile(file, temporary / file.name)
                    flush(temporary / file.name)
                self._keep(temporary, entry.id, entry.verdict)
                added += 1
            except OSError as error:
                raise self._full(error) from None
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return added

    def _keep(self, temporary: Path, name: str, verdict: Verdict) -> Entry:
        """Give a finished episode its name, after making room for it."""
        size = _size(temporary)
        target = self.root / name
        if not target.exists():
            self._make_room(size, verdict)
            flush(temporary)
            os.replace(temporary, target)
            flush(self.root)
        return Entry(name, target, verdict, size)

    def _make_room(self, size: int, verdict: Verdict) -> None:
        entries = self.entries()
        total = sum(entry.size for entry in entries)
        self.check_disk()  # what is being stored lies on it by now
        rank = USEFULNESS.index
        going = []
        for entry in sorted(entries, key=lambda e: (rank(e.verdict), e.stamp)):
            if total + size <= self.max_bytes:
                break
            if rank(entry.verdict) > rank(verdict):
                break
            going.append(entry)
            total -= entry.size
        if total + size > self.max_bytes:
            raise StoreFullError(
                f"{self.root}: holds {self.max_bytes >> 20} MiB, its bound, of more useful episodes than "
                f"this one ({verdict.value}); raise max_bytes, or bring the episodes home"
            )
        for entry in going:
            self.remove(entry)

    def _must_write(self) -> None:
        if self._lock is None:
            raise DataError(f"{self.root}: this store was opened for reading; open it with write=True")

    def _hidden(self, kind: str) -> Path:
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{kind}-", dir=self.root))
            folder.chmod(0o755)  # mkdtemp makes folders private; a learner may run as another user
            return folder
        except OSError as error:
            raise self._full(error) from None

    def _full(self, error: OSError) -> RiseError:
        if error.errno in _FULL:
            return StoreFullError(f"{self.root}: the disk is full; make room, capturing goes on by itself")
        return DataError(f"{self.root}: cannot be written to ({error.strerror})")

    def _clear_away(self) -> None:
        """Remove what a killed writer left."""
        for kind in ("incoming", "trash"):
            for folder in self.root.glob(f"{UNFINISHED}{kind}-*"):
                shutil.rmtree(folder, ignore_errors=True)


def _state(folder: Path) -> tuple[str, int, int]:
    """Another one when the episode has changed, of which only the labels can be replaced."""
    try:
        labels = (folder / LABELS).stat()
    except FileNotFoundError:
        return folder.name, 0, 0
    return folder.name, labels.st_ino, labels.st_mtime_ns


def _entry(folder: Path) -> Entry:
    try:
        verdict = read_verdict(folder)
    except DataError:
        verdict = Verdict.REJECTED
    return Entry(folder.name, folder, verdict, _size(folder))


def _size(folder: Path) -> int:
    """Bytes of an episode."""
    return sum(file.stat().st_size for file in folder.iterdir())
