"""Typed configuration of a referring model's training, read from YAML; an unknown key is an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, require
from rise_perception.referring.model import ReferringConfig, make_config

#: Largest configuration file that is read, bytes.
_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class ReferringDataConfig:
    """Where sentences and images come from; paths are relative to the working directory.

    Attributes:
        kinds: files of sentences whose items teach the crop encoder the kinds; the sentences play no part.
        train: files of sentences that teach the head. Better other images than those of ``kinds``: the
            crop encoder is surer of what it has seen than it will be on a robot.
        validation: file of sentences that the thresholds are chosen on; empty: they stay as they are.
        grasps: files of `rise episodes --sentences`, for a model that goes on learning (``init``); ``kinds``,
            ``train`` and ``validation`` are then rehearsal.
        segmenter: model whose instances are asked about.
        prior: what the head starts from, :func:`rise_perception.referring.priors.make_prior`.
        cache: folder for the segmented images.
    """

    kinds: tuple[str, ...]
    train: tuple[str, ...]
    validation: str = ""
    grasps: tuple[str, ...] = ()
    segmenter: str = "auto"
    prior: str = "grammar"
    cache: str = "runs/refer_cache"

    def __post_init__(self) -> None:
        for name in ("kinds", "train"):
            require(len(getattr(self, name)) > 0, f"data.{name}", list(getattr(self, name)), "not empty")


@dataclass(frozen=True)
class ReferringSteps:
    """How long and how fast.

    Attributes:
        kind_epochs, kind_batch, kind_rate: of the crop encoder: passes, crops of a step, learning rate.
        epochs, batch, rate: of the head: passes, sentences of a step, learning rate.
        weight_decay: of AdamW, both.
        pixels: weight of the pixel loss beside that of pi.
        blind: fraction of the sentences that are asked without their prior, so that the head can do without.
        threads: CPU threads; 0 leaves PyTorch's choice.
        seed: seeds weights, order and augmentation.
    """

    kind_epochs: int = 12
    kind_batch: int = 128
    kind_rate: float = 2e-3
    epochs: int = 12
    batch: int = 32
    rate: float = 1e-3
    weight_decay: float = 0.02
    pixels: float = 0.5
    blind: float = 0.1
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("kind_epochs", "kind_batch", "epochs", "batch"):
            require(getattr(self, name) >= 1, f"optimisation.{name}", getattr(self, name), "at least 1")
        for name in ("kind_rate", "rate"):
            require(getattr(self, name) > 0, f"optimisation.{name}", getattr(self, name), "above 0")
        for name in ("weight_decay", "pixels", "threads"):
            require(getattr(self, name) >= 0, f"optimisation.{name}", getattr(self, name), "0 or more")
        require(0 <= self.blind < 1, "optimisation.blind", self.blind, "in [0, 1)")


@dataclass(frozen=True)
class ReferringTraining:
    """Everything that ``rise train`` needs for a referring model.

    Attributes:
        name: the model's name.
        out: folder for the model and the state of the training.
        data, referring, optimisation: see there.
        init: model, a folder or the name of a shipped one, that goes on learning from ``data.grasps``, with
            its own sizes in place of ``referring``. Empty: a new model.
        notes: goes into the model card.
    """

    name: str
    out: str
    data: ReferringDataConfig
    referring: ReferringConfig = field(default_factory=ReferringConfig)
    optimisation: ReferringSteps = field(default_factory=ReferringSteps)
    init: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        grasps = list(self.data.grasps)
        require(
            bool(self.init) == bool(grasps), "data.grasps", grasps, "given together with init, or neither"
        )
        if grasps:
            require(bool(self.data.validation), "data.validation", "", "given: it judges what was forgotten")
            plain = self.referring == ReferringConfig()
            require(plain, "referring", self.referring, f"left empty: the sizes are those of {self.init}")


def is_referring_training(path: str | Path) -> bool:
    """True for a YAML file with a section ``referring``: what tells it from a segmenter's training."""
    try:
        raw = _read(Path(path))
    except ConfigError:
        return False  # whoever reads the file next says what is wrong with it
    return isinstance(raw, dict) and "referring" in raw


def read_referring_training(path: str | Path) -> ReferringTraining:
    """Read a training configuration; ConfigError where it is missing, no YAML or has a wrong key."""
    raw = _read(Path(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"configuration {path} is no mapping; config/train/refer_small.yaml is one")
    try:
        raw["referring"] = make_config(raw.get("referring") or {}, "referring")
        for name, cls in (("data", ReferringDataConfig), ("optimisation", ReferringSteps)):
            if name in raw:
                raw[name] = build_config(cls, raw[name], name)
        return build_config(ReferringTraining, raw, "configuration")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"configuration {path} is larger than {_MAX_BYTES} bytes")
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"configuration {path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"configuration {path} is no valid YAML: {error}") from error
