"""Weights on disk: ``model.safetensors`` beside its card. Nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rise_perception.core.errors import ConfigError, ModelError
from rise_perception.core.files import atomic_write, write_json
from rise_perception.network.build import Network, build_network
from rise_perception.network.card import CARD, WEIGHTS, ModelCard, file_checksum, read_card


def save_model(folder: str | Path, network: Network, card: ModelCard) -> ModelCard:
    """Write weights and card atomically, the card last, and return the card with its checksum."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with atomic_write(folder / WEIGHTS) as temporary:
        save_file(state, temporary)
    card = dataclasses.replace(card, network=network.config, checksum=file_checksum(folder / WEIGHTS))
    write_json(folder / CARD, dataclasses.asdict(card))
    return card


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> tuple[Network, ModelCard]:
    """Load a model for inference.

    Raises:
        ModelError: a file is missing or damaged, or the card does not fit the weights.
    """
    card = read_card(folder)
    path = Path(folder) / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{folder} has a card but no {WEIGHTS}; copy the weights beside the card")
    checksum = file_checksum(path)
    if card.checksum and checksum != card.checksum:
        raise ModelError(
            f"{path} has SHA-256 {checksum[:12]}..., its card says {card.checksum[:12]}...: "
            "the weights are damaged or belong to another card; copy both files again"
        )
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors ({error}); copy it again") from error
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
