"""The foreground M of a cell: a small network that is trained first, on halves, and then lies frozen inside.

What teaches the instance network must look like what it will get: M of a picture comes from a network that
has not seen the picture (cross-fitting), and is now and then spoiled or absent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rise_perception.core.files import atomic_write
from rise_perception.data.annotated import IGNORED_ID
from rise_perception.network.config import INPUT_CHANNELS, NetworkConfig
from rise_perception.network.representation import ForegroundNetwork
from rise_perception.teaching.scenes import TeachScenes
from rise_perception.training.batches import Sample, Scene, to_network
from rise_perception.training.scenes import Key

#: Views that a half gives, and steps of each of the networks.
VIEWS, STEPS = 96, 250
BATCH, RATE = 4, 2e-3

#: Input (C, H, W) float32, items (h, w) and known (h, w) float32 at a quarter of the size.
View = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Foreground:
    """The networks of a round.

    Attributes:
        halves: the first has seen the pictures with an even number among those that teach, the second the
            others.
        whole: has seen all; this one serves.
    """

    halves: tuple[ForegroundNetwork, ForegroundNetwork]
    whole: ForegroundNetwork

    @torch.no_grad()
    def made(self, image: np.ndarray, picture: int, cross_fitted: bool = True) -> np.ndarray:
        """M of a picture.

        Args:
            image: (C, H, W) float32, the network's input.
            picture: its number among those that teach.
            cross_fitted: by a network that has not learned the picture; otherwise by the one that serves.

        Returns:
            (1, H, W) float32 in [0, 1].
        """
        network = self.halves[1 - picture % 2] if cross_fitted else self.whole
        return network(torch.from_numpy(image)[None])[0].sigmoid().numpy()

    def save(self, path: Path) -> None:
        """Write all three atomically."""
        parts = {"first": self.halves[0], "second": self.halves[1], "whole": self.whole}
        tensors = {
            f"{p}.{n}": t.contiguous() for p, net in parts.items() for n, t in net.state_dict().items()
        }
        with atomic_write(path) as temporary:
            save_file(tensors, temporary)


def load_foreground(path: Path, network: NetworkConfig) -> Foreground:
    """What :meth:`Foreground.save` wrote."""
    state = load_file(path)
    made = []
    for part in ("first", "second", "whole"):
        net = ForegroundNetwork(INPUT_CHANNELS[network.input])
        net.load_state_dict({n.split(".", 1)[1]: t for n, t in state.items() if n.startswith(f"{part}.")})
        made.append(net.eval().requires_grad_(False))
    return Foreground((made[0], made[1]), made[2])


def train_foreground(halves: Sequence[TeachScenes], steps: int = STEPS, views: int = VIEWS) -> Foreground:
    """Train the three networks.

    Args:
        halves: the scenes of each half of the pictures; of one picture twice the same.
        steps: of each network.
        views: drawn from each half.
    """
    drawn = [_views(scenes, views) for scenes in halves]
    network = halves[0].config.network
    seed = halves[0].seed
    nets = [_fit(part, network, steps, seed + k) for k, part in enumerate((*drawn, drawn[0] + drawn[1]))]
    return Foreground((nets[0], nets[1]), nets[2])


def spoil(foreground: np.ndarray, fraction: float = 1.0, absent: float = 0.0) -> np.ndarray:
    """M as it may be on a bad day: shifted, grown, shrunk, with holes and false patches, or absent.

    Args:
        foreground: (1, H, W) float32 in [0, 1]. Randomness is torch's global generator.
        fraction, absent: chances that it is spoiled, and that it is absent; otherwise it stays as it is.

    Returns:
        (1, H, W) float32 in [0, 1].
    """
    chance = float(torch.rand(()))
    if chance < absent:
        return np.zeros_like(foreground)
    if chance >= absent + fraction:
        return foreground
    m = foreground[0].copy()
    height, width = m.shape
    side = 2 * int(torch.randint(1, 6, ())) + 1
    change = cv2.dilate if torch.rand(()) < 0.5 else cv2.erode
    m = np.asarray(change(m, np.ones((side, side), np.uint8)), np.float32)
    shift = torch.randint(-8, 9, (2,)).tolist()
    m = np.roll(m, shift, (0, 1))
    for _ in range(int(torch.randint(0, 5, ()))):
        h, w = (int(torch.randint(8, max(9, s // 4), ())) for s in (height, width))
        top, left = int(torch.randint(0, height - h, ())), int(torch.randint(0, width - w, ()))
        m[top : top + h, left : left + w] = float(torch.rand(()) < 0.5)
    return np.ascontiguousarray(m[None])


class ForegroundScenes(TeachScenes):
    """Scenes whose inputs carry M as one more channel, the last; see :class:`Foreground`."""

    foreground: Foreground

    def __getitem__(self, key: Key) -> Scene:
        scene = super().__getitem__(key)
        torch.manual_seed(hash((self.seed, key.position, 1)) % 2**63)

        def carrying(sample: Sample) -> Sample:
            image, padding, targets = sample
            m = self.foreground.made(image, key.image, self.recipe.cross_fitted)
            m = spoil(m, self.recipe.spoiled, self.recipe.absent)
            return np.concatenate([image, m]), padding, targets

        before = None if scene.before is None else carrying(scene.before)
        return scene._replace(strong=carrying(scene.strong), after=carrying(scene.after), before=before)


def _views(scenes: TeachScenes, count: int) -> list[View]:
    network = scenes.config.network
    items = [k for k, name in enumerate(network.classes) if name not in network.containers]
    found = []
    for number in range(count):
        sequence = scenes.sequence(Key(number, True, number % len(scenes.labelled)))
        image, _, targets = to_network(sequence.strong, network)
        nothing = torch.zeros(targets.masks.shape[-2:], dtype=torch.bool)
        unknown = targets.ids == IGNORED_ID
        item = torch.isin(targets.classes, torch.tensor(items)) & ~unknown
        shown = targets.masks[item].any(0) if bool(item.any()) else nothing
        known = ~targets.masks[unknown].any(0) if bool(unknown.any()) else ~nothing
        found.append((torch.from_numpy(image), shown.float(), known.float()))
    return found


def _fit(views: list[View], network: NetworkConfig, steps: int, seed: int) -> ForegroundNetwork:
    torch.manual_seed(seed)
    net = ForegroundNetwork(INPUT_CHANNELS[network.input]).train()
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-4)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 10, 2 * (1 - step / steps))
        chosen = torch.randint(len(views), (BATCH,)).tolist()
        images, items, known = (torch.stack([views[k][part] for k in chosen]) for part in range(3))
        logits = F.avg_pool2d(net(images), 4)[:, 0]
        loss = _loss(logits[..., : items.shape[-2], : items.shape[-1]], items, known)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
    return net.eval().requires_grad_(False)


def _loss(logits: Tensor, items: Tensor, known: Tensor) -> Tensor:
    entropy = F.binary_cross_entropy_with_logits(logits, items, weight=known)
    p = logits.sigmoid() * known
    dice = 1 - (2 * (p * items).sum() + 1) / (p.sum() + (items * known).sum() + 1)
    return entropy + dice
