"""Pseudo-sequences: a still image becomes a scene before and after a change (Sec. 3.2, Fig. 2).

x1, "before", is the weakly augmented image with objects of the bank pasted on it; x2, "after", is x1 with
some pasted objects removed, moved or added, and augmented again; x3 is x1 after another weak augmentation,
with strong colour augmentation and its own noise and holes in the depth. Every view carries the masks and
identities of all its known objects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from rise_perception.data.coco import LabelledImage
from rise_perception.synthesis.augmentation import (
    SECOND_VIEW,
    DepthNoise,
    GeometricAugmentation,
    StrongColour,
    WeakColour,
)
from rise_perception.synthesis.bank import InstanceBank
from rise_perception.synthesis.compositing import (
    Layer,
    augmented,
    paste,
    to_array,
    visible_masks,
    weak_view,
    without_slivers,
)
from rise_perception.synthesis.cut_out import CutOut
from rise_perception.synthesis.placement import hides_too_much, place
from rise_perception.training.config import SequenceConfig

#: Places that are tried for an object before it is left out.
ATTEMPTS = 20
#: The geometry that changes nothing.
UNMOVED = GeometricAugmentation((1.0, 1.0), flip=0.0, rotation=0.0)
#: Pasted objects are numbered from here on, above the identities of any image's own objects.
FIRST_PASTED = 1_000_000


@dataclass(frozen=True)
class PseudoSequence:
    """The views of one source image.

    Attributes:
        source: x.
        before: x1.
        after: x2.
        strong: x3; its labels are those of ``before``, moved like its pixels.
        to_strong: (2, 3) float64, where a point of x1 is in x3: x and y in pixels from the upper left corner.
            None where x3 has the geometry of x1.
    """

    source: LabelledImage
    before: LabelledImage
    after: LabelledImage
    strong: LabelledImage
    to_strong: np.ndarray | None


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
        self.strong_geometry = GeometricAugmentation(
            config.strong_scale, config.strong_flip, config.strong_rotation
        )
        self.depth_noise = DepthNoise(config.depth_noise)

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
        after = weak_view(after, second, self.weak_colour)
        strong, to_strong = self._strong(before)
        return PseudoSequence(
            source=sample,
            before=without_slivers(before),
            after=without_slivers(after),
            strong=without_slivers(strong),
            to_strong=to_strong,
        )

    def _strong(self, before: LabelledImage) -> tuple[LabelledImage, np.ndarray | None]:
        """x3, and where the points of x1 are in it."""
        strong, to_strong = before, None
        if self.strong_geometry != UNMOVED:
            geometry = self.strong_geometry.draw(*before.image.shape[:2])
            strong = weak_view(before, geometry, self.weak_colour)
            to_strong = geometry.matrix(*before.image.shape[:2])
        image = _coloured(strong.image, self.strong_colour)
        # Not in x1: what the teacher sees stays as good as the camera makes it.
        depth = None if strong.depth is None else self.depth_noise(strong.depth)
        return replace(strong, image=image, depth=depth), to_strong

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


def _coloured(image: np.ndarray, colour: StrongColour) -> np.ndarray:
    return to_array(colour(torch.from_numpy(image).permute(2, 0, 1)))
