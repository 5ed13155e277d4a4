"""Trains the grasp segmenter on films of simulated grasps: the masks, and the head that judges them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from rise_perception.grasp_learning.segmenter.config import SegmenterSteps
from rise_perception.grasp_learning.segmenter.network import SIZE, GraspSegmenter
from rise_perception.grasp_learning.segmenter.pairs import Pair, draw_pair
from rise_perception.simulation.disturbed_grasps import GraspFilm
from rise_perception.training.train_state import load_state, save_state

#: Height and width of what a step sees of a picture, and the fraction of the rounds, the last ones, that see
#: all of it.
CROP, WHOLE = (176, 224), 0.15
#: Weights of what moved, and of the judged masks, beside what left.
MOVED, QUALITY = 0.4, 0.5
#: First fraction of the rounds in which no mask is judged, and in which the rate rises.
UNJUDGED, WARM = 0.1, 0.05


def train_network(
    network: GraspSegmenter,
    films: Sequence[GraspFilm],
    steps: SegmenterSteps,
    state: Path | None = None,
    seconds: float = math.inf,
) -> int:
    """Train; rerun to resume after the last finished round. Returns the number of rounds.

    Args:
        network: trained in place.
        films: of grasps.
        steps: how long and how fast.
        state: file for what an interrupted training goes on from.
        seconds: end within them; the learning rate falls as they pass.
    """
    optimiser = torch.optim.AdamW(network.parameters(), steps.rate, weight_decay=steps.weight_decay)
    done = load_state(state, network, None, optimiser) if state is not None and state.exists() else 0
    network.train()
    began, first, losses = time.monotonic(), done, [0.0]
    with tqdm(total=steps.rounds, initial=done, desc="grasp segmenter", unit="round") as bar:
        for number in range(done, steps.rounds):
            spent = (time.monotonic() - began) / seconds
            if spent >= 1:
                break
            progress = max(number / steps.rounds, first / steps.rounds + (1 - first / steps.rounds) * spent)
            rate = (
                steps.rate
                * min(1.0, (number + 1) / (WARM * steps.rounds))
                * 0.5
                * (1 + math.cos(math.pi * progress))
            )
            for group in optimiser.param_groups:
                group["lr"] = max(rate, 0.01 * steps.rate)
            losses = _round(network, optimiser, films, steps, number, progress)
            if state is not None:
                save_state(state, number + 1, network, None, optimiser)
            bar.set_postfix(loss=f"{np.mean(losses):.3f}")
            bar.update()
            done = number + 1
    network.eval()
    return done


def _round(
    network: GraspSegmenter,
    optimiser: torch.optim.Optimizer,
    films: Sequence[GraspFilm],
    steps: SegmenterSteps,
    number: int,
    progress: float,
) -> list[float]:
    """Draw pairs, and learn from each several times, each time from another side."""
    rng = np.random.default_rng([steps.seed, number])
    pairs = [
        draw_pair(films, np.random.default_rng([steps.seed, number, k]), int(rng.integers(len(films))))
        for k in range(steps.pairs)
    ]
    losses = []
    for _ in range(steps.repeats):
        order = rng.permutation(len(pairs))
        for chunk in np.array_split(order, math.ceil(len(order) / steps.batch)):
            chosen = [pairs[k] for k in chunk]
            parts = collate(chosen, rng, None if progress > 1 - WHOLE else CROP)
            with torch.autocast("cpu", torch.bfloat16):
                logits, maps = network(parts[0])
            loss = pair_loss(network, logits.float(), maps, parts, progress > UNJUDGED)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
    return losses


def collate(
    pairs: Sequence[Pair], rng: np.random.Generator, crop: tuple[int, int] | None
) -> tuple[Tensor, ...]:
    """Pairs as tensors (B, ...), flipped, and cut to ``crop`` around what changed, mostly."""
    rows = []
    for pair in pairs:
        arrays: list[np.ndarray] = list(pair)
        if crop is not None:
            y, x = _place(pair.truth, crop, rng)
            h, w = crop
            arrays = [
                a[:, y : y + h, x : x + w] if k < 3 else a[:, y // 2 : (y + h) // 2, x // 2 : (x + w) // 2]
                for k, a in enumerate(arrays)
            ]
        for axis in (1, 2):
            if rng.random() < 0.5:
                arrays = [np.flip(a, axis) for a in arrays]
        rows.append([torch.from_numpy(np.ascontiguousarray(a)) for a in arrays])
    return tuple(torch.stack(part) for part in zip(*rows, strict=True))


def _place(truth: np.ndarray, crop: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Even row and column of a crop, around a changed pixel in three of four."""
    room = SIZE[0] - crop[0], SIZE[1] - crop[1]
    changed = np.flatnonzero(truth.any(axis=0))
    if len(changed) and rng.random() < 0.75:
        y, x = divmod(int(rng.choice(changed)), SIZE[1])
        y, x = (p - int(rng.integers(side // 4, 3 * side // 4)) for p, side in zip((y, x), crop, strict=True))
    else:
        y, x = (int(rng.integers(space + 1)) for space in room)
    return (min(max(y, 0), room[0]) // 2 * 2, min(max(x, 0), room[1]) // 2 * 2)


def pair_loss(
    network: GraspSegmenter, logits: Tensor, maps: list[Tensor], parts: tuple[Tensor, ...], judged: bool
) -> Tensor:
    """Cross-entropy and Dice of what left and what moved, and of the judged masks their quality.

    Args:
        network: whose head judges.
        logits, maps: of :meth:`.network.GraspSegmenter.forward`.
        parts: a batch of :func:`collate`.
        judged: whether masks are judged.
    """
    _, truth, known, candidates, items = parts
    loss = mask_loss(logits[:, 0], truth[:, 0], known[:, 0])
    loss = loss + MOVED * mask_loss(logits[:, 1], truth[:, 1], known[:, 1])
    if not judged:
        return loss
    left = F.avg_pool2d(logits[:, :1].detach().sigmoid(), 2)
    masks = torch.cat([candidates, (left > 0.5).float()], 1)
    common = torch.einsum("bkhw,bnhw->bkn", masks, items)
    union = masks.sum((2, 3))[..., None] + items.sum((2, 3))[:, None] - common
    overlap = (common / union.clamp(min=1)).amax(2)
    drawn = (masks.sum((2, 3)) > 4).float()
    quality = network.quality(maps, left, masks)
    each = F.binary_cross_entropy_with_logits(quality, overlap, drawn, reduction="sum")
    loss = loss + QUALITY * each / drawn.sum().clamp(min=1)
    return loss


def mask_loss(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Mean over B masks (B, H, W) of cross-entropy, and of Dice where there is something."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth, known, reduction="none").mean((1, 2))
    likely = logits.sigmoid() * known
    shown = truth * known
    size = shown.sum((1, 2))
    dice = 1 - (2 * (likely * shown).sum((1, 2)) + 1) / (likely.sum((1, 2)) + size + 1)
    return 5 * entropy.mean() + (dice * (size > 20)).mean()
