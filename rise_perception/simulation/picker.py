"""A simple top-down picker: it believes the published masks, and learns nothing by itself."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from rise_perception.instances import Instances

#: Pixels from a mask's rim below which there is no room for the cup, and from a failure, to try elsewhere.
LEAST_ROOM, ELSEWHERE = 3.0, 12.0


@dataclass(frozen=True)
class Aim:
    """Where to lower the cup: pixel (x, y), the instance's persistent id and its score."""

    x: float
    y: float
    target_id: int
    score: float


class Picker:
    """Aims at the best-scoring mask that has room, away from where a grasp of this scene has failed."""

    def __init__(self) -> None:
        self._failures: list[Aim] = []

    def choose(self, instances: Instances) -> Aim | None:
        """The next aim; None when nothing is left to try."""
        for row in np.argsort(-instances.scores, kind="stable"):
            mask = instances.mask(int(row))
            x, y, room = middle(mask)
            if room < LEAST_ROOM:
                continue
            if all(np.hypot(x - a.x, y - a.y) >= ELSEWHERE for a in self._failures):
                return Aim(x, y, int(instances.ids[row]), float(instances.scores[row]))
        return None

    def failed(self, aim: Aim) -> None:
        """Nothing was held there."""
        self._failures.append(aim)

    def changed(self) -> None:
        """The scene is another one: what failed may be tried again."""
        self._failures.clear()


def middle(mask: np.ndarray) -> tuple[float, float, float]:
    """The centroid (x, y) of a mask (H, W), or its innermost pixel where that lies outside, and the room.

    Room is the distance in pixels to the nearest one that is not of the mask.
    """
    away = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return 0.0, 0.0, 0.0
    y, x = float(rows.mean()), float(columns.mean())
    if not mask[round(y), round(x)]:
        row, column = np.unravel_index(int(away.argmax()), away.shape)
        y, x = float(row), float(column)
    return x, y, float(away[round(y), round(x)])
