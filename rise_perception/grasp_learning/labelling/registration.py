"""Two frames of one scene brought together: the camera's small motion, and the change of exposure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np

#: Motions of the picture's corners below this many pixels are none: resampling would only add blur.
STILL = 0.5
#: Nor is a motion that explains hardly more points than none does.
WORTH = 0.9
#: Corners that are looked for; a few dozen that agree are plenty.
CORNERS = 500
#: Fewest points that may claim that the camera moved.
ENOUGH = 12
#: Distance in pixels at which a tracked point still agrees with a motion.
AGREE = 1.0
#: A pixel at or beyond these values has lost what exposure did to it.
DARK, BRIGHT = 4, 250
#: Fraction of the picture that has to be neither in both frames.
COMPARABLE = 0.05


@dataclass(frozen=True)
class Motion:
    """How the picture moved between two frames.

    Attributes:
        matrix: (2, 3) float64, maps pixels (x, y) of the first frame to the second.
        shift: pixels that the farthest corner of the picture moves by.
        agreement: fraction of the tracked points that follow ``matrix``; 1 when there were too few to tell.
    """

    matrix: np.ndarray
    shift: float
    agreement: float


@dataclass(frozen=True)
class Exposure:
    """``second = gain * first + offset`` per channel on what did not change.

    Attributes:
        gain: (3,) float64; 0 when too little of the pictures is neither black nor white in both.
        offset: (3,) float64, in grey values.
        noise: (256,) float32, standard deviation of the remaining difference by grey value of the first.
        misfit: fraction of the compared pixels that are further than three ``noise`` apart.
    """

    gain: np.ndarray
    offset: np.ndarray
    noise: np.ndarray
    misfit: float


def estimate_motion(first: np.ndarray, second: np.ndarray, static: np.ndarray) -> Motion:
    """The similarity transform that most of the picture follows.

    Corners are tracked on locally normalised brightness, so that neither exposure nor shadows matter, and
    what the robot changed is outvoted.

    Args:
        first, second: (H, W, 3) uint8.
        static: (H, W) bool, where to look; the robot is left out.
    """
    height, width = first.shape[:2]
    a, b = _normalised(first), _normalised(second)
    still = Motion(np.eye(2, 3), 0.0, 1.0)
    points = cv2.goodFeaturesToTrack(a, CORNERS, 0.02, 5, mask=static.astype(np.uint8))
    if points is None or len(points) < ENOUGH:
        return still
    there, seen = _track(a, b, points)
    back, returned = _track(b, a, there)
    came_back = np.linalg.norm(back - points, axis=-1).ravel() < 0.5
    good = came_back & seen & returned
    if good.sum() < ENOUGH:
        return Motion(np.eye(2, 3), 0.0, float(good.mean()))
    cv2.setRNGSeed(0)  # RANSAC draws from OpenCV's generator
    matrix, inliers = cv2.estimateAffinePartial2D(
        points[good], there[good], method=cv2.RANSAC, ransacReprojThreshold=AGREE
    )
    if matrix is None:
        return Motion(np.eye(2, 3), 0.0, 0.0)
    steps = np.linalg.norm(there[good] - points[good], axis=-1).ravel()
    followed, stayed = int(inliers.sum()), int((steps < AGREE).sum())
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float64)
    shift = float(np.linalg.norm(corners @ matrix.T - corners[:, :2], axis=1).max())
    # A camera stands still unless the points say otherwise: four of them fit some motion by chance.
    if shift < STILL or stayed > WORTH * followed:
        return Motion(np.eye(2, 3), 0.0, stayed / len(steps))
    return Motion(matrix, shift, followed / len(steps))


def largest(values: np.ndarray) -> np.ndarray:
    """(H, W), the largest of the three channels of (H, W, 3); NumPy's own reduction is much slower."""
    return np.maximum(np.maximum(values[..., 0], values[..., 1]), values[..., 2])


def brightness(image: np.ndarray) -> np.ndarray:
    """(H, W) float32, mean of the three channels of (H, W, 3)."""
    return np.asarray(cv2.transform(image.astype(np.float32), np.full((1, 3), 1 / 3, np.float32)))


def _track(first: np.ndarray, second: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where ``points`` (P, 1, 2) of the first picture are in the second, and (P,) bool which were found."""
    start = points.copy()
    there, found, _ = cv2.calcOpticalFlowPyrLK(first, second, points, start, winSize=(15, 15), maxLevel=3)
    return np.asarray(there), np.asarray(found).ravel() == 1


def _normalised(image: np.ndarray) -> np.ndarray:
    """(H, W) uint8 brightness with local mean and contrast evened out."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.2).astype(np.float32)
    width = 2 * (max(grey.shape) // 20) + 1
    mean = cv2.blur(grey, (width, width))
    spread = np.sqrt(np.maximum(cv2.blur(grey * grey, (width, width)) - mean * mean, 0)) + 8
    return np.clip(128 + 48 * (grey - mean) / spread, 0, 255).astype(np.uint8)


def bring_back(values: np.ndarray, motion: Motion) -> np.ndarray:
    """``values`` (H, W[, C]) of the second frame, where the first frame has them.

    Depth, labels and masks are taken from the nearest pixel, pictures are interpolated; what lies outside
    of the second frame is 0.
    """
    if motion.shift == 0:
        return values
    size = (values.shape[1], values.shape[0])
    how = (cv2.INTER_CUBIC if values.ndim == 3 else cv2.INTER_NEAREST) | cv2.WARP_INVERSE_MAP
    kind = values.dtype
    moved = cv2.warpAffine(
        values.astype(np.uint8) if kind == np.bool_ else values, motion.matrix, size, flags=how
    )
    return moved.astype(kind)


def estimate_exposure(first: np.ndarray, second: np.ndarray, static: np.ndarray) -> Exposure:
    """Robust line through the grey values of two aligned pictures, per channel, and the noise around it.

    Args:
        first, second: (H, W, 3) uint8, aligned.
        static: (H, W) bool, pixels to use; that most of them show the same thing in both is enough.
    """
    a = cv2.GaussianBlur(first, (0, 0), 1.0).astype(np.float32)
    b = cv2.GaussianBlur(second, (0, 0), 1.0).astype(np.float32)
    low, high = np.minimum(a, b), np.maximum(a, b)
    usable = static & (-largest(-low) > DARK) & (largest(high) < BRIGHT)
    a, b = a[usable], b[usable]  # (P, 3)
    if len(a) < max(20, COMPARABLE * static.sum()):
        return Exposure(np.zeros(3), np.zeros(3), np.full(256, 3, np.float32), 1.0)
    step = max(1, len(a) // 40_000)
    a, b = a[::step], b[::step]
    gain, offset = np.ones(3), np.zeros(3)
    inside = np.ones(len(a), bool)
    for channel in range(3):
        gain[channel], offset[channel], fits = _robust_line(a[:, channel], b[:, channel])
        inside &= fits
    rest = np.abs(b - (a * gain + offset)).max(axis=1)
    noise = _noise_by_brightness(a.mean(axis=1), rest)
    misfit = float((rest > 3 * noise[a.mean(axis=1).astype(np.uint8)]).mean())
    return Exposure(gain, offset, noise, misfit)


def _robust_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Gain, offset and the points that fit, by least squares on ever fewer outliers."""
    gain, offset = float(np.median(y / x)), 0.0
    fits = np.ones(len(x), bool)
    for _ in range(6):
        rest = np.abs(y - (gain * x + offset))
        fits = rest <= 2.5 * 1.4826 * np.median(rest) + 0.5
        spread = float(x[fits].std())
        if spread < 3:  # one flat colour: a gain cannot be told from an offset
            return float(np.median(y[fits] / x[fits])), 0.0, fits
        gain, offset = np.polyfit(x[fits], y[fits], 1)
    return float(gain), float(offset), fits


def _noise_by_brightness(brightness: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """(256,) float32: robust deviation of ``rest`` for each grey value, from eight bands."""
    edges = np.quantile(brightness, np.linspace(0, 1, 9))
    middle, deviation = [], []
    for low, high in itertools.pairwise(edges):
        band = rest[(brightness >= low) & (brightness <= high)]
        middle.append((low + high) / 2)
        deviation.append(1.2 * float(np.quantile(band, 0.4)))
    smooth = np.minimum(deviation, 2 * np.median(deviation))
    return np.maximum(np.interp(np.arange(256), middle, smooth), 0.8).astype(np.float32)
