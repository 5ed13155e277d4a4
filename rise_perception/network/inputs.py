"""What a network takes of a frame: normalised RGB, and three depth features where it sees depth.

The features are log distance relative to the scene's median, its high-pass (what stands out from its
neighbourhood), and validity. What the backbone sees of all this is the matter of
:mod:`rise_perception.network.representation`.

Relative and logarithmic, so that a scene looks the same from half the distance and in any unit.
"""

from __future__ import annotations

import cv2
import numpy as np

from rise_perception.core.errors import ConfigError
from rise_perception.core.letterbox import Letterbox
from rise_perception.network.config import INPUT_CHANNELS

#: ImageNet statistics, RGB, in [0, 1].
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
_SCALE = 1.0 / (255.0 * STD)
_OFFSET = MEAN / STD

#: The high-pass subtracts the mean over a window of this fraction of the image's longer side.
_HIGH_PASS_WINDOW = 0.12


def make_input(image: np.ndarray, depth: np.ndarray | None, mode: str) -> np.ndarray:
    """Build the network's input from an image that is already at the network's scale.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres, 0 = no measurement; required where the network sees depth.
        mode: a key of :data:`rise_perception.network.config.INPUT_CHANNELS`.

    Returns:
        (C, H, W) float32.

    Raises:
        ConfigError: unknown mode, or no depth where the network sees it.
    """
    if mode not in INPUT_CHANNELS:
        raise ConfigError(f"input {mode!r} is unknown; choose one of {sorted(INPUT_CHANNELS)}")
    channels = np.empty((INPUT_CHANNELS[mode], *image.shape[:2]), np.float32)
    for c in range(3):
        np.multiply(image[:, :, c], _SCALE[c], out=channels[c])
        channels[c] -= _OFFSET[c]
    if len(channels) > 3:
        if depth is None:
            raise ConfigError(
                f"input {mode!r} needs a depth map and got none; give depth, or use an 'rgb' model"
            )
        depth_features(depth, out=channels[3:])
    return channels


def fit_input(letterbox: Letterbox, image: np.ndarray, depth: np.ndarray | None, mode: str) -> np.ndarray:
    """:func:`make_input` of a camera image: letterboxed into the network's input first.

    Args:
        letterbox: of the image's and the input's size.
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres, or None.
        mode: as for :func:`make_input`.

    Returns:
        (C, h, w) float32.
    """
    return make_input(letterbox.fit(image), fit_depth(letterbox, depth), mode)


def fit_depth(letterbox: Letterbox, depth: np.ndarray | None) -> np.ndarray | None:
    """(h, w) depth in the network's input; neighbours are not mixed, and the border has no measurement."""
    return None if depth is None else letterbox.fit(depth, nearest=True, border=0)


def depth_features(depth: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Median-centred log distance, its high-pass, and validity.

    Args:
        depth: (H, W) float32 metres; 0, negative and non-finite values count as no measurement.
        out: (3, H, W) float32 to write into.

    Returns:
        (3, H, W) float32, each in [-3, 3].
    """
    features = np.empty((3, *depth.shape), np.float32) if out is None else out
    relative, high_pass, mask = features
    valid = np.isfinite(depth) & (depth > 0)
    mask[:] = valid
    if not valid.any():
        features[:] = 0
        return features
    # In place: fresh arrays of this size cost more in page faults than in arithmetic.
    relative[:] = depth
    relative[~valid] = 1.0
    np.log(relative, out=relative)
    relative -= _median(relative[valid])
    relative *= mask
    side = max(3, int(_HIGH_PASS_WINDOW * max(depth.shape))) | 1
    # The window's mean over valid pixels only: holes must not pull it.
    weight = cv2.blur(mask, (side, side))
    mean = cv2.blur(relative, (side, side))
    mean /= np.maximum(weight, 1e-3, out=weight)
    np.subtract(relative, mean, out=high_pass)
    high_pass *= mask
    for feature, gain in ((relative, 5.0), (high_pass, 25.0)):
        feature *= gain
        np.clip(feature, -3, 3, out=feature)
    return features


def _median(values: np.ndarray) -> np.float32:
    """The median of (N,) float32, N >= 1, all finite; reorders them. NumPy's takes twice as long."""
    half = len(values) // 2
    values.partition(half)
    upper = values[half]
    return upper if len(values) % 2 else (values[:half].max() + upper) / np.float32(2)
