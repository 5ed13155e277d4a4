"""What changed between two frames of one scene, whatever exposure, shadows and noise did to them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage

from rise_perception.grasp_learning.capture.episode import Observation
from rise_perception.grasp_learning.labelling.registration import (
    Exposure,
    Motion,
    brightness,
    bring_back,
    estimate_exposure,
    estimate_motion,
    largest,
)

#: Deviations of colour, and of depth, from which a pixel has changed.
COLOR_LIMIT, DEPTH_LIMIT = 3.5, 4.0
#: Deviations of depth up to which a pixel's depth is the same.
DEPTH_SAME = 2.5
#: A shadow scales a colour by a factor in between, and leaves its hue: this fraction of the change at the
#: most.
SHADOW_SCALE, SHADOW_HUE = (0.35, 2.8), 0.3
#: How much a shadow-like difference counts where depth cannot say whether anything moved.
SHADOW_WEIGHT = 0.5
#: Fraction of a region that has to lie elsewhere by depth before what lies where it lay counts as its shadow.
STANDS_UP = 0.15
#: Deviations of a region's mean depth from which it lies elsewhere; one pixel of a thin plate does not tell.
THIN = 3.0
#: Correlation of a pixel's surroundings from which they show the same pattern, only darker or brighter.
SAME_PATTERN = 0.7
#: The edge of a changed region lies where the difference falls below this fraction of its peak nearby ...
HALF = 0.4
#: ... within this many pixels at 320x240, in proportion at other sizes.
REACH = 3.0
#: Smallest region, as a fraction of the picture (40 pixels at 320x240).
SMALLEST = 40 / (320 * 240)


@dataclass(frozen=True)
class Change:
    """Regions of the frame before, in its pixels.

    Attributes:
        removed: (H, W) bool, what was here before is gone.
        added: (H, W) bool, something is here now that was not.
        farther, measured: (H, W) bool, what is seen now lies farther away; where depth can tell.
        same: (H, W) bool, certainly unchanged: depth says so, or texture that is still there.
        shadow: (H, W) bool, looks like the same thing, darker or brighter, and no depth to tell.
        compared: (H, W) bool, seen in both frames, without the robot in front.
        evidence: (H, W) float32, how clearly a pixel differs; 1 is the limit.
        fraction: changed fraction of ``compared``.
        motion: of the camera, from the frame before to the frame after.
        exposure: from the frame before to the frame after.
    """

    removed: np.ndarray
    added: np.ndarray
    farther: np.ndarray
    measured: np.ndarray
    same: np.ndarray
    shadow: np.ndarray
    compared: np.ndarray
    evidence: np.ndarray
    fraction: float
    motion: Motion
    exposure: Exposure


def find_change(before: Observation, after: Observation) -> Change:
    """Compare two observations of one scene by a camera that stands still, or nearly."""
    first, second = before.frame, after.frame
    free = _free(before), _free(after)
    motion = estimate_motion(first.image, second.image, free[0])
    compared = free[0] & bring_back(free[1], motion)
    image = bring_back(second.image, motion)
    exposure = estimate_exposure(first.image, image, compared)
    color, hue, scale, one_way = _color_difference(first.image, image, exposure)
    shadow = (
        (hue < np.maximum(2.5, SHADOW_HUE * color)) & (scale > SHADOW_SCALE[0]) & (scale < SHADOW_SCALE[1])
    )
    size = first.image.shape[:2]
    depth, known = np.zeros(size, np.float32), np.zeros(size, bool)
    if first.depth is not None and second.depth is not None:
        depth, known = _depth_difference(first.depth, bring_back(second.depth, motion), compared)
    same = known & (np.abs(depth) < DEPTH_SAME)
    pattern = _textured(first.image, exposure) & (_likeness(first.image, image) > SAME_PATTERN)
    weight = np.where(shadow, np.where(known | pattern, 0.0, SHADOW_WEIGHT), np.where(same, 0.6, 1.0))
    evidence_color = cv2.GaussianBlur((color * weight / COLOR_LIMIT).astype(np.float32), (0, 0), 0.6)
    evidence_depth = np.where(known, np.abs(depth) / DEPTH_LIMIT, 0).astype(np.float32)
    reach = max(2, round(REACH * np.sqrt(size[0] * size[1] / (320 * 240))))
    changed = (_to_edge(evidence_color, reach) | _to_edge(evidence_depth, reach)) & compared
    nearer, farther = known & (depth < -DEPTH_SAME), known & (depth > DEPTH_SAME)
    removed, added = _clean(changed & ~nearer, reach), _clean(changed & ~farther, reach)
    removed, added = _choose_side(removed, added, farther, nearer, known, first.image, image)
    flat = same & one_way
    unchanged = known & ~removed & ~added
    removed = _without_shadow(removed & compared, farther, flat, depth, unchanged, reach)
    added = _without_shadow(added & compared, nearer, flat, depth, unchanged, reach)
    fraction = float((removed | added).sum() / max(1, compared.sum()))
    certain = same | (~known & (color < 1) & _textured(first.image, exposure))
    certain &= compared & ~removed & ~added
    evidence = np.maximum(evidence_color, evidence_depth)
    return Change(
        removed,
        added,
        farther,
        known,
        certain,
        shadow & ~known,
        compared,
        evidence,
        fraction,
        motion,
        exposure,
    )


def _free(side: Observation) -> np.ndarray:
    """(H, W) bool, pixels without the robot and what its mask's edge leaves over."""
    size = side.frame.image.shape[:2]
    if side.robot is None:
        return np.ones(size, bool)
    width = 2 * max(1, max(size) // 160) + 1
    return cv2.dilate(side.robot.astype(np.uint8), _disc(width)) == 0


def _color_difference(
    first: np.ndarray, second: np.ndarray, exposure: Exposure
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Differences (H, W) in deviations of the noise: of colour, of hue alone; and the factor of brightness.

    Last, (H, W) bool: all channels are brighter, or all are darker, as light and shadow make them.

    A pixel differs as far as its value lies outside of what the other picture shows within one pixel, so
    that edges may be off by as much.
    """
    a = cv2.GaussianBlur(first, (0, 0), 0.7).astype(np.float32)
    a = np.clip(a * exposure.gain.astype(np.float32) + exposure.offset.astype(np.float32), 0, 255)
    b = cv2.GaussianBlur(second, (0, 0), 0.7).astype(np.float32)
    noise = exposure.noise[brightness(first).astype(np.uint8)]
    rest = largest(np.maximum(_outside(a, b), _outside(b, a))) / noise
    c, d = np.asarray(cv2.blur(a, (3, 3))), np.asarray(cv2.blur(b, (3, 3)))
    scale = brightness(c * d) / np.maximum(brightness(c * c), 1 / 3)
    hue = largest(np.abs(d - scale[..., None] * c)) / noise
    change = d - c
    one_way = (change.min(axis=2) > 0) | (change.max(axis=2) < 0)
    return rest, hue, scale, one_way


def _outside(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """By how much ``values`` leave the range of ``other`` in each pixel's 3x3 neighbourhood."""
    around = np.ones((3, 3), np.uint8)
    return np.maximum(np.maximum(values - cv2.dilate(other, around), cv2.erode(other, around) - values), 0)


def _depth_difference(
    first: np.ndarray, second: np.ndarray, compared: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Second minus first (H, W) in deviations of the noise, which grows as depth squared; where known."""
    a, b = cv2.medianBlur(first, 3), cv2.medianBlur(second, 3)
    known = (a > 0) & (b > 0) & compared
    if known.sum() < 100:
        return np.zeros_like(a), np.zeros_like(known)
    squared = np.square(np.maximum(a, 0.1))
    deviation = 1.4826 * float(np.median(np.abs(b - a)[known] / squared[known]))
    difference = (b - a) / np.maximum(max(deviation, 1e-3) * squared, 0.0015)
    return cv2.medianBlur(np.where(known, difference, 0).astype(np.float32), 3), known


def _to_edge(evidence: np.ndarray, reach: int) -> np.ndarray:
    """(H, W) bool, where ``evidence`` exceeds 1, without the halo that blur and noise lay around it."""
    above = evidence > 1
    disc = _disc(2 * reach + 1)
    peak = cv2.blur(cv2.dilate(np.minimum(evidence, 60), disc), (3, 3))
    rim = above & (cv2.erode(above.astype(np.uint8), disc, borderValue=1) == 0)
    return above & ~(rim & (evidence < HALF * peak))


def _clean(mask: np.ndarray, reach: int) -> np.ndarray:
    """``mask`` with gaps closed, holes filled, specks and threads removed."""
    width = 2 * (reach // 2) + 3
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _disc(width))
    filled = ndimage.binary_fill_holes(closed).astype(np.uint8)
    opened = cv2.morphologyEx(filled, cv2.MORPH_OPEN, _disc(width))
    return np.asarray(pieces(np.asarray(opened) > 0).any(axis=0))


def pieces(mask: np.ndarray) -> np.ndarray:
    """(N, H, W) bool, connected parts of ``mask`` (H, W) that are no specks, largest first."""
    labels, count = ndimage.label(mask)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    smallest = max(20, SMALLEST * mask.size)
    order = [k for k in 1 + np.argsort(-areas[1:], kind="stable") if areas[k] >= smallest]
    return labels[None] == np.array(order, np.int64).reshape(-1, 1, 1)


def _choose_side(
    removed: np.ndarray,
    added: np.ndarray,
    farther: np.ndarray,
    nearer: np.ndarray,
    known: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Give each region to one side: by depth, or by which picture has the region's outline as an edge."""
    edges_first, edges_second = _edges(first), _edges(second)
    sides = [np.zeros_like(removed), np.zeros_like(removed)]
    for region in [*pieces(removed), *pieces(added & ~removed)]:
        if (region & (farther | nearer)).sum() > 0.3 * region.sum():
            gone = (region & farther).sum() >= (region & nearer).sum()
        else:
            gone = _stands_out(region, edges_first) >= _stands_out(region, edges_second)
        sides[0 if gone else 1] |= region
    return sides[0], sides[1]


def _without_shadow(
    mask: np.ndarray,
    elsewhere: np.ndarray,
    flat: np.ndarray,
    depth: np.ndarray,
    unchanged: np.ndarray,
    reach: int,
) -> np.ndarray:
    """``mask`` (H, W) without the shadows of what left or came.

    Args:
        mask: regions that changed.
        elsewhere: (H, W) bool, what is seen there lies at another depth.
        flat: (H, W) bool, what is seen there lies where it lay, and is only brighter or darker.
        depth: (H, W) float32, its difference in deviations.
        unchanged: (H, W) bool, where that is noise alone.
        reach: width of an edge in pixels; narrower strips along an outline are its own.
    """
    kept = mask.copy()
    for region in pieces(mask):
        if (region & elsewhere).sum() >= STANDS_UP * region.sum():
            opened = cv2.morphologyEx((region & flat).astype(np.uint8), cv2.MORPH_OPEN, _disc(2 * reach + 1))
            parts = [part for part in pieces(opened > 0) if not _lies_elsewhere(part, depth, unchanged)]
            if parts:
                shadow = np.any(parts, axis=0).astype(np.uint8)
                rest = region & (cv2.dilate(shadow, _disc(3)) == 0)
                opened = cv2.morphologyEx(rest.astype(np.uint8), cv2.MORPH_OPEN, _disc(reach | 1))
                # What lies within what left belongs to it: the bottom of a bowl lies as low as the ground.
                kept &= ~region | ndimage.binary_fill_holes(opened)
    return kept


def _lies_elsewhere(part: np.ndarray, depth: np.ndarray, unchanged: np.ndarray) -> bool:
    """True when the mean of ``depth`` over a part (H, W) exceeds such means where nothing changed."""
    width = max(3, round(math.sqrt(part.sum())))
    count = cv2.blur(unchanged.astype(np.float32), (width, width))
    means = cv2.blur(np.where(unchanged, depth, 0), (width, width)) / np.maximum(count, 1e-6)
    noise = means[count > 0.7]
    if not noise.size:
        return False
    middle = float(np.median(noise))
    spread = 1.4826 * float(np.median(np.abs(noise - middle)))
    return abs(float(depth[part].mean()) - middle) > THIN * spread


def _stands_out(region: np.ndarray, edges: np.ndarray) -> float:
    """How much stronger the edges (H, W) are along a region's outline than inside: items end there."""
    inner = cv2.erode(region.astype(np.uint8), _disc(5), borderValue=1) > 0
    outline = (cv2.dilate(region.astype(np.uint8), _disc(3)) > 0) & ~inner
    inside = float(edges[inner].mean()) if inner.any() else 0.0
    return float(edges[outline].mean()) - inside if outline.any() else 0.0


def _textured(image: np.ndarray, exposure: Exposure) -> np.ndarray:
    """(H, W) bool, pixels whose surroundings vary by more than the noise: moved, they would differ."""
    grey = brightness(cv2.GaussianBlur(image, (0, 0), 1.0))
    around = np.ones((7, 7), np.uint8)
    spread = cv2.dilate(grey, around) - cv2.erode(grey, around)
    return spread > 6 * exposure.noise[brightness(image).astype(np.uint8)]


def _likeness(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [-1, 1], correlation of the brightness around each pixel of two pictures."""
    a = brightness(cv2.GaussianBlur(first, (0, 0), 1.0))
    b = brightness(cv2.GaussianBlur(second, (0, 0), 1.0))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.blur(values, (9, 9)))

    shared = mean(a * b) - mean(a) * mean(b)
    spread = np.maximum(mean(a * a) - mean(a) ** 2, 1e-3) * np.maximum(mean(b * b) - mean(b) ** 2, 1e-3)
    return shared / np.sqrt(spread)


def _edges(image: np.ndarray) -> np.ndarray:
    """(H, W) float32, strength of the edges, relative to the local contrast."""
    grey = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)
    dx, dy = cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    return np.sqrt(largest(dx * dx + dy * dy))


def _disc(width: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
