"""A reference: the place without items. What has not changed against it is no item, whatever a model says.

Works with any model: instances of which almost nothing stands out from the reference are dropped. One that no
longer fits (the camera was moved, the place was rebuilt) would drop true items; it is recognised by how much
has changed where no instance is, and left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from rise_perception.core.errors import DataError
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances

#: At most so many frames are taken, spread over those that are given.
MOST_FRAMES = 15
#: CIELAB difference from which on a colour has changed, after the exposure was matched.
COLOUR_CHANGE = 14.0
#: What stands nearer than the reference by this many metres, and this fraction of the distance, has changed.
DEPTH_CHANGE, DEPTH_FRACTION = 0.006, 0.008
#: An instance of which a smaller fraction has changed is dropped.
MIN_CHANGED = 0.2
#: With a greater fraction changed where no instance is, the reference is stale.
STALE = 0.4
#: Instances are enlarged by this many pixels before that fraction is taken: shadows and soft edges.
MARGIN = 9


@dataclass(frozen=True)
class Kept:
    """What a reference leaves of a frame.

    Attributes:
        instances: that stay.
        changed: (H, W) bool, where the frame differs; None where the reference was left out.
        mismatch: fraction of what no instance covers that has changed, in [0, 1].
        problem: why the reference was left out; empty when it was used.
    """

    instances: Instances
    changed: np.ndarray | None
    mismatch: float
    problem: str


@dataclass(frozen=True)
class Reference:
    """The place without items.

    Attributes:
        lab: (H, W, 3) float32 CIELAB.
        depth: (H, W) float32 metres, 0 = none; or None.
    """

    lab: np.ndarray
    depth: np.ndarray | None = None

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Reference:
        """That of frames without items; see :func:`median_frame`."""
        frame = median_frame(frames)
        return cls(_lab(frame.image), frame.depth)

    def changed(self, image: np.ndarray, depth: np.ndarray | None = None) -> np.ndarray:
        """Where a frame differs from the reference.

        Args:
            image: (H, W, 3) uint8 RGB of the reference's size.
            depth: (H, W) float32 metres, 0 = none.

        Returns:
            (H, W) bool. Where both have depth, depth decides, and colour adds what is too flat for it.
        """
        lab = _lab(image)
        # What most of the picture did together, exposure or white balance did.
        difference = lab - self.lab
        difference -= np.median(difference[::4, ::4], axis=(0, 1))
        distance = np.sqrt((difference**2).sum(2))
        found = distance > COLOUR_CHANGE
        if depth is not None and self.depth is not None:
            both = (depth > 0) & (self.depth > 0)
            nearer = self.depth - depth > DEPTH_CHANGE + DEPTH_FRACTION * self.depth
            found = np.where(both, nearer | (distance > 2 * COLOUR_CHANGE), found)
        return np.asarray(cv2.medianBlur(found.astype(np.uint8), 5) > 0)

    def keep_changed(
        self,
        instances: Instances,
        image: np.ndarray,
        depth: np.ndarray | None = None,
        outside: np.ndarray | None = None,
    ) -> Kept:
        """Drop the instances of which almost nothing has changed.

        Args:
            instances: of the frame.
            image, depth: the frame.
            outside: (H, W) bool, where nothing counts; None is nowhere.
        """
        if image.shape != self.lab.shape:
            (h, w), (own_h, own_w) = image.shape[:2], self.lab.shape[:2]
            return Kept(instances, None, 1.0, f"the reference is {own_w}x{own_h}, the picture {w}x{h}")
        changed = self.changed(image, depth)
        side = 2 * MARGIN + 1
        free = cv2.dilate((instances.label_map > 0).astype(np.uint8), np.ones((side, side), np.uint8)) == 0
        if outside is not None:
            changed &= ~outside
            free &= ~outside
        mismatch = float(changed[free].mean()) if free.any() else 0.0
        if mismatch > STALE:
            why = f"the reference is stale: {mismatch:.0%} of the place without items has changed"
            return Kept(instances, None, mismatch, why)
        areas = instances.areas().clip(min=1)
        counts = np.bincount(instances.label_map[changed], minlength=int(instances.labels.max(initial=0)) + 1)
        kept = counts[instances.labels.astype(np.int64)] >= MIN_CHANGED * areas
        return Kept(select(instances, kept), changed, mismatch, "")


def median_frame(frames: Sequence[Frame]) -> Frame:
    """The median of frames: what passes by in some of them is gone.

    Args:
        frames: at least one, all of one size; depth is used where all have it.

    Raises:
        DataError: no frame, or of different sizes.
    """
    if not frames:
        raise DataError("a reference needs at least one picture of the place without items")
    step = np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES)).round().astype(int)
    chosen = [frames[k] for k in dict.fromkeys(step.tolist())]
    sizes = {frame.image.shape[:2] for frame in chosen}
    if len(sizes) > 1:
        raise DataError(f"pictures of a reference have sizes {sorted(sizes)}; give pictures of one camera")
    image = np.median([frame.image for frame in chosen], axis=0).astype(np.uint8)
    depths = [frame.depth for frame in chosen if frame.depth is not None]
    depth = None
    if len(depths) == len(chosen):
        stacked = np.stack(depths).astype(np.float32)
        stacked[stacked <= 0] = np.nan
        some = np.isfinite(stacked).any(0)
        depth = np.zeros(some.shape, np.float32)
        depth[some] = np.nanmedian(stacked[:, some], axis=0)
    return Frame(image, depth)


def select(instances: Instances, kept: np.ndarray) -> Instances:
    """The instances where ``kept`` (N,) bool, with their labels as they are."""
    if kept.all():
        return instances
    stays = np.zeros(int(instances.labels.max(initial=0)) + 1, bool)
    stays[instances.labels[kept]] = True
    label_map = np.where(stays[instances.label_map], instances.label_map, 0).astype(np.uint16)
    names = ("labels", "scores", "classes", "boxes", "embeddings", "ids")
    return replace(instances, label_map=label_map, **{name: getattr(instances, name)[kept] for name in names})


def _lab(image: np.ndarray) -> np.ndarray:
    soft = cv2.GaussianBlur(image, (5, 5), 0).astype(np.float32) / 255
    return np.asarray(cv2.cvtColor(soft, cv2.COLOR_RGB2LAB))
