"""The store of episodes on disk: whole episodes or none, within a bound, whatever stops the process."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from rise_perception.core.errors import DataError, RiseError
from rise_perception.core.files import flush
from rise_perception.core.folder_store import FolderStore
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
#: Stamp, session and digest; digits are those of ASCII, and the stamp fits 64 bits.
_NAME = re.compile(r"[0-9]{1,19}(-[A-Za-z0-9]{1,32})?-[0-9a-f]{1,64}")
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

    Episodes are whole whatever stops the process, and one process writes (:class:`.FolderStore`). Equal
    episodes have equal names: merging stores cannot double them.
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
        self._folders = FolderStore(root, write, "episode store", DataError)
        self.root = self._folders.root
        self.max_bytes, self.min_free_bytes = max_bytes, min_free_bytes
        self._known: dict[tuple[str, int, int], Entry] = {}

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write."""
        self._folders.close()

    # -- reading -----------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """What is in the store, oldest first. An episode whose labels are damaged counts as rejected.

        Folders with other names than episodes have are left out (:meth:`damaged` names them).

        Raises:
            DataError: the store has been removed.
        """
        found: dict[tuple[str, int, int], Entry] = {}
        for folder in self._folders.entries():
            try:
                if not (_NAME.fullmatch(folder.name) and (folder / EPISODE).is_file()):
                    continue
                key = _state(folder)
                found[key] = self._known.get(key) or _entry(folder)
            except OSError:  # a writer evicts it at this moment, or nobody may look into it
                continue
        self._known = found
        return sorted(found.values(), key=lambda entry: (entry.stamp, entry.id))

    def read(self, entry: Entry) -> tuple[Episode, EpisodeLabels]:
        """An episode with its labels.

        Raises:
            DataError: it is damaged, or has been evicted since.
        """
        episode, labels = read_episode(entry.folder), self.read_labels(entry)
        if labels.known.shape != episode.before.frame.image.shape[:2]:
            raise DataError(
                f"{entry.folder}: labels of {labels.known.shape} pixels and a frame of "
                f"{episode.before.frame.image.shape[:2]}; they are not of one episode: delete it"
            )
        return episode, labels

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
        """A sentence for each episode that cannot be read, and for each folder that holds none."""
        found = [
            f"{folder}: its name is not <stamp>-<digest>, so that it is no episode; rename or remove it"
            for folder in self._folders.entries()
            if not _NAME.fullmatch(folder.name)
        ]
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
        self.check_disk()
        try:
            with self._folders.workplace() as place:
                digest = write_episode(place, episode)
                write_labels(place, labels)
                parts = (str(episode.after.frame.stamp), episode.session, digest[:16])
                return self._keep(place, "-".join(filter(None, parts)), labels.verdict)
        except OSError as error:
            raise self._full(error) from None

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
        self._folders.must_write()
        try:
            write_labels(entry.folder, labels)
        except OSError as error:
            raise self._full(error) from None

    def remove(self, entry: Entry) -> None:
        """Remove an episode."""
        try:
            self._folders.discard(entry.folder)
        except OSError as error:
            raise self._full(error) from None

    def merge(self, other: EpisodeStore, step: Callable[[], object] = lambda: None) -> int:
        """Copy what ``other`` has and this store has not; returns how many. Damaged episodes stay behind.

        Args:
            other: the store to copy from.
            step: called before each of its episodes.

        Raises:
            StoreFullError: it does not fit; what was copied so far stays.
        """
        self._folders.must_write()
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
            try:
                with self._folders.workplace() as place:
                    for file in filter(Path.is_file, entry.folder.iterdir()):
                        shutil.copyfile(file, place / file.name)
                        flush(place / file.name)
                    self._keep(place, entry.id, entry.verdict)
                    added += 1
            except OSError as error:
                raise self._full(error) from None
        return added

    def _keep(self, place: Path, name: str, verdict: Verdict) -> Entry:
        """Give a finished episode its name, after making room for it."""
        size = _size(place)
        if not (self.root / name).exists():
            self._make_room(size, verdict)
        return Entry(name, self._folders.keep(place, name), verdict, size)

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

    def _full(self, error: OSError) -> RiseError:
        if error.errno in _FULL:
            return StoreFullError(f"{self.root}: the disk is full; make room, capturing goes on by itself")
        return DataError(f"{self.root}: cannot be written to ({error.strerror})")


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
