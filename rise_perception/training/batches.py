"""From sources to batches: pseudo-sequences, letterboxed, as the network's input and the targets."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rise_perception.core.errors import DataError, RiseError
from rise_perception.core.letterbox import Letterbox
from rise_perception.data.coco import LabelledImage
from rise_perception.data.sources import ImageSource, open_labelled, open_unlabelled
from rise_perception.network.config import NetworkConfig
from rise_perception.network.inputs import fit_input
from rise_perception.simulation.world_source import WorldConfig, WorldImages
from rise_perception.synthesis.augmentation import GeometricAugmentation
from rise_perception.synthesis.bank import InstanceBank, SeededBank
from rise_perception.training.boxes import masks_to_boxes
from rise_perception.training.config import TrainConfig
from rise_perception.training.distributed import local_part
from rise_perception.training.matching import Targets
from rise_perception.training.sequence import PseudoSequence, SequenceMaker


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


class Key(NamedTuple):
    """What a loader asks for: one of the labelled or the unlabelled images, at a position of the run."""

    position: int
    labelled: bool
    image: int


class Scene(NamedTuple):
    """The network's view of one pseudo-sequence."""

    strong: Sample
    after: Sample
    before: Sample | None  # of an unlabelled scene, for the teacher
    labelled: bool
    to_strong: np.ndarray | None = None  # (2, 3) float32, from x1 to x3 in fractions of the input


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


class SeededOrder(Sampler[list[Key]]):
    """The keys of this process's share of each step: epochs of shuffled images, the same for the same seed.

    Args:
        images: the labelled and the unlabelled ones: how many, or, where worlds among them are rendered
            meanwhile, the sources: then each image is drawn from those that are there by then.
        scenes: how many of each a step takes, of all processes together.
        steps: first step, and the one after the last.
        seed: of the order.
    """

    def __init__(
        self,
        images: tuple[int | Sources, int | Sources],
        scenes: tuple[int, int],
        steps: tuple[int, int],
        seed: int,
    ) -> None:
        self.images, self.scenes, self.steps, self.seed = images, scenes, steps, seed

    def __len__(self) -> int:
        return self.steps[1] - self.steps[0]

    def __iter__(self) -> Iterator[list[Key]]:
        orders = [
            EpochPermutation(images, [self.seed, 2 + kind])
            if isinstance(images, int)
            else _Drawn(images, [self.seed, 2 + kind])
            for kind, images in enumerate(self.images)
        ]
        total = sum(self.scenes)
        for step in range(*self.steps):
            keys = []
            for kind, count in enumerate(self.scenes):
                for number in local_part(list(range(count))):
                    position = step * total + (self.scenes[0] if kind else 0) + number
                    keys.append(Key(position, kind == 0, orders[kind][step * count + number]))
            yield keys


class _Drawn:
    """An endless order of images of which more and more are there."""

    def __init__(self, sources: Sources, seed: list[int]) -> None:
        self._sources, self._seed = sources, seed

    def __getitem__(self, number: int) -> int:
        return self._sources.drawn(number, self._seed)


class EpochPermutation:
    """An endless order of images: element n of it, epoch by epoch."""

    def __init__(self, size: int, seed: list[int]) -> None:
        self.size, self.seed = size, seed
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def __getitem__(self, number: int) -> int:
        epoch = number // self.size
        if epoch != self._epoch:
            self._epoch, self._order = (
                epoch,
                np.random.default_rng([*self.seed, epoch]).permutation(self.size),
            )
        return int(self._order[number % self.size])


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


def seeded_order(scenes: Scenes, start: int, stop: int) -> SeededOrder:
    """The keys of the steps ``start`` .. ``stop`` - 1 of a run."""
    steps = scenes.config.optimisation
    unlabelled = steps.unlabelled_batch // 2 if len(scenes.unlabelled) else 0
    labelled = scenes.labelled if scenes.labelled.worlds else len(scenes.labelled)
    return SeededOrder(
        (labelled, len(scenes.unlabelled)), (steps.batch // 2, unlabelled), (start, stop), scenes.seed
    )


def training_loader(scenes: Scenes, start: int, stop: int | None = None) -> DataLoader[Batch]:
    """Batches of the steps ``start`` .. ``stop`` - 1 of a run; ``stop`` is ``iterations`` if None."""
    stop = scenes.config.optimisation.iterations if stop is None else stop
    workers = scenes.config.data.workers
    if workers:
        # In this process, before the fork: OpenCV's threads hang a child that inherits them.
        cv2.setNumThreads(1)
    return DataLoader(
        scenes,  # type: ignore[arg-type]
        batch_sampler=seeded_order(scenes, start, stop),
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training stops them when it has saved its state
    # The workers share the cores with the step; their operations are small.
    torch.set_num_threads(1)


def with_plain_errors(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """The batches of a loader, whose workers' errors come without the traceback that it puts around them."""
    try:
        yield from loader
    except RiseError as error:
        raise type(error)(str(error).rsplit(f"{type(error).__name__}: ", 1)[-1].rstrip()) from error
