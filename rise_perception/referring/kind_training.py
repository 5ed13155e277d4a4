"""Training of the crop encoder: what kind of thing is in a crop."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rise_perception.core.errors import DataError
from rise_perception.referring.config import ReferringSteps
from rise_perception.referring.crop_encoder import CropEncoder
from rise_perception.training.train_state import load_state, save_state

#: Share of the crops that are shown without depth, so that a colour camera is served, too.
_FLAT = 0.3
#: Augmentation: turn in degrees, scale, shift as a share of the crop, contrast and brightness.
_TURN, _SCALE, _SHIFT, _LIGHT = 20.0, 0.15, 0.06, 0.25


def train_kinds(
    encoder: CropEncoder, crops: Tensor, kinds: Tensor, steps: ReferringSteps, state: Path, device: str
) -> None:
    """Train an encoder, going on after the last finished pass in ``state``.

    Args:
        encoder: the encoder.
        crops: (M, 6, 48, 48) uint8.
        kinds: (M,) int64.
        steps: how long and how fast.
        state: file of the state.
        device: where it runs.

    Raises:
        DataError: there is no crop.
    """
    if not len(crops):
        raise DataError("no item has a kind: data.kinds needs sentences whose COCO file states kinds")
    encoder.to(device).train()
    optimiser = torch.optim.AdamW(encoder.parameters(), steps.kind_rate, weight_decay=steps.weight_decay)
    done = load_state(state, encoder, None, optimiser) if state.exists() else 0
    total = steps.kind_epochs * -(-len(crops) // steps.kind_batch)
    half = steps.precision == "bf16"
    for epoch in range(done, steps.kind_epochs):
        generator = torch.Generator().manual_seed(hash((steps.seed, epoch, 1)) % 2**63)
        torch.manual_seed(hash((steps.seed, epoch, 2)) % 2**63)  # dropout
        order = torch.randperm(len(crops), generator=generator).split(steps.kind_batch)
        losses = []
        for number, chosen in enumerate(tqdm(order, desc=f"kinds {epoch + 1}", mininterval=5)):
            for group in optimiser.param_groups:
                group["lr"] = steps.kind_rate * rate_factor((epoch * len(order) + number) / total)
            shown = augment(crops[chosen], generator).to(device)
            with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=half):
                _, logits = encoder(shown)
            loss = functional.cross_entropy(logits.float(), kinds[chosen].to(device), label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        save_state(state, epoch + 1, encoder, None, optimiser)
        print(f"kinds: pass {epoch + 1} of {steps.kind_epochs}, loss {np.mean(losses):.3f}", file=sys.stderr)
    encoder.eval()


def rate_factor(share: float) -> float:
    """What multiplies the learning rate: a short warm-up, then half a cosine to zero."""
    return min(1.0, share / 0.03) * 0.5 * (1 + np.cos(np.pi * min(1.0, share))) if share > 0 else 0.01


def augment(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, scale, shift, mirror and relight crops; some lose their depth.

    Args:
        crops: (N, 6, S, S) uint8.
        generator: of the randomness.

    Returns:
        the same shape, float32 in 0..255.
    """
    count = len(crops)

    def uniform(reach: float) -> Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * reach

    angle, scale = torch.deg2rad(uniform(_TURN)), 1 + uniform(_SCALE)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    matrix = torch.stack(
        [torch.stack([mirror * cos, -sin, uniform(2 * _SHIFT)], 1),
         torch.stack([mirror * sin, cos, uniform(2 * _SHIFT)], 1)], 1,
    )  # fmt: skip
    # In numbers around their neutral value, so that what comes in from outside is neutral.
    neutral = torch.tensor([0.0, 0.0, 0.0, 0.0, 128.0, 0.0])[None, :, None, None]
    grid = functional.affine_grid(matrix, list(crops.shape), align_corners=False)
    moved = functional.grid_sample(crops.float() - neutral, grid, align_corners=False) + neutral
    light = 1 + uniform(_LIGHT)[:, None, None, None]
    tint = 1 + (torch.rand(count, 3, 1, 1, generator=generator) * 2 - 1) * 0.5 * _LIGHT
    bright = 255 * uniform(0.5 * _LIGHT)[:, None, None, None]
    moved[:, :3] = (moved[:, :3] * light * tint + bright).clamp(0, 255)
    # A segmenter's mask is a little too large or too small.
    mask = moved[:, 3:4]
    larger, smaller = functional.max_pool2d(mask, 3, 1, 1), -functional.max_pool2d(-mask, 3, 1, 1)
    choice = torch.rand(count, 1, 1, 1, generator=generator)
    moved[:, 3:4] = torch.where(choice < 0.25, larger, torch.where(choice > 0.75, smaller, mask))
    flat = torch.rand(count, generator=generator) < _FLAT
    moved[flat, 4], moved[flat, 5] = 128.0, 0.0
    return moved
