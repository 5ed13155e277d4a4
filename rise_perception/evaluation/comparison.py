"""Models side by side on labelled sets, simulated and real: one row for each model and set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rise_perception.core.regions import ImagePair
from rise_perception.evaluation.coco import coco_scores
from rise_perception.evaluation.counts import Counts
from rise_perception.evaluation.overlap import best_ious, mean_scores, overlap_scores

HEAD = (
    "set",
    "model",
    "threshold",
    "images",
    "items",
    "found",
    "false a frame",
    "merged",
    "AP",
    "AP50",
    "mean best IoU",
    "overlap F",
    "boundary F",
    "calibration error",
)


@dataclass(frozen=True)
class Row:
    """A model on a set.

    Attributes:
        data, model: names.
        threshold: least score of the masks that are counted; AP and the calibration error count all.
        counts: at the threshold.
        ap, ap50: over all scores.
        mean_best_iou, overlap_f, boundary_f: at the threshold.
        calibration: expected calibration error of the masks at the threshold.
    """

    data: str
    model: str
    threshold: float
    counts: Counts
    ap: float | None
    ap50: float | None
    mean_best_iou: float | None
    overlap_f: float | None
    boundary_f: float | None
    calibration: float | None

    def cells(self) -> list[str]:
        """What stands under :data:`HEAD`."""
        c = self.counts
        figures = (self.ap, self.ap50, self.mean_best_iou, self.overlap_f, self.boundary_f, self.calibration)
        return [
            self.data,
            self.model,
            f"{self.threshold:.2f}",
            str(c.images),
            str(c.items),
            str(c.found),
            f"{c.false / max(c.images, 1):.2f}",
            str(c.merged),
            *("-" if value is None else f"{value:.3f}" for value in figures),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def overlaps(pairs: Sequence[ImagePair]) -> dict[str, float]:
    """``mean_best_iou`` over the items, and the means over the images of the peers' label-map metrics."""
    maps = [(pair.predicted_map(), pair.truth_map()) for pair in pairs]
    ious = [value for predicted, truth in maps for value in best_ious(predicted, truth).values()]
    scores = mean_scores([overlap_scores(predicted, truth) for predicted, truth in maps])
    return scores | ({"mean_best_iou": float(np.mean(ious))} if ious else {})


def row(
    data: str,
    model: str,
    threshold: float,
    everything: Sequence[ImagePair],
    kept: Sequence[ImagePair],
    counts: Counts,
    calibration: float | None,
) -> Row:
    """Figures of one model on one set.

    Args:
        data, model: names.
        threshold: of ``kept``.
        everything: predictions at any score.
        kept: predictions from the threshold on.
        counts, calibration: of ``kept``.
    """
    scores, shapes = coco_scores(everything), overlaps(kept)
    return Row(
        data,
        model,
        threshold,
        counts,
        scores.ap,
        scores.ap50,
        shapes.get("mean_best_iou"),
        shapes.get("overlap_f"),
        shapes.get("boundary_f"),
        calibration,
    )


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    lines = [HEAD, ["---"] * len(HEAD), *(r.cells() for r in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
