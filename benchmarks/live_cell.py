"""A simulated cell that picks in simulated time and in one process, for `rise bench live`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.grasp_learning.capture.episode import Episode, Grasp, Observation, Outcome
from rise_perception.simulation.cell import Cell
from rise_perception.simulation.dataset import Shot
from rise_perception.simulation.picker import Picker
from rise_perception.simulation.sequence import EMPTY, SUCCESS

#: Fraction of a mask that has to lie on one item for the mask not to be a false one.
ON_AN_ITEM = 0.3
#: Seconds between the frame before and the frame after.
GRASP = 2.0
#: Totes of which the picker may find nothing to pick, one after the other, before it gives up.
MAX_EMPTY_TOTES = 3


@dataclass(frozen=True)
class Pick:
    """What came of a grasp.

    Attributes:
        number, tote: of the grasp, and of the tote that it was in.
        outcome: with the numbers of GraspEvent.
        masks, false_masks: that the picker would have tried in this frame, and those on no item.
        version: of the model that it looked with.
        told: probability of success that it was told; NaN if none.
    """

    number: int
    tote: int
    outcome: int
    masks: int
    false_masks: int
    version: str
    told: float

    @property
    def success(self) -> bool:
        """One item was held."""
        return self.outcome == SUCCESS

    def to_json(self) -> dict[str, Any]:
        """With ``success``, and without what is not known."""
        told = None if np.isnan(self.told) else round(self.told, 4)
        return {**asdict(self), "told": told, "success": self.success}


def pick_all(
    cell: Cell,
    look: Callable[[np.ndarray, np.ndarray], tuple[Instances, str]],
    picks: int,
    first_tote: int,
    picker: Picker,
    period: float,
) -> Iterator[tuple[Pick, Episode, int]]:
    """Grasp after grasp, tote after tote.

    Two runs see the same totes in the same order, and the same frames until the first grasp that differs.

    Args:
        cell: that is picked from.
        look: instances in a picture (H, W, 3) with depth (H, W) in metres, and the version that found them.
        picks: how many grasps.
        first_tote: its number.
        picker: aims.
        period: seconds of a grasp.

    Yields:
        what came of it, the episode, and the items that were left in the totes that went.
    """
    cell.next_tote(first_tote)
    picker.changed()
    shot, in_vain, left = cell.look(amodal=False), 0, 0
    number = 0
    while number < picks and in_vain < MAX_EMPTY_TOTES:
        stamp = 10**18 + round(number * period * 1e9)
        before = _frame(shot, cell, stamp)
        assert before.depth is not None
        instances, version = look(before.image, before.depth)
        aim = picker.choose(instances, cell.rises(shot.depth))
        if aim is None:
            left += len(cell.scene.labels)
            cell.next_tote(cell.tote + 1)
            picker.changed()
            shot, in_vain = cell.look(amodal=False), in_vain + 1
            continue
        in_vain = 0
        offered = picker.offered(instances)
        outcome, held = cell.under_cup(aim.x, aim.y)
        told = instances.pick_success[instances.ids == aim.target_id]
        pick = Pick(
            number,
            cell.tote,
            outcome,
            len(offered),
            count_false(offered, shot.labels),
            version,
            float(told[0]) if len(told) else float("nan"),
        )
        cell.take(held)
        shot = cell.look(amodal=False)
        after = _frame(shot, cell, stamp + round(GRASP * 1e9))
        grasp = Grasp(
            f"{cell.settings.seed}-{first_tote}-{number}", aim.target_id, Outcome(outcome), after.stamp
        )
        episode = Episode(Observation(before, instances, None, version), Observation(after), grasp)
        if outcome == EMPTY:
            picker.failed(aim)
        else:
            picker.changed()
        number += 1
        yield pick, episode, left


def count_false(instances: Instances, truth: np.ndarray) -> int:
    """How many masks lie on no item of a true label map (H, W) by :data:`ON_AN_ITEM`."""
    false = 0
    for row in range(len(instances)):
        under = truth[instances.mask(row)]
        items = np.bincount(under[under > 0], minlength=1)
        false += bool(items.max() < ON_AN_ITEM * max(1, len(under)))
    return false


def _frame(shot: Shot, cell: Cell, stamp: int) -> Frame:
    return Frame(shot.image, shot.depth.astype(np.float32) / 1000, cell.camera, stamp)
