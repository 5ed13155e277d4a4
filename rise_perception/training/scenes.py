"""From labelled and unlabelled sources to pseudo-sequences, one a position of the run."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from rise_perception.core.errors import DataError
from rise_perception.data.coco import LabelledImage
from rise_perception.data.sources import ImageSource, open_labelled, open_unlabelled
from rise_perception.simulation.world_source import WorldConfig, WorldImages
from rise_perception.synthesis.augmentation import GeometricAugmentation
from rise_perception.synthesis.bank import InstanceBank, SeededBank
from rise_perception.training.batches import Scene, in_fractions, to_network
from rise_perception.training.config import TrainConfig
from rise_perception.training.sequence import PseudoSequence, SequenceMaker


class Key(NamedTuple):
    """What a loader asks for: one of the labelled or the unlabelled images, at a position of the run."""

    position: int
    labelled: bool
    image: int


class Scenes(Dataset[Scene]):
    """Pseudo-sequences of labelled and of unlabelled images.

    What comes at a position of the run depends on the seed and the position alone, so that a resumed run
    repeats it.

    Raises:
        DataError: a source cannot be opened.
    """

    def __init__(self, config: TrainConfig) -> None:
        network, data = config.network, config.data
        depth = network.sees_depth
        self.labelled = Sources([open_source(p, data.cache, network.classes, depth) for p in data.train])
        self.unlabelled = Sources([open_unlabelled(p, depth) for p in data.unlabelled])
        self.config, self.seed = config, config.optimisation.seed
        weak = GeometricAugmentation(data.scale, rotation=data.rotation)
        self.make = SequenceMaker(config.sequences, weak, data.augmentation)
        containers = frozenset(network.classes.index(name) for name in network.containers)
        self.bank = SeededBank(
            self._bank_image, len(self.labelled), containers, config.sequences.bank, self.seed
        )
        self._named: set[str] = set()

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)

    def __getitem__(self, key: Key) -> Scene:
        sequence, network = self.sequence(key), self.config.network
        before = None if key.labelled else to_network(sequence.before, network)
        strong, after = to_network(sequence.strong, network), to_network(sequence.after, network)
        to_strong = None
        if not key.labelled and sequence.to_strong is not None:
            to_strong = in_fractions(sequence.to_strong, sequence.before.image.shape[:2], network.image_size)
        return Scene(strong, after, before, key.labelled, to_strong)

    def sequence(self, key: Key) -> PseudoSequence:
        """The pseudo-sequence before it becomes the network's input.

        Raises:
            DataError: the image is broken and ``data.broken`` is ``stop``, or all of them are.
        """
        pastes = self.config.sequences.objects > 0
        bank = self.bank.at(key.position) if pastes else InstanceBank(1)
        sources = self.labelled if key.labelled else self.unlabelled
        sample, later = self._readable(sources, key.image)
        torch.manual_seed(hash((self.seed, key.position)) % 2**63)
        return self.make(sample, bank, later)

    def _bank_image(self, index: int) -> LabelledImage:
        index = self.labelled.first(index)
        return self._readable(self.labelled, index)[0]

    def _readable(self, sources: Sources, index: int) -> tuple[LabelledImage, LabelledImage | None]:
        """Image ``index``, or the next one that is not broken, and its real later frame; both downscale."""
        for step in range(len(sources)):
            try:
                sample, later = sources.pair((index + step) % len(sources))
                size = self.config.network.image_size
                return downscale(sample, size), None if later is None else downscale(later, size)
            except DataError as error:
                if self.config.data.broken == "stop":
                    raise
                if str(error) not in self._named:
                    self._named.add(str(error))
                    print(f"left out: {error}", file=sys.stderr)
        raise DataError(f"none of the {len(sources)} images can be read; see the messages above")


def open_source(
    source: str | WorldConfig, cache: str, classes: tuple[str, ...], with_depth: bool
) -> ImageSource:
    """Open a labelled source or a world; see :func:`rise_perception.data.sources.open_labelled`."""
    if isinstance(source, WorldConfig):
        return WorldImages(source, cache, classes, with_depth)
    return open_labelled(source, classes, with_depth)


class Sources:
    """Several sources, numbered through."""

    def __init__(self, sources: list[ImageSource]) -> None:
        self.sources = sources
        self.ends = np.cumsum([len(s) for s in sources])

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.sources else 0

    @property
    def worlds(self) -> list[WorldImages]:
        """The sources that are rendered while the training goes on."""
        return [source for source in self.sources if isinstance(source, WorldImages)]

    def first(self, index: int) -> int:
        """An image that is there from the start, in the place of image ``index`` of a world."""
        which = int(np.searchsorted(self.ends, index, side="right"))
        source, begin = self.sources[which], int(self.ends[which - 1]) if which else 0
        return begin + (index - begin) % source.pool(0) if isinstance(source, WorldImages) else index

    def drawn(self, number: int, seed: list[int]) -> int:
        """Image ``number`` of a training: any of those that are there by then, all with the same chance."""
        sizes = [s.pool(number) if isinstance(s, WorldImages) else len(s) for s in self.sources]
        pick = int(np.random.default_rng([*seed, number]).integers(sum(sizes)))
        which = int(np.searchsorted(np.cumsum(sizes), pick, side="right"))
        return pick - sum(sizes[:which]) + (int(self.ends[which - 1]) if which else 0)

    def pair(self, index: int) -> tuple[LabelledImage, LabelledImage | None]:
        """Image ``index`` of all, and its real later frame."""
        which = int(np.searchsorted(self.ends, index, side="right"))
        source, index = self.sources[which], index - (int(self.ends[which - 1]) if which else 0)
        return source[index], source.after(index)


def downscale(sample: LabelledImage, size: tuple[int, int]) -> LabelledImage:
    """An image larger than the network's input, in its own proportions, as the letterbox would scale it."""
    height, width = sample.image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    if scale >= 1:
        return sample
    to = (max(1, round(width * scale)), max(1, round(height * scale)))

    def layer(array: np.ndarray) -> np.ndarray:
        return cv2.resize(array, to, interpolation=cv2.INTER_NEAREST_EXACT)

    masks = [layer(m.astype(np.uint8)) > 0 for m in sample.masks]
    return replace(
        sample,
        image=cv2.resize(sample.image, to, interpolation=cv2.INTER_AREA),
        depth=None if sample.depth is None else layer(sample.depth),
        masks=np.stack(masks) if masks else np.zeros((0, to[1], to[0]), bool),
    )
