"""Episodes as training images of which only some objects are known.

What an episode shows for certain becomes a target. What was predicted there, and is seen again unmoved, has
an identity in both frames and teaches the embeddings; its mask is a guess and no target. Everything else in
the picture is unknown: neither an object nor background. The robot goes along as an object of its own
identity, so that it stays where it is in the picture, whatever is done to that: nothing is learned there. So
does a mask that a failed grasp has refuted, or that shows what stands in every tote: there, it is learned
that nothing is. So it is all over the picture of a tote that is known to be empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import cv2
import numpy as np

from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.data.coco import LabelledImage
from rise_perception.grasp_learning.capture.episode import Episode
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.labelling.background import FalsePlaces
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels
from rise_perception.grasp_learning.labelling.failures import refuted_mask
from rise_perception.grasp_learning.labelling.label_propagation import KnownItems
from rise_perception.network.config import NetworkConfig
from rise_perception.synthesis.bank import SeededBank
from rise_perception.synthesis.cut_out import SMALLEST
from rise_perception.training.config import TrainConfig
from rise_perception.training.scenes import Scenes, Sources
from rise_perception.training.sequence import FIRST_PASTED

#: Identities from here up to those of pasted objects belong to predictions that are seen again, unmoved.
FIRST_UNMOVED = 500_000
#: The identity of the robot, which is no object: labels of predictions end before it.
ROBOT = FIRST_PASTED - 1
#: The identity of a mask that shows no object.
NOTHING = FIRST_PASTED - 2
#: The identity of a whole picture in which no object is.
BARE = FIRST_PASTED - 3
#: A refuted mask of which more than this fraction lies on known items refutes nothing any more.
ON_ITEMS = 0.1
#: A picture whose brightness varies by less (standard deviation, of 255) shows nothing.
MIN_CONTRAST = 4.0
#: For the bank: an anchor image has about this many objects for the one of an episode.
OBJECTS_OF_AN_ANCHOR = 4


#: Masks (N, H, W) bool, identities and classes (N,) int64.
_Objects = tuple[np.ndarray, np.ndarray, np.ndarray]


def is_certain(ids: np.ndarray) -> np.ndarray:
    """Which of the identities (N,) belong to objects whose masks are known: labels and pasted objects."""
    return (ids < FIRST_UNMOVED) | (ids >= FIRST_PASTED)


def rejection_reason(episode: Episode, episode_labels: EpisodeLabels, with_depth: bool) -> str:
    """Why nothing can be learned from an episode; empty when something can.

    Args:
        episode: the frames.
        episode_labels: the labels of the frame before.
        with_depth: the model sees depth.
    """
    if not episode_labels.teaches and refuted_mask(episode, episode_labels) is None:
        return f"no label ({episode_labels.reason})"
    if episode_labels.teaches and int(episode_labels.masks.sum((1, 2)).min()) < SMALLEST:
        return "a label is too small"
    for side, frame in (("before", episode.before.frame), ("after", episode.after.frame)):
        if float(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY).std()) < MIN_CONTRAST:
            return f"the frame {side} is blank"
        if with_depth and (frame.depth is None or not (frame.depth > 0).any()):
            return f"the frame {side} has no depth"
    return ""


class EpisodeImages:
    """The frames of episodes as a source of images: 2k is the frame before of episode k, 2k + 1 that after.

    Args:
        store: where they are.
        entries: which.
        network: class names, and whether depth is wanted.
        known: the items that are certain in their frames; see
            :mod:`rise_perception.grasp_learning.labelling.label_propagation`.
        places: where the background has been taken for items; None where that is not known.
    """

    def __init__(
        self,
        store: EpisodeStore,
        entries: list[Entry],
        network: NetworkConfig,
        known: Mapping[str, KnownItems],
        places: FalsePlaces | None = None,
    ) -> None:
        self.store, self.entries, self.network, self.known = store, entries, network, known
        self.places = places
        self._last: tuple[Entry, tuple[Episode, EpisodeLabels]] | None = None

    def __len__(self) -> int:
        return 2 * len(self.entries)

    def __getitem__(self, index: int) -> LabelledImage:
        """KnownItems items count from 0 in both frames; unmoved predictions from FIRST_UNMOVED on."""
        entry, episode, episode_labels = self._read(index)
        before, after = self._certain(entry, episode)
        if index % 2:
            false = self._false(episode.after.frame, after[0])
            return self._image(f"{entry.id} after", episode, False, after, false)
        unmoved = self._unmoved(episode, episode_labels, before[0])
        refuted = _refuted(episode, episode_labels, before[0])
        false = self._false(episode.before.frame, before[0])
        return self._image(f"{entry.id} before", episode, True, before, unmoved, refuted, false)

    def after(self, index: int) -> LabelledImage | None:
        """The frame after of a frame before, with what is known there and what has not moved."""
        if index % 2:
            return None
        entry, episode, episode_labels = self._read(index)
        before, after = self._certain(entry, episode)
        masks, ids, classes = self._unmoved(episode, episode_labels, before[0])
        height, width = masks.shape[1:]
        moved = [
            cv2.warpAffine(
                m.astype(np.uint8), episode_labels.to_after, (width, height), flags=cv2.INTER_NEAREST
            )
            > 0
            for m in masks
        ]
        there = np.stack(moved) if moved else masks
        return self._image(f"{entry.id} after", episode, False, after, (there, ids, classes))

    def taught(self, number: int) -> LabelledImage:
        """The frame before of an episode with what this episode itself took: in full sight, for the bank."""
        entry, episode, episode_labels = self._read(2 * number)
        before, _ = self._certain(entry, episode)
        own = [part[: len(episode_labels.masks)] for part in before]
        image = self._image(f"{entry.id} before", episode, True, (own[0], own[1], own[2]))
        items = ~np.isin(image.ids, (ROBOT, NOTHING, BARE))
        return replace(image, masks=image.masks[items], classes=image.classes[items], ids=image.ids[items])

    def _certain(self, entry: Entry, episode: Episode) -> tuple[_Objects, _Objects]:
        """The known items of both frames; an item has one identity in both."""
        known = self.known.get(entry.id, KnownItems())
        order = dict.fromkeys(item.item for item in (*known.before, *known.after))
        number = {item: rank for rank, item in enumerate(order)}
        found = []
        for items in (known.before, known.after):
            masks = [item.unpacked() for item in items]
            kinds = [_class_of(mask, episode.before.instances, self.network) for mask in masks]
            ids = np.array([number[item.item] for item in items], np.int64)
            there = np.stack(masks) if masks else _none(episode)[0]
            found.append((there, ids, np.array(kinds, np.int64)))
        return found[0], found[1]

    def _unmoved(self, episode: Episode, labels: EpisodeLabels, certain: np.ndarray) -> _Objects:
        """Predictions that look the same in the frame after, but those of the background."""
        masks, ids, classes = _unmoved(episode, labels, self.network, certain)
        if self.places is None or not len(masks):
            return masks, ids, classes
        kept = ~np.array(self.places.background.is_behind(list(masks), episode.before.frame))
        return masks[kept], ids[kept], classes[kept]

    def _false(self, frame: Frame, certain: np.ndarray) -> _Objects:
        """Where nothing stands in a frame that was taken for an item in some, and no ``certain`` item is.

        Of an empty tote, the whole picture.
        """
        taken = certain.any(axis=0) if len(certain) else np.zeros(frame.image.shape[:2], bool)
        found = [] if self.places is None else list(self.places.in_frame(frame).values())
        masks = [mask for mask in found if (mask & taken).sum() <= ON_ITEMS * mask.sum()]
        ids = [NOTHING] * len(masks)
        if self.places is not None and not taken.any() and self.places.background.is_all(frame):
            masks, ids = [*masks, np.ones_like(taken)], [*ids, BARE]
        there = np.stack(masks) if masks else np.zeros((0, *taken.shape), bool)
        return there, np.array(ids, np.int64), np.zeros(len(masks), np.int64)

    def _read(self, index: int) -> tuple[Entry, Episode, EpisodeLabels]:
        """An episode; both its frames are asked for one after the other."""
        entry = self.entries[index // 2]
        if self._last is None or self._last[0] != entry:
            self._last = entry, self.store.read(entry)
        return entry, *self._last[1]

    def _image(self, name: str, episode: Episode, first: bool, *objects: _Objects) -> LabelledImage:
        side = episode.before if first else episode.after
        depth = side.frame.depth if self.network.sees_depth else None
        masks, ids, classes = (np.concatenate(parts) for parts in zip(*objects, strict=True))
        if side.robot is not None and side.robot.any():
            free = ~(masks & side.robot).any(axis=(1, 2))  # of what it hides in part nobody knows the rest
            masks = np.concatenate([masks[free], side.robot[None]])
            ids, classes = np.append(ids[free], ROBOT), np.append(classes[free], 0)
        return LabelledImage(name, side.frame.image, depth, masks, classes, ids)


class EpisodeScenes(Scenes):
    """Pseudo-sequences of labelled anchors and of episodes; the bank holds cut-outs of both.

    Args:
        config: names the anchors; its unlabelled sources are not used.
        episodes: the images of episodes.
    """

    def __init__(self, config: TrainConfig, episodes: EpisodeImages) -> None:
        super().__init__(config)
        self.unlabelled, self.episodes = Sources([episodes]), episodes
        network = config.network
        containers = frozenset(network.classes.index(name) for name in network.containers)
        count = len(episodes.entries)
        #: So many anchors give cut-outs that about half of the bank comes from episodes.
        self.banked_anchors = min(len(self.labelled), max(1, count // OBJECTS_OF_AN_ANCHOR))
        size = self.banked_anchors + count
        self.bank = SeededBank(self._bank_image, size, containers, config.sequences.bank, self.seed)

    def _bank_image(self, index: int) -> LabelledImage:
        if index < self.banked_anchors:
            return super()._bank_image(index)
        return self.episodes.taught(index - self.banked_anchors)


def _none(episode: Episode) -> _Objects:
    nothing = np.zeros(0, np.int64)
    return np.zeros((0, *episode.before.frame.image.shape[:2]), bool), nothing, nothing


def _refuted(episode: Episode, labels: EpisodeLabels, certain: np.ndarray) -> _Objects:
    """The mask that the grasp has refuted, unless later grasps found an item there."""
    mask = refuted_mask(episode, labels)
    if mask is None or (len(certain) and (certain.any(axis=0) & mask).sum() > ON_ITEMS * mask.sum()):
        return _none(episode)
    return mask[None], np.array([NOTHING], np.int64), np.zeros(1, np.int64)


def _unmoved(
    episode: Episode, episode_labels: EpisodeLabels, network: NetworkConfig, certain: np.ndarray
) -> _Objects:
    """Predictions that look the same in the frame after, except on ``certain`` items (N, H, W)."""
    found = episode.before.instances
    if found is None or len(episode_labels.unmoved) == 0:
        return _none(episode)
    masks = found.label_map[None] == episode_labels.unmoved[:, None, None]
    taken = certain.any(axis=0) if len(certain) else np.zeros(masks.shape[1:], bool)
    free = np.array([(mask & taken).sum() < 0.1 * mask.sum() for mask in masks])
    refuted = refuted_mask(episode, episode_labels)
    if refuted is not None:
        free &= ~(masks & refuted).any(axis=(1, 2))
    masks, labels = masks[free], episode_labels.unmoved[free]
    classes = [_class_of(mask, found, network) for mask in masks]
    return masks, FIRST_UNMOVED + labels.astype(np.int64), np.array(classes, np.int64)


def _class_of(mask: np.ndarray, found: Instances | None, network: NetworkConfig) -> int:
    """The class of the prediction that covers most of a mask; the first class of items where none does."""
    items = [index for index, name in enumerate(network.classes) if name not in network.containers]
    if found is not None and len(found):
        shared = [int((found.label_map[mask] == label).sum()) for label in found.labels]
        name = found.class_names[int(found.classes[int(np.argmax(shared))])]
        if max(shared) > 0.5 * mask.sum() and name in network.classes:
            index = network.classes.index(name)
            if index in items:
                return index
    return items[0]
