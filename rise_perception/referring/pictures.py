"""The picture of an answer: what was found in green, candidates in orange, and the words below."""

from __future__ import annotations

import textwrap

import cv2
import numpy as np

from rise_perception.core.instances import Instances
from rise_perception.referring.answer import Referral, Status

_FOUND, _CANDIDATE = (40, 220, 60), (255, 150, 20)
_COLOUR = {Status.FOUND: _FOUND, Status.AMBIGUOUS: _CANDIDATE}
_LINE = 18  # pixels of a line of text


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
            drawn[mask] = (0.55 * drawn[mask] + 0.45 * np.array(colour)).astype(np.uint8)
            outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(drawn, outlines, -1, colour, 2)
    if drawn.shape[1] < 320:
        drawn = cv2.copyMakeBorder(drawn, 0, 0, 0, 320 - drawn.shape[1], cv2.BORDER_CONSTANT)
    status = answer.status.name.lower().replace("_", " ")
    width = max(20, drawn.shape[1] // 8)
    said = sentence[:300].encode("ascii", "replace").decode()
    detail = answer.detail.encode("ascii", "replace").decode()
    lines = [*textwrap.wrap(f'"{said}"', width)[:3], *textwrap.wrap(f"{status}: {detail}", width)[:3]]
    strip = np.full((_LINE * len(lines) + 8, drawn.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines):
        at = (6, _LINE * (number + 1) - 2)
        cv2.putText(strip, line, at, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (20, 20, 20), 1, cv2.LINE_AA)
    return np.concatenate([drawn, strip])
