"""The picture of an answer: what was found in green, candidates in orange, and the words below."""

from __future__ import annotations

import textwrap

import cv2
import numpy as np

from rise_perception.core.instances import Instances
from rise_perception.evaluation.panels import outline, text_bar, tint
from rise_perception.referring.answer import Referral, Status

_FOUND, _CANDIDATE = (40, 220, 60), (255, 150, 20)
_COLOUR = {Status.FOUND: _FOUND, Status.AMBIGUOUS: _CANDIDATE}


def draw_referral(image: np.ndarray, instances: Instances, answer: Referral, sentence: str) -> np.ndarray:
    """Draw an answer over its image.

    Args:
        image: (H, W, 3) uint8 RGB; stays as it is.
        instances: of the image.
        answer: to ``sentence``.
        sentence: as it was said.

    Returns:
        (H + text, W, 3) uint8 RGB, W at least 320.
    """
    drawn = image.copy()
    colour = _COLOUR.get(answer.status)
    if colour is not None:
        for row in answer.candidates:
            mask = instances.mask(row)
            tint(drawn, mask, colour, 0.45)
            outline(drawn, mask, colour, 2)
    if drawn.shape[1] < 320:
        drawn = cv2.copyMakeBorder(drawn, 0, 0, 0, 320 - drawn.shape[1], cv2.BORDER_CONSTANT)
    status = answer.status.name.lower().replace("_", " ")
    width = max(20, drawn.shape[1] // 8)
    said, detail = sentence[:300], f"{status}: {answer.detail}"
    lines = [*textwrap.wrap(f'"{said}"', width)[:3], *textwrap.wrap(detail, width)[:3]]
    return np.concatenate([drawn, text_bar(lines, drawn.shape[1], (255, 255, 255), (20, 20, 20))])
