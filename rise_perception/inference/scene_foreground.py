"""What of a picture is no place: by the network's own M, by a reference of the place, or by both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rise_perception.core.errors import ConfigError, RiseError
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.inference.reference import Kept
from rise_perception.inference.reference_folder import StoredReference, read_reference, write_capture
from rise_perception.inference.segmenter import Segmenter

#: ``auto``: the reference, where there is one, and the network's M; ``network``: M alone; ``none``: neither.
MODES = ("auto", "network", "none")


def check_mode(text: str) -> str:
    """The mode, as it is.

    Raises:
        ConfigError: there is no such mode.
    """
    if text not in MODES:
        raise ConfigError(f"there is no such foreground; give one of {', '.join(MODES)}")
    return text


class SceneForeground:
    """Holds a reference and applies it to frames, one after the other.

    Frames come from one thread; a capture may come from another.

    Args:
        root: the reference's folder, which captures go to.

    Attributes:
        mode: one of :data:`MODES`.
        stored: the reference; None where there is none.
        problem: why there is none although there should be, or why it was left out of the last frame.
        fraction: of the last frame, how much is foreground; None where nobody asked.
        mismatch: see :class:`rise_perception.inference.reference.Kept`; None without a reference.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.mode = MODES[0]
        self.stored: StoredReference | None = None
        self.problem = ""
        self.fraction: float | None = None
        self.mismatch: float | None = None
        self._kept: Kept | None = None

    def load(self, depth_scale: float | None = None) -> None:
        """Read the reference that lies in the folder; what is wrong becomes :attr:`problem`."""
        try:
            self.stored, self.problem = read_reference(self.root, depth_scale), ""
        except (RiseError, OSError) as error:
            self.stored, self.problem = None, f"there is no reference: {error}"

    def capture(self, frames: Sequence[Frame]) -> StoredReference:
        """Make frames of the place without items the reference, on disk and from the next frame on.

        Raises:
            DataError: see :func:`rise_perception.inference.reference_folder.write_capture`; the reference is
                what it was.
        """
        write_capture(self.root, frames)
        stored = read_reference(self.root)
        self.stored, self.problem = stored, ""
        return stored

    def restrict(self, frame: Frame, instances: Instances, outside: np.ndarray | None = None) -> Instances:
        """The instances that are foreground: all, unless a reference says otherwise.

        Args:
            frame: that they are of.
            instances: as the network found them.
            outside: (H, W) bool, what lies outside the workspace; None without one.
        """
        self._kept, self.fraction, self.mismatch = None, None, None
        stored = self.stored
        if self.mode != "auto" or stored is None:
            return instances
        kept = stored.reference.keep_changed(instances, frame.image, frame.depth, outside)
        self._kept, self.mismatch, self.problem = kept, kept.mismatch, kept.problem
        if kept.changed is not None:
            self.fraction = float(kept.changed.mean())
        return kept.instances

    def picture(
        self, segmenter: Segmenter, frame: Frame, outside: np.ndarray | None = None
    ) -> np.ndarray | None:
        """The foreground of the frame that was restricted last.

        M of the network, where it makes one, and 0 where the reference says that nothing has changed.

        Returns:
            (H, W) uint8, 255 times the probability; None where neither says anything.
        """
        if self.mode == "none":
            return None
        found = segmenter.foreground(frame.image, frame.depth)
        changed = None if self._kept is None else self._kept.changed
        if found is None and changed is None:
            return None
        parts = [part for part in (found, changed, None if outside is None else ~outside) if part is not None]
        picture = np.prod([part.astype(np.float32) for part in parts], axis=0)
        self.fraction = float(picture.mean())
        return np.asarray((255 * picture).round().astype(np.uint8))
