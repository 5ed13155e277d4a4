"""From query outputs to instances: choose, suppress duplicates, draw them so that a pixel has one owner."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from rise_perception.core.instances import Instances
from rise_perception.core.letterbox import Letterbox
from rise_perception.network.config import NetworkConfig

#: Queries whose masks are drawn.
TOP_K = 100
#: Of boxes of one class with a larger IoU, the better scored one is drawn. High enough to keep nested items:
#: it only thins out the queries that optimal transport taught to find the same object.
SAME_BOX_IOU = 0.8
#: A mask keeps its instance only when this fraction of it is not owned by better ones. At a half, no two
#: masks that stay have an IoU above a half either: duplicates go.
VISIBLE_FRACTION = 0.5
#: Instances smaller than this, in cells of the masks (4x4 pixels of the network's input), are noise.
SMALLEST = 2
#: Masks end at their query's box, enlarged by this fraction of its size.
BOX_MARGIN = 0.15


#: (masks (N, h, w), order (N,) from the lowest to the uppermost, letterbox) -> label map (H, W) uint16.
Painter = Callable[[np.ndarray, np.ndarray, Letterbox], np.ndarray]


class _Cells(NamedTuple):
    """Positive cells of M masks, mask by mask: far fewer than M x h x w, which is what makes this fast.

    Attributes:
        ends: (M + 1,) mask i has the cells ``ends[i]:ends[i + 1]``.
        cells: (K,) index of each cell in a mask of h * w.
        confidence: (K,) probability of each.
    """

    ends: np.ndarray
    cells: np.ndarray
    confidence: np.ndarray

    def of(self, index: int) -> np.ndarray:
        """Cells of mask ``index``."""
        return self.cells[self.ends[index] : self.ends[index + 1]]


class DecodedQueries(NamedTuple):
    """The M queries of one image that may become instances, by falling class probability, in NumPy.

    Attributes:
        probability: (M,) of the best class.
        classes: (M,) the best class.
        boxes: (M, 4) centre x, centre y, width, height, fractions of the input.
        embeddings: (M, D).
        masks: (M, h, w) logits at a quarter of the input's size.
    """

    probability: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    embeddings: np.ndarray
    masks: np.ndarray


def suppress_duplicates(drawn: DecodedQueries, threshold: float) -> DecodedQueries:
    """What :func:`rise_perception.inference.decoding.draw_queries` would have chosen of decoded queries.

    Greedy: a query goes when its box overlaps a better one of its class by more than :data:`SAME_BOX_IOU`.
    """
    likely = np.flatnonzero(drawn.probability >= threshold)
    likely = likely[np.argsort(-drawn.probability[likely], kind="stable")]
    centre, half = drawn.boxes[likely, :2], drawn.boxes[likely, 2:] / 2
    low, high = centre - half, centre + half
    shared = (np.minimum(high[:, None], high) - np.maximum(low[:, None], low)).clip(min=0).prod(-1)
    area = (high - low).prod(-1)
    union = np.maximum(area[:, None] + area - shared, np.finfo(np.float32).tiny)
    same = (shared / union > SAME_BOX_IOU) & (drawn.classes[likely, None] == drawn.classes[likely])
    kept: list[int] = []
    for index in range(len(likely)):
        if len(kept) == TOP_K:
            break
        if not same[index, kept].any():
            kept.append(index)
    return DecodedQueries(*(part[likely[kept]] for part in drawn))


def to_instances(
    drawn: DecodedQueries,
    letterbox: Letterbox,
    network: NetworkConfig,
    threshold: float,
    paint: Painter | None = None,
) -> Instances:
    """Turn the drawn queries of one image into instances.

    The score is the class probability times the mean mask probability inside the mask, so that a ragged
    guess ranks below a sharp one.

    Args:
        drawn: what :func:`rise_perception.inference.decoding.draw_queries` gave.
        letterbox: how the image was fitted into the input.
        network: for the class names and containers.
        threshold: instances that score below are dropped.
        paint: draws masks over each other; None is OpenCV on the CPU.

    Returns:
        Instances in the image's pixels; containers lie below all other instances.
    """
    if len(drawn.probability) == 0:
        return Instances.empty(*letterbox.image_size, network.classes, drawn.embeddings.shape[-1])
    # In NumPy: on arrays this small, waiting for a busy core's thread would cost more than the work.
    logits = np.where(_in_boxes(drawn.boxes, *drawn.masks.shape[1:]), drawn.masks, np.float32(-20.0))
    found = _positive_cells(logits)
    areas = np.diff(found.ends)
    total = np.bincount(np.repeat(np.arange(len(areas)), areas), found.confidence, len(areas))
    scores = drawn.probability * total / areas.clip(min=1)
    container = np.array([name in network.containers for name in network.classes])[drawn.classes]

    order = np.argsort(-scores, kind="stable")
    order = order[(areas[order] >= SMALLEST) & (scores[order] >= threshold)]
    order = np.array(_suppress(found, logits[0].size, order, container), np.int64)
    return _draw(
        logits[order],
        scores[order].astype(np.float32),
        drawn.classes[order],
        drawn.embeddings[order],
        container[order],
        letterbox,
        network.classes,
        paint or _paint,
    )


def _in_boxes(boxes: np.ndarray, h: int, w: int) -> np.ndarray:
    """(M, h, w) bool, cells inside each query's enlarged box; strays far off are never the item."""
    y, x = (np.arange(h) + 0.5) / h, (np.arange(w) + 0.5) / w
    half = boxes[:, 2:] * (0.5 + BOX_MARGIN) + (1.0 / w, 1.0 / h)
    in_x = np.abs(x - boxes[:, :1]) <= half[:, :1]  # (M, w)
    in_y = np.abs(y - boxes[:, 1:2]) <= half[:, 1:]  # (M, h)
    return in_x[:, None] & in_y[:, :, None]


def _positive_cells(logits: np.ndarray) -> _Cells:
    """Positive cells of M masks (M, h, w)."""
    flat = logits.reshape(len(logits), -1)
    positive = flat > 0
    areas = np.count_nonzero(positive, axis=1)
    index = np.flatnonzero(positive)
    confidence = 1.0 / (1.0 + np.exp(-flat.ravel()[index]))
    cells = index - np.repeat(np.arange(len(areas)) * flat.shape[1], areas)
    return _Cells(np.concatenate([[0], np.cumsum(areas)]), cells, confidence)


def _suppress(found: _Cells, size: int, order: np.ndarray, container: np.ndarray) -> list[int]:
    """Masks that survive, best first: those that better ones mostly hide go.

    Args:
        found: the masks' cells.
        size: cells of a mask.
        order: masks to look at, by falling score.
        container: (M,) bool; containers and items do not compete with each other.
    """
    kept: list[int] = []
    owned = np.zeros((2, size), bool)
    for index in order.tolist():
        cells, rivals = found.of(index), owned[int(container[index])]
        if np.count_nonzero(rivals[cells]) <= (1 - VISIBLE_FRACTION) * len(cells):
            rivals[cells] = True
            kept.append(index)
    return kept


def _draw(
    logits: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    embeddings: np.ndarray,
    container: np.ndarray,
    letterbox: Letterbox,
    class_names: tuple[str, ...],
    paint: Painter,
) -> Instances:
    """Draw masks (N, h, w), sorted by falling score, into one label map; those that end up empty go."""
    # The best are drawn last, so that they own the pixels where masks overlap; containers come first.
    label_map = paint(logits, np.lexsort((-np.arange(len(scores)), ~container)), letterbox)
    boxes = np.zeros((len(scores), 4), np.float32)
    for index, (rows, columns) in enumerate(_windows(logits, letterbox)):
        # An instance owns pixels in its own window only.
        own = label_map[rows, columns] == index + 1
        x, y, width, height = cv2.boundingRect(own.view(np.uint8))
        if width:
            x, y = x + columns.start, y + rows.start
            boxes[index] = x, y, x + width, y + height
    present = boxes[:, 2] > 0
    if not present.all():
        renumber = np.zeros(len(scores) + 1, np.uint16)
        renumber[1:][present] = np.arange(1, present.sum() + 1)
        label_map = renumber[label_map]
    labels = np.arange(1, present.sum() + 1, dtype=np.uint16)
    return Instances(
        label_map=label_map,
        labels=labels,
        scores=scores[present],
        classes=classes[present],
        boxes=boxes[present],
        embeddings=embeddings[present],
        ids=labels.astype(np.int64),
        class_names=class_names,
    )


def _paint(masks: np.ndarray, order: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """Enlarge masks (N, h, w) one by one and draw them, in their order, into a label map (H, W) uint16."""
    label_map = np.zeros(letterbox.image_size, np.uint16)
    windows, scale = _windows(masks, letterbox), _scale(masks, letterbox)
    for index in order:
        window = windows[index]
        owned = _enlarge(masks[index], window, scale) > 0
        np.copyto(label_map[window], np.uint16(index + 1), where=owned)
    return label_map


def _scale(masks: np.ndarray, letterbox: Letterbox) -> tuple[float, float]:
    """Cells of masks (N, h, w) per image pixel, vertically and horizontally."""
    (height, width), (content_h, content_w) = letterbox.image_size, letterbox.content
    input_h, input_w = letterbox.input_size
    return content_h / height * masks.shape[1] / input_h, content_w / width * masks.shape[2] / input_w


def _windows(masks: np.ndarray, letterbox: Letterbox) -> list[tuple[slice, slice]]:
    """Rows and columns of the image that masks (N, h, w) can reach: their positive cells and one around them.

    Every mask has a positive cell.
    """
    positive = masks > 0
    ends = []
    for axis, (size, scale) in enumerate(zip(letterbox.image_size, _scale(masks, letterbox), strict=True)):
        cells = np.asarray(positive.any(2 - axis))  # (N, h), then (N, w)
        first, last = cells.argmax(1), cells.shape[1] - 1 - cells[:, ::-1].argmax(1)
        start, stop = ((first - 1) / scale).astype(int), np.ceil((last + 2) / scale).astype(int)
        ends.append(zip(start.clip(0, size).tolist(), stop.clip(max=size).tolist(), strict=True))
    return [(slice(*rows), slice(*columns)) for rows, columns in zip(*ends, strict=True)]


def _enlarge(mask: np.ndarray, window: tuple[slice, slice], scale: tuple[float, float]) -> np.ndarray:
    """The mask (h, w) at the image's pixels inside the window, bilinear."""
    rows, columns = window
    sy, sx = scale
    # Centres of pixels and cells lie at halves: cell + 0.5 = (pixel + 0.5) * scale.
    affine = np.array([[sx, 0, (columns.start + 0.5) * sx - 0.5], [0, sy, (rows.start + 0.5) * sy - 0.5]])
    size = (columns.stop - columns.start, rows.stop - rows.start)
    if min(size) < 1:
        return np.zeros(size[::-1], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(mask, affine, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
