"""What the tests of pseudo-sequences share."""

from __future__ import annotations

from typing import Any

import numpy as np
from tiny_data import SAME_VIEW

from rise_perception.data.coco import LabelledImage
from rise_perception.synthesis.augmentation import GeometricAugmentation
from rise_perception.training.config import SequenceConfig
from rise_perception.training.sequence import SequenceMaker

STILL = GeometricAugmentation((1.0, 1.0), flip=0.0, rotation=0.0)
L_SHAPE = np.zeros((24, 16), bool)
L_SHAPE[:, :5] = L_SHAPE[19:] = True


def maker(strength: float = 0.0, weak: GeometricAugmentation = STILL, **config: Any) -> SequenceMaker:
    """Of sequences whose x3 has the geometry and the depth of x1, but for what ``config`` says."""
    return SequenceMaker(SequenceConfig(**(SAME_VIEW | config)), weak, strength)


def blank(size: tuple[int, int] = (64, 96), metres: float | None = None) -> LabelledImage:
    depth = None if metres is None else np.full(size, metres, np.float32)
    return LabelledImage.unlabelled("x.png", np.zeros((*size, 3), np.uint8), depth)
