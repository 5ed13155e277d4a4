"""A referring model on disk: crop encoder and head as safetensors, with a card. Nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, ModelError
from rise_perception.core.files import write_json
from rise_perception.network.card import CARD, WEIGHTS
from rise_perception.network.weights import read_weights, write_weights
from rise_perception.referring.answer import Thresholds
from rise_perception.referring.crop_encoder import CropEncoder
from rise_perception.referring.head import HeadConfig, ReferringHead

#: Largest card that is read, bytes.
_MAX_CARD = 1 << 20


@dataclass(frozen=True)
class ReferringConfig:
    """Sizes of a referring model.

    Attributes:
        head: of the referring head.
        text: folder of a pretrained text encoder of the transformers library that the head was trained with;
            empty: its own.
    """

    head: HeadConfig = field(default_factory=HeadConfig)
    text: str = ""


@dataclass(frozen=True)
class ReferringCard:
    """What a referring model is and where it comes from.

    Attributes:
        name: short name; the first part of the model's version.
        referring: the configuration that the weights fit; its presence tells the card from a segmenter's.
        thresholds: when an item is named.
        segmenter: version of the segmenter whose instances it was trained on.
        data: what it was trained on, one sentence.
        command: the command that trained it.
        metrics: measured figures by name.
        git_revision: revision of the code that trained it.
        checksum: SHA-256 of the weights file.
        notes: anything that a user should know.
    """

    name: str
    referring: ReferringConfig
    thresholds: Thresholds = field(default_factory=Thresholds)
    segmenter: str = ""
    data: str = ""
    command: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    git_revision: str = ""
    checksum: str = ""
    notes: str = ""

    @property
    def version(self) -> str:
        """Name and the first eight digits of the checksum."""
        return f"{self.name}-{self.checksum[:8]}" if self.checksum else self.name


class ReferringModel(nn.Module):
    """A crop encoder and a head."""

    def __init__(self, config: ReferringConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = CropEncoder(config.head.crop)
        self.head = ReferringHead(config.head)


def make_config(raw: Any, where: str) -> ReferringConfig:
    """A configuration from what a YAML file or a card holds; ConfigError names a wrong key."""
    if isinstance(raw, dict) and "head" in raw:
        raw = {**raw, "head": build_config(HeadConfig, raw["head"], f"{where}.head")}
    return build_config(ReferringConfig, raw, where)


def is_referring_model(folder: Path) -> bool:
    """True for a folder whose card is a referring model's."""
    try:
        raw = json.loads((folder / CARD).read_text(encoding="utf-8")[:_MAX_CARD])
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(raw, dict) and "referring" in raw


def save_referring_model(folder: Path, model: ReferringModel, card: ReferringCard) -> ReferringCard:
    """Write weights and card atomically, the card last, and return the card with its checksum."""
    card = dataclasses.replace(card, referring=model.config, checksum=write_weights(folder, model))
    write_json(folder / CARD, dataclasses.asdict(card))
    return card


def read_referring_card(folder: Path) -> ReferringCard:
    """Read ``card.json`` of a referring model; ModelError where it is missing, broken or a segmenter's."""
    path = folder / CARD
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{folder} is no referring model: {path.name} cannot be read ({error})") from error
    try:
        if len(text) > _MAX_CARD:
            raise ConfigError(f"larger than {_MAX_CARD} bytes")
        raw = json.loads(text)
        if not isinstance(raw, dict) or "referring" not in raw:
            raise ConfigError("it has no entry 'referring'; it is the card of another kind of model")
        raw["referring"] = make_config(raw["referring"], "referring")
        raw["thresholds"] = build_config(Thresholds, raw.get("thresholds", {}), "thresholds")
        return build_config(ReferringCard, raw, "card")
    except (ValueError, RecursionError, ConfigError) as error:
        raise ModelError(
            f"{path} is not a valid card of a referring model: {error}; restore it from where it came"
        ) from error


def load_referring_model(
    folder: Path, device: str | torch.device = "cpu"
) -> tuple[ReferringModel, ReferringCard]:
    """Load a model for inference; ModelError where a file is missing, damaged or does not fit."""
    card = read_referring_card(folder)
    path = folder / WEIGHTS
    state = read_weights(folder, card.checksum)
    model = ReferringModel(card.referring)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # other names or shapes
        raise ModelError(f"the weights in {path} do not fit the card's network: {error}") from error
    if not all(torch.isfinite(tensor).all() for tensor in model.state_dict().values()):
        raise ModelError(f"{path} holds weights that are no finite numbers; copy or train it again")
    return model.to(device).eval(), card
