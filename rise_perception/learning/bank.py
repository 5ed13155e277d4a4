"""The instance bank: cut-outs of labelled objects, first in first out (Sec. 3.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from rise_perception.data.coco import LabelledImage

#: Objects nearer to the image's border than this share of its side are cut off, or may be.
BORDER = 0.05
#: Smaller objects, in pixels, are no model for a paste.
SMALLEST = 64
#: Width in pixels of the ring around an object in which the depth of its support is read.
RING = 7


@dataclass(frozen=True)
class CutOut:
    """One object, cut from a labelled image.

    Attributes:
        image: (h, w, 3) uint8 RGB, the object's bounding box.
        mask: (h, w) bool.
        relief: (h, w) float32 metres, depth minus that of the support around the object: negative where the
            object stands out towards the camera, NaN without a measurement; None without depth.
        category: class index.
    """

    image: np.ndarray
    mask: np.ndarray
    relief: np.ndarray | None
    category: int


class InstanceBank:
    """Keeps the newest cut-outs; the oldest leave when it is full."""

    def __init__(self, capacity: int) -> None:
        self._cuts: deque[CutOut] = deque(maxlen=capacity)

    def __len__(self) -> int:
        return len(self._cuts)

    def __getitem__(self, index: int) -> CutOut:
        return self._cuts[index]

    def add(self, cuts: list[CutOut]) -> None:
        """Append cut-outs."""
        self._cuts.extend(cuts)


class SeededBank:
    """The bank of a training run, as a function of the position in the run alone.

    Every ``period`` positions the next ``images`` labelled images, in an order of their own, give their
    objects to the queue. What the bank holds at a position does not depend on how one came there, so that a
    resumed run, or a worker that sees every fourth position, pastes what an uninterrupted run would have
    pasted. At the start the queue is full already.

    Args:
        load: gives labelled image ``index``, of ``size``.
        containers: class indices that are never pasted.
        capacity: most cut-outs at a time.
    """

    period = 16
    images = 4

    def __init__(
        self,
        load: Callable[[int], LabelledImage],
        size: int,
        containers: frozenset[int],
        capacity: int,
        seed: int,
    ) -> None:
        self._load, self._size, self._containers, self._capacity = load, size, containers, capacity
        self._order = np.random.default_rng([seed, 1]).permutation(size)
        self._generation = -1
        self._bank = InstanceBank(capacity)
        self._held: dict[int, list[CutOut]] = {}

    def at(self, position: int) -> InstanceBank:
        """The bank at a position >= 0 of the run."""
        generation = position // self.period
        if generation != self._generation:
            self._bank, self._generation = self._filled(generation * self.images), generation
        return self._bank

    def _filled(self, last: int) -> InstanceBank:
        """The bank whose newest image is the one before count ``last``."""
        newest: dict[int, list[CutOut]] = {}
        total = 0
        for count in range(last - 1, last - 1 - self._size, -1):
            index = int(self._order[count % self._size])
            # What was held a moment ago is not cut out again, even where a worker skips positions.
            newest[index] = self._held[index] if index in self._held else self._cuts(index)
            total += len(newest[index])
            if total >= self._capacity:
                break
        self._held = newest
        bank = InstanceBank(self._capacity)
        for cuts in reversed(newest.values()):
            bank.add(cuts)
        return bank

    def _cuts(self, index: int) -> list[CutOut]:
        return list(cut_outs(self._load(index), self._containers))


def cut_outs(sample: LabelledImage, containers: frozenset[int]) -> Iterator[CutOut]:
    """Cut out every object that is whole: no container, large enough, away from the border (5 %)."""
    height, width = sample.image.shape[:2]
    margin_y, margin_x = round(BORDER * height), round(BORDER * width)
    for mask, category in zip(sample.masks, sample.classes.tolist(), strict=True):
        if category in containers:
            continue
        x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
        inside = x >= margin_x and y >= margin_y and x + w <= width - margin_x and y + h <= height - margin_y
        if not inside or np.count_nonzero(mask) < SMALLEST:
            continue
        box = np.s_[y : y + h, x : x + w]
        relief = None if sample.depth is None else _relief(sample.depth, mask, x, y, w, h)
        yield CutOut(sample.image[box].copy(), mask[box].copy(), relief, category)


def _relief(depth: np.ndarray, mask: np.ndarray, x: int, y: int, w: int, h: int) -> np.ndarray:
    """Depth of an object relative to the median of what surrounds it."""
    top, left = max(y - RING, 0), max(x - RING, 0)
    around = np.s_[top : y + h + RING, left : x + w + RING]
    grown = cv2.dilate(mask[around].astype(np.uint8), np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)) > 0
    ring = depth[around][grown & ~mask[around] & (depth[around] > 0)]
    patch = depth[y : y + h, x : x + w]
    if ring.size == 0:
        return np.full((h, w), np.nan, np.float32)
    return np.where(patch > 0, patch - np.float32(np.median(ring)), np.float32(np.nan)).astype(np.float32)
