"""Where objects are pasted: a place on the image (Eq. 2), and how much it may hide (the 85 % rule)."""

from __future__ import annotations

import math

import numpy as np
import torch

#: A pasted object may hide at most this fraction of any other (the 85 % rule).
MAX_HIDDEN = 0.85


def place(room_y: int, room_x: int) -> tuple[int, int]:
    """Top-left corner ~ Beta(.5, .5) x Beta(.5, .5) over the feasible region (Eq. 2), in rows and columns."""
    # Beta(.5, .5) is the arcsine distribution: the squared sine of a uniform angle.
    y, x = (torch.rand(2) * (math.pi / 2)).sin().square().tolist()
    return round(y * room_y), round(x * room_x)


def hides_too_much(covered: np.ndarray, shown: np.ndarray, full: np.ndarray) -> bool:
    """Whether a paste would leave an object more than 85 % hidden, counting what hides it already.

    Args:
        covered: (N,) pixels of each object that the paste would cover.
        shown: (N,) pixels of it that are seen now.
        full: (N,) its pixels when nothing hides it.
    """
    hidden = shown - covered < (1 - MAX_HIDDEN) * full
    # Only those that this paste touches count against it.
    return bool((hidden & (covered > 0)).any())
