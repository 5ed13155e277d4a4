"""What a cheap RGB-D camera makes of a clean rendering: noise, holes, blur, exposure, colour casts."""

from __future__ import annotations

import cv2
import numpy as np


def occlusion(depth: np.ndarray, focal: float) -> np.ndarray:
    """(H, W) float32 in (0, 1]: how much light reaches each pixel's corner of the scene.

    Depth below its own blurred neighbourhood lies in a crease or beside something nearer, where a
    real scene is darker than fixed-function lighting makes it.
    """
    light = np.ones_like(depth)
    near = np.minimum(depth, 3.0)
    for reach in (0.008, 0.03):  # metres
        width = max(3, int(3 * reach * focal / np.median(near)))
        crease = (near - cv2.blur(cv2.blur(near, (width, width)), (width, width))) / reach
        light *= 1 - 0.45 * np.clip(crease, 0, 1)
    return cv2.blur(light, (3, 3))  # depth has harder edges than the picture


def photograph(
    rng: np.random.Generator, grain: np.random.Generator, image: np.ndarray, depth: np.ndarray, focal: float
) -> np.ndarray:
    """(H, W, 3) uint8 photo of the clean ``image`` (H, W, 3) float32 in [0, 255] over ``depth`` in metres.

    What the camera is like is drawn from ``rng``, the noise of this picture from ``grain``.
    """
    height, width = depth.shape
    picture = image * (1 - rng.uniform(0.0, 0.8) * (1 - occlusion(depth, focal)))[..., None]
    # Automatic exposure: brings the mean near a target, and is sometimes off.
    mean = max(float(picture.mean()), 4.0)
    picture *= np.clip(rng.uniform(70, 140) / mean, 0.4, 5.0)
    picture *= np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    radius = ((xx / width - 0.5) ** 2 + (yy / height - 0.5) ** 2) * 2
    picture *= (1 - float(rng.choice([0.0, rng.uniform(0, 0.4)])) * radius)[..., None]
    picture = 255 * (np.maximum(picture, 0) / 255) ** rng.uniform(0.75, 1.25)
    # Highlights roll off instead of clipping.
    picture = np.where(picture > 200, 255 - 55 * np.exp(-(picture - 200) / 55), picture)
    if rng.random() < 0.3:  # a camera that boosts contrast
        picture = 127 + (picture - 127) * rng.uniform(1.0, 1.6)
    grey = picture.mean(axis=2, keepdims=True)
    picture = grey + (picture - grey) * rng.uniform(0.6, 1.25)
    picture = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), float(rng.uniform(0.3, 0.9)))
    shot, read = float(rng.choice([rng.uniform(0.1, 0.5), rng.uniform(0.5, 1.6)])), rng.uniform(0.5, 4)
    picture = with_noise(rng, grain, picture, shot, read)
    if rng.random() < 0.35:  # sharpened by the camera
        picture += rng.uniform(0.4, 1.5) * (picture - cv2.GaussianBlur(picture, (0, 0), 1.2))
    return stored(rng, picture, compressed=0.5, worst=40)


def with_noise(
    rng: np.random.Generator, grain: np.random.Generator, picture: np.ndarray, shot: float, read: float
) -> np.ndarray:
    """(H, W, 3) ``picture`` in grey values with noise: ``read`` as a floor, ``shot`` with the light."""
    deviation = np.sqrt(read**2 + shot**2 * np.maximum(picture, 0) * 0.3)
    speckle = grain.standard_normal(picture.shape, np.float32)
    if rng.random() < 0.5:  # the noise of a demosaiced picture spans more than a pixel
        speckle = cv2.GaussianBlur(speckle, (0, 0), 0.7) * 2.0
    return np.asarray(picture + deviation * speckle)


def stored(rng: np.random.Generator, picture: np.ndarray, compressed: float, worst: int) -> np.ndarray:
    """(H, W, 3) uint8 of ``picture``; in a fraction ``compressed`` through JPEG of ``worst`` to 95."""
    out = np.clip(picture, 0, 255).astype(np.uint8)
    if rng.random() < compressed:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(worst, 96))]
        encoded = cv2.imencode(".jpg", out[..., ::-1], quality)[1]
        out = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1]
    return np.ascontiguousarray(out)


def measure_depth(
    rng: np.random.Generator,
    grain: np.random.Generator,
    depth: np.ndarray,
    focal: float,
    shiny: np.ndarray,
    image: np.ndarray,
) -> np.ndarray:
    """(H, W) uint16 millimetres, 0 where there is no measurement, of the clean ``depth`` in metres.

    Args:
        rng: what the camera is like is drawn from it.
        grain: the noise of this picture is drawn from it.
        shiny: (H, W) bool, glass and polish that a depth camera sees badly.
        image: (H, W, 3) uint8 photo; very dark things return little light.
    """
    height, width = depth.shape
    z = depth.astype(np.float32)
    # Ragged edges: each pixel reads a neighbour up to a pixel or two away, in patches.
    reach = rng.uniform(0.3, 1.4)
    patch = (max(2, height // 3), max(2, width // 3))
    warp = [cv2.resize(grain.normal(0, reach, patch).astype(np.float32), (width, height)) for _ in range(2)]
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float32)
    moved = cv2.remap(z, xx + warp[0], yy + warp[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    z = np.asarray(moved, np.float32)
    slope_x = cv2.Sobel(z, cv2.CV_32F, 1, 0, scale=0.125)
    slope_y = cv2.Sobel(z, cv2.CV_32F, 0, 1, scale=0.125)
    # Tangent of the angle between the ray and the surface's normal.
    slope = np.hypot(slope_x, slope_y) * focal / z
    edge = slope > 6
    holes = grain.random(z.shape) < 0.002
    # Edge mixing: flying pixels between front and back.
    if rng.random() < 0.5:
        mixed = cv2.GaussianBlur(z, (0, 0), 0.8)
        z = np.where(edge & (grain.random(z.shape) < 0.5), mixed, z)
    # Stereo: behind an edge one eye sees nothing, on the side of the other eye.
    if rng.random() < 0.75:
        shift = rng.uniform(0.03, 0.08) * focal / z * (1 if rng.random() < 0.5 else -1)
        shadow = np.zeros_like(holes)
        direction = 1 if shift.flat[0] > 0 else -1
        disparity = np.abs(shift)
        for step in range(1, 13):
            front = np.roll(disparity, direction * step, axis=1)
            shadow |= front - disparity > step
        shadow[:, :2] = shadow[:, -2:] = False
        holes |= shadow
    blobs = cv2.GaussianBlur(grain.standard_normal(z.shape, np.float32), (0, 0), 2.5) * 8.5
    holes |= (slope > rng.uniform(3, 8)) & (blobs > -0.3)
    if rng.random() < 0.7:
        holes |= shiny & (blobs > rng.uniform(-1.5, 1.0))
    if rng.random() < 0.5:
        holes |= (image.max(axis=2) < rng.uniform(5, 30)) & (blobs > rng.uniform(-0.5, 1.0))
    coarse = cv2.GaussianBlur(grain.standard_normal(z.shape, np.float32), (0, 0), 3.0) * 10
    fine = grain.standard_normal(z.shape, np.float32)
    noise = rng.uniform(0.0005, 0.002) + rng.uniform(0.0005, 0.004) * z**2
    z = z + noise * (0.6 * fine + 0.6 * coarse)
    if rng.random() < 0.5:  # disparity steps
        quantum = rng.uniform(0.0003, 0.0015) * np.square(np.maximum(z, 0.1))
        z = (np.round(z / quantum) * quantum).astype(np.float32)
    holes |= (z < rng.uniform(0.1, 0.2)) | (z > rng.uniform(2.5, 6.0))
    return np.where(holes, 0, np.clip(z * 1000 + 0.5, 0, 65535)).astype(np.uint16)
