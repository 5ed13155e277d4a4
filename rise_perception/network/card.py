"""A model's card: what it is and where it comes from. A model is a folder with a card and its weights.

Without torch, so that a robot that serves an exported model needs none.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, ModelError, require
from rise_perception.core.json_files import read_json
from rise_perception.network.config import NetworkConfig

WEIGHTS, CARD = "model.safetensors", "card.json"
_RESTORE = "restore it from where the model came"
_CHECKSUM = re.compile("(?:[0-9a-f]{64})?")
#: Characters of a model's name; with the checksum it is the name of a folder and part of every message.
LONGEST_NAME = 150


@dataclass(frozen=True)
class ModelCard:
    """What a model is and where it comes from.

    Attributes:
        name: short name; the first part of the model's version.
        network: the configuration that the weights fit.
        score_threshold: instances below it are not reported.
        classification: what its scores have learned, as ``loss.classification`` of a training: ``focal``,
            that there is an object; ``quality``, how well its mask fits. Who trains it on asks for the same.
        data: what it was trained on, one sentence.
        command: the command that trained it.
        metrics: measured figures by name, such as ``{"tote_world_test": {"ap50": 0.8}}``.
        git_revision: revision of the code that trained it.
        checksum: SHA-256 of the weights file.
        data_checksum: SHA-256 over the training data.
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
    data_checksum: str = ""
    notes: str = ""
    classification: str = "focal"

    def __post_init__(self) -> None:
        known = ("focal", "quality")
        require(self.classification in known, "card.classification", self.classification, "focal or quality")
        name = self.name
        require(
            0 < len(name) <= LONGEST_NAME and name.isprintable(),
            "card.name",
            name[:60],
            f"1 to {LONGEST_NAME} printable characters",
        )
        require(
            0 <= self.score_threshold <= 1, "card.score_threshold", self.score_threshold, "between 0 and 1"
        )
        require(
            _CHECKSUM.fullmatch(self.checksum) is not None,
            "card.checksum",
            self.checksum[:80],
            "a SHA-256 in hexadecimal digits",
        )

    @property
    def version(self) -> str:
        """Name and the first eight digits of the checksum; identifies the weights in every message."""
        return f"{self.name}-{self.checksum[:8]}" if self.checksum else self.name


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
    raw = read_json(path, error=ModelError, remedy=_RESTORE)
    try:
        if isinstance(raw, dict) and "network" in raw:
            raw["network"] = build_config(NetworkConfig, raw["network"], "network")
        return build_config(ModelCard, raw, "card")
    except ConfigError as error:
        raise ModelError(f"{path} is not a valid model card: {error}; {_RESTORE}") from error


def is_of_segmenter(folder: Path) -> bool:
    """False for a folder without a card, and where the card says that the model is of another kind."""
    try:
        raw = read_json(folder / CARD, error=ModelError, remedy=_RESTORE)
    except ModelError:
        return (folder / CARD).is_file()  # a broken card is named by whoever reads it
    return not isinstance(raw, dict) or "network" in raw or "referring" not in raw


def file_checksum(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
