"""Which scenes teach and which judge: by tote, never by clock.

Grasps of one tote show the same items, so that a tote is on one side as a whole. A scene begins where the
picture before a grasp is not the one after the grasp before it. The assignment is kept on disk: it does not
change when old episodes go. A scene that has judged often enough retires, because a candidate that is chosen
by the same scenes again and again is fitted to them; from then on it teaches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rise_perception.core.errors import DataError
from rise_perception.core.files import write_json
from rise_perception.core.json_files import read_record
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.labelling.label_propagation import same_scene

#: The assignment, in the folder of the models.
SCENES = "scenes.json"
#: Bytes of it: a quarter of a million episodes.
MAX_BYTES = 32 << 20


@dataclass(frozen=True)
class SceneRecord:
    """A scene.

    Attributes:
        judges: its episodes validate candidates; otherwise they teach.
        looks: candidates that it has validated.
        retired: it judged once, and teaches now.
    """

    heldout: bool
    looks: int = 0
    retired: bool = False


@dataclass(frozen=True)
class _Assignment:
    """The file: scene -> record, and episode -> scene."""

    scenes: dict[str, SceneRecord] = field(default_factory=dict)
    episodes: dict[str, str] = field(default_factory=dict)


class SceneSplit:
    """The scenes of a store of episodes.

    Args:
        root: folder that the assignment is kept in.
        fraction: fraction of the scenes that judge.
        max_looks: candidates after which a scene retires.
    """

    def __init__(self, root: Path, fraction: float, max_looks: int) -> None:
        self._path, self.fraction, self.max_looks = root / SCENES, fraction, max_looks
        self._scenes: dict[str, SceneRecord] = {}
        self._of: dict[str, str] = {}
        self._load()

    def refresh(self, store: EpisodeStore, entries: Iterable[Entry]) -> None:
        """Assign the episodes that are new, in their order; forget those that are gone."""
        ordered = sorted(entries, key=lambda entry: (entry.session, entry.stamp))
        stored = {entry.id for entry in ordered}
        gone = self._of.keys() - stored
        new = [entry for entry in ordered if entry.id not in self._of]
        if not gone and not new:
            return
        for entry_id in gone:
            del self._of[entry_id]
        last: Entry | None = None
        for entry in ordered:
            if entry.id not in self._of:
                follows = last is not None and last.session == entry.session and _follows(store, last, entry)
                self._of[entry.id] = self._of[last.id] if follows and last is not None else self._open(entry)
            last = entry
        kept = set(self._of.values())
        self._scenes = {name: record for name, record in self._scenes.items() if name in kept}
        self._save()

    def scene(self, entry: Entry) -> str:
        """The scene of an episode; one that was never seen is a scene of its own."""
        return self._of.get(entry.id, entry.id)

    def holds_out(self, entry: Entry) -> bool:
        """Whether an episode validates instead of teaching."""
        record = self._scenes.get(self.scene(entry))
        return record is not None and record.heldout

    def looks(self, scenes: Iterable[str]) -> int:
        """Most candidates that one of these scenes has validated."""
        return max((self._scenes[s].looks for s in scenes if s in self._scenes), default=0)

    def looked(self, scenes: Iterable[str]) -> None:
        """A candidate was measured on these scenes."""
        for name in set(scenes) & self._scenes.keys():
            looks = self._scenes[name].looks + 1
            over = looks >= self.max_looks
            self._scenes[name] = replace(self._scenes[name], looks=looks, heldout=not over, retired=over)
        self._save()

    def _open(self, first: Entry) -> str:
        """A new scene, which judges where too few do."""
        active = sum(record.heldout for record in self._scenes.values())
        count = sum(not record.retired for record in self._scenes.values()) + 1
        self._scenes[first.id] = SceneRecord(heldout=active + 1 <= math.floor(count * self.fraction + 0.5))
        return first.id

    def _load(self) -> None:
        """What an earlier process wrote; without it, all is assigned anew, in the same order."""
        try:
            kept = read_record(self._path, _Assignment, MAX_BYTES, remedy="scenes are assigned anew")
        except DataError:
            return
        self._scenes = dict(kept.scenes)
        self._of = {episode: scene for episode, scene in kept.episodes.items() if scene in kept.scenes}

    def _save(self) -> None:
        scenes = {name: asdict(record) for name, record in self._scenes.items()}
        write_json(self._path, {"scenes": scenes, "episodes": self._of})


def _follows(store: EpisodeStore, last: Entry, entry: Entry) -> bool:
    try:
        return same_scene(store.read(last), store.read(entry))
    except DataError:
        return False
