"""Labels that all end beside the edges of the pictures are seen through; right ones are not."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from rise_perception.grasp_learning.labelling.outline_evidence import (
    MIN_LABELS,
    Evidence,
    evidence_of,
    systematic_fault,
)

SIZE = (240, 320)
Change = Callable[[np.ndarray], np.ndarray]


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Ellipses on a patterned ground, with depth, and their masks."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(80, 130, (SIZE[0] // 8, SIZE[1] // 8, 3)).astype(np.float32)
    image = cv2.resize(ground, SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    depth = np.full(SIZE, 1.0, np.float32)
    masks = []
    for x, y in ((70, 70), (200, 80), (90, 170), (230, 170)):
        made = np.zeros(SIZE, np.uint8)
        axes = tuple(int(a) for a in rng.integers(18, 35, 2))
        cv2.ellipse(made, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        mask = made > 0
        image[mask] = rng.integers(0, 255, 3)
        depth[mask] -= 0.04
        masks.append(mask)
    image += rng.normal(0, 4, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), depth, masks


def evidence(change: Change, with_depth: bool = True, scenes: int = 4) -> list[Evidence]:
    frames = (scene(seed) for seed in range(scenes))
    return evidence_of((i, d if with_depth else None, [change(m) for m in masks]) for i, d, masks in frames)


def grown(pixels: int) -> Change:
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(pixels) + 1,) * 2)
    how = cv2.dilate if pixels > 0 else cv2.erode
    return lambda mask: how(mask.astype(np.uint8), kernel) > 0


@pytest.mark.parametrize("with_depth", [True, False])
def test_right_labels_are_believed(with_depth: bool) -> None:
    assert systematic_fault(evidence(lambda m: m, with_depth)) == ""
    assert systematic_fault(evidence(grown(1), with_depth)) == ""  # a pixel is what outlines are off by


@pytest.mark.parametrize("with_depth", [True, False])
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (grown(7), "7 pixels inside the outlines of 16 labels: they are too large"),
        (grown(3), "3 pixels inside the outlines of 16 labels: they are too large"),
        (grown(-3), "3 pixels outside the outlines of 16 labels: they are too small"),
        (lambda m: np.roll(m, (6, 8), (0, 1)), "labels"),
        (lambda m: np.roll(m, 120, 0), "labels"),  # of another picture
    ],
)
def test_labels_that_are_all_wrong_alike_are_not(change: Change, reason: str, with_depth: bool) -> None:
    assert reason in systematic_fault(evidence(change, with_depth))


def test_few_labels_and_small_ones_say_nothing() -> None:
    few = evidence(grown(7), scenes=1)
    assert len(few) < MIN_LABELS
    assert systematic_fault(few) == ""
    image, depth, (mask, *_) = scene(0)
    dot = np.zeros_like(mask)
    dot[100:105, 100:105] = True
    assert evidence_of([(image, depth, [dot])]) == []
