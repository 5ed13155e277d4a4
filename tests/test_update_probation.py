"""New weights whose grasps fail more often are taken back; others are left alone."""

from __future__ import annotations

import numpy as np

from rise_perception.grasp_learning.update.outcomes import GraspOutcome
from rise_perception.grasp_learning.update.probation import CERTAIN, MIN_GRASPS, chance_of_loss, picks_worse


def grasps(version: str, successes: int, of: int) -> list[GraspOutcome]:
    return [GraspOutcome("tote", np.zeros(1), k < successes, version) for k in range(of)]


def test_weights_that_pick_much_worse_are_found_out() -> None:
    before = grasps("cell-aaaa", 85, 100)
    assert picks_worse([*before, *grasps("cell-bbbb", 6, 15)], "cell-bbbb") > CERTAIN
    assert picks_worse([*before, *grasps("cell-bbbb", 13, 15)], "cell-bbbb") < 0.5


def test_a_head_that_was_fitted_again_does_not_make_other_weights() -> None:
    before = [*grasps("cell-aaaa", 50, 60), *grasps("cell-picks60-aaaa", 1, 30)]
    assert picks_worse(before, "cell-picks90-aaaa") == 0.0  # there is nothing to compare with
    assert picks_worse([*before, *grasps("cell-bbbb", 0, MIN_GRASPS - 1)], "cell-bbbb") == 0.0


def test_equal_weights_are_seldom_taken_back_although_every_grasp_is_looked_at() -> None:
    """A hundred grasps after the change, 150 before it, the same rate; and a loss of 30 points is seen."""
    rng = np.random.default_rng(0)
    taken = {0.0: 0, 0.3: 0}
    for loss in taken:
        for _ in range(40):
            old = int(rng.binomial(150, 0.8))
            held = (rng.random(100) < 0.8 - loss).cumsum()
            taken[loss] += any(
                chance_of_loss(old, 150, int(held[n - 1]), n) >= CERTAIN for n in range(MIN_GRASPS, 101, 5)
            )
    assert taken[0.0] <= 4
    assert taken[0.3] >= 36
