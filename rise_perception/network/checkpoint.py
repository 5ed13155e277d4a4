"""A model on disk: a folder with ``model.safetensors`` and ``card.json``. Nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, ModelError
from rise_perception.core.files import atomic_write, write_json
from rise_perception.network.build import Network, build_network
from rise_perception.network.config import NetworkConfig

WEIGHTS, CARD = "model.safetensors", "card.json"


@dataclass(frozen=True)
class ModelCard:
    """What a model is and where it comes from.

    Attributes:
        name: short name; the first part of the model's version.
        network: the configuration that the weights fit.
        score_threshold: instances below it are not reported.
        data: what it was trained on, one sentence.
        command: the command that trained it.
        metrics: measured figures by name, such as ``{"tote_world_test": {"ap50": 0.8}}``.
        git_revision: revision of the code that trained it.
        checksum: SHA-256 of the weights file.
        notes: anything that a user should know.
    """

    name: str
    network: NetworkConfig
    score_threshold: float = 0.5
    data: str = ""
    command: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    git_revision: str = ""
    checksum: str = ""
    notes: str = ""

    @property
    def version(self) -> str:
        """Name and the first eight digits of the checksum; identifies the weights in every message."""
        return f"{self.name}-{self.checksum[:8]}" if self.checksum else self.name


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


def read_card(folder: str | Path) -> ModelCard:
    """Read ``card.json`` of a model folder.

    Raises:
        ModelError: the folder or the card is missing, broken, or has a key that is unknown.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        raise ModelError(
            f"{folder} is no model: it has no {CARD}; give a folder that holds {WEIGHTS} and {CARD}"
        )
    try:
        raw = json.loads(path.read_text())
        if isinstance(raw, dict) and "network" in raw:
            raw["network"] = build_config(NetworkConfig, raw["network"], "network")
        return build_config(ModelCard, raw, "card")
    except (ValueError, ConfigError) as error:
        raise ModelError(
            f"{path} is not a valid model card: {error!s}; restore it from where the model came"
        ) from error


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
    network.load_state_dict(state)
    return network.to(device).eval(), card


def file_checksum(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
