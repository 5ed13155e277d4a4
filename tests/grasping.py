"""Small painted scenes before and after a grasp, for the tests of interaction."""

from __future__ import annotations

import cv2
import numpy as np

from benchmarks.grasp_trials import from_label_map
from rise_perception.core.frame import CameraIntrinsics, Frame
from rise_perception.grasp_learning.capture.episode import Episode, Grasp, Observation, Outcome

HEIGHT, WIDTH = 120, 160
#: label -> (y0, y1, x0, x1), colour, metres
ITEMS = {
    1: ((25, 65, 20, 60), (200, 60, 50), 0.80),
    2: ((40, 90, 80, 120), (60, 170, 70), 0.85),
    3: ((75, 105, 25, 65), (70, 90, 210), 0.88),
}
CAMERA = CameraIntrinsics(WIDTH, HEIGHT, 200, 200, 80, 60)


def label_map(*labels: int) -> np.ndarray:
    """(H, W) uint16 truth of a scene that holds these items."""
    found = np.zeros((HEIGHT, WIDTH), np.uint16)
    for label in labels:
        (y0, y1, x0, x1), _, _ = ITEMS[label]
        found[y0:y1, x0:x1] = label
    return found


def picture(*labels: int, seed: int = 0, depth: bool = True, moved: tuple[int, int] = (0, 0)) -> Frame:
    """A frame of the scene; another seed is other noise; ``moved`` shifts item 1 by (dy, dx)."""
    pattern = np.random.default_rng(5).integers(0, 50, (HEIGHT // 8, WIDTH // 8, 3)).astype(np.float32)
    image = 110 + cv2.resize(pattern, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    metres = np.full((HEIGHT, WIDTH), 1.0, np.float32)
    for label in labels:
        (y0, y1, x0, x1), color, z = ITEMS[label]
        if label == 1:
            y0, y1, x0, x1 = y0 + moved[0], y1 + moved[0], x0 + moved[1], x1 + moved[1]
        image[y0:y1, x0:x1] = color
        image[y0 + 6 : y1 - 6 : 8, x0 + 4 : x1 - 4] = (235, 235, 225)
        metres[y0:y1, x0:x1] = z
    rng = np.random.default_rng(seed)
    image = np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    metres += rng.normal(0, 0.002, metres.shape).astype(np.float32)
    return Frame(image, metres if depth else None, CAMERA, 10**9 * (1 + seed))


def episode(
    before: Frame,
    after: Frame,
    predicted: np.ndarray | None = None,
    outcome: Outcome = Outcome.SUCCESS,
    target: int = 1,
    robot: np.ndarray | None = None,
) -> Episode:
    """An episode whose predictions are ``predicted`` (default: the truth)."""
    found = from_label_map(label_map(1, 2, 3) if predicted is None else predicted)
    grasp = Grasp("grasp-1", target, outcome, after.stamp)
    return Episode(
        Observation(before, found, model_version="model-1234"), Observation(after, None, robot), grasp
    )
