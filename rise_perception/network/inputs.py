"""Input representations: what the network sees of a frame, chosen by ``NetworkConfig.input``.

``rgb``   normalised RGB.
``rgbd``  normalised RGB and three depth features: log distance relative to the scene's median, its
          high-pass (what stands out from its neighbourhood), and validity.

Relative and logarithmic, so that a scene looks the same from half the distance and in any unit.
"""

from __future__ import annotations

import cv2
import numpy as np

from rise_perception.errors import ConfigError
from rise_perception.network.config import INPUT_CHANNELS

#: ImageNet statistics, RGB, in [0, 1].
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_SCALE = 1.0 / (255.0 * DEVIATION)
_OFFSET = MEAN / DEVIATION

#: The high-pass subtracts the mean over a window of this share of the image's longer side.
_HIGH_PASS_WINDOW = 0.12


def make_input(image: np.ndarray, depth: np.ndarray | None, mode: str) -> np.ndarray:
    """Build the network's input from an image that is already at the network's scale.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres, 0 = no measurement; required by ``rgbd``.
        mode: a key of :data:`rise_perception.network.config.INPUT_CHANNELS`.

    Returns:
        (C, H, W) float32.

    Raises:
        ConfigError: unknown mode, or ``rgbd`` without depth.
    """
    if mode not in INPUT_CHANNELS:
        raise ConfigError(f"input {mode!r} is unknown; choose one of {sorted(INPUT_CHANNELS)}")
    channels = np.empty((INPUT_CHANNELS[mode], *image.shape[:2]), np.float32)
    for c in range(3):
        np.multiply(image[:, :, c], _SCALE[c], out=channels[c])
        channels[c] -= _OFFSET[c]
    if mode == "rgbd":
        if depth is None:
            raise ConfigError(
                "input 'rgbd' needs a depth map and got none; give depth, or use an 'rgb' model"
            )
        channels[3:] = depth_features(depth)
    return channels


def depth_features(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median-centred log distance, its high-pass, and validity; each (H, W) float32 in about [-3, 3].

    Args:
        depth: (H, W) float32 metres; 0, negative and non-finite values count as no measurement.
    """
    valid = np.isfinite(depth) & (depth > 0)
    mask = valid.astype(np.float32)
    if not valid.any():
        return mask, mask, mask
    log = np.log(np.where(valid, depth, 1.0), dtype=np.float32)
    relative = (log - np.median(log[valid])) * mask
    side = max(3, int(_HIGH_PASS_WINDOW * max(depth.shape))) | 1
    # The window's mean over valid pixels only: holes must not pull it.
    weight = cv2.blur(mask, (side, side))
    mean = cv2.blur(relative, (side, side)) / np.maximum(weight, 1e-3)
    high_pass = (relative - mean) * mask
    return np.clip(relative * 5.0, -3, 3), np.clip(high_pass * 25.0, -3, 3), mask
