"""A simple top-down picker: it believes the published masks, and learns nothing by itself.

What no mask covers although something stands there, it tries when no mask is left: nobody would leave it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from rise_perception.core.instances import Instances

#: Pixels from a mask's rim below which there is no room for the cup, and from a failure, to try elsewhere.
MIN_ROOM, ELSEWHERE = 3.0, 12.0
_CORE = np.ones((7, 7), np.uint8)
"""What stands in the tote is at least so large."""


@dataclass(frozen=True)
class Aim:
    """Where to lower the cup: pixel (x, y), and the instance's persistent id and score if it is one."""

    x: float
    y: float
    target_id: int = -1
    score: float = 0.0


class Picker:
    """Aims at the best mask that has room, away from where a grasp of this scene has failed.

    The best is the one that a grasp succeeds at with the highest probability, where that has been learned,
    and otherwise the one with the highest score.

    Args:
        min_success: masks at which a grasp succeeds with less probability are left alone.
    """

    def __init__(self, min_success: float = 0.0) -> None:
        self.min_success = min_success
        self._failures: list[Aim] = []

    def choose(self, instances: Instances, rises: np.ndarray) -> Aim | None:
        """The next aim; None when nothing is left to try.

        Args:
            instances: what the model sees.
            rises: (H, W) bool, where depth says that something stands in the tote.
        """
        instances = self.offered(instances)
        learned = np.isfinite(instances.pick_success)
        rank = np.where(learned, instances.pick_success, instances.scores)
        for row in np.argsort(-rank, kind="stable"):
            aim = self._aim(instances.mask(int(row)))
            if aim is not None:
                return replace(aim, target_id=int(instances.ids[row]), score=float(instances.scores[row]))
        bare = cv2.morphologyEx((rises & (instances.label_map == 0)).astype(np.uint8), cv2.MORPH_OPEN, _CORE)
        count, parts, statistics, _ = cv2.connectedComponentsWithStats(np.asarray(bare))
        for part in 1 + np.argsort(-statistics[1:count, cv2.CC_STAT_AREA], kind="stable"):
            aim = self._aim(parts == part)
            if aim is not None:
                return aim
        return None

    def offered(self, instances: Instances) -> Instances:
        """The masks that are tried at all."""
        return instances.only(~(instances.pick_success < self.min_success))

    def _aim(self, mask: np.ndarray) -> Aim | None:
        """The middle of a mask, if it has room and nothing failed there."""
        x, y, room = middle(mask)
        far = all(np.hypot(x - a.x, y - a.y) >= ELSEWHERE for a in self._failures)
        return Aim(x, y) if room >= MIN_ROOM and far else None

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
