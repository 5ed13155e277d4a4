"""Where frames are to each other over time: a tree of transforms, asked for one at a stamp.

What ROS's tf2 does, for the few look-ups that perception needs, without ROS and testable without it.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from rise_perception.core.errors import TransformError

SECOND = 1_000_000_000
#: Nanoseconds of transforms that are kept, how many at most of one frame, and of how many frames.
HISTORY, MAX_STAMPS, MAX_FRAMES = 10 * SECOND, 2000, 1000
#: Nanoseconds by which an image may be newer than the newest transform, which then holds.
SLACK = 200_000_000


@dataclass
class _Link:
    """How a frame stands to its parent: stamps rising, and for each (x, y, z, qx, qy, qz, qw)."""

    parent: str
    static: bool
    stamps: list[int] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)


class TransformTree:
    """Keeps transforms and composes them. Not thread-safe.

    >>> tree = TransformTree()
    >>> tree.add("base_link", "camera", 0, (0, 0, 1), (0, 0, 0, 1), static=True)
    >>> tree.lookup("base_link", "camera", 0)[:3, 3].tolist()
    [0.0, 0.0, 1.0]
    """

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}

    def add(
        self,
        parent: str,
        child: str,
        stamp: int,
        translation: tuple[float, float, float],
        quaternion: tuple[float, float, float, float],
        static: bool = False,
    ) -> None:
        """Take a transform that maps points of ``child`` to ``parent``.

        Args:
            parent, child: names of frames.
            stamp: nanoseconds.
            translation: metres.
            quaternion: x, y, z, w; normalised here.
            static: holds at every stamp.

        Raises:
            TransformError: values that are no transform, or more frames than a robot has.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        value = np.array([*translation, *quaternion], np.float64)
        norm = float(np.linalg.norm(value[3:]))
        if not np.isfinite(value).all() or not 0.5 < norm < 2.0 or not parent or not child or parent == child:
            raise TransformError(f"the transform {parent!r} <- {child!r} is none: {value.tolist()}")
        value[3:] /= norm
        link = self._links.get(child)
        if link is None or link.parent != parent or link.static != static:
            if link is None and len(self._links) >= MAX_FRAMES:
                raise TransformError(f"frame {child!r} is one more than {MAX_FRAMES}; it is ignored")
            link = self._links[child] = _Link(parent, static)
        if static or (link.stamps and stamp < link.stamps[-1] - HISTORY):  # or the clock was set back
            link.stamps.clear()
            link.values.clear()
        place = bisect.bisect_left(link.stamps, stamp)
        if place < len(link.stamps) and link.stamps[place] == stamp:
            link.values[place] = value
            return
        link.stamps.insert(place, stamp)
        link.values.insert(place, value)
        old = bisect.bisect_left(link.stamps, link.stamps[-1] - HISTORY)
        old = max(old, len(link.stamps) - MAX_STAMPS)
        del link.stamps[:old], link.values[:old]

    def lookup(self, target: str, source: str, stamp: int) -> np.ndarray:
        """(4, 4) float64: maps points of ``source`` to ``target`` at ``stamp`` (ns; 0: the newest).

        Raises:
            TransformError: which frame is unknown, not connected, or known only for another time.
        """
        target, source = target.lstrip("/"), source.lstrip("/")
        if target == source:
            return np.eye(4)
        up, down = self._path(source), self._path(target)
        if up[-1] != down[-1]:
            raise TransformError(
                f"frames {target!r} and {source!r} are not connected: the tree of the first has the root "
                f"{down[-1]!r}, that of the second {up[-1]!r}"
            )
        while len(up) > 1 and len(down) > 1 and up[-2] == down[-2]:  # below the nearest common ancestor
            up.pop()
            down.pop()
        return np.linalg.inv(self._to_end(down, stamp)) @ self._to_end(up, stamp)

    def _path(self, frame: str) -> list[str]:
        """The frame and its ancestors."""
        parents = {link.parent for link in self._links.values()}
        if frame not in self._links and frame not in parents:
            known = ", ".join(sorted({*self._links, *parents})[:20]) or "none"
            raise TransformError(f"frame {frame!r} is on neither /tf nor /tf_static; there are: {known}")
        path = [frame]
        while (link := self._links.get(path[-1])) is not None:
            if link.parent in path:
                raise TransformError(f"frame {link.parent!r} is its own ancestor on /tf")
            path.append(link.parent)
        return path

    def _to_end(self, path: list[str], stamp: int) -> np.ndarray:
        """Maps points of the first frame of ``path`` to the last."""
        matrix = np.eye(4)
        for frame in path[:-1]:
            matrix = self._at(frame, stamp) @ matrix
        return matrix

    def _at(self, frame: str, stamp: int) -> np.ndarray:
        link = self._links[frame]
        stamps, values = link.stamps, link.values
        if link.static or stamp == 0:
            return _matrix(values[-1])
        name = f"the transform {link.parent!r} <- {frame!r}"
        if stamp > stamps[-1] + SLACK:
            raise TransformError(
                f"{name} is stale: {(stamp - stamps[-1]) / SECOND:.2f} s older than the image"
            )
        if stamp < stamps[0]:
            raise TransformError(f"{name} begins {(stamps[0] - stamp) / SECOND:.2f} s after the image")
        after = bisect.bisect_left(stamps, stamp)
        if after == len(stamps) or stamps[after] == stamp:
            return _matrix(values[min(after, len(stamps) - 1)])
        fraction = (stamp - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
        first, second = values[after - 1], values[after]
        turn = Slerp([0.0, 1.0], Rotation.from_quat([first[3:], second[3:]]))(fraction)
        between = first + fraction * (second - first)
        return _matrix(np.concatenate([between[:3], turn.as_quat()]))


def _matrix(value: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(value[3:]).as_matrix()
    matrix[:3, 3] = value[:3]
    return matrix
