"""The picture people look at: the image with each instance tinted and outlined in the colour of its id."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from rise_perception.core.instances import Instances
from rise_perception.core.regions import CONTAINER, category_name

TINT = 0.5  # fraction of the instance's colour in its area; the outline is the colour alone
CONTAINER_COLOR = (235, 235, 235)


def id_color(identity: int) -> tuple[int, int, int]:
    """RGB of a persistent id: always the same, and far from those of the next ids."""
    hue = identity * 0.61803398875 % 1.0  # golden ratio: any run of ids is spread evenly over the hues
    saturation, value = ((0.85, 0.95), (0.7, 1.0), (0.6, 0.85))[identity % 3]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_overlay(image: np.ndarray, instances: Instances, scores: bool = False) -> np.ndarray:
    """Draw instances over their image.

    Args:
        image: (H, W, 3) uint8 RGB; stays as it is.
        instances: of that image; the colour follows ``ids``, so that an item keeps its colour over
            frames. Containers get a light outline and no tint.
        scores: write id and score beside each instance.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    drawn = image.copy()
    if not len(instances):
        return drawn
    # Instances as 1..255, so that the rest are 8-bit table look-ups; beyond 255, numbers repeat.
    numbers = 1 + np.arange(len(instances)) % 255
    number_of = np.zeros(65536, np.uint8)
    number_of[instances.labels] = numbers
    owner = number_of[instances.label_map]  # (H, W)
    colors = np.zeros((256, 1, 3), np.uint8)
    tinted, outlined = np.zeros(256, np.uint8), np.full(256, 255, np.uint8)
    outlined[0] = 0
    for number, identity, index in zip(numbers, instances.ids, instances.classes, strict=True):
        container = category_name(instances.class_names[index]) == CONTAINER
        colors[number, 0] = CONTAINER_COLOR if container else id_color(int(identity))
        tinted[number] = 0 if container else 255
    paint = cv2.applyColorMap(owner, colors)
    cv2.copyTo(cv2.addWeighted(image, 1 - TINT, paint, TINT, 0), cv2.LUT(owner, tinted), drawn)
    width = 3 + 2 * round(min(image.shape[:2]) / 600)
    ring = np.ones((width, width), np.uint8)
    edge = cv2.compare(cv2.dilate(owner, ring), cv2.erode(owner, ring), cv2.CMP_NE)
    cv2.copyTo(paint, cv2.bitwise_and(edge, cv2.LUT(owner, outlined)), drawn)
    if scores:
        for row in range(len(instances)):
            _write_score(drawn, instances, row)
    return drawn


def shade_outside(picture: np.ndarray, outside: np.ndarray) -> None:
    """Darken, in place, what lies outside a workspace.

    Args:
        picture: (H, W, 3) uint8 RGB.
        outside: (H, W) bool.
    """
    cv2.copyTo(picture // 3, outside.astype(np.uint8), picture)


def draw_label_map(
    image: np.ndarray, label_map: np.ndarray, names: Sequence[str] | None = None
) -> np.ndarray:
    """Draw a label map over its image.

    Args:
        image: (H, W, 3) uint8 RGB.
        label_map: (H, W) integer, 0 = background.
        names: of the labels 1, 2, ..., written beside each; None writes none.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    labels = np.flatnonzero(np.bincount(label_map.ravel()))
    labels = labels[labels > 0].astype(np.uint16)
    boxes = np.zeros((len(labels), 4), np.float32)
    for row, label in enumerate(labels):
        x, y, w, h = cv2.boundingRect((label_map == label).astype(np.uint8))
        boxes[row] = x, y, x + w, y + h
    instances = Instances(
        label_map=label_map.astype(np.uint16, copy=False),
        labels=labels,
        scores=np.ones(len(labels), np.float32),
        classes=np.zeros(len(labels), np.int64),
        boxes=boxes,
        embeddings=np.zeros((len(labels), 0), np.float32),
        ids=labels.astype(np.int64),
    )
    drawn = draw_overlay(image, instances)
    if names is not None:
        for row, label in enumerate(labels.tolist()):
            _write(drawn, names[label - 1], boxes[row])
    return drawn


def _write_score(picture: np.ndarray, instances: Instances, row: int) -> None:
    name = f" {instances.class_names[instances.classes[row]]}" if len(instances.class_names) > 1 else ""
    _write(picture, f"{instances.ids[row]}{name}: {instances.scores[row]:.2f}", instances.boxes[row])


def _write(picture: np.ndarray, text: str, box: np.ndarray) -> None:
    scale = max(0.4, min(picture.shape[:2]) / 1200)
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    centre = (box[:2] + box[2:]) / 2
    x = int(np.clip(centre[0] - width / 2, 0, max(0, picture.shape[1] - width)))
    y = int(np.clip(centre[1] + height / 2, height, picture.shape[0] - 1))
    for color, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, color, thickness, cv2.LINE_AA)
