"""What a segmenter returns: the instances of one image, one owner per pixel."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np


@dataclass(frozen=True)
class Instances:
    """N instances of one image of H x W pixels, in that image's own pixel coordinates.

    The label map is the whole truth about the masks: a pixel has one owner. Rows are sorted by
    falling score.

    Attributes:
        label_map: (H, W) uint16; 0 is background, otherwise the ``labels`` entry of the owner.
        labels: (N,) uint16, unique, >= 1; the instance's value in ``label_map``.
        scores: (N,) float32 in [0, 1].
        classes: (N,) int64, index into ``class_names``.
        boxes: (N, 4) float32, x0, y0, x1, y1 in pixels; tight around the mask, x1 and y1 exclusive.
        embeddings: (N, D) float32, contrastive embeddings z_i; D may be 0.
        ids: (N,) int64 persistent ids over frames (:mod:`rise_perception.inference.tracker`); equal to
            ``labels`` for a single image.
        class_names: names of the classes.
        pick_success: (N,) float32, calibrated probability that a grasp of it succeeds; NaN where nothing has
            been learned about that, also when left out.
    """

    label_map: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    embeddings: np.ndarray
    ids: np.ndarray
    class_names: tuple[str, ...] = field(default=("object",))
    pick_success: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))

    def __post_init__(self) -> None:
        if len(self.pick_success) != len(self.labels):
            object.__setattr__(self, "pick_success", np.full(len(self.labels), np.nan, np.float32))

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def height(self) -> int:
        """Image height in pixels."""
        return int(self.label_map.shape[0])

    @property
    def width(self) -> int:
        """Image width in pixels."""
        return int(self.label_map.shape[1])

    def mask(self, index: int) -> np.ndarray:
        """(H, W) bool, the pixels that instance ``index`` owns."""
        return self.label_map == self.labels[index]

    def masks(self) -> np.ndarray:
        """(N, H, W) bool, the pixels that each instance owns."""
        return self.label_map[None] == self.labels[:, None, None]

    def areas(self) -> np.ndarray:
        """(N,) int64, pixels owned by each instance."""
        counts = np.bincount(self.label_map.ravel(), minlength=int(self.labels.max(initial=0)) + 1)
        return counts[self.labels.astype(np.int64)].astype(np.int64)

    def only(self, kept: np.ndarray) -> Instances:
        """The rows where ``kept`` (N,) bool; the pixels of the others become background."""
        if kept.all():
            return self
        label_map = np.where(np.isin(self.label_map, self.labels[kept]), self.label_map, 0)
        rows = {
            name: getattr(self, name)[kept]
            for name in ("labels", "scores", "classes", "boxes", "embeddings", "ids", "pick_success")
        }
        return replace(self, label_map=label_map.astype(np.uint16), **rows)

    @staticmethod
    def empty(height: int, width: int, class_names: tuple[str, ...] = ("object",), dim: int = 0) -> Instances:
        """No instance in an image of ``height`` x ``width`` pixels."""
        return Instances(
            label_map=np.zeros((height, width), np.uint16),
            labels=np.zeros(0, np.uint16),
            scores=np.zeros(0, np.float32),
            classes=np.zeros(0, np.int64),
            boxes=np.zeros((0, 4), np.float32),
            embeddings=np.zeros((0, dim), np.float32),
            ids=np.zeros(0, np.int64),
            class_names=class_names,
        )
