"""An episode as one picture: before, after, what was predicted, what was learned."""

from __future__ import annotations

import cv2
import numpy as np

from rise_perception.evaluation.overlay import draw_overlay
from rise_perception.evaluation.panels import fit_width, outline, side_by_side, text_bar, tint
from rise_perception.grasp_learning.capture.episode import Episode
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels, Verdict

REMOVED, ADDED, LABEL = (255, 60, 40), (60, 120, 255), (60, 220, 90)
TITLES = ("before", "after", "predicted before", "learned")
#: Pixels: width of a panel, space between two.
PANEL, GAP = 480, 8
#: A zoomed picture shows at least this fraction of the width.
CLOSEST = 0.5
_COLORS = {
    Verdict.CONFIRMED: (60, 160, 80),
    Verdict.CORRECTED: (40, 90, 200),
    Verdict.REJECTED: (170, 60, 50),
}


def draw_labels(episode: Episode, episode_labels: EpisodeLabels, zoom: bool = False) -> np.ndarray:
    """Draw an episode for a person, panels with titles side by side.

    The last panel shows the frame before in grey, what was removed (red) and added (blue), and in colour what
    is a label now, outlined in green. The robot is black.

    Args:
        episode: the frames and predictions.
        episode_labels: what was concluded.
        zoom: show the surroundings of what changed only.

    Returns:
        (h, 4 * 480 + 3 * 8, 3) uint8 RGB.
    """
    before, after = episode.before.frame.image, episode.after.frame.image
    found = episode.before.instances
    size = before.shape[:2]
    rows, columns = _around(episode_labels, size) if zoom else (slice(0, size[0]), slice(0, size[1]))
    whole = [
        before,
        after,
        before if found is None else draw_overlay(before, found),
        _learned(episode, episode_labels),
    ]
    return side_by_side([fit_width(image[rows, columns], PANEL) for image in whole], TITLES, GAP)


def draw_episode(episode: Episode, episode_labels: EpisodeLabels) -> np.ndarray:
    """:func:`draw_labels` below a line with the verdict and its reason."""
    picture = draw_labels(episode, episode_labels)
    name = episode.grasp.grasp_id[:60]
    text = f"{name}: {episode_labels.verdict.value} ({episode_labels.cause.value}): {episode_labels.reason}"
    shade = _COLORS.get(episode_labels.verdict, (90, 90, 90))
    return np.vstack([text_bar([text], picture.shape[1], shade, (255, 255, 255)), picture])


def _learned(episode: Episode, episode_labels: EpisodeLabels) -> np.ndarray:
    before = episode.before.frame.image
    drawn = _dimmed(before, 0.5)
    tint(drawn, episode_labels.removed, REMOVED, 0.65)
    tint(drawn, episode_labels.added, ADDED, 0.65)
    for side in (episode.before, episode.after):
        if side.robot is not None:
            drawn[side.robot] = 0
    labels = episode_labels.masks.any(axis=0)
    drawn[labels] = before[labels]
    thick = max(1, round(before.shape[1] / 240))
    for mask in episode_labels.masks:
        outline(drawn, mask, LABEL, thick)
    return drawn


def _around(episode_labels: EpisodeLabels, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the window, in the picture's proportions, in which something changed."""
    ys, xs = np.nonzero(episode_labels.removed | episode_labels.added | episode_labels.masks.any(axis=0))
    if not len(ys):
        return slice(0, size[0]), slice(0, size[1])
    spread = max(np.ptp(ys) / size[0], np.ptp(xs) / size[1])
    fraction = min(1.0, max(CLOSEST, 1.5 * float(spread)))
    window = []
    for middle, length in zip((ys.min() + ys.max(), xs.min() + xs.max()), size, strict=True):
        extent = round(fraction * length)
        start = int(np.clip(middle // 2 - extent // 2, 0, length - extent))
        window.append(slice(start, start + extent))
    return window[0], window[1]


def _dimmed(image: np.ndarray, fraction: float) -> np.ndarray:
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return (grey * fraction).astype(np.uint8)
