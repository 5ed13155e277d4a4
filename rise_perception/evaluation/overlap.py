"""The peers' label-map metrics (UCN, MSMFormer): overlap and boundary P/R/F, F@.75; and best IoU per item.

Both maps hold one integer per pixel, 0 for background. Predicted and labelled regions are assigned to
each other one to one so that the sum of their pairwise F = 2PR/(P+R) is largest (Hungarian). Then

* overlap precision = assigned true-positive pixels / predicted foreground pixels,
* overlap recall = assigned true-positive pixels / labelled foreground pixels,
* boundary precision and recall are the same over boundary pixels, where a boundary pixel is a true
  positive when it lies within ceil(0.003 * image diagonal) pixels of the partner's boundary,
* F@.75 = fraction of labelled regions whose assigned F is above 0.75.

No prediction: P = 1, R = F = 0. No label: P = 0, R = 1, F = 0. Neither: all 1. A data set's value is the
mean over its images. Pairs that share no pixel are not assigned (the peers' code lets the solver pick
among them, which can add boundary pixels of unrelated neighbours).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from scipy.ndimage import find_objects
from scipy.optimize import linear_sum_assignment

from rise_perception.core.errors import DataError


@dataclass(frozen=True)
class OverlapScores:
    """The peers' metrics of one image, each in [0, 1]."""

    overlap_precision: float
    overlap_recall: float
    overlap_f: float
    boundary_precision: float
    boundary_recall: float
    boundary_f: float
    f75: float


def overlap_scores(prediction: np.ndarray, truth: np.ndarray) -> OverlapScores:
    """Compare two (H, W) integer label maps (see the module's text for the definitions).

    Raises:
        DataError: the maps differ in size.
    """
    predicted, labelled, shared = _shared_pixels(prediction, truth)
    if not predicted.size or not labelled.size:
        precision, recall = float(not predicted.size), float(not labelled.size)
        both = precision * recall
        return OverlapScores(precision, recall, both, precision, recall, both, both)
    pairs = shared[1:, 1:]
    area_predicted, area_labelled = shared.sum(axis=0)[1:], shared.sum(axis=1)[1:]
    f = 2 * pairs / (area_labelled[:, None] + area_predicted)  # = 2PR/(P+R)
    rows, columns = linear_sum_assignment(f, maximize=True)
    keep = pairs[rows, columns] > 0
    rows, columns = rows[keep], columns[keep]
    precision = pairs[rows, columns].sum() / area_predicted.sum()
    recall = pairs[rows, columns].sum() / area_labelled.sum()
    boundary_precision, boundary_recall = _boundary_scores(
        prediction, predicted, truth, labelled, zip(columns, rows, strict=True)
    )
    return OverlapScores(
        float(precision),
        float(recall),
        _harmonic(precision, recall),
        boundary_precision,
        boundary_recall,
        _harmonic(boundary_precision, boundary_recall),
        float((f[rows, columns] > 0.75).sum() / labelled.size),
    )


def best_ious(prediction: np.ndarray, truth: np.ndarray) -> dict[int, float]:
    """For each label of ``truth``, the highest IoU that any region of ``prediction`` has with it.

    Says nothing about false positives, hence fits images in which only some items are labelled.

    Raises:
        DataError: the maps differ in size.
    """
    _, labelled, shared = _shared_pixels(prediction, truth)
    pairs = shared[1:, 1:]
    union = shared.sum(axis=1)[1:, None] + shared.sum(axis=0)[None, 1:] - pairs
    best = (pairs / union).max(axis=1, initial=0.0)
    return {int(label): float(value) for label, value in zip(labelled, best, strict=True)}


def mean_scores(scores: Sequence[OverlapScores]) -> dict[str, float]:
    """Mean of each metric over images; empty for no images."""
    rows = [asdict(score) for score in scores]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}


def _shared_pixels(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels of both maps without 0, and shared[t, p]: pixels with true index t and predicted index p.

    Index 0 is the background, index i the i-th label.
    """
    if prediction.shape != truth.shape:
        raise DataError(f"the predicted label map has shape {prediction.shape}, the true one {truth.shape}")
    predicted, p = _consecutive(prediction)
    labelled, t = _consecutive(truth)
    counts = np.bincount(t * predicted.size + p, minlength=labelled.size * predicted.size)
    return predicted[1:], labelled[1:], counts.reshape(labelled.size, predicted.size)


def _consecutive(label_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels that occur, 0 first in any case, and each pixel's index into them (flat)."""
    flat = label_map.ravel()
    present = np.bincount(flat) > 0  # faster than np.unique, which sorts the pixels
    present[0] = True
    return np.flatnonzero(present), (np.cumsum(present) - 1)[flat]


def _boundary_scores(
    prediction: np.ndarray,
    predicted: np.ndarray,
    truth: np.ndarray,
    labelled: np.ndarray,
    pairs: Iterable[tuple[int, int]],
) -> tuple[float, float]:
    """Boundary precision and recall, given the assigned (index of predicted, index of labelled) pairs."""
    radius = int(np.ceil(0.003 * np.hypot(*truth.shape)))
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x * x + y * y <= radius * radius).astype(np.uint8)
    boxes_pred, boxes_true = _boxes(prediction, predicted), _boxes(truth, labelled)
    size_pred = sum(_edge(prediction, k, box).sum() for k, box in zip(predicted, boxes_pred, strict=True))
    size_true = sum(_edge(truth, k, box).sum() for k, box in zip(labelled, boxes_true, strict=True))
    hits_pred = hits_true = 0
    for i, j in pairs:
        a, b = boxes_pred[i], boxes_true[j]
        box = np.array([*np.minimum(a[:2], b[:2]), *np.maximum(a[2:], b[2:])])
        edge_pred, edge_true = _edge(prediction, predicted[i], box), _edge(truth, labelled[j], box)
        hits_pred += (edge_pred & cv2.dilate(edge_true, disk)).sum()
        hits_true += (edge_true & cv2.dilate(edge_pred, disk)).sum()
    # A region that fills the whole image has no boundary; then nothing is wrong with it either.
    return float(hits_pred / size_pred) if size_pred else 1.0, float(
        hits_true / size_true
    ) if size_true else 1.0


def _boxes(label_map: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Per label y0, x0, y1, x1 of its pixels, with one row and column more, where its boundary may lie."""
    slices = find_objects(label_map.astype(np.int32), max_label=int(labels[-1]))
    found = [slices[label - 1] for label in labels]
    return [np.array([max(y.start - 1, 0), max(x.start - 1, 0), y.stop, x.stop]) for y, x in found]


def _edge(label_map: np.ndarray, label: int, box: np.ndarray) -> np.ndarray:
    """Boundary of one label within ``box``, uint8 0 or 1.

    As in the DAVIS benchmark: a pixel is on the boundary when it differs from its right, lower or
    lower right neighbour. The neighbours must be in view, so one row and column more are looked at.
    """
    y0, x0, y1, x1 = box
    mask = label_map[y0 : y1 + 1, x0 : x1 + 1] == label
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1, :] |= mask[:-1, :] != mask[1:, :]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge[: y1 - y0, : x1 - x0].view(np.uint8)


def _harmonic(precision: float, recall: float) -> float:
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0
