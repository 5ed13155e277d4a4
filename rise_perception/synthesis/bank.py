"""The instance bank: cut-outs of labelled objects, first in first out (Sec. 3.2)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from rise_perception.data.coco import LabelledImage
from rise_perception.synthesis.cut_out import CutOut, cut_outs


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
