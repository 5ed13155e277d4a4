"""The part of the scene that counts: a polygon in the image, or a box in space."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import cv2
import numpy as np

from rise_perception.core.errors import ConfigError
from rise_perception.core.frame import CameraIntrinsics
from rise_perception.core.instances import Instances

SYNTAX = (
    "a polygon 'x,y x,y x,y ...' in pixels (or, with all values up to 1, fractions of width and height), "
    "or a box 'FRAME x0:x1 y0:y1 z0:z1' in metres"
)
MAX_CORNERS = 1000


@dataclass(frozen=True)
class ImagePolygon:
    """A workspace in the image.

    Attributes:
        corners: x, y of each; in pixels, or as fractions of width and height when none exceeds 1.
    """

    corners: tuple[tuple[float, float], ...]

    def outside(self, height: int, width: int) -> np.ndarray:
        """(H, W) bool: True for pixels outside."""
        corners = np.array(self.corners, np.float64)
        if corners.max() <= 1:
            corners = corners * (width, height)
        area = np.zeros((height, width), np.uint8)
        limit = 4.0 * max(height, width)
        cv2.fillPoly(area, [np.rint(corners.clip(-limit, limit)).astype(np.int32)], (1,))
        return area == 0


@dataclass(frozen=True)
class FrameBox:
    """A workspace in space; whether a pixel is inside, its depth says.

    Attributes:
        frame: coordinate frame whose axes it lies along.
        low, high: corners in metres.
    """

    frame: str
    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def outside(
        self, depth: np.ndarray, camera: CameraIntrinsics, frame_from_camera: np.ndarray
    ) -> np.ndarray:
        """(H, W) bool: True where depth is measured and lies outside.

        Args:
            depth: (H, W) float32 metres; 0: no measurement, which is not outside.
            camera: intrinsics of ``depth``.
            frame_from_camera: (4, 4) maps points of the camera to ``frame``.
        """
        height, width = depth.shape
        u = ((np.arange(width) - camera.cx) / camera.fx).astype(np.float32)
        v = ((np.arange(height) - camera.cy) / camera.fy).astype(np.float32)[:, None]
        outside = np.zeros(depth.shape, bool)
        for axis in range(3):
            a, b, c, shift = (np.float32(value) for value in frame_from_camera[axis])
            place = (a * u + (b * v + c)) * depth + shift
            outside |= (place < self.low[axis]) | (place > self.high[axis])
        return outside & (depth > 0)


Workspace = ImagePolygon | FrameBox


def parse_workspace(text: str) -> Workspace | None:
    """A workspace as users write it; None for an empty text.

    Raises:
        ConfigError: neither a polygon nor a box.
    """
    words = text.split()
    if not words:
        return None
    try:
        if all("," in word for word in words):
            corners = [tuple(float(part) for part in word.split(",")) for word in words]
            if not 3 <= len(corners) <= MAX_CORNERS or any(len(corner) != 2 for corner in corners):
                raise ValueError
            if not all(map(math.isfinite, sum(corners, ()))):
                raise ValueError
            return ImagePolygon(tuple((x, y) for x, y in corners))
        frame, *ranges = words
        bounds = [tuple(float(part) for part in span.split(":")) for span in ranges]
        if len(bounds) != 3 or not all(len(b) == 2 and b[0] < b[1] for b in bounds):
            raise ValueError
        low, high = zip(*bounds, strict=True)
        return FrameBox(frame, low, high)
    except ValueError as error:
        raise ConfigError(f"workspace {text!r} is not understood; expected {SYNTAX}") from error


def keep_inside(instances: Instances, outside: np.ndarray, known: np.ndarray | None = None) -> Instances:
    """The instances of which at least half lies inside, without their pixels outside.

    Args:
        instances: of an image.
        outside: (H, W) bool.
        known: (H, W) bool, pixels of which it is known; None: all. Those unknown follow the others of their
            instance.
    """
    seen = instances.label_map if known is None else np.where(known, instances.label_map, 0)
    lost = np.where(outside, instances.label_map, 0)
    counted, beyond = (np.bincount(m.ravel(), minlength=65536)[instances.labels] for m in (seen, lost))
    left = instances.areas() - beyond
    keep = (2 * beyond <= counted) & (left > 0)
    row_of = np.zeros(65536, np.uint16)
    row_of[instances.labels[keep]] = instances.labels[keep]
    label_map = np.where(outside, 0, row_of[instances.label_map]).astype(np.uint16)
    boxes = instances.boxes.copy()
    for row in np.flatnonzero(keep & (beyond > 0)):
        x0, y0, x1, y1 = instances.boxes[row].astype(int)
        owned = label_map[y0:y1, x0:x1] == instances.labels[row]
        v, u = np.flatnonzero(owned.any(1)), np.flatnonzero(owned.any(0))
        boxes[row] = (x0 + u[0], y0 + v[0], x0 + u[-1] + 1, y0 + v[-1] + 1)
    rows = {
        name: getattr(instances, name)[keep] for name in ("labels", "scores", "classes", "embeddings", "ids")
    }
    return dataclasses.replace(instances, label_map=label_map, boxes=boxes[keep], **rows)
