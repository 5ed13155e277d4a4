"""What a step sees: the user's pictures, collages of their items, and pictures of the shipped bag."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from rise_perception.core.resources import find
from rise_perception.data.annotated import IGNORED_ID, downscaled_mask
from rise_perception.data.bags import TRUTH_TOPIC, BagReader
from rise_perception.data.coco import LabelledImage
from rise_perception.data.sources import ImageSource
from rise_perception.network.config import NetworkConfig
from rise_perception.synthesis.augmentation import GeometricAugmentation, uniform
from rise_perception.synthesis.backgrounds import without_objects
from rise_perception.synthesis.bank import InstanceBank
from rise_perception.synthesis.collage import make_collage
from rise_perception.synthesis.cut_out import CutOut, cut_outs
from rise_perception.teaching.config import Recipe
from rise_perception.training.config import TrainConfig
from rise_perception.training.scenes import Key, Scenes, Sources, downscale
from rise_perception.training.sequence import PseudoSequence, SequenceMaker

#: The recording that ships with the package; its frames have depth and true label maps.
SHIPPED_BAG = "demo_pick"


@dataclass(frozen=True)
class Material:
    """Everything that the scenes of a round are made of, at the network's scale.

    Attributes:
        pictures: annotated ones; the area of which nothing is known is an object of its own identity.
        cuts: single objects of them.
        backgrounds: pictures without objects; none where there is neither an empty picture nor one in which
            enough is seen around the objects.
        rehearsal: pictures of the shipped bag with their true objects.
        region: (H, W) bool for each background, where items lie; None is everywhere.
    """

    pictures: tuple[LabelledImage, ...]
    cuts: tuple[CutOut, ...]
    backgrounds: tuple[LabelledImage, ...]
    rehearsal: tuple[LabelledImage, ...]
    region: np.ndarray | None = None


def gather_material(
    pictures: Sequence[tuple[LabelledImage, np.ndarray]],
    empty: Sequence[LabelledImage],
    rehearsal: Sequence[LabelledImage],
    network: NetworkConfig,
    region: np.ndarray | None = None,
) -> Material:
    """Scale pictures down to the network, cut out their objects, paint them out where there is no empty one.

    Args:
        pictures: annotated pictures, each with (H, W) bool where nothing is known.
        empty: pictures without objects.
        rehearsal: labelled pictures of elsewhere.
        network: its size and containers.
        region: (H, W) bool, any size: where items lie.
    """
    containers = frozenset(network.classes.index(name) for name in network.containers)
    shown, cuts, backgrounds = [], [], []
    for picture, ignored in pictures:
        small = downscale(picture, network.image_size)
        size = small.image.shape[:2]
        cuts += list(cut_outs(small, containers))
        nothing_known = downscaled_mask(ignored, (size[0], size[1]))
        items = np.array([c not in containers for c in small.classes.tolist()], bool)
        painted = None if empty else without_objects(replace(small, masks=small.masks[items]))
        if painted is not None:
            backgrounds.append(_with_unknown(painted, nothing_known))
        shown.append(_with_unknown(small, nothing_known))
    backgrounds += [downscale(image, network.image_size) for image in empty]
    return Material(
        tuple(shown),
        tuple(cuts),
        tuple(backgrounds),
        tuple(downscale(image, network.image_size) for image in rehearsal),
        region,
    )


def _with_unknown(sample: LabelledImage, unknown: np.ndarray) -> LabelledImage:
    """A picture with the area (H, W) bool of which nothing is known as an object of its own identity."""
    if not unknown.any():
        return sample
    return replace(
        sample,
        masks=np.concatenate([sample.masks & ~unknown, unknown[None]]),
        classes=np.append(sample.classes, 0),
        ids=np.append(sample.ids, IGNORED_ID),
    )


def shipped_pictures(with_depth: bool) -> list[LabelledImage]:
    """The frames of the shipped bag with their true objects, of class 0."""
    found = []
    with BagReader(find("models") / SHIPPED_BAG) as bag:
        for number, (frame, truth) in enumerate(bag.frames(truth=TRUTH_TOPIC)):
            if truth is None or (with_depth and frame.depth is None):
                continue
            values = [v for v in np.unique(truth).tolist() if v]
            masks = np.stack([truth == v for v in values]) if values else np.zeros((0, *truth.shape), bool)
            depth = frame.depth if with_depth else None
            kinds = np.zeros(len(values), np.int64)
            name, ids = f"{SHIPPED_BAG}/{number}", np.array(values, np.int64)
            found.append(LabelledImage(name, frame.image.copy(), depth, masks, kinds, ids))
    return found


class TeachScenes(Scenes):
    """Pseudo-sequences of a round.

    What comes at a position depends on seed and position alone, and on whether the finish has begun there.

    Args:
        config: of the round; its sources are only named.
        material: what the labelled scenes are made of.
        recipe: how.
        unlabelled: further pictures.
    """

    def __init__(
        self, config: TrainConfig, material: Material, recipe: Recipe, unlabelled: list[ImageSource]
    ) -> None:
        self.config, self.seed = config, config.optimisation.seed
        self.material, self.recipe = material, recipe
        self.labelled = Sources([_Listed(material.pictures)])
        self.unlabelled = Sources(unlabelled)
        weak = GeometricAugmentation(config.data.scale, rotation=config.data.rotation)
        self.make = SequenceMaker(config.sequences, weak, config.data.augmentation)
        all_round = GeometricAugmentation(config.data.scale, rotation=180.0)
        self._make_turned = SequenceMaker(config.sequences, all_round, config.data.augmentation)
        self._bank = InstanceBank(max(1, len(material.cuts)))
        self._bank.add(list(material.cuts))
        self._named: set[str] = set()
        steps = config.optimisation.iterations
        # In memory that the loader's workers share: the trainer brings it forward where time ends first.
        self._finish_from = torch.tensor(math.ceil((1 - recipe.finish) * steps)).share_memory_()
        counts = [len(p.masks) - int((p.ids == IGNORED_ID).sum()) for p in material.pictures]
        self._typical = float(np.mean(counts)) if counts else 1.0

    def sequence(self, key: Key) -> PseudoSequence:
        """The pseudo-sequence before it becomes the network's input."""
        torch.manual_seed(hash((self.seed, key.position)) % 2**63)
        if not key.labelled:
            sample, later = self._readable(self.unlabelled, key.image)
            return self.make(sample, self._bank, later)
        steps = self.config.optimisation
        scenes = steps.batch // 2 + (steps.unlabelled_batch // 2 if len(self.unlabelled) else 0)
        if self.finishes(key.position // scenes):
            return self._make_turned(self.material.pictures[key.image], self._bank)
        return self.make(self._sample(key.image), self._bank)

    def finishes(self, step: int) -> bool:
        """Whether a step is of the finish: the annotated pictures alone, rotated all round."""
        return step >= int(self._finish_from)

    def finish_from(self, step: int) -> None:
        """Begin the finish with a step, if not before."""
        self._finish_from.clamp_(max=step)

    def _sample(self, image: int) -> LabelledImage:
        """An annotated picture, a picture of the shipped bag, or a collage."""
        material, recipe = self.material, self.recipe
        chance = uniform(0, 1)
        if chance < recipe.rehearsal and material.rehearsal:
            return material.rehearsal[int(torch.randint(len(material.rehearsal), ()))]
        if chance < recipe.rehearsal + recipe.real or not (material.cuts and material.backgrounds):
            return material.pictures[image]
        background = material.backgrounds[int(torch.randint(len(material.backgrounds), ()))]
        region = None
        if material.region is not None:
            height, width = background.image.shape[:2]
            region = downscaled_mask(material.region, (height, width))
        return make_collage(
            background, material.cuts, self._typical, recipe.collage, material.backgrounds, region
        )


class _Listed:
    """Pictures in memory as a source."""

    def __init__(self, pictures: tuple[LabelledImage, ...]) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> LabelledImage:
        return self._pictures[index]

    def after(self, index: int) -> LabelledImage | None:
        """None: the pictures need not show one scene."""
        return None
