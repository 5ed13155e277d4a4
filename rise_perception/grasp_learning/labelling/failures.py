"""What a grasp that took nothing says about the mask that it was aimed at."""

from __future__ import annotations

import numpy as np

from rise_perception.core.support_surface import fit_support_surface, relief
from rise_perception.grasp_learning.capture.episode import Episode, Outcome
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels, Verdict

#: A mask whose median lies lower than this above the support surface, in millimetres, shows no item; of items
#: so thin nothing can be said. Of the mask, so much has to have depth.
FLAT_MM, MIN_MEASURED = 4.0, 0.5
#: A mask that is larger than this fraction of the picture shows no item that a gripper was sent to.
LARGEST = 0.3


def refuted_mask(episode: Episode, labels: EpisodeLabels) -> np.ndarray | None:
    """(H, W) bool: the mask of a prediction that is certainly no item; None where nothing is refuted.

    A grasp at it took nothing, nothing changed, and depth says that nothing stands there (or that it is the
    ground with all that lies on it, by its size). A grasp that
    slipped off an item refutes nothing: the item stands there still.
    """
    found, depth = episode.before.instances, episode.before.frame.depth
    if (
        labels.verdict != Verdict.EMPTY
        or episode.grasp.outcome != Outcome.EMPTY
        or episode.grasp.target_id < 0
        or found is None
        or depth is None
    ):
        return None
    rows = np.flatnonzero(found.ids == episode.grasp.target_id)
    if not len(rows):
        return None
    mask = found.mask(int(rows[0]))
    plane = fit_support_surface(depth)
    if plane is None or not mask.any():
        return None
    heights = relief(depth, plane)[mask]
    known = heights[np.isfinite(heights)]
    if len(known) < MIN_MEASURED * len(heights):
        return None
    flat = bool(np.median(known) < FLAT_MM)
    return mask if flat or mask.mean() > LARGEST else None
