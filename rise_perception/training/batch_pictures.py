"""Pictures of what a training sees: x, x1, x2, x3 of each scene, as in the paper's Fig. 2."""

from __future__ import annotations

import cv2
import numpy as np
import torch

from rise_perception.evaluation.overlay import id_color
from rise_perception.evaluation.panels import outline, side_by_side, tint
from rise_perception.network.build import Network
from rise_perception.training.batches import collate
from rise_perception.training.pseudo_labels import UNKNOWN, pseudo_targets
from rise_perception.training.scenes import Key, Scenes
from rise_perception.training.sequence import FIRST_PASTED

#: Height in pixels of each panel.
PANEL = 300
#: Pixels between panels.
GAP = 6
_TINT = 0.35
_UNKNOWN_COLOR = (255, 255, 255)


def draw_scene(scenes: Scenes, key: Key, teacher: Network | None = None, iteration: int = 0) -> np.ndarray:
    """One row of panels: x, x1 (before), x2 (after), x3 (strongly augmented), depths, pseudo-labels.

    Known objects have the colour and the number of their identity, alike in all views; pasted ones have a
    thick outline. Pseudo-labels of an unlabelled scene are white.

    Args:
        scenes: the training's scenes.
        key: which one.
        teacher: predicts the pseudo-labels; None leaves them out.
        iteration: step of the training whose thresholds are used.

    Returns:
        (h, w, 3) uint8 RGB.
    """
    sequence = scenes.sequence(key)
    kind = "labelled" if key.labelled else "unlabelled"
    views = {
        f"x, {kind}: {sequence.source.name}": sequence.source,
        "x1, before": sequence.before,
        "x2, after": sequence.after,
        "x3, strong": sequence.strong,
    }
    panels = {title: _panel(view.image, view.masks, view.ids) for title, view in views.items()}
    if sequence.before.depth is not None:
        panels["x1, depth"] = _panel(_grey(sequence.before.depth))
    if sequence.strong.depth is not None:
        panels["x3, depth"] = _panel(_grey(sequence.strong.depth))
    if teacher is not None and not key.labelled:
        masks, ids = _pseudo_labels(scenes, key, teacher, iteration)
        count = int((ids == UNKNOWN).sum())
        panels[f"{count} pseudo-labels on x3"] = _panel(sequence.strong.image, masks, ids)
    return side_by_side(list(panels.values()), list(panels), GAP)


@torch.no_grad()
def _pseudo_labels(
    scenes: Scenes, key: Key, teacher: Network, iteration: int
) -> tuple[np.ndarray, np.ndarray]:
    """Masks and ids of an unlabelled scene's targets, at the size of its views."""
    batch, config = collate([scenes[key]]), scenes.config
    outputs = teacher(batch.before, batch.before_padding)
    steps = config.optimisation.iterations
    targets = pseudo_targets(
        outputs, [batch.targets[0]], config.self_supervision, iteration, steps, batch.to_strong
    )[0]
    height, width = scenes.sequence(key).before.image.shape[:2]
    # The letterbox puts the image into the upper left corner of the network's input.
    scale = min(config.network.image_size[0] / height, config.network.image_size[1] / width)
    size = (round(width * scale), round(height * scale))
    masks = []
    for mask in targets.masks.numpy().astype(np.uint8):
        full = cv2.resize(mask, (mask.shape[1] * 4, mask.shape[0] * 4), interpolation=cv2.INTER_NEAREST)
        masks.append(
            cv2.resize(full[: size[1], : size[0]], (width, height), interpolation=cv2.INTER_NEAREST) > 0
        )
    return np.array(masks, bool).reshape(-1, height, width), targets.ids.numpy()


def _panel(image: np.ndarray, masks: np.ndarray | None = None, ids: np.ndarray | None = None) -> np.ndarray:
    scale = PANEL / image.shape[0]
    size = (round(image.shape[1] * scale), PANEL)
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    if masks is not None and ids is not None:
        for mask, identity in zip(masks, ids.tolist(), strict=True):
            drawn = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            _draw(picture, drawn > 0, identity)
    return np.asarray(picture)


def _draw(picture: np.ndarray, mask: np.ndarray, identity: int) -> None:
    color = _UNKNOWN_COLOR if identity == UNKNOWN else id_color(identity)
    tint(picture, mask, color, _TINT)
    outline(picture, mask, color, 3 if identity >= FIRST_PASTED else 1)
    if identity != UNKNOWN and mask.any():
        rows, columns = np.nonzero(mask)
        number = f"+{identity - FIRST_PASTED}" if identity >= FIRST_PASTED else str(identity)
        place = (int(columns.mean()) - 6, int(rows.mean()) + 5)
        for shade, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(picture, number, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, shade, width, cv2.LINE_AA)


def _grey(depth: np.ndarray) -> np.ndarray:
    """Depth as grey levels, near is bright; holes are red."""
    valid = depth > 0
    low, high = np.quantile(depth[valid], [0.02, 0.98]) if valid.any() else (0.0, 1.0)
    level = 255 - (np.clip((depth - low) / max(high - low, 1e-6), 0, 1) * 215).astype(np.uint8)
    picture = np.repeat(level[..., None], 3, 2)
    picture[~valid] = (150, 20, 20)
    return picture
