"""Weights on disk: ``model.safetensors`` beside its card. Nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from rise_perception.core.errors import ConfigError, ModelError
from rise_perception.core.files import write_json
from rise_perception.network.build import Network, build_network
from rise_perception.network.card import CARD, WEIGHTS, ModelCard, read_card
from rise_perception.network.weights import read_weights, write_weights


def save_model(folder: str | Path, network: Network, card: ModelCard) -> ModelCard:
    """Write weights and card atomically, the card last, and return the card with its checksum."""
    folder = Path(folder)
    card = dataclasses.replace(card, network=network.config, checksum=write_weights(folder, network))
    write_json(folder / CARD, dataclasses.asdict(card))
    return card


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> tuple[Network, ModelCard]:
    """Load a model for inference.

    Raises:
        ModelError: a file is missing or damaged, or the card does not fit the weights.
    """
    card = read_card(folder)
    path = Path(folder) / WEIGHTS
    state = read_weights(Path(folder), card.checksum)
    # The weights follow; the backbone must not ask the network for its own.
    try:
        network = build_network(dataclasses.replace(card.network, pretrained=False))
    except ConfigError as error:
        raise ModelError(
            f"{Path(folder) / CARD} describes a network that cannot be built: {error}"
        ) from error
    own = network.state_dict()
    problems = [f"missing {n}" for n in own if n not in state] + [
        f"unexpected {n}" for n in state if n not in own
    ]
    problems += [
        f"{n} is {tuple(state[n].shape)}, the card's network needs {tuple(own[n].shape)}"
        for n in own
        if n in state and state[n].shape != own[n].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ModelError(
            f"the weights in {path} do not fit the network in {CARD}: {'; '.join(problems[:3])}{more}; "
            "use the card that was written with these weights"
        )
    broken = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ModelError(
            f"{len(broken)} tensors in {path} hold numbers that are not finite, first {broken[0]}; the "
            "training diverged, or the file was made by something else: take another version"
        )
    network.load_state_dict(state)
    return network.to(device).eval(), card
