"""Squares as masks, regions and instances, for the tests of evaluation."""

from __future__ import annotations

import numpy as np

from rise_perception.core.instances import Instances
from rise_perception.core.regions import ImagePair, Region, encode_mask

SIZE = (40, 60)


def square(y, x, size=10):
    mask = np.zeros(SIZE, bool)
    mask[y : y + size, x : x + size] = True
    return mask


def region(mask, score=1.0, category="object"):
    return Region(category, encode_mask(mask), score)


def pair(predicted, truth, name="a"):
    return ImagePair(name, *SIZE, predicted, truth)


def instances_of(label_map, class_names=("object",), classes=None, ids=None):
    labels = np.unique(label_map[label_map > 0]).astype(np.uint16)
    boxes = []
    for label in labels:
        y, x = np.nonzero(label_map == label)
        boxes.append([x.min(), y.min(), x.max() + 1, y.max() + 1])
    count = len(labels)
    return Instances(
        label_map=label_map,
        labels=labels,
        scores=np.linspace(0.9, 0.5, count).astype(np.float32),
        classes=np.zeros(count, np.int64) if classes is None else np.array(classes),
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        embeddings=np.zeros((count, 0), np.float32),
        ids=labels.astype(np.int64) if ids is None else np.array(ids),
        class_names=class_names,
    )
