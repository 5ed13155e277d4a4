"""A picture of the images that were segmented worst: image, truth and prediction side by side."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np

from rise_perception.evaluation.overlay import draw_label_map
from rise_perception.evaluation.panels import fit_width, side_by_side

PANEL_WIDTH = 420  # pixels of each of the three panels


class WorstCases:
    """Keeps the rows of the ``count`` images with the lowest scores while images pass by."""

    def __init__(self, count: int = 6) -> None:
        self._count = count
        self._rows: list[tuple[float, int, np.ndarray]] = []  # a heap, best of the kept ones first
        self._seen = 0

    def offer(self, score: float, row: Callable[[], np.ndarray]) -> None:
        """Show an image with this score (higher is better); ``row`` draws it, only if it is kept."""
        self._seen += 1
        if len(self._rows) < self._count:
            heapq.heappush(self._rows, (-score, -self._seen, row()))
        elif -score > self._rows[0][0]:
            heapq.heapreplace(self._rows, (-score, -self._seen, row()))

    def picture(self) -> np.ndarray | None:
        """(H, W, 3) uint8 RGB with the worst image on top; None when there was no image."""
        rows = [row for _, _, row in sorted(self._rows, reverse=True)]
        return np.vstack(rows) if rows else None


def draw_row(title: str, image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """One row: image | truth | prediction, with ``title`` above.

    Args:
        title: what to write above the row.
        image: (H, W, 3) uint8 RGB.
        truth, prediction: (H, W) uint16 label maps.

    Returns:
        (h, 3 * PANEL_WIDTH, 3) uint8 RGB.
    """
    drawn = (image, draw_label_map(image, truth), draw_label_map(image, aligned(prediction, truth)))
    return side_by_side([fit_width(p, PANEL_WIDTH) for p in drawn], (title, "truth", "prediction"))


def aligned(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The predicted label map renumbered, so that what finds an object has its number, and so its colour.

    Args:
        prediction, truth: (H, W) integer label maps.

    Returns:
        (H, W) uint16; numbers of what finds nothing come after those of the truth.
    """
    first = int(truth.max()) + 1
    numbers = np.zeros(int(prediction.max()) + 1, np.uint16)
    taken: set[int] = set()
    for label in np.unique(prediction[prediction > 0]).tolist():
        mask = prediction == label
        below = np.bincount(truth[mask])
        best = int(below[1:].argmax()) + 1 if len(below) > 1 else 0
        union = np.count_nonzero(mask | (truth == best)) if best else 1
        if best and best not in taken and below[best] >= 0.5 * union:
            numbers[label] = best
            taken.add(best)
        else:
            numbers[label], first = first, first + 1
    return numbers[prediction]
