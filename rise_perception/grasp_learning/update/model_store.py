"""The versions of a model on disk: one serves, earlier ones wait, and nothing half written is ever seen."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, ModelError, require
from rise_perception.core.files import flush, write_json
from rise_perception.core.folder_store import FolderStore
from rise_perception.core.json_files import read_record
from rise_perception.network.card import CARD, WEIGHTS, ModelCard, file_checksum, read_card

#: The file that says which version serves; replaced as a whole.
CURRENT = "current.json"
#: Key of a card's ``metrics`` under which the store keeps its own facts.
FACTS = "store"
#: Versions that served before and can be gone back to.
LONGEST_HISTORY = 100
#: Nanoseconds of the latest ROS time, and the largest number of a message: what is told about versions.
LATEST, MAX_UINT32 = 2**31 * 10**9 - 1, 2**32 - 1
_ROLL_BACK = "restore it, or let the learner start again: it serves the newest version that is whole"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class Current:
    """The active version.

    Attributes:
        version: the serving version.
        database_version: grows whenever another version begins to serve.
        base: the version that the store began with.
        history: versions that served before, oldest first.
        promoted: candidates that passed the gate since the store was made.
    """

    version: str
    database_version: int
    base: str
    history: tuple[str, ...] = ()
    promoted: int = 0

    def __post_init__(self) -> None:
        for name in ("database_version", "promoted"):
            value = getattr(self, name)
            require(0 <= value <= MAX_UINT32, name, value, f"between 0 and {MAX_UINT32}")
        require(
            len(self.history) <= LONGEST_HISTORY, "history", len(self.history), f"{LONGEST_HISTORY} at most"
        )
        for version in (self.version, self.base, *self.history):
            require(_NAME.fullmatch(version) is not None, "version", version[:80], "a folder's name")


@dataclass(frozen=True)
class Facts:
    """What the store keeps about a version in its card's metrics.

    Attributes:
        parent: version it was trained from.
        created: nanoseconds.
        note: why it was made.
        kept: it is not removed to make room.
        accepted: it may serve.
        anchor_ap, heldout: what the gate measured; None where it measured nothing.
        base: version whose weights its training began with.
        episodes: ids of all episodes that it, and what it stands on, was trained or fitted on.
    """

    parent: str = ""
    created: int = 0
    note: str = ""
    kept: bool = False
    accepted: bool = False
    anchor_ap: float | None = None
    heldout: float | None = None
    base: str = ""
    episodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(0 <= self.created <= LATEST, "created", self.created, f"nanoseconds between 0 and {LATEST}")


@dataclass(frozen=True)
class StoredModel:
    """A version in the store.

    Attributes:
        version: name and checksum; also the folder's name.
        folder: with weights and card.
        card: as it is on the disk.
        facts: those of :class:`Facts` that are known, checked.
    """

    version: str
    folder: Path
    card: ModelCard
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def created(self) -> int:
        """Nanoseconds."""
        created: int = self.facts.get("created", 0)
        return created


class ModelStore:
    """A folder with one folder a version, and the file :data:`CURRENT`.

    Versions are whole whatever stops the process, and one process writes (:class:`.FolderStore`), whose
    threads may share the store. The file that says which version serves is replaced when the version is
    there. Versions are asked for by name only: names have no separators, links are not followed, and a
    version whose weights do not have the checksum of its card is refused.
    """

    def __init__(self, root: str | Path, write: bool = False, max_versions: int = 20) -> None:
        """Open a store.

        Args:
            root: the folder; created when ``write``.
            write: needed for everything that changes it.
            max_versions: the oldest ones beyond this are removed, except the serving one, the one before it,
                the first one and snapshots.

        Raises:
            ModelError: there is no store, or another process writes to it.
        """
        self._folders = FolderStore(root, write, "model store", ModelError)
        self.root, self.max_versions = self._folders.root, max_versions
        self._mutex = threading.RLock()
        if write:
            self._repair()

    def close(self) -> None:
        """Let another process write."""
        self._folders.close()

    # -- reading -----------------------------------------------------------------------------------

    def current(self) -> Current | None:
        """The active version; None before :meth:`begin`, or when damaged (see :meth:`damaged`)."""
        try:
            return self._current()
        except ModelError:
            return None

    def _current(self) -> Current:
        return read_record(self.root / CURRENT, Current, error=ModelError, remedy=_ROLL_BACK)

    def versions(self) -> list[StoredModel]:
        """Every version, newest first; weights are not read, and what is damaged is left out.

        Raises:
            ModelError: the store has been removed.
        """
        return self._look()[0]

    def damaged(self) -> list[str]:
        """A sentence for everything in the store that cannot be read."""
        found = self._look()[1]
        if os.path.lexists(self.root / CURRENT):
            try:
                self._current()
            except ModelError as error:
                found.append(str(error))
        return found

    def _look(self) -> tuple[list[StoredModel], list[str]]:
        found, problems = [], []
        for folder in self._folders.entries():
            try:
                found.append(self._at(folder.name))
            except ModelError as error:
                problems.append(str(error))
        return sorted(found, key=lambda model: (model.created, model.version), reverse=True), problems

    def find(self, name: str) -> StoredModel:
        """A version that may serve, by name and checksum, or the newest of a name; its weights are checked.

        Raises:
            ModelError: the name is none, nothing in the folder has it, the version was kept to be looked at
                only, or it is damaged.
        """
        _check_name(name)
        if not os.path.lexists(self.root / name):
            may = [model for model in self.versions() if model.facts.get("accepted")]
            for model in may:
                if model.card.name == name:
                    return self._checked(model)
            known = ", ".join(m.version for m in may[:5]) or "none"
            raise ModelError(f"no version {name!r} in {self.root}; the newest that may serve are: {known}")
        model = self._at(name)
        if not model.facts.get("accepted"):
            note = model.facts.get("note", "it says nothing of itself")
            raise ModelError(f"{name} was kept to be looked at, and may not serve: {note}")
        return self._checked(model)

    def serving(self) -> StoredModel:
        """The version that serves; should it be damaged, the newest good one of those that served before.

        Raises:
            ModelError: the store is empty, or nothing in it is whole.
        """
        current = self.current()
        wanted = [] if current is None else [current.version, *reversed(current.history), current.base]
        if current is None:  # never set, or destroyed: not every version has passed the gate
            wanted = [m.version for m in self.versions() if m.facts.get("accepted")]
        problems = []
        for version in dict.fromkeys(wanted):
            try:
                return self.find(version)
            except ModelError as error:
                problems.append(str(error))
        why = "; ".join(problems[:3]) or "it is empty"
        raise ModelError(f"{self.root}: no version can serve ({why}); begin with a shipped model")

    def base(self) -> StoredModel:
        """The version that the store began with; the serving one where that is damaged or gone."""
        current = self.current()
        if current is not None:
            try:
                return self.find(current.base)
            except ModelError:
                pass
        return self.serving()

    def _at(self, name: str) -> StoredModel:
        folder = self.root / name
        for path in (folder, folder / CARD, folder / WEIGHTS):
            if os.path.islink(path):
                raise ModelError(f"{path} is a link; versions are real files inside the model folder")
        if not os.path.isfile(folder / WEIGHTS):
            raise ModelError(f"{folder} holds no {WEIGHTS}; only safetensors are served")
        card = read_card(folder)
        if card.version != name or not card.checksum:
            raise ModelError(
                f"{folder} holds {card.version!r}, which is not its name; it was renamed or changed"
            )
        facts = card.metrics.get(FACTS, {})
        try:
            checked = build_config(Facts, facts, f"metrics.{FACTS}")
        except ConfigError as error:
            raise ModelError(f"{folder / CARD}: {error}; restore the card, or remove the version") from None
        return StoredModel(name, folder, card, {key: getattr(checked, key) for key in facts})

    @staticmethod
    def _checked(model: StoredModel) -> StoredModel:
        if file_checksum(model.folder / WEIGHTS) != model.card.checksum:
            raise ModelError(
                f"the weights of {model.version} do not have their card's checksum; they are damaged"
            )
        return model

    # -- writing -----------------------------------------------------------------------------------

    def begin(self, folder: str | Path) -> StoredModel:
        """The serving version; a store without any begins with the model in ``folder``."""
        with self._mutex:
            if self.current() is None:
                with self.workplace() as place:
                    card = _copy(Path(folder), place)
                    base = self.add(
                        place, card, {"note": f"began with {card.name}", "kept": True, "accepted": True}
                    )
                self._set(Current(base.version, 1, base.version))
            return self.serving()

    def copy_weights(self, model: StoredModel, place: Path) -> None:
        """Put the weights of a version, checked, into a :meth:`workplace`."""
        _copy(model.folder, place)

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """A hidden folder of the store, removed in the end, for a model before it gets its name."""
        with self._folders.workplace() as place:
            yield place

    def add(self, place: Path, card: ModelCard, facts: dict[str, Any]) -> StoredModel:
        """Make the model in a :meth:`workplace` a version.

        One that is there already stays as it is, but that it may serve from now on if ``facts`` say so:
        equal training gives equal weights, also after a candidate that was only to be looked at.

        Args:
            place: holds the weights; the folder is gone afterwards.
            card: of these weights.
            facts: see :class:`StoredModel`; ``created`` is added.
        """
        self._folders.must_write()
        _check_name(card.version)
        facts = {"created": time.time_ns(), **facts}
        card = dataclasses.replace(card, metrics={**card.metrics, FACTS: facts})
        target = self.root / card.version
        with self._mutex:
            if target.exists():
                if facts.get("accepted") and not (there := self._at(card.version)).facts.get("accepted"):
                    metrics = {**there.card.metrics, FACTS: {**there.facts, **facts}}
                    write_json(
                        target / CARD, dataclasses.asdict(dataclasses.replace(there.card, metrics=metrics))
                    )
            else:
                write_json(place / CARD, dataclasses.asdict(card))
                flush(place / WEIGHTS)
                self._folders.keep(place, card.version)
                self._make_room(card.version)
            return self._checked(self._at(card.version))

    def promote(self, version: str, parent: str) -> Current:
        """Serve a version that was trained from ``parent``.

        Raises:
            ModelError: ``parent`` does not serve any more, or the version is damaged; nothing has changed.
        """
        with self._mutex:
            before = self._known()
            if before.version != parent:
                raise ModelError(f"{version} was trained from {parent}, and {before.version} serves by now")
            return self._serve(self.find(version), before, (*before.history, before.version), promoted=1)

    def rollback(self, version: str = "") -> Current:
        """Serve an earlier version again; without a name, the one that served before.

        Raises:
            ModelError: there is none, or it is damaged; nothing has changed then.
        """
        with self._mutex:
            before = self._known()
            if not version and not before.history:
                raise ModelError(f"{before.version} is the first version; there is none to go back to")
            model = self.find(version or before.history[-1])
            if model.version == before.version:
                return before
            history = before.history
            if model.version in history:
                history = history[: history.index(model.version)]
            else:
                history = (*history, before.version)
            return self._serve(model, before, history)

    def reset(self) -> Current:
        """Serve the version that the store began with, and forget what served since."""
        with self._mutex:
            before = self._known()
            return self._serve(self.find(before.base), before, ())

    def snapshot(self, note: str) -> StoredModel:
        """The serving weights as a version of its own that is not removed to make room.

        Raises:
            ModelError: the store is full of versions that are kept.
        """
        with self._mutex:
            serving, current = self.serving(), self._known()
            kept = sum(bool(model.facts.get("kept")) for model in self.versions())
            if kept + 3 > self.max_versions:  # room for the active version and the one before it
                raise ModelError(
                    f"{self.root} keeps {kept} snapshots, and holds {self.max_versions} versions; remove "
                    "some, or raise max_versions"
                )
            name = f"{serving.card.name.split('-snapshot')[0]}-snapshot{current.database_version}"
            with self.workplace() as place:
                card = dataclasses.replace(_copy(serving.folder, place), name=name)
                facts = {
                    "parent": serving.version,
                    "note": note[:1000],
                    "kept": True,
                    "accepted": True,
                    "episodes": serving.facts.get("episodes", []),
                }
                return self.add(place, card, facts)

    def _serve(
        self, model: StoredModel, before: Current, history: tuple[str, ...], promoted: int = 0
    ) -> Current:
        return self._set(
            Current(
                version=model.version,
                database_version=before.database_version + (model.version != before.version),
                base=before.base,
                history=history[-LONGEST_HISTORY:],
                promoted=before.promoted + promoted,
            )
        )

    def _set(self, current: Current) -> Current:
        self._folders.must_write()
        write_json(self.root / CURRENT, dataclasses.asdict(current))
        flush(self.root)
        return current

    def _known(self) -> Current:
        current = self.current()
        if current is None:
            raise ModelError(f"{self.root}: nothing serves yet; begin with a model")
        return current

    def _repair(self) -> None:
        """After a crash or a damaged disk: a version that is whole becomes the active one."""
        current = self.current()
        try:
            good = self.serving()
        except ModelError:
            return  # nothing yet, or nothing left: `begin` decides
        if current is None:
            base = next((m for m in reversed(self.versions()) if m.facts.get("accepted")), good)
            self._set(Current(good.version, 1, base.version))
        elif current.version != good.version:
            self._serve(good, current, tuple(v for v in current.history if v != good.version))

    def _make_room(self, newest: str) -> None:
        """Remove the oldest versions beyond the bound."""
        models, current = self.versions(), self.current()
        needed = {newest}
        if current is not None:
            needed |= {current.version, current.base, *current.history[-1:]}
        spare = [m for m in reversed(models) if m.version not in needed and not m.facts.get("kept")]
        for model in spare[: max(0, len(models) - self.max_versions)]:
            self._folders.discard(model.folder)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ModelError(
            f"{name[:60]!r} is no name of a model; give a name of the model folder: letters, digits, dots, "
            "dashes and underscores, no path"
        )


def _copy(source: Path, place: Path) -> ModelCard:
    """Copy the weights of a model, checked; its card, with the checksum."""
    card = read_card(source)
    if not (source / WEIGHTS).is_file():
        raise ModelError(f"{source} has a card but no {WEIGHTS}; copy the weights beside the card")
    shutil.copyfile(source / WEIGHTS, place / WEIGHTS)
    checksum = file_checksum(place / WEIGHTS)
    if card.checksum not in ("", checksum):
        raise ModelError(f"the weights of {source} do not have their card's checksum; copy both files again")
    return dataclasses.replace(card, checksum=checksum)
