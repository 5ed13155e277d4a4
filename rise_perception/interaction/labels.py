"""An episode's labels in the form that learning takes: a labelled image, and pairs of unmoved objects."""

from __future__ import annotations

import cv2
import numpy as np

from rise_perception.data.coco import LabelledImage
from rise_perception.interaction.episode import Episode
from rise_perception.interaction.lesson import Lesson


def taught_image(name: str, episode: Episode, lesson: Lesson, category: int = 0) -> LabelledImage:
    """The frame before with the labels that are certain; the picture holds further items, without labels.

    So a prediction elsewhere is neither right nor wrong, and a loss on pixels counts where
    ``lesson.known``. For the instance bank: ``learning.bank.cut_outs`` of the result.

    Args:
        name: of the image, for messages.
        episode: what was seen.
        lesson: what was concluded from it.
        category: class index of an object.
    """
    frame, count = episode.before.frame, len(lesson.masks)
    return LabelledImage(
        name,
        frame.image,
        frame.depth,
        lesson.masks,
        np.full(count, category, np.int64),
        np.arange(1, count + 1, dtype=np.int64),
    )


def unmoved_masks(episode: Episode, lesson: Lesson) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the objects that did not move, in the frame before and in the frame after.

    They are predicted masks, not certain ones; certain is that row k is the same thing in both frames,
    which is a true positive pair for L_embed (Eq. 4).

    Returns:
        Two arrays (K, H, W) bool; the second follows what little the camera moved.
    """
    instances = episode.before.instances
    size = lesson.known.shape
    if instances is None or not len(lesson.unmoved):
        return np.zeros((0, *size), bool), np.zeros((0, *size), bool)
    before = instances.label_map[None] == lesson.unmoved[:, None, None]
    after = [
        cv2.warpAffine(mask.astype(np.uint8), lesson.to_after, size[::-1], flags=cv2.INTER_NEAREST) > 0
        for mask in before
    ]
    return before, np.stack(after)
