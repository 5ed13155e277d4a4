"""An episode as one picture: before, after, what changed, what was learned."""

from __future__ import annotations

import cv2
import numpy as np

from rise_perception.evaluation.overlay import draw_overlay
from rise_perception.instances import Instances
from rise_perception.interaction.episode import Episode
from rise_perception.interaction.lesson import Lesson, Verdict

LEFT, APPEARED, LABEL = (255, 60, 40), (60, 120, 255), (60, 220, 90)
CAPTION = 34  # pixels
_COLORS = {
    Verdict.CONFIRMED: (60, 160, 80),
    Verdict.CORRECTED: (40, 90, 200),
    Verdict.REJECTED: (170, 60, 50),
}


def draw_episode(episode: Episode, lesson: Lesson) -> np.ndarray:
    """Draw an episode for a person.

    Returns:
        (H + 34, 4 W, 3) uint8 RGB: the frame before with its predictions; the frame after; what left (red)
        and appeared (blue); the labels (green) on the frame before, with what is not known darkened. The
        verdict and its reason stand above.
    """
    before, after = episode.before.frame.image, episode.after.frame.image
    known = _dimmed(before, 0.35)
    known[lesson.known] = before[lesson.known]
    panels = [
        _with_instances(before, episode.before.instances),
        _with_instances(after, episode.after.instances),
        _tint(_tint(_dimmed(before, 0.5), lesson.left, LEFT), lesson.appeared, APPEARED),
        _outlined(known, lesson.masks),
    ]
    picture = np.hstack(panels)
    bar = np.full((CAPTION, picture.shape[1], 3), _COLORS.get(lesson.verdict, (90, 90, 90)), np.uint8)
    name = episode.grasp.grasp_id.encode("ascii", "replace").decode()[:60]
    text = f"{name}: {lesson.verdict.value} ({lesson.cause.value}): {lesson.reason}"
    scale = min(0.6, picture.shape[1] / 1400)
    cv2.putText(bar, text, (8, 23), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack([bar, picture])


def _with_instances(image: np.ndarray, instances: Instances | None) -> np.ndarray:
    return image if instances is None else draw_overlay(image, instances)


def _dimmed(image: np.ndarray, share: float) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return (grey * share).astype(np.uint8)


def _tint(image: np.ndarray, mask: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    tinted = image.copy()
    tinted[mask] = (0.35 * tinted[mask] + 0.65 * np.array(color)).astype(np.uint8)
    return tinted


def _outlined(image: np.ndarray, masks: np.ndarray) -> np.ndarray:
    drawn = image.copy()
    for mask in masks:
        edges, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(drawn, edges, -1, LABEL, 2)
    return drawn
