"""Pictures for reports: panels side by side below their titles, bars of text, tinted and outlined masks."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

Color = tuple[int, int, int]
DARK: Color = (32, 32, 32)
LIGHT: Color = (235, 235, 235)
LINE = 26  # pixels of a line of text
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def fit_width(image: np.ndarray, width: int) -> np.ndarray:
    """(h, width, 3) uint8 of ``image`` (H, W, 3) uint8, in its proportions."""
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    how = cv2.INTER_AREA if image.shape[1] > width else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=how))


def side_by_side(panels: Sequence[np.ndarray], titles: Sequence[str], gap: int = 0) -> np.ndarray:
    """Panels of one height, each below its title.

    Args:
        panels: (h, w, 3) uint8 RGB each.
        titles: one a panel.
        gap: pixels between panels.

    Returns:
        (LINE + h, all widths and gaps, 3) uint8 RGB.
    """
    columns = [
        np.vstack([text_bar([title], panel.shape[1]), panel])
        for panel, title in zip(panels, titles, strict=True)
    ]
    between = np.full((columns[0].shape[0], gap, 3), DARK, np.uint8)
    return np.hstack([part for column in columns for part in (between, column)][1:])


def text_bar(lines: Sequence[str], width: int, background: Color = DARK, color: Color = LIGHT) -> np.ndarray:
    """(LINE * lines, width, 3) uint8 RGB with lines of text; what the font does not have becomes ``?``."""
    bar = np.full((LINE * len(lines), width, 3), background, np.uint8)
    for number, line in enumerate(lines):
        text = line.encode("ascii", "replace").decode()
        cv2.putText(bar, text, (8, LINE * number + 18), _FONT, 0.45, color, 1, cv2.LINE_AA)
    return bar


def tint(picture: np.ndarray, mask: np.ndarray, color: Color, strength: float) -> None:
    """Mixes ``color`` into ``picture`` (H, W, 3) uint8 where ``mask`` (H, W) bool, in place."""
    picture[mask] = ((1 - strength) * picture[mask] + strength * np.array(color)).astype(np.uint8)


def outline(picture: np.ndarray, mask: np.ndarray, color: Color, thickness: int = 1) -> None:
    """Draws the contour of ``mask`` (H, W) bool into ``picture`` (H, W, 3) uint8, in place."""
    edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, edges, -1, color, thickness)
