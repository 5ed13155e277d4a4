"""What a place looks like without items, learned from the totes that were picked there.

What stands at the same place in tote after tote, whatever was picked, is no item: the floor, the walls, a
fixture. The frames after the last grasp of each tote show most of it. Where depth and colour of several of
them agree on the farthest surface, that surface is the background; a mask that shows nothing but it is false,
and a frame in which nothing stands before it shows an empty tote.

An item that lay at one place through several totes would be background as well. One as thin as the
noise of depth is told from it by its colour only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from rise_perception.core.frame import Frame
from rise_perception.core.regions import CONTAINER, category_name, mask_iou
from rise_perception.grasp_learning.capture.episode import Observation

#: Totes that have to agree on the background of a pixel, and the newest ones that are asked.
MIN_TOTES, MAX_TOTES = 3, 10
#: Depths agree within this share of the distance, colours within this many of 255.
SAME_DEPTH, SAME_COLOUR = 0.006, 25.0
#: Share of the pixels of a mask whose background is known, and of these that show it.
MIN_KNOWN, MIN_SHOWN = 0.5, 0.7
#: Share of a picture that would be an item.
SMALLEST_ITEM = 0.0005

#: Masks whose intersection over union is higher are of one thing, and so many things are kept.
ALIKE, MAX_PLACES = 0.5, 20


@dataclass(frozen=True)
class Background:
    """The place without items.

    Attributes:
        depth: (H, W) float32 metres; 0 where it is not known.
        colour: (H, W, 3) float32, in [0, 255].
    """

    depth: np.ndarray
    colour: np.ndarray

    def is_behind(self, masks: Sequence[np.ndarray], frame: Frame) -> list[bool]:
        """Which of N masks (H, W) bool show the background alone in a frame."""
        if frame.depth is None or frame.depth.shape != self.depth.shape:
            return [False] * len(masks)
        shown, known = self._shown(frame)
        sizes = [(int(mask.sum()), int((mask & known).sum()), int((mask & shown).sum())) for mask in masks]
        return [told > MIN_KNOWN * size and seen >= MIN_SHOWN * told for size, told, seen in sizes]

    def is_all(self, frame: Frame) -> bool:
        """Whether a frame shows the empty place for certain: nothing stands or lies before the background."""
        if frame.depth is None or frame.depth.shape != self.depth.shape:
            return False
        # Where the background is not known, an item may have lain in the totes that it was learned from.
        shown, _ = self._shown(frame)
        other = cv2.morphologyEx((~shown).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
        count, _, statistics, _ = cv2.connectedComponentsWithStats(other)
        return count == 1 or statistics[1:, cv2.CC_STAT_AREA].max() < SMALLEST_ITEM * other.size

    def _shown(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) bool: where a frame shows the background, and where both are known."""
        assert frame.depth is not None
        known = (frame.depth > 0) & np.isfinite(frame.depth) & (self.depth > 0)
        if not known.any():
            return known, known
        # Edges lie a pixel further in one frame than in another.
        kernel = np.ones((3, 3), np.uint8)
        nearest = cv2.erode(np.where(self.depth > 0, self.depth, np.inf).astype(np.float32), kernel)
        depth = cv2.medianBlur(np.where(known, frame.depth, 0).astype(np.float32), 3)
        there = known & (depth >= nearest * (1 - SAME_DEPTH))
        colour = _smooth(frame.image)
        if there.any():
            colour = colour * np.median((self.colour[there] + 1) / (colour[there] + 1), axis=0)
        low, high = cv2.erode(self.colour, kernel), cv2.dilate(self.colour, kernel)
        same = ((colour > low - SAME_COLOUR) & (colour < high + SAME_COLOUR)).all(axis=2)
        return there & same, known


def learn_background(frames: Sequence[Frame]) -> Background | None:
    """The background that several totes agree on; None where there are too few.

    Args:
        frames: one of each tote, the emptiest, of a camera that stands still; older ones first.
    """
    usable: list[Frame] = []
    for frame in reversed(frames):
        if frame.depth is not None and frame.image.shape == frames[-1].image.shape:
            usable.append(frame)
    usable = usable[:MAX_TOTES]
    if len(usable) < MIN_TOTES:
        return None
    depths = np.stack([np.nan_to_num(frame.depth) for frame in usable])  # type: ignore[arg-type]
    depth = np.sort(depths, axis=0)[-2]  # the farthest one may be noise
    # Of a steep wall, and at edges, depth differs from frame to frame as it does from pixel to pixel.
    kernel = np.ones((3, 3), np.uint8)
    near, far = cv2.erode(depth, kernel) * (1 - SAME_DEPTH), cv2.dilate(depth, kernel) * (1 + SAME_DEPTH)
    agree = (depths >= near) & (depths <= far) & (depths > 0)
    colours = np.stack([_smooth(frame.image) for frame in usable])
    gains = [_gain(colours[0], other, agree[0] & also) for other, also in zip(colours, agree, strict=True)]
    colours = colours * np.array(gains, np.float32)[:, None, None]
    known = agree.sum(0) >= MIN_TOTES
    colour = np.where(agree[..., None], colours, np.nan)[:, known]
    # Shadows of what was left fall on a place in few totes; those that agree on its colour are the more.
    middle = np.nanmedian(colour, axis=0)
    alike = (np.abs(colour - middle) < SAME_COLOUR).all(axis=2).sum(0) >= MIN_TOTES
    found, painted = np.zeros_like(depth), np.zeros_like(colours[0])
    found[known] = np.where(alike, depth[known], 0)
    painted[known] = middle
    return Background(found.astype(np.float32), painted.astype(np.float32))


@dataclass(frozen=True)
class FalsePlaces:
    """Where the background has been taken for items.

    Attributes:
        background: the place without items.
        masks: (H, W) bool each, of predictions that showed nothing else; no two of one thing.
    """

    background: Background
    masks: tuple[np.ndarray, ...]

    def in_frame(self, frame: Frame) -> dict[int, np.ndarray]:
        """Number -> mask of those that show the background alone in this frame as well."""
        if not self.masks:
            return {}
        behind = self.background.is_behind(self.masks, frame)
        return {k: mask for k, (mask, false) in enumerate(zip(self.masks, behind, strict=True)) if false}


def find_false_places(background: Background, observations: Iterable[Observation]) -> FalsePlaces:
    """Collect the predictions of items that showed the background alone.

    Args:
        background: the place without items.
        observations: of that place; of alike masks the first one is kept.
    """
    found: list[np.ndarray] = []
    for side in observations:
        if side.instances is None or (side.robot is not None and side.robot.any()):
            continue
        names = [category_name(name) for name in side.instances.class_names]
        kinds = [names[int(kind)] for kind in side.instances.classes]
        masks = [side.instances.mask(row) for row, kind in enumerate(kinds) if kind != CONTAINER]
        behind = background.is_behind(masks, side.frame)
        for mask, false in zip(masks, behind, strict=True):
            alike = any(mask_iou(mask, other) > ALIKE for other in found)
            if false and not alike and len(found) < MAX_PLACES:
                found.append(mask)
    return FalsePlaces(background, tuple(found))


def _smooth(image: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(image, (0, 0), 1.2).astype(np.float32)


def _gain(first: np.ndarray, other: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(3,) that turns the exposure of one picture (H, W, 3) into that of the first."""
    if not where.any():
        return np.ones(3)
    return np.asarray(np.median((first[where] + 1) / (other[where] + 1), axis=0))
