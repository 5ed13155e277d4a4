"""COCO AP and AR of instance masks, through pycocotools.

AP is the mean over IoU thresholds .50:.05:.95; AP50 and AP75 are at one threshold; AR is the mean recall
over the thresholds. At most 100 instances an image count (COCO's own limit; a full tote holds about 25).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rise_perception.core.regions import ImagePair, Region

MAX_INSTANCES = 100
RECALL_POINTS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class CocoScores:
    """COCO's figures; None where there is no truth to compare with.

    Attributes:
        ap, ap50, ap75, ar: each in [0, 1], or None.
        precision: IoU threshold (0.5, 0.75) -> (101,) precision at ``RECALL_POINTS``, mean over the
            categories; empty without truth.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ar: float | None
    precision: dict[float, np.ndarray]


def coco_scores(pairs: Sequence[ImagePair], with_containers: bool = False) -> CocoScores:
    """AP and AR over ``pairs``: of objects alone, or as the mean over the categories object and container."""

    def wanted(regions: Sequence[Region]) -> list[Region]:
        return [region for region in regions if with_containers or region.is_object]

    categories = {"object": 1, "container": 2} if with_containers else {"object": 1}
    truth, predictions = [], []
    for image_id, pair in enumerate(pairs, start=1):
        truth += [_annotation(region, image_id, categories) for region in wanted(pair.truth)]
        predictions += [_annotation(region, image_id, categories) for region in wanted(pair.predicted)]
    if not truth:
        return CocoScores(None, None, None, None, {})
    images = [{"id": i, "width": p.width, "height": p.height} for i, p in enumerate(pairs, start=1)]
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(
            _index(images, categories, truth), _index(images, categories, predictions), iouType="segm"
        )
        evaluation.params.maxDets = [1, 10, MAX_INSTANCES]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU thresholds, recall points, categories)
    recall = evaluation.eval["recall"][:, :, 0, -1]  # (IoU thresholds, categories)
    present = recall[0] > -1  # pycocotools gives -1 for a category without truth
    precision, recall = precision[:, :, present], recall[:, present]
    return CocoScores(
        ap=float(precision.mean()),
        ap50=float(precision[0].mean()),
        ap75=float(precision[5].mean()),
        ar=float(recall.mean()),
        precision={0.5: precision[0].mean(axis=1), 0.75: precision[5].mean(axis=1)},
    )


def _annotation(region: Region, image_id: int, categories: dict[str, int]) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": categories[region.category],
        "segmentation": region.rle,
        "area": float(coco_mask.area(region.rle)),
        "bbox": coco_mask.toBbox(region.rle).tolist(),
        "score": region.score,
        "iscrowd": 0,
    }


def _index(
    images: list[dict[str, Any]], categories: dict[str, int], annotations: list[dict[str, Any]]
) -> COCO:
    """A COCO object made in memory; works without annotations, which COCO.loadRes does not."""
    coco = COCO()
    coco.dataset = {
        "images": images,
        "categories": [{"id": number, "name": name} for name, number in categories.items()],
        "annotations": [{"id": i, **a} for i, a in enumerate(annotations, start=1)],
    }
    coco.createIndex()
    return coco
