"""Training of the crop encoder: what kind of thing is in a crop."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from rise_perception.core.errors import DataError
from rise_perception.referring.config import ReferringSteps
from rise_perception.referring.crop_encoder import CropEncoder
from rise_perception.referring.descriptors import DEPTH_COLUMNS, describe
from rise_perception.training.train_state import load_state, save_state

#: Fraction of the crops that are shown without depth, so that a colour camera is served, too.
_FLAT = 0.3


def train_kinds(
    encoder: CropEncoder,
    crops: np.ndarray,
    kinds: np.ndarray,
    steps: ReferringSteps,
    state: Path,
    device: str,
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
    train_on_descriptors(encoder, describe(crops), kinds, steps, state, device)


def train_on_descriptors(
    encoder: CropEncoder,
    described: np.ndarray,
    kinds: np.ndarray,
    steps: ReferringSteps,
    state: Path | None,
    device: str,
    fit: bool = True,
) -> None:
    """As :func:`train_kinds`, on (M, LENGTH) descriptors; without a file of the state it says nothing.

    ``fit`` takes mean and deviation of the descriptors anew: not for an encoder that goes on learning.
    """
    if fit:
        encoder.fit(described)
    encoder.to(device).train()
    optimiser = torch.optim.AdamW(encoder.parameters(), steps.kind_rate, weight_decay=steps.weight_decay)
    done = load_state(state, encoder, None, optimiser) if state is not None and state.exists() else 0
    for epoch in range(done, steps.kind_epochs):
        rng = np.random.default_rng([steps.seed, epoch, 1])
        torch.manual_seed(hash((steps.seed, epoch, 2)) % 2**63)  # dropout
        chunks = np.array_split(rng.permutation(len(kinds)), -(-len(kinds) // steps.kind_batch))
        losses = []
        for number, chosen in enumerate(chunks):
            fraction = (epoch + number / len(chunks)) / steps.kind_epochs
            for group in optimiser.param_groups:
                group["lr"] = steps.kind_rate * rate_factor(fraction)
            shown = described[chosen].copy()
            flat = rng.random(len(chosen)) < _FLAT
            for columns in DEPTH_COLUMNS:
                shown[flat, columns] = 0
            _, logits = encoder(torch.from_numpy(shown).to(device))
            target = torch.from_numpy(kinds[chosen]).to(device)
            loss = functional.cross_entropy(logits, target, label_smoothing=0.05)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        if state is None:
            continue
        save_state(state, epoch + 1, encoder, None, optimiser)
        print(f"kinds: pass {epoch + 1} of {steps.kind_epochs}, loss {np.mean(losses):.3f}", file=sys.stderr)
    encoder.eval()


def rate_factor(fraction: float) -> float:
    """What multiplies the learning rate: a short warm-up, then half a cosine to zero."""
    return max(0.01, min(1.0, fraction / 0.03)) * 0.5 * (1 + float(np.cos(np.pi * min(1.0, fraction))))
