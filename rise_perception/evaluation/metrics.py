"""All metrics of a set of images, with the figures that plots and worst cases need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rise_perception.core.regions import ImagePair
from rise_perception.evaluation.coco import CocoScores, coco_scores
from rise_perception.evaluation.overlap import best_ious, mean_scores, overlap_scores

TITLES = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ar": "AR (100 instances)",
    "ap_with_containers": "AP with containers",
    "ap50_with_containers": "AP50 with containers",
    "ap75_with_containers": "AP75 with containers",
    "ar_with_containers": "AR with containers",
    "overlap_precision": "overlap P",
    "overlap_recall": "overlap R",
    "overlap_f": "overlap F",
    "boundary_precision": "boundary P",
    "boundary_recall": "boundary R",
    "boundary_f": "boundary F",
    "f75": "F@.75",
    "mean_best_iou": "mean best IoU of the labelled items",
}


@dataclass(frozen=True)
class Metrics:
    """Metrics of a set of images.

    Attributes:
        partial: only some items are labelled, so that nothing that counts false positives is given.
        values: metric name (keys of ``TITLES``) -> value in [0, 1], or None where it is undefined.
        images, items, predictions: how many images, labelled objects and predicted objects.
        per_image: image name -> {"overlap_f", "mean_best_iou"}; None where the image has no item.
        ious: best IoU of each labelled object of all images.
        coco: the curves of the objects; None when ``partial``.
    """

    partial: bool
    values: dict[str, float | None]
    images: int
    items: int
    predictions: int
    per_image: dict[str, dict[str, float | None]]
    ious: np.ndarray
    coco: CocoScores | None = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Everything but the curves, for a JSON file."""
        return {
            "images": self.images,
            "items": self.items,
            "predictions": self.predictions,
            "partial_labels": self.partial,
            "metrics": self.values,
            "per_image": self.per_image,
        }

    def rows(self) -> list[tuple[str, str]]:
        """(title, value) of each metric, for a table."""
        return [(TITLES[k], "none" if v is None else f"{v:.3f}") for k, v in self.values.items()]

    def table(self) -> str:
        """The metrics as lines of text."""
        width = max(len(title) for title, _ in self.rows())
        head = f"{self.images} images, {self.items} labelled objects, {self.predictions} predicted objects"
        return "\n".join([head, *(f"  {title:<{width}}  {value}" for title, value in self.rows())])


def measure(pairs: Sequence[ImagePair], partial: bool = False) -> Metrics:
    """All metrics of ``pairs``.

    Args:
        pairs: predictions and truth image by image.
        partial: only some items are labelled: give the mean best IoU alone, since a prediction of an
            unlabelled item is not wrong.
    """
    values: dict[str, float | None] = {}
    objects = None
    if not partial:
        objects = coco_scores(pairs)
        values.update({name: getattr(objects, name) for name in ("ap", "ap50", "ap75", "ar")})
        if any(not region.is_object for pair in pairs for region in pair.truth):
            both = coco_scores(pairs, with_containers=True)
            values.update(
                {f"{name}_with_containers": getattr(both, name) for name in ("ap", "ap50", "ap75", "ar")}
            )
    ious: list[float] = []
    overlaps = []
    per_image: dict[str, dict[str, float | None]] = {}
    for pair in pairs:
        prediction, truth = pair.predicted_map(), pair.truth_map()
        best = list(best_ious(prediction, truth).values())
        ious += best
        entry: dict[str, float | None] = {"mean_best_iou": float(np.mean(best)) if best else None}
        if not partial:
            overlaps.append(overlap_scores(prediction, truth))
            entry["overlap_f"] = overlaps[-1].overlap_f
        per_image[pair.name] = entry
    values.update(mean_scores(overlaps))
    values["mean_best_iou"] = float(np.mean(ious)) if ious else None
    return Metrics(
        partial=partial,
        values=values,
        images=len(pairs),
        items=len(ious),
        predictions=sum(region.is_object for pair in pairs for region in pair.predicted),
        per_image=per_image,
        ious=np.array(ious, np.float64),
        coco=objects,
    )
