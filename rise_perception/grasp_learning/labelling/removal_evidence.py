"""Whether what a label holds is gone in the frame after: evidence from the two frames alone.

A label says that one item left. Then its region, and nothing that is connected with it, looks different
afterwards, whatever analysis or person drew it. Grown, shifted, merged and invented labels hold pixels that
have stayed; of a part of an item the rest has gone as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from rise_perception.grasp_learning.capture.episode import Episode
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels

#: Multiples of the median difference from which a pixel differs, and the least limits: brightness in [0, 255]
#: and metres.
TIMES_NOISE, LEAST_COLOUR, LEAST_DEPTH = 4.0, 8.0, 0.003
#: A label of which less has changed shows no item that left; of labels that are right, nearly all has.
STAYED = 0.5
#: Labels below which nothing is concluded about all of them.
MIN_LABELS = 6
#: What changed around a label counts as such where it differs by this fraction of the label's median, at
#: least: shadows and light that came along are fainter.
AS_CLEAR = 0.5
#: Fraction of the labels of which less than MIN_GONE may have changed, before none is believed.
MAX_STAYED, MIN_GONE = 0.25, 0.7
#: Median size of what changed around a label, as a fraction of the label's.
MAX_BESIDE = 0.5


@dataclass(frozen=True)
class Removal:
    """What the frames say about one label.

    Attributes:
        gone: fraction of the label in which they differ.
        beside: area around it, connected with it, in which they differ as clearly, as a fraction of the
            label's.
    """

    gone: float
    beside: float

    @property
    def contradicted(self) -> bool:
        """Most of what the label holds has stayed."""
        return self.gone < STAYED


def removals(episode: Episode, labels: EpisodeLabels) -> list[Removal]:
    """The evidence about each label of an episode that says that an item left its place."""
    if not len(labels.masks):
        return []
    strength = difference(episode, labels.to_after)
    return [_removal(mask, strength) for mask in labels.masks]


def difference(episode: Episode, to_after: np.ndarray) -> np.ndarray:
    """How much pixels of the frame before look different in the frame after, or lie elsewhere.

    Args:
        episode: the frames.
        to_after: (2, 3) maps pixels (x, y) of the frame before to the frame after.

    Returns:
        (H, W) float32, above 1 where they differ; 0 where they cannot be compared.
    """
    before, after = episode.before.frame, episode.after.frame
    height, width = before.image.shape[:2]

    def back(values: np.ndarray, flags: int) -> np.ndarray:
        flags |= cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(values, to_after, (width, height), flags=flags))

    seen = back(np.ones(after.image.shape[:2], np.uint8), cv2.INTER_NEAREST) > 0
    for side in (episode.before, episode.after):
        if side.robot is not None:
            robot = (
                side.robot if side is episode.before else back(side.robot.astype(np.uint8), cv2.INTER_NEAREST)
            )
            seen &= ~(robot > 0)
    if not seen.any():
        return np.zeros((height, width), bool)
    first, second = (
        cv2.GaussianBlur(image, (0, 0), 1.2).astype(np.float32)
        for image in (before.image, back(after.image, cv2.INTER_LINEAR))
    )
    gain = np.median((second[seen] + 1) / (first[seen] + 1), axis=0)
    colour = np.abs(second - first * gain).max(axis=2)
    strength = colour / max(LEAST_COLOUR, TIMES_NOISE * float(np.median(colour[seen])))
    if before.depth is not None and after.depth is not None:
        other = back(after.depth, cv2.INTER_NEAREST)
        known = seen & (before.depth > 0) & (other > 0)
        if known.any():
            depth = np.where(known, np.abs(other - before.depth), 0).astype(np.float32)
            limit = max(LEAST_DEPTH, TIMES_NOISE * float(np.median(depth[known])))
            strength = np.maximum(strength, cv2.medianBlur(depth, 3) / limit)
    return np.where(seen, strength, 0).astype(np.float32)


def systematic_removal_fault(found: Sequence[Removal]) -> str:
    """Why labels cannot be right together; empty where nothing speaks against them."""
    if len(found) < MIN_LABELS:
        return ""
    stayed = sum(removal.gone < MIN_GONE for removal in found)
    if stayed > MAX_STAYED * len(found):
        return f"much of what {stayed} of {len(found)} labels hold has stayed: too large, or elsewhere"
    beside = float(np.median([removal.beside for removal in found]))
    if beside > MAX_BESIDE:
        return f"around {len(found)} labels {beside:.0%} of their size has left as well: they hold a part"
    return ""


def _removal(mask: np.ndarray, strength: np.ndarray) -> Removal:
    kernel = np.ones((3, 3), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), kernel) > 0
    region = inner if inner.any() else mask
    clear = strength > max(1.0, AS_CLEAR * float(np.median(strength[region])))
    opened = cv2.morphologyEx(clear.astype(np.uint8), cv2.MORPH_OPEN, kernel)
    _, parts = cv2.connectedComponents(opened)
    touched = np.unique(parts[mask])
    near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    beside = np.isin(parts, touched[touched > 0]) & ~near
    return Removal(float((strength[region] > 1).mean()), float(beside.sum() / max(1, mask.sum())))
