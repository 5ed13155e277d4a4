"""Typed training configuration, read from YAML files; an unknown key is an error that names it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, require
from rise_perception.network.config import NetworkConfig
from rise_perception.training.criterion import LossConfig
from rise_perception.training.pseudo_labels import SelfSupervisionConfig


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from, and how they are augmented.

    Attributes:
        train: labelled sources: COCO annotation files, split files of `rise split`, OCID folders; relative
            paths start at the working directory.
        unlabelled: sources whose labels, if there are any, are never read: the same, folders of images, bags.
            Empty: training is supervised only.
        validation: COCO annotation file; when the training ends, the AP on it goes into the model card and
            the score threshold is chosen on it. Empty: neither.
        broken: what to do with an image that cannot be read or has a broken annotation: ``stop``, or ``skip``
            to name it once and go on with the next.
        augmentation: strength of the colour augmentation; 0 switches it off.
        scale: range of the geometric scale factor of the weak augmentation.
        rotation: its greatest rotation, degrees.
        workers: processes that load and augment.
    """

    train: tuple[str, ...]
    unlabelled: tuple[str, ...] = ()
    validation: str = ""
    broken: str = "stop"
    augmentation: float = 1.0
    scale: tuple[float, float] = (0.7, 1.6)
    rotation: float = 8.0
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("train", "unlabelled"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(f"data.{name} is {getattr(self, name)!r}; it must be a list of sources")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "scale", tuple(self.scale))
        if not self.train:
            raise ConfigError("data.train is empty; name at least one annotation file")
        require(self.broken in ("stop", "skip"), "data.broken", self.broken, "stop or skip")
        require(self.augmentation >= 0, "data.augmentation", self.augmentation, "0 or more")
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        valid = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]
        require(valid, "data.scale", self.scale, "two factors above 0, the smaller first")


@dataclass(frozen=True)
class SequenceConfig:
    """Pseudo-sequences (Sec. 3.2).

    Attributes:
        objects: most objects of the instance bank that are pasted on an image, at least one; 0 switches
            pasting off: "before" and "after" are then two views of the image as it is.
        bank: capacity of the instance bank.
        removed, moved: share of the pasted objects that leave, or change place, between before and after.
        added: probability that a new object comes.
    """

    objects: int = 6
    bank: int = 200
    removed: float = 0.25
    moved: float = 0.25
    added: float = 0.5

    def __post_init__(self) -> None:
        require(self.objects >= 0, "sequences.objects", self.objects, "0 or more")
        require(self.bank >= 1, "sequences.bank", self.bank, "at least 1")
        for name in ("removed", "moved", "added"):
            value = getattr(self, name)
            require(0 <= value <= 1, f"sequences.{name}", value, "between 0 and 1")
        together = self.removed + self.moved
        require(together <= 1, "sequences.removed + moved", together, "at most 1")


@dataclass(frozen=True)
class OptimisationConfig:
    """How long and how fast; the defaults are the paper's (Sec. 4).

    Attributes:
        iterations: number of steps.
        batch: labelled views per step, an even number: two of each source image. Of all processes together.
        unlabelled_batch: likewise, of unlabelled images; used where ``data.unlabelled`` names any.
        learning_rate: of AdamW.
        backbone_factor: multiplies the backbone's learning rate.
        weight_decay: of AdamW; biases and norms have none.
        warmup: steps of linear warm-up.
        drop_at: share of the iterations after which the rate falls to a tenth (paper: 8,000 of 12,000).
        decay_from: share of the iterations from which the rate falls linearly to zero; 1 never.
        clip: greatest gradient norm.
        average: decay of the moving average of the weights that is evaluated and saved; 0 saves the
            weights themselves.
        precision: ``fp32``, or ``bf16`` for automatic mixed precision; losses and weights stay FP32.
        save_every: steps between checkpoints.
        threads: CPU threads for the step; 0 leaves PyTorch's choice.
        seed: seeds weights, order and augmentation.
    """

    iterations: int = 12_000
    batch: int = 8
    unlabelled_batch: int = 8
    learning_rate: float = 1e-4
    backbone_factor: float = 0.1
    weight_decay: float = 1e-4
    warmup: int = 0
    drop_at: float = 2 / 3
    decay_from: float = 1.0
    clip: float = 0.1
    average: float = 0.0
    precision: str = "fp32"
    save_every: int = 500
    threads: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch", "unlabelled_batch", "save_every"):
            require(getattr(self, name) >= 1, f"optimisation.{name}", getattr(self, name), "at least 1")
        for name in ("batch", "unlabelled_batch"):
            value = getattr(self, name)
            require(value % 2 == 0, f"optimisation.{name}", value, "even (two views of each image)")
        require(self.learning_rate > 0, "optimisation.learning_rate", self.learning_rate, "above 0")
        require(self.clip > 0, "optimisation.clip", self.clip, "above 0")
        require(0 <= self.average < 1, "optimisation.average", self.average, "in [0, 1)")
        require(self.precision in ("fp32", "bf16"), "optimisation.precision", self.precision, "fp32 or bf16")


@dataclass(frozen=True)
class TrainConfig:
    """Everything that ``rise train`` needs.

    Attributes:
        name: the model's name; its folder is ``out``.
        out: folder for the model, the checkpoint and the log.
        init: where the weights start: folder of a model, or of a Deformable DETR checkpoint of transformers
            (:mod:`rise_perception.network.convert`); empty starts at random.
        data, network, loss, sequences, self_supervision, optimisation: see there.
        notes: goes into the model card.
    """

    name: str
    out: str
    data: DataConfig
    init: str = ""
    network: NetworkConfig = field(default_factory=NetworkConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sequences: SequenceConfig = field(default_factory=SequenceConfig)
    self_supervision: SelfSupervisionConfig = field(default_factory=SelfSupervisionConfig)
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    notes: str = ""

    def __post_init__(self) -> None:
        if self.self_supervision.teacher == "average" and not self.optimisation.average:
            raise ConfigError(
                "self_supervision.teacher is 'average' and optimisation.average is 0; give a decay such as "
                "0.999, or let the student teach itself"
            )


_SECTIONS = {
    "data": DataConfig,
    "network": NetworkConfig,
    "loss": LossConfig,
    "sequences": SequenceConfig,
    "self_supervision": SelfSupervisionConfig,
    "optimisation": OptimisationConfig,
}


def read_train_config(path: str | Path) -> TrainConfig:
    """Read a training configuration.

    A file may name another by ``extends``, relative to itself, and then states only what differs.

    Raises:
        ConfigError: the file is missing or no YAML, has an unknown key, or a value of the wrong kind.
    """
    path = Path(path)
    raw = _read(path, ())
    try:
        for section, cls in _SECTIONS.items():
            if section in raw:
                raw[section] = build_config(cls, raw[section], section)
        return build_config(TrainConfig, raw, "configuration")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _read(path: Path, extending: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in extending:
        raise ConfigError(f"configuration {path} extends itself; break the circle of `extends`")
    if not path.is_file():
        named = f" (named by `extends` in {extending[-1]})" if extending else ""
        raise ConfigError(f"configuration {path} does not exist{named}; those that ship are in config/")
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration {path} is no valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"configuration {path} is empty or no mapping; those that ship are in config/")
    base = raw.pop("extends", None)
    if base is None:
        return raw
    return _merged(_read(path.parent / str(base), (*extending, path.resolve())), raw)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = _merged(base[key], value) if both else value
    return result
