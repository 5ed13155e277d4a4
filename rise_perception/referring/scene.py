"""One segmented image, made ready to be asked about."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np

from rise_perception.core.instances import Instances
from rise_perception.language.things import Things, measure
from rise_perception.referring.crops import cut_crops

#: Cells along the longer side of the grid that soft masks live on: stride 4 at 320 pixels.
GRID = 80
#: Channels of the small picture of the scene: red, green, blue, height over the scene's middle.
PICTURE = 4
#: Metres around the scene's median depth that the height channel spans.
_SPAN = 0.25
#: Values that describe an item beside its crop: colours (11), box (6), depth (4), score (1).
MEASURES = 22


@dataclass(frozen=True)
class Scene:
    """N instances of one image.

    Attributes:
        things: their measures; ``kinds`` is None until a crop encoder has looked at them.
        crops: (N, 6, 48, 48) uint8 (:func:`rise_perception.referring.crops.cut_crops`).
        embeddings: (N, D) float32, of the segmenter.
        scores: (N,) float32, of the segmenter.
        masks: (N, h, w) uint8, fraction of each cell that is the instance, 255 = all of it.
        picture: (4, h, w) uint8, the image and its relief on the same grid.
    """

    things: Things
    crops: np.ndarray
    embeddings: np.ndarray
    scores: np.ndarray
    masks: np.ndarray
    picture: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def measures(self) -> np.ndarray:
        """(N, 22) float32: what the head is told of each item beside its crop and its embedding."""
        t = self.things
        size = np.array([t.width, t.height], np.float32)
        centre, extent = t.centres / size, (t.boxes[:, 2:] - t.boxes[:, :2]) / size
        area = np.log(np.maximum(t.areas, 1) / (t.width * t.height))[:, None] / 5 + 1
        fill = (t.areas / np.maximum(np.prod(t.boxes[:, 2:] - t.boxes[:, :2], -1), 1))[:, None]
        known = ~np.isnan(t.depths)
        middle = float(np.median(t.depths[known])) if known.any() else 0.0
        relief = np.nan_to_num(np.stack([t.depths, t.near], 1) - middle) / 0.1
        touched = t.contact.sum(1, keepdims=True)
        parts = [t.colours, centre, extent, area, fill, relief, known[:, None], touched, self.scores[:, None]]
        return np.concatenate(parts, 1).astype(np.float32)

    def with_kinds(self, kinds: np.ndarray) -> Scene:
        """The same with (N, 8) probabilities of the items' kinds."""
        return dataclasses.replace(self, things=dataclasses.replace(self.things, kinds=kinds))


def make_scene(
    image: np.ndarray, depth: np.ndarray | None, instances: Instances, with_pixels: bool = True
) -> Scene:
    """A scene of a segmented image.

    Args:
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres, 0 = none; or None.
        instances: of the image.
        with_pixels: make masks and picture, which only training looks at; otherwise they have one cell.
    """
    things = measure(image, depth, instances.label_map, instances.labels)
    crops = cut_crops(image, depth, instances.label_map, instances.labels, things.boxes)
    grid = grid_size(image.shape[1], image.shape[0]) if with_pixels else (1, 1)
    masks = np.zeros((len(instances), *grid[::-1]), np.uint8)
    picture = np.zeros((PICTURE, *grid[::-1]), np.uint8)
    if with_pixels:
        picture = small_picture(image, depth, grid)
        for row, label in enumerate(instances.labels):
            masks[row] = on_grid(instances.label_map == label, grid)
    return Scene(
        things,
        crops,
        instances.embeddings.astype(np.float32),
        instances.scores.astype(np.float32),
        masks,
        picture,
    )


def grid_size(width: int, height: int) -> tuple[int, int]:
    """Width and height of the grid of an image."""
    scale = GRID / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def on_grid(mask: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """(h, w) uint8 fraction of each cell that an (H, W) bool mask covers, 255 = all."""
    return cv2.resize(mask.view(np.uint8) * np.uint8(255), grid, interpolation=cv2.INTER_AREA)


def small_picture(image: np.ndarray, depth: np.ndarray | None, grid: tuple[int, int]) -> np.ndarray:
    """(4, h, w) uint8: colours, and height over the scene's median depth (128 there and where unknown)."""
    small = cv2.resize(image, grid, interpolation=cv2.INTER_AREA)
    relief = np.full((grid[1], grid[0]), 128, np.uint8)
    if depth is not None:
        thin = cv2.resize(depth, grid, interpolation=cv2.INTER_NEAREST)
        known = (thin > 0) & np.isfinite(thin)
        if known.any():
            height = np.clip((np.median(thin[known]) - thin) / _SPAN, -1, 1)
            relief[known] = np.round(128 + 127 * height[known]).astype(np.uint8)
    return np.concatenate([small.transpose(2, 0, 1), relief[None]])
