"""Graphs and engines on disk, keyed by all that they depend on; anything that does not fit is made again."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rise_perception.data.atomic import write_bytes, write_json


def default_folder() -> Path:
    """Where engines go unless a folder is named: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rise_perception/engines"


class EngineCache:
    """A folder of entries: a content, and beside it a JSON file that says what it is.

    The description is written last, so an entry that a crash cut off does not exist. An entry is used only
    when its description repeats every field of the key and its content has the described checksum: one that
    was cut off, changed, or copied from another machine or version is dropped, with a reason in ``dropped``.

    Args:
        folder: created when the first entry is written; the user's temporary folder stands in for one that
            cannot be written.

    Attributes:
        dropped: why entries were not used, newest last.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else default_folder()
        self.dropped: list[str] = []
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            writable = os.access(self.folder, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            fallback = Path(tempfile.gettempdir()) / f"rise_perception-{os.getuid()}"
            self.dropped.append(f"{self.folder} cannot be written; engines go to {fallback}")
            self.folder = fallback

    def path(self, kind: str, key: Mapping[str, Any]) -> Path:
        """Where the entry's content is or would be."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{kind}-{digest[:24]}.bin"

    def get(self, kind: str, key: Mapping[str, Any]) -> bytes | None:
        """The entry's content, or None when there is none that can be trusted."""
        path = self.path(kind, key)
        description = path.with_suffix(".json")
        if not description.is_file():
            return None
        try:
            told = json.loads(description.read_text())
            content = path.read_bytes()
        except (OSError, ValueError) as error:
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
        digest = hashlib.sha256(content).hexdigest()
        write_json(path.with_suffix(".json"), {"key": dict(key), "sha256": digest, "notes": dict(notes)})
        return path

    def drop(self, kind: str, key: Mapping[str, Any], reason: str) -> None:
        """Remove an entry that turned out useless."""
        path = self.path(kind, key)
        self.dropped.append(f"{path.name} {reason}: it is built again")
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink(missing_ok=True)

    def notes(self, kind: str, key: Mapping[str, Any]) -> dict[str, Any]:
        """The notes of an entry that :meth:`get` has returned."""
        return json.loads(self.path(kind, key).with_suffix(".json").read_text())["notes"]
