"""What the grasp segmenter takes of two frames that have been brought together.

=====  ===================================================================================
0-2    the frame before, normalised red, green, blue
3-5    the frame after on its pixels and with its exposure, the same
6-8    after minus before, in 32 grey values
9-11   depth before: median-centred log distance, its high-pass, validity
12-13  log ratio of depth after and before in 1/60, and where both are known
14     the prediction that was grasped at; zero where there is none
15     where the frames can be compared
=====  ===================================================================================
"""

from __future__ import annotations

import numpy as np

from rise_perception.core.letterbox import Letterbox
from rise_perception.grasp_learning.labelling.registration import Exposure
from rise_perception.grasp_learning.segmenter.network import CHANNELS, SIZE
from rise_perception.network.inputs import depth_features, make_input

#: Grey values, and log distance, of a difference of 1; differences are clipped at LARGEST.
GREY_STEP, DEPTH_STEP, LARGEST = 32.0, 1 / 60, 3.0


def expose_alike(image: np.ndarray, exposure: Exposure) -> np.ndarray:
    """A frame after (H, W, 3) uint8 with the exposure of the frame before; as it is where that is unknown."""
    if exposure.gain.min() < 0.05:
        return image
    if np.abs(exposure.gain - 1).max() < 0.02 and np.abs(exposure.offset).max() < 1.5:
        return image
    values = (image.astype(np.float32) - exposure.offset.astype(np.float32)) / exposure.gain.astype(
        np.float32
    )
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def pair_input(
    first: np.ndarray,
    second: np.ndarray,
    depths: tuple[np.ndarray, np.ndarray] | None,
    target: np.ndarray | None,
    compared: np.ndarray,
) -> np.ndarray:
    """The network's input.

    Args:
        first: (H, W, 3) uint8, the frame before.
        second: (H, W, 3) uint8, the frame after on its pixels, with its exposure.
        depths: both (H, W) float32 metres on the pixels of the frame before, 0 = none; None without depth.
        target: (H, W) bool, the prediction that was grasped at; None where that is not known.
        compared: (H, W) bool, seen in both frames without the robot.

    Returns:
        (16, 240, 320) float32, the picture in the top left corner.
    """
    box = Letterbox(first.shape[:2], SIZE)
    made = np.zeros((CHANNELS, *SIZE), np.float32)
    a, b = box.fit(first), box.fit(second)
    made[0:3], made[3:6] = make_input(a, None, "rgb"), make_input(b, None, "rgb")
    difference = (b.astype(np.float32) - a.astype(np.float32)) / GREY_STEP
    made[6:9] = np.clip(difference, -LARGEST, LARGEST).transpose(2, 0, 1)
    if depths is not None:
        x, y = (box.fit(depth, nearest=True, border=0) for depth in depths)
        depth_features(x, out=made[9:12])
        known = (x > 0) & (y > 0) & np.isfinite(x) & np.isfinite(y)
        ratio = np.log(np.where(known, y, 1) / np.where(known, x, 1)) / DEPTH_STEP
        made[12], made[13] = np.clip(ratio, -LARGEST, LARGEST), known
    if target is not None:
        made[14] = box.fit(target.astype(np.float32), nearest=True, border=0)
    made[15] = box.fit(compared.astype(np.float32), nearest=True, border=0)
    return made
