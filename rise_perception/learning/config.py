"""Typed training configuration, read from one YAML file; an unknown key is an error that names it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from rise_perception.errors import ConfigError
from rise_perception.learning.criterion import LossConfig
from rise_perception.network.config import NetworkConfig, build_config


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from.

    Attributes:
        train: COCO annotation files to train on; relative paths start at the working directory.
        validation: COCO annotation file; when the training ends, the AP on it goes into the model card and
            the score threshold is chosen on it. Empty: neither.
        augmentation: strength of the colour augmentation; 0 switches it off.
        scale: range of the geometric scale factor.
        rotation: greatest rotation, degrees.
        workers: processes that load and augment.
    """

    train: tuple[str, ...]
    validation: str = ""
    augmentation: float = 1.0
    scale: tuple[float, float] = (0.7, 1.6)
    rotation: float = 8.0
    workers: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.train, str):
            raise ConfigError(f"data.train is {self.train!r}; it must be a list of annotation files")
        object.__setattr__(self, "train", tuple(self.train))
        object.__setattr__(self, "scale", tuple(self.scale))
        if not self.train:
            raise ConfigError("data.train is empty; name at least one annotation file")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(
                f"data.scale is {self.scale}; it must be two factors above 0, the smaller first"
            )


@dataclass(frozen=True)
class OptimisationConfig:
    """How long and how fast; the defaults are the paper's (Sec. 4).

    Attributes:
        iterations: number of steps.
        batch: images per step, an even number: two views of each source image.
        learning_rate: of AdamW.
        backbone_factor: multiplies the backbone's learning rate.
        weight_decay: of AdamW; biases and norms have none.
        warmup: steps of linear warm-up.
        drop_at: share of the iterations after which the rate falls to a tenth (paper: 8,000 of 12,000).
        decay_from: share of the iterations from which the rate falls linearly to zero; 1 never.
        clip: greatest gradient norm.
        average: decay of the moving average of the weights that is evaluated and saved; 0 saves the
            weights themselves.
        save_every: steps between checkpoints.
        threads: CPU threads for the step; 0 leaves PyTorch's choice.
        seed: seeds weights, order and augmentation.
    """

    iterations: int = 12_000
    batch: int = 8
    learning_rate: float = 1e-4
    backbone_factor: float = 0.1
    weight_decay: float = 1e-4
    warmup: int = 0
    drop_at: float = 2 / 3
    decay_from: float = 1.0
    clip: float = 0.1
    average: float = 0.0
    save_every: int = 500
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"optimisation.{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch % 2:
            raise ConfigError(
                f"optimisation.batch is {self.batch}; it must be even (two views of each image)"
            )
        if self.learning_rate <= 0:
            raise ConfigError(f"optimisation.learning_rate is {self.learning_rate}; it must be above 0")
        if not 0 <= self.average < 1:
            raise ConfigError(f"optimisation.average is {self.average}; it must be in [0, 1)")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that ``rise train`` needs.

    Attributes:
        name: the model's name; its folder is ``out``.
        out: folder for the model, the checkpoint and the log.
        init: where the weights start: folder of a model, or of a Deformable DETR checkpoint of transformers
            (:mod:`rise_perception.network.convert`); empty starts at random.
        data, network, loss, optimisation: see there.
        notes: goes into the model card.
    """

    name: str
    out: str
    data: DataConfig
    init: str = ""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    notes: str = ""


_SECTIONS = {
    "data": DataConfig,
    "network": NetworkConfig,
    "loss": LossConfig,
    "optimisation": OptimisationConfig,
}


def read_train_config(path: str | Path) -> TrainConfig:
    """Read a training configuration.

    Raises:
        ConfigError: the file is missing or no YAML, has an unknown key, or a value of the wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"configuration {path} does not exist; those that ship are in config/")
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is no valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"configuration {path} is empty or no mapping; those that ship are in config/")
    try:
        for section, cls in _SECTIONS.items():
            if section in raw:
                raw[section] = build_config(cls, raw[section], section)
        return build_config(TrainConfig, raw, "configuration")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
