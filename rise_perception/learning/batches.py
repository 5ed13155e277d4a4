"""From labelled images to batches: augment, letterbox, build the network's input and the targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rise_perception.data.coco import CocoDataset, LabelledImage
from rise_perception.data.letterbox import Letterbox
from rise_perception.learning.augmentation import ColourAugmentation, GeometricAugmentation, augment
from rise_perception.learning.boxes import masks_to_boxes
from rise_perception.learning.config import DataConfig
from rise_perception.learning.matching import Targets
from rise_perception.network.config import NetworkConfig
from rise_perception.network.inputs import make_input


@dataclass(frozen=True)
class Batch:
    """B labelled images, ready for the network; images 2k and 2k + 1 are views of one source.

    Attributes:
        images: (B, C, H, W) float32.
        padding: (B, H, W) bool, True where there is no image; None when no image of the batch has any.
        targets: B targets.
    """

    images: Tensor
    padding: Tensor | None
    targets: list[Targets]


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


class TrainingSamples(Dataset[list[Sample]]):
    """Two augmented views of each image, for the association loss (Eq. 4).

    The augmentation at a position of the run depends on the seed and the position alone, so that a resumed
    run repeats it.
    """

    def __init__(self, sets: list[CocoDataset], data: DataConfig, network: NetworkConfig, seed: int) -> None:
        self.sets, self.network, self.seed = sets, network, seed
        self.geometry = GeometricAugmentation(data.scale, rotation=data.rotation)
        self.colour = ColourAugmentation(data.augmentation)
        self.ends = np.cumsum([len(s) for s in sets])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, key: tuple[int, int]) -> list[Sample]:
        """``key`` is (position in the run, image index)."""
        position, index = key
        torch.manual_seed(hash((self.seed, position)) % 2**63)
        which = int(np.searchsorted(self.ends, index, side="right"))
        sample = self.sets[which][index - (int(self.ends[which - 1]) if which else 0)]
        return [to_network(augment(sample, self.geometry, self.colour), self.network) for _ in range(2)]


def to_network(sample: LabelledImage, network: NetworkConfig) -> Sample:
    """Letterbox a labelled image into the network's input."""
    box = Letterbox(sample.image.shape[:2], network.image_size)
    depth = None if sample.depth is None else box.fit(sample.depth, nearest=True, border=0)
    image = make_input(box.fit(sample.image), depth, network.input)
    masks = [box.fit(m.astype(np.uint8), nearest=True, border=0) for m in sample.masks]
    stacked = np.stack(masks) > 0 if masks else np.zeros((0, *network.image_size), bool)
    seen = stacked.any((1, 2))  # a thin object can vanish at the network's scale
    targets = make_targets(*(torch.from_numpy(a[seen]) for a in (stacked, sample.classes, sample.ids)))
    return image, box.padding(), targets


class SeededOrder(Sampler[tuple[int, int]]):
    """(position, index) pairs from a position on: epochs of shuffled indices, the same for the same seed."""

    def __init__(self, size: int, total: int, start: int, seed: int) -> None:
        self.size, self.total, self.start, self.seed = size, total, start, seed

    def __len__(self) -> int:
        return self.total - self.start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, order = -1, np.zeros(0, np.int64)
        for position in range(self.start, self.total):
            if position // self.size != epoch:
                epoch = position // self.size
                order = np.random.default_rng([self.seed, epoch]).permutation(self.size)
            yield position, int(order[position % self.size])


def collate(views: list[list[Sample]]) -> Batch:
    """Stack the views of some images: both views of the first, both of the second, and so on."""
    samples = [sample for pair in views for sample in pair]
    images = torch.from_numpy(np.stack([s[0] for s in samples]))
    padding = None
    if any(s[1] is not None for s in samples):
        none = np.zeros(samples[0][0].shape[1:], bool)
        padding = torch.from_numpy(np.stack([none if s[1] is None else s[1] for s in samples]))
    return Batch(images, padding, [s[2] for s in samples])


def training_loader(
    samples: TrainingSamples, batch: int, iterations: int, start: int, workers: int
) -> DataLoader[Batch]:
    """Batches ``start`` .. ``iterations`` - 1 of the run."""
    sources = batch // 2  # each source image gives two views
    if workers:
        # In this process, before the fork: OpenCV's threads hang a child that inherits them.
        cv2.setNumThreads(1)
    order = SeededOrder(len(samples), iterations * sources, start * sources, samples.seed)
    return DataLoader(
        samples,  # type: ignore[arg-type]
        batch_size=sources,
        sampler=order,
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
    )


def _one_thread(worker: int) -> None:
    # The workers share the cores with the step; their operations are small.
    torch.set_num_threads(1)
