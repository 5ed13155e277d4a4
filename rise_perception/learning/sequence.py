"""Pseudo-sequences: a still image becomes a scene before and after a change (Sec. 3.2, Fig. 2).

x1, "before", is the weakly augmented image with objects of the bank pasted on it; x2, "after", is x1 with
some pasted objects removed, moved or added, and augmented again; x3 is x1 with strong colour augmentation.
Every view carries the masks and identities of all its known objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from rise_perception.data.coco import LabelledImage
from rise_perception.learning.augmentation import (
    SECOND_VIEW,
    GeometricAugmentation,
    Geometry,
    StrongColour,
    WeakColour,
    uniform,
)
from rise_perception.learning.bank import CutOut, InstanceBank
from rise_perception.learning.config import SequenceConfig

#: A pasted object may hide at most this share of any other (the 85 % rule).
MOST_HIDDEN = 0.85
#: Places that are tried for an object before it is left out.
ATTEMPTS = 20
#: Objects with fewer visible pixels than this carry no label.
VISIBLE = 30
#: A pasted object rests on what stands highest below it: this quantile of the depths there.
SUPPORT = 0.1
#: Pasted objects are numbered from here on, above the identities of any image's own objects.
FIRST_PASTED = 1_000_000


@dataclass(frozen=True)
class Layer:
    """A cut-out at its place: ``top`` and ``left`` are rows and columns of the image."""

    cut: CutOut
    top: int
    left: int
    id: int


@dataclass(frozen=True)
class PseudoSequence:
    """The views of one source image.

    Attributes:
        source: x.
        before: x1.
        after: x2.
        strong: x3; geometry and labels are those of ``before``.
    """

    source: LabelledImage
    before: LabelledImage
    after: LabelledImage
    strong: LabelledImage


class SequenceMaker:
    """Makes pseudo-sequences; all randomness comes from torch's global generator.

    Args:
        config: how much is pasted and changed.
        weak: geometry of the first weak augmentation.
        strength: of the colour augmentations.
    """

    def __init__(self, config: SequenceConfig, weak: GeometricAugmentation, strength: float) -> None:
        self.config, self.weak = config, weak
        self.weak_colour, self.strong_colour = WeakColour(strength), StrongColour(strength)

    def __call__(
        self, sample: LabelledImage, bank: InstanceBank, later: LabelledImage | None = None
    ) -> PseudoSequence:
        """Make the views of an image.

        Args:
            sample: an image; without masks where nothing is labelled.
            bank: what is pasted; nothing when it is empty.
            later: a real later frame of the same scene, which x2 then builds upon.
        """
        geometry = self.weak.draw(*sample.image.shape[:2])
        base = weak_view(sample, geometry, self.weak_colour)
        base_after = base if later is None else weak_view(later, geometry, self.weak_colour)
        layers = self._pasted(base, bank)
        before = paste(base, layers)
        after = paste(base_after, self._changed(base_after, layers, bank) if layers else [])
        second = SECOND_VIEW.draw(*sample.image.shape[:2])
        return PseudoSequence(
            source=sample,
            before=without_slivers(before),
            after=without_slivers(weak_view(after, second, self.weak_colour)),
            strong=without_slivers(replace(before, image=_coloured(before.image, self.strong_colour))),
        )

    def _pasted(self, base: LabelledImage, bank: InstanceBank) -> list[Layer]:
        if len(bank) == 0 or self.config.objects == 0:
            return []
        layers: list[Layer] = []
        for index in range(int(torch.randint(1, self.config.objects + 1, ()))):
            layers = self._add(base, layers, self._draw(bank), FIRST_PASTED + index)
        return layers

    def _changed(self, base: LabelledImage, layers: list[Layer], bank: InstanceBank) -> list[Layer]:
        """Each pasted object stays, leaves or moves; sometimes a new one comes."""
        result: list[Layer] = []
        moved: list[Layer] = []
        for layer in layers:
            chance = float(torch.rand(()))
            if chance < self.config.removed:
                continue
            (moved if chance < self.config.removed + self.config.moved else result).append(layer)
        # On top of all that stays, or what lies above could hide them at their new place.
        for layer in moved:
            result = self._add(base, result, layer.cut, layer.id)
        if torch.rand(()) < self.config.added:
            result = self._add(base, result, self._draw(bank), layers[-1].id + 1)
        return result

    @staticmethod
    def _draw(bank: InstanceBank) -> CutOut:
        return augmented(bank[int(torch.randint(len(bank), ()))])

    @staticmethod
    def _add(base: LabelledImage, layers: list[Layer], cut: CutOut, identity: int) -> list[Layer]:
        """The layers with one more on top, or as they were when no place is found for it."""
        height, width = base.image.shape[:2]
        h, w = cut.mask.shape
        if h > height or w > width:
            return layers
        # What each object showed when nothing hid it: its label, or its whole cut-out.
        full = [int(np.count_nonzero(m)) for m in base.masks] + [
            int(np.count_nonzero(layer.cut.mask)) for layer in layers
        ]
        visible = visible_masks(base.masks, layers)
        shown = visible.sum((1, 2))
        for _ in range(ATTEMPTS):
            top, left = place(height - h, width - w)
            covered = (visible[:, top : top + h, left : left + w] & cut.mask).sum((1, 2))
            if not hides_too_much(covered, shown, np.array(full)):
                return [*layers, Layer(cut, top, left, identity)]
        return layers


def place(room_y: int, room_x: int) -> tuple[int, int]:
    """Top-left corner ~ Beta(.5, .5) x Beta(.5, .5) over the feasible region (Eq. 2), in rows and columns."""
    # Beta(.5, .5) is the arcsine distribution: the squared sine of a uniform angle.
    y, x = (torch.rand(2) * (math.pi / 2)).sin().square().tolist()
    return round(y * room_y), round(x * room_x)


def hides_too_much(covered: np.ndarray, shown: np.ndarray, full: np.ndarray) -> bool:
    """Whether a paste would leave an object more than 85 % hidden, counting what hides it already.

    Args:
        covered: (N,) pixels of each object that the paste would cover.
        shown: (N,) pixels of it that are seen now.
        full: (N,) its pixels when nothing hides it.
    """
    hidden = shown - covered < (1 - MOST_HIDDEN) * full
    # Only those that this paste touches count against it.
    return bool((hidden & (covered > 0)).any())


def visible_masks(masks: np.ndarray, layers: list[Layer]) -> np.ndarray:
    """(N + K, H, W) bool: what is seen of N objects and of K layers on top of them, in order."""
    count = len(masks)
    visible = np.zeros((count + len(layers), *masks.shape[1:]), bool)
    visible[:count] = masks
    for index, layer in enumerate(layers, count):
        h, w = layer.cut.mask.shape
        rows, columns = slice(layer.top, layer.top + h), slice(layer.left, layer.left + w)
        visible[:index, rows, columns] &= ~layer.cut.mask
        visible[index, rows, columns] = layer.cut.mask
    return visible


def paste(base: LabelledImage, layers: list[Layer]) -> LabelledImage:
    """Paste layers onto an image, the last on top; hidden parts leave the masks of what lies below."""
    if not layers:
        return base
    image = base.image.copy()
    depth = None if base.depth is None else base.depth.copy()
    for layer in layers:
        cut = layer.cut
        h, w = cut.mask.shape
        box = np.s_[layer.top : layer.top + h, layer.left : layer.left + w]
        image[box][cut.mask] = cut.image[cut.mask]
        if depth is not None and cut.relief is not None:
            under = depth[box][cut.mask]
            measured = under[under > 0]
            support = np.quantile(measured, SUPPORT) if measured.size else 0.0
            # A hole in the cut-out, or no support to stand on, is a hole in the depth map.
            raised = np.nan_to_num(support + cut.relief[cut.mask]) if support else np.float32(0)
            depth[box][cut.mask] = np.maximum(raised, 0)
    return LabelledImage(
        name=base.name,
        image=image,
        depth=depth,
        masks=visible_masks(base.masks, layers),
        classes=np.concatenate([base.classes, [layer.cut.category for layer in layers]]).astype(np.int64),
        ids=np.concatenate([base.ids, [layer.id for layer in layers]]).astype(np.int64),
    )


#: Each pasted object's own colour.
_OWN_COLOUR = v2.ColorJitter(0.25, 0.25, 0.25)


def augmented(cut: CutOut) -> CutOut:
    """A cut-out with its own scale, rotation, flip and colour; relief grows with the scale."""
    flip = -1.0 if torch.rand(()) < 0.5 else 1.0
    scale, angle = uniform(0.75, 1.3), uniform(0.0, 2 * math.pi)
    h, w = cut.mask.shape
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    width, height = math.ceil(abs(w * cos) + abs(h * sin)) + 2, math.ceil(abs(w * sin) + abs(h * cos)) + 2
    # Centre to centre, in the coordinates of pixel centres.
    turn = np.array([[flip * cos, -sin], [flip * sin, cos]])
    shift = np.array([width - 1, height - 1]) / 2 - turn @ (np.array([w - 1, h - 1]) / 2)
    matrix = np.column_stack([turn, shift])

    def warped(layer: np.ndarray, how: int, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
        return cv2.warpAffine(layer, matrix, (width, height), flags=how, borderMode=border)

    mask = warped(cut.mask.astype(np.uint8), cv2.INTER_NEAREST) > 0
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    if w == 0:
        return cut  # a sliver that vanished in the resampling
    box = np.s_[y : y + h, x : x + w]
    # Replicated, so that no border colour bleeds into the object's rim.
    image = warped(cut.image, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)[box]
    relief = None
    if cut.relief is not None:
        relief = np.ascontiguousarray(warped(cut.relief, cv2.INTER_NEAREST)[box]) * np.float32(scale)
    image = _OWN_COLOUR(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
    return CutOut(_array(image), np.ascontiguousarray(mask[box]), relief, cut.category)


def weak_view(sample: LabelledImage, geometry: Geometry, colour: WeakColour) -> LabelledImage:
    """The image and all its layers under one geometry, with a little colour change."""
    image = torch.from_numpy(sample.image).permute(2, 0, 1)
    layers = torch.from_numpy(sample.masks).float()
    if sample.depth is not None:
        layers = torch.cat([torch.from_numpy(sample.depth)[None], layers])
    image, layers = geometry(image, layers)
    depth = None
    if sample.depth is not None:
        depth, layers = layers[0].numpy(), layers[1:]
    return LabelledImage(
        name=sample.name,
        image=_array(colour(image)),
        depth=depth,
        masks=(layers > 0.5).numpy(),
        classes=sample.classes,
        ids=sample.ids,
    )


def without_slivers(sample: LabelledImage) -> LabelledImage:
    """Leave out objects of which almost nothing is seen."""
    keep = sample.masks.sum((1, 2)) >= VISIBLE
    return replace(sample, masks=sample.masks[keep], classes=sample.classes[keep], ids=sample.ids[keep])


def _coloured(image: np.ndarray, colour: StrongColour) -> np.ndarray:
    return _array(colour(torch.from_numpy(image).permute(2, 0, 1)))


def _array(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().numpy()
