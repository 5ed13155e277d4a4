"""What a step of the training takes: tensors of images and targets, letterboxed as the network sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rise_perception.core.letterbox import Letterbox
from rise_perception.data.coco import LabelledImage
from rise_perception.network.config import NetworkConfig
from rise_perception.network.inputs import fit_input
from rise_perception.training.boxes import masks_to_boxes
from rise_perception.training.matching import Targets


@dataclass(frozen=True)
class Batch:
    """P scenes, ready for the network: labelled ones first.

    Attributes:
        images: (2P, C, H, W) float32; 2k is x3 of scene k, "before" under strong augmentation, and 2k + 1 its
            x2, "after".
        padding: (2P, H, W) bool, True where there is no image; None when no image of the batch has any.
        targets: 2P targets: all objects of a labelled scene, the pasted objects of another.
        labelled: (2P,) bool.
        before: (U, C, H, W) float32, x1 of the unlabelled scenes: what the teacher sees.
        before_padding: (U, H, W) bool or None.
        to_strong: (U, 2, 3) float32, where a point of x1 is in x3, both as fractions of the network's input;
            None where both have one geometry.
    """

    images: Tensor
    padding: Tensor | None
    targets: list[Targets]
    labelled: Tensor
    before: Tensor
    before_padding: Tensor | None
    to_strong: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on another device, images with the channels last in memory."""
        return Batch(
            self.images.to(device, memory_format=torch.channels_last, non_blocking=True),
            None if self.padding is None else self.padding.to(device),
            [t.to(device) for t in self.targets],
            self.labelled.to(device),
            self.before.to(device, memory_format=torch.channels_last, non_blocking=True),
            None if self.before_padding is None else self.before_padding.to(device),
            None if self.to_strong is None else self.to_strong.to(device),
        )


def make_targets(masks: Tensor, classes: Tensor, ids: Tensor) -> Targets:
    """Targets from masks at the network's input size.

    Args:
        masks: (N, H, W) bool.
        classes: (N,) int64.
        ids: (N,) int64, identities across views.

    Returns:
        Targets with boxes around the full masks and masks at a quarter of the size: a cell belongs to
        the mask when at least half of it does.
    """
    height, width = masks.shape[-2:]
    padded = F.pad(masks.float()[:, None], (0, -width % 4, 0, -height % 4))
    return Targets(classes, masks_to_boxes(masks), F.avg_pool2d(padded, 4)[:, 0] >= 0.5, ids)


#: Network input (C, H, W) float32, padding (H, W) bool or None, targets.
Sample = tuple[np.ndarray, np.ndarray | None, Targets]


class Scene(NamedTuple):
    """The network's view of one pseudo-sequence."""

    strong: Sample
    after: Sample
    before: Sample | None  # of an unlabelled scene, for the teacher
    labelled: bool
    to_strong: np.ndarray | None = None  # (2, 3) float32, from x1 to x3 in fractions of the input


def to_network(sample: LabelledImage, network: NetworkConfig) -> Sample:
    """Letterbox a labelled image into the network's input."""
    box = Letterbox(sample.image.shape[:2], network.image_size)
    image = fit_input(box, sample.image, sample.depth, network.input)
    masks = [box.fit(m.astype(np.uint8), nearest=True, border=0) for m in sample.masks]
    stacked = np.stack(masks) > 0 if masks else np.zeros((0, *network.image_size), bool)
    seen = stacked.any((1, 2))  # a thin object can vanish at the network's scale
    targets = make_targets(*(torch.from_numpy(a[seen]) for a in (stacked, sample.classes, sample.ids)))
    return image, box.padding(), targets


def in_fractions(matrix: np.ndarray, image_size: tuple[int, int], input_size: tuple[int, int]) -> np.ndarray:
    """A map of an image's pixels (2, 3) as (2, 3) float32, for fractions of the network's input."""
    content = Letterbox(image_size, input_size).content
    # Pixels of the image in the whole width and height of the input, padding and all.
    whole = np.array([image_size[k] * input_size[k] / content[k] for k in (1, 0)])
    linear = matrix[:, :2] * whole[None] / whole[:, None]
    return np.column_stack([linear, matrix[:, 2] / whole]).astype(np.float32)


def collate(scenes: list[Scene]) -> Batch:
    """Stack scenes, labelled ones first."""
    views = [view for scene in scenes for view in (scene.strong, scene.after)]
    unlabelled = [scene.before for scene in scenes if scene.before is not None]
    images, padding = _stack(views, views[0][0])
    before, before_padding = _stack(unlabelled, views[0][0])
    labelled = torch.tensor([scene.labelled for scene in scenes for _ in range(2)])
    maps = [scene.to_strong for scene in scenes if scene.to_strong is not None]
    to_strong = torch.from_numpy(np.stack(maps)) if maps else None
    return Batch(images, padding, [view[2] for view in views], labelled, before, before_padding, to_strong)


def _stack(samples: list[Sample], like: np.ndarray) -> tuple[Tensor, Tensor | None]:
    if not samples:
        return torch.zeros((0, *like.shape)), None
    images = torch.from_numpy(np.stack([s[0] for s in samples]))
    if all(s[1] is None for s in samples):
        return images, None
    none = np.zeros(like.shape[1:], bool)
    return images, torch.from_numpy(np.stack([none if s[1] is None else s[1] for s in samples]))
