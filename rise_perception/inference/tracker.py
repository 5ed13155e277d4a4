"""Persistent ids over frames, by association of embeddings (Eq. 3)."""

from __future__ import annotations

import dataclasses

import numpy as np

from rise_perception.core.instances import Instances

#: An association counts when f(i, j) exceeds this (Eq. 3).
POSITIVE = 0.5
#: An instance that has been out of sight for this many frames is forgotten.
MEMORY = 30
#: How much of a track's embedding each new item replaces.
REFRESH = 0.5


def bi_softmax(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Association scores f(i, j), half the sum of the softmaxes over both directions (Eq. 3).

    Args:
        a: (N, D) embeddings.
        b: (M, D) embeddings.

    Returns:
        (N, M) float64 in [0, 1].
    """
    similarity = a.astype(np.float64) @ b.astype(np.float64).T
    return (_softmax(similarity, 0) + _softmax(similarity, 1)) / 2


class Tracker:
    """Gives each instance the id that it had in earlier frames; new instances get new ids.

    Ids start at 1 and are never used twice, also not after a reset. Eq. 3 compares candidates with each
    other: one instance after a single other one always counts as the same.
    """

    def __init__(self) -> None:
        self._next = 1
        self.reset()

    def reset(self) -> None:
        """Forget all tracks."""
        self._ids = np.zeros(0, np.int64)
        self._embeddings = np.zeros((0, 0), np.float32)
        self._unseen = np.zeros(0, np.int64)
        self._stamp: int | None = None

    def update(self, instances: Instances, stamp_ns: int) -> Instances:
        """Associate the instances of the next frame.

        Args:
            instances: of one frame, with embeddings (N, D).
            stamp_ns: the frame's stamp; one that is smaller than the last (a bag that loops) resets.

        Returns:
            the same instances with persistent ``ids``.
        """
        if self._stamp is not None and stamp_ns < self._stamp:
            self.reset()
        self._stamp = stamp_ns
        ids = np.zeros(len(instances), np.int64)
        if len(instances) and len(self._ids):
            score = bi_softmax(instances.embeddings, self._embeddings)
            for flat in np.argsort(-score, axis=None, kind="stable"):
                i, j = np.unravel_index(flat, score.shape)
                if score[i, j] <= POSITIVE:
                    break
                if ids[i] == 0 and self._ids[j] not in ids:
                    ids[i] = self._ids[j]
        fresh = ids == 0
        ids[fresh] = np.arange(self._next, self._next + fresh.sum())
        self._next += int(fresh.sum())
        self._remember(ids, instances.embeddings)
        return dataclasses.replace(instances, ids=ids)

    def _remember(self, ids: np.ndarray, embeddings: np.ndarray) -> None:
        old = {int(i): k for k, i in enumerate(self._ids)}
        seen = embeddings.astype(np.float32).copy()
        for row, identity in enumerate(ids):
            if int(identity) in old:
                seen[row] += (1 - REFRESH) * (self._embeddings[old[int(identity)]] - seen[row])
        lost = np.array([k for i, k in old.items() if i not in ids and self._unseen[k] < MEMORY], np.int64)
        self._ids = np.concatenate([ids, self._ids[lost]])
        self._embeddings = np.concatenate([seen, self._embeddings[lost]]) if len(lost) else seen
        self._unseen = np.concatenate([np.zeros(len(ids), np.int64), self._unseen[lost] + 1])


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)
