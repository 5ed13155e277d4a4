"""Whether new weights pick worse than what served before: figures on held-out frames are not grasps.

Held-out frames decide whether a version may serve; its grasps decide whether it goes on serving.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rise_perception.grasp_learning.update.outcomes import GraspOutcome

#: Success that may be lost before weights are taken back, and how certain the loss has to be.
MARGIN, CERTAIN = 0.05, 0.98
#: Grasps with the new weights below which nothing is concluded, and with the old ones that are compared.
MIN_GRASPS, COMPARED = 10, 150
#: Draws from the posteriors.
DRAWS = 4000


def weights_of(version: str) -> str:
    """What tells the weights of a version from others: the part of the checksum in its name."""
    return version.rpartition("-")[2]


def picks_worse(outcomes: Sequence[GraspOutcome], serving: str) -> float:
    """How certain it is that the serving weights lose more than :data:`MARGIN` of the success before them.

    Both rates have uniform priors.

    Args:
        outcomes: all that are stored, oldest first.
        serving: the version.

    Returns:
        a probability; 0 where there are too few grasps of either.
    """
    mine = weights_of(serving)
    new = [o.success for o in outcomes if weights_of(o.version) == mine]
    old = [o.success for o in outcomes if weights_of(o.version) != mine][-COMPARED:]
    if min(len(new), len(old)) < MIN_GRASPS:
        return 0.0
    return chance_of_loss(sum(old), len(old), sum(new), len(new))


def chance_of_loss(old: int, of_old: int, new: int, of_new: int) -> float:
    """Probability that ``new`` of ``of_new`` successes come from a rate lower by more than the margin."""
    rng = np.random.default_rng(0)
    before = rng.beta(1 + old, 1 + of_old - old, DRAWS)
    after = rng.beta(1 + new, 1 + of_new - new, DRAWS)
    return float((after < before - MARGIN).mean())
