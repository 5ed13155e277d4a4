"""Grasps of one scene, one after the other: what a later one took is a label in the frames before, too.

A grasp shows one item of its frame for certain; with the grasps that follow, nearly all of them are known. An
item that left in the fifth grasp, and that none of the first four touched, has been at the same place all
the time. Where another item lay on it, its mask is what could be seen.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from rise_perception.core.errors import DataError
from rise_perception.grasp_learning.capture.episode import Episode
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.labelling.change import find_change
from rise_perception.grasp_learning.labelling.episode_labels import Cause, EpisodeLabels

#: Fraction of a mask on which something came to lie during a grasp: the item itself may have come.
CAME = 0.05
#: Fraction of a mask that has to be in sight, in one piece, for the rest of it to be a label.
IN_SIGHT, IN_ONE_PIECE = 0.3, 0.9
#: Seconds between two grasps of one scene, the fraction of it that may have changed, and pixels of the
#: camera's.
LONGEST_PAUSE, SAME_SCENE, STILL = 120.0, 0.02, 2.0
#: Seconds for which later grasps are asked about a frame.
HORIZON = 1800.0
#: After these nothing can be said about what stayed.
BREAKS = (Cause.CAMERA_MOVED, Cause.EXPOSURE_JUMP, Cause.CHANGE_EVERYWHERE, Cause.ROBOT_IN_VIEW)


@dataclass(frozen=True)
class ItemMask:
    """An item in a frame.

    Attributes:
        item: who it is: the same wherever it is seen.
        mask: (H, W) bool, what is seen of it, packed: :meth:`unpacked`.
        width: of the frame.
    """

    item: str
    mask: np.ndarray
    width: int

    @staticmethod
    def of(item: str, mask: np.ndarray) -> ItemMask:
        """From a mask (H, W) bool."""
        return ItemMask(item, np.packbits(mask, axis=1), mask.shape[1])

    def unpacked(self) -> np.ndarray:
        """(H, W) bool."""
        return np.unpackbits(self.mask, axis=1, count=self.width).astype(bool)


@dataclass(frozen=True)
class KnownItems:
    """The items that are certain in an episode's frames; those that its own labels hold go first."""

    before: tuple[ItemMask, ...] = ()
    after: tuple[ItemMask, ...] = ()


@dataclass(frozen=True)
class _Grasp:
    """An episode with its episode_labels and, of the frame before, what is certain."""

    entry: Entry
    episode: Episode
    episode_labels: EpisodeLabels
    known: tuple[ItemMask, ...] = ()


def beside(entries: Iterable[Entry], chosen: Iterable[Entry]) -> list[Entry]:
    """Those of ``entries`` that can tell about the chosen ones: they come less than HORIZON after."""
    times = sorted(entry.stamp for entry in chosen)
    found = []
    for entry in entries:
        before = bisect.bisect_right(times, entry.stamp)
        if before and entry.stamp - times[before - 1] <= HORIZON * 1e9:
            found.append(entry)
    return found


def known_items(store: EpisodeStore, entries: Iterable[Entry]) -> dict[str, KnownItems]:
    """What is certain in the frames of each readable episode: id -> its items.

    Args:
        store: of the episodes.
        entries: those that may tell each other; labels of others are not used.
    """
    found: dict[str, KnownItems] = {}
    later: _Grasp | None = None
    for grasp in _read(store, sorted(entries, key=lambda entry: entry.stamp, reverse=True)):
        after = () if later is None else tuple(_over_the_pause(grasp, later))
        own = [
            ItemMask.of(f"{grasp.entry.id} {rank}", mask)
            for rank, mask in enumerate(grasp.episode_labels.masks)
        ]
        taken = grasp.episode_labels.masks.any(axis=0)
        earlier = [
            ItemMask.of(item.item, seen)
            for item in after
            if (seen := propagate_backward(item.unpacked(), FrameTransition.of(grasp.episode_labels)))
            is not None
            and not (seen & taken).any()
        ]
        found[grasp.entry.id] = KnownItems((*own, *earlier), after)
        later = replace(grasp, known=found[grasp.entry.id].before)
    return found


def _read(store: EpisodeStore, entries: Iterable[Entry]) -> Iterator[_Grasp]:
    for entry in entries:
        try:
            yield _Grasp(entry, *store.read(entry))
        except DataError:
            continue


def same_scene(first: tuple[Episode, EpisodeLabels], second: tuple[Episode, EpisodeLabels]) -> bool:
    """Whether a grasp was of the scene that the grasp before it left."""
    return _pause(first[0], first[1], second[0]) is not None


def _pause(first: Episode, labels: EpisodeLabels, second: Episode) -> FrameTransition | None:
    """What happened between two grasps; None where the second was of another scene."""
    left, found = first.after, second.before
    pause = found.frame.stamp - left.frame.stamp
    if (
        labels.cause in BREAKS
        or first.session != second.session
        or not 0 <= pause <= LONGEST_PAUSE * 1e9
        or left.frame.image.shape != found.frame.image.shape
    ):
        return None
    change = find_change(left, found)
    if change.fraction > SAME_SCENE or change.motion.shift > STILL:
        return None
    return FrameTransition(change.removed, change.added, change.motion.matrix)


def _over_the_pause(grasp: _Grasp, later: _Grasp) -> Iterator[ItemMask]:
    """What the next grasp knows, in the frame after this one; nothing where the scene is another one."""
    if not later.known:
        return
    transition = _pause(grasp.episode, grasp.episode_labels, later.episode)
    if transition is None:
        return
    for item in later.known:
        seen = propagate_backward(item.unpacked(), transition)
        if seen is not None:
            yield ItemMask.of(item.item, seen)


@dataclass(frozen=True)
class FrameTransition:
    """What happened between two frames.

    Attributes:
        removed, added: (H, W) bool, in the pixels of the earlier one.
        to_later: (2, 3), from its pixels to the later one's.
    """

    removed: np.ndarray
    added: np.ndarray
    to_later: np.ndarray

    @staticmethod
    def of(episode_labels: EpisodeLabels) -> FrameTransition:
        """Of a grasp."""
        return FrameTransition(episode_labels.removed, episode_labels.added, episode_labels.to_after)


def propagate_backward(mask: np.ndarray, transition: FrameTransition) -> np.ndarray | None:
    """What was seen before a transition of an item that is seen after it; None where that is not certain.

    Args:
        mask: (H, W) bool, of the item in the later frame.
        transition: between the frames.
    """
    size = int(mask.sum())
    height, width = mask.shape
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    there = cv2.warpAffine(mask.astype(np.uint8), transition.to_later, (width, height), flags=flags) > 0
    if size == 0 or (there & transition.added).sum() > CAME * size:
        return None
    seen = there & ~transition.removed & ~transition.added
    count, _, statistics, _ = cv2.connectedComponentsWithStats(seen.astype(np.uint8), connectivity=4)
    largest = int(statistics[1:, cv2.CC_STAT_AREA].max()) if count > 1 else 0
    if largest < IN_SIGHT * size or largest < IN_ONE_PIECE * int(seen.sum()):
        return None
    return seen
