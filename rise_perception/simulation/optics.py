"""The camera of world 2: exposure, motion, processing, compression; depth as cheap sensors give it."""

from __future__ import annotations

import cv2
import numpy as np

from rise_perception.simulation import sensor


def photograph(
    rng: np.random.Generator, grain: np.random.Generator, image: np.ndarray, depth: np.ndarray, focal: float
) -> np.ndarray:
    """As :func:`rise_perception.simulation.sensor.photograph`, with what real cameras add or leave out.

    Many pictures are large ones made small, and so sharper and cleaner than a small sensor's; some are
    blown out, dark, shaken or processed hard.
    """
    height, width = depth.shape
    picture = image * (1 - rng.uniform(0.2, 1.0) * (1 - sensor.occlusion(depth, focal)))[..., None]
    mean = max(float(picture.mean()), 4.0)
    aim = rng.choice([rng.uniform(75, 135), rng.uniform(50, 80), rng.uniform(130, 175)], p=[0.75, 0.1, 0.15])
    picture = picture * np.clip(aim / mean, 0.4, 5.0)
    picture *= np.exp(rng.normal(0, 0.09, 3)).astype(np.float32)
    if rng.random() < 0.3:  # a window or a lamp at one side: light falls off across the picture
        yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        ramp = (np.cos(angle) * (xx / width - 0.5) + np.sin(angle) * (yy / height - 0.5)) * rng.uniform(
            0.2, 0.9
        )
        picture *= np.clip(1 + ramp, 0.2, 2.0)[..., None] * np.exp(ramp[..., None] * rng.normal(0, 0.3, 3))
    picture = 255 * (np.maximum(picture, 0) / 255) ** rng.uniform(0.7, 1.3)
    if rng.random() < 0.6:  # highlights roll off; otherwise they clip
        picture = np.where(picture > 200, 255 - 55 * np.exp(-(picture - 200) / 55), picture)
    if rng.random() < 0.4:
        picture = 127 + (picture - 127) * rng.uniform(0.7, 1.4)
    grey = picture.mean(axis=2, keepdims=True)
    picture = grey + (picture - grey) * rng.uniform(0.5, 1.35)
    picture = picture.astype(np.float32)
    if rng.random() < 0.3:  # bloom around what is blown out
        bright = np.clip(picture - 220, 0, 80)
        picture += rng.uniform(0.2, 1.0) * cv2.GaussianBlur(bright, (0, 0), float(rng.uniform(1.5, 6)))
    if rng.random() < 0.15:  # shaken
        length, angle = int(rng.integers(2, 8)), rng.uniform(0, np.pi)
        kernel = np.zeros((9, 9), np.float32)
        end = (round(4 + length / 2 * np.cos(angle)), round(4 + length / 2 * np.sin(angle)))
        cv2.line(kernel, (8 - end[0], 8 - end[1]), end, 1.0, 1)
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
    clean = rng.random() < 0.6
    blur = rng.uniform(0.0, 0.4) if clean else rng.uniform(0.4, 1.1)
    if blur > 0.15:
        picture = cv2.GaussianBlur(picture, (0, 0), float(blur))
    shot, read = (
        (rng.uniform(0, 0.15), rng.uniform(0, 1)) if clean else (rng.uniform(0.2, 1.0), rng.uniform(0.5, 4))
    )
    picture = sensor.with_noise(rng, grain, picture, shot, read)
    if rng.random() < 0.45:
        picture += rng.uniform(0.3, 1.5) * (
            picture - cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.8, 1.6)))
        )
    return sensor.stored(rng, picture, compressed=0.6, worst=30)


def measure_depth(
    rng: np.random.Generator,
    grain: np.random.Generator,
    depth: np.ndarray,
    focal: float,
    shiny: np.ndarray,
    image: np.ndarray,
) -> np.ndarray:
    """As :func:`rise_perception.simulation.sensor.measure_depth`, with coarse, filled and misaligned depth.

    Args:
        rng: what the camera is like is drawn from it.
        grain: the noise of this picture is drawn from it.
        depth: (H, W) float32 clean, metres.
        focal: pixels.
        shiny: (H, W) bool, glass and polish that a depth camera sees badly.
        image: (H, W, 3) uint8 photo.
    """
    height, width = depth.shape
    if rng.random() < 0.4:  # fat foreground: a matching window of stereo widens what is near
        size = int(rng.choice([3, 5]))
        depth = cv2.erode(depth, np.ones((size, size), np.uint8))
    glare = image.min(axis=2) > rng.uniform(235, 255)
    out = sensor.measure_depth(rng, grain, depth, focal, shiny | (glare & (rng.random() < 0.5)), image)
    if rng.random() < 0.35:  # measured at a lower resolution
        fraction = rng.uniform(0.35, 0.8)
        small = cv2.resize(
            out, (int(width * fraction), int(height * fraction)), interpolation=cv2.INTER_NEAREST
        )
        out = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.4:  # holes filled by the camera: with the farther neighbour, or along the row
        reach = int(rng.integers(2, 9))
        far = cv2.dilate(out, np.ones((1 if rng.random() < 0.5 else reach, reach), np.uint8))
        out = np.where(out == 0, far, out)
    if rng.random() < 0.5:  # colour and depth are not registered exactly
        shift = rng.normal(0, 0.006 * width, 2)
        grow, turn = np.exp(rng.normal(0, 0.006)), rng.normal(0, 0.15)
        matrix = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), float(turn), float(grow)))
        matrix[:, 2] = matrix[:, 2] + shift
        out = cv2.warpAffine(out, matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=0)
    return np.ascontiguousarray(out.astype(np.uint16))
