"""Typed training configuration, read from YAML files; an unknown key is an error that names it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, require
from rise_perception.network.config import NetworkConfig
from rise_perception.simulation.world_source import WorldConfig
from rise_perception.training.assessment import EvaluationSet
from rise_perception.training.config_files import read_mapping
from rise_perception.training.criterion import LossConfig
from rise_perception.training.pseudo_labels import SelfSupervisionConfig


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from, and how they are augmented.

    Attributes:
        train: labelled sources: COCO annotation files, split files of `rise split`, OCID folders, and worlds
            (:class:`~rise_perception.simulation.world_source.WorldConfig`), which are rendered while the
            training goes on; relative paths start at the working directory.
        unlabelled: sources whose labels, if there are any, are never read: the same, folders of images, bags.
            Empty: training is supervised only.
        validation: COCO annotation file, or a world; when the training ends, the AP on it goes into the model
            card and the score threshold is chosen on it. Empty: neither.
        cache: folder where worlds are rendered; trainings may share it.
        renderers: processes that render; 0 takes the cores that the step and the loader leave.
        broken: what to do with an image that cannot be read or has a broken annotation: ``stop``, or ``skip``
            to name it once and go on with the next.
        augmentation: strength of the colour augmentation; 0 switches it off.
        scale: range of the geometric scale factor of the weak augmentation.
        rotation: its greatest rotation, degrees.
        workers: processes that load and augment.
    """

    train: tuple[str | WorldConfig, ...]
    unlabelled: tuple[str, ...] = ()
    validation: str | WorldConfig = ""
    cache: str = "data/worlds"
    renderers: int = 0
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
        worlds = tuple(_source(source, f"data.train[{k}]") for k, source in enumerate(self.train))
        object.__setattr__(self, "train", worlds)
        object.__setattr__(self, "validation", _source(self.validation, "data.validation"))
        object.__setattr__(self, "scale", tuple(self.scale))
        if not self.train:
            raise ConfigError("data.train is empty; name at least one annotation file")
        require(self.broken in ("stop", "skip"), "data.broken", self.broken, "stop or skip")
        require(self.augmentation >= 0, "data.augmentation", self.augmentation, "0 or more")
        require(self.workers >= 0, "data.workers", self.workers, "0 or more")
        require(self.renderers >= 0, "data.renderers", self.renderers, "0 or more")
        valid = len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]
        require(valid, "data.scale", self.scale, "two factors above 0, the smaller first")


def _source(entry: Any, where: str) -> str | WorldConfig:
    """A path, or the world that a mapping describes."""
    if isinstance(entry, dict):
        return cast("WorldConfig", build_config(WorldConfig, entry, where))
    if isinstance(entry, (str, WorldConfig)):
        return entry
    raise ConfigError(f"{where} is {entry!r}; it must be a path, or a mapping with `world` and `scenes`")


@dataclass(frozen=True)
class SequenceConfig:
    """Pseudo-sequences (Sec. 3.2).

    Attributes:
        objects: most objects of the instance bank that are pasted on an image, at least one; 0 switches
            pasting off: "before" and "after" are then two views of the image as it is.
        bank: capacity of the instance bank.
        removed, moved: fraction of the pasted objects that leave, or change place, between before and after.
        added: probability that a new object comes.
        strong_scale: range of the geometric scale factor of x3, the student's view, against x1, the
            teacher's; [1, 1] with no flip and no rotation gives both the same geometry.
        strong_rotation: greatest rotation of x3 against x1, degrees.
        strong_flip: probability that x3 is a mirror image of x1.
        depth_noise: strength of the noise and holes in the depth of x3; 0 switches it off.
    """

    objects: int = 6
    bank: int = 200
    removed: float = 0.25
    moved: float = 0.25
    added: float = 0.5
    strong_scale: tuple[float, float] = (0.8, 1.25)
    strong_rotation: float = 8.0
    strong_flip: float = 0.5
    depth_noise: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "strong_scale", tuple(self.strong_scale))
        valid = len(self.strong_scale) == 2 and 0 < self.strong_scale[0] <= self.strong_scale[1]
        require(valid, "sequences.strong_scale", self.strong_scale, "two factors above 0, the smaller first")
        for name in ("strong_rotation", "depth_noise"):
            require(getattr(self, name) >= 0, f"sequences.{name}", getattr(self, name), "0 or more")
        require(self.objects >= 0, "sequences.objects", self.objects, "0 or more")
        require(self.bank >= 1, "sequences.bank", self.bank, "at least 1")
        for name in ("removed", "moved", "added", "strong_flip"):
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
        drop_at: fraction of the iterations after which the rate falls to a tenth (paper: 8,000 of 12,000).
        decay_from: fraction of the iterations from which the rate falls linearly to zero; 1 never.
        clip: greatest gradient norm.
        average: decay of the moving average of the weights that is evaluated and saved; 0 saves the
            weights themselves.
        precision: ``fp32``, or ``bf16`` for automatic mixed precision; losses and weights stay FP32.
            ``auto`` is bf16 on a GPU, fp32 elsewhere.
        save_every: steps between checkpoints.
        validate_every: steps between validations on ``data.validation``; the best weights are kept. 0: never.
        validation_images: how many of its images each of these takes, the first ones.
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
    validate_every: int = 0
    validation_images: int = 100
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
        known = ("auto", "fp32", "bf16")
        require(self.precision in known, "optimisation.precision", self.precision, "auto, fp32 or bf16")
        require(self.validate_every >= 0, "optimisation.validate_every", self.validate_every, "0 or more")
        require(
            self.validation_images >= 1,
            "optimisation.validation_images",
            self.validation_images,
            "at least 1",
        )


@dataclass(frozen=True)
class TrainConfig:
    """Everything that ``rise train`` needs.

    Attributes:
        name: the model's name; its folder is ``out``.
        out: folder for the model, the checkpoint and the log.
        init: where the weights start: folder of a model, or of a Deformable DETR checkpoint of transformers
            (:mod:`rise_perception.network.convert`); empty starts at random.
        data, network, loss, sequences, self_supervision, optimisation: see there.
        evaluation: labelled sets that the finished model is measured on; what is not there is skipped.
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
    evaluation: tuple[EvaluationSet, ...] = ()
    notes: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.evaluation, (list, tuple)):
            raise ConfigError(f"evaluation is {self.evaluation!r}; it must be a list of sets")
        sets = tuple(
            entry
            if isinstance(entry, EvaluationSet)
            else build_config(EvaluationSet, entry, f"evaluation[{k}]")
            for k, entry in enumerate(self.evaluation)
        )
        object.__setattr__(self, "evaluation", sets)
        if self.optimisation.validate_every and not self.data.validation:
            raise ConfigError(
                f"optimisation.validate_every is {self.optimisation.validate_every} and data.validation is "
                "empty; name a validation set, or set validate_every to 0"
            )
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

    Args:
        path: a YAML file, or ``FILE.yaml:ROW``, a row of a table
            (:mod:`rise_perception.training.config_files`).

    Raises:
        ConfigError: the file or the row is missing or no YAML, has an unknown key, or a value of the wrong
            kind.
    """
    raw = read_mapping(path)
    try:
        for section, cls in _SECTIONS.items():
            if section in raw:
                raw[section] = build_config(cls, raw[section], section)
        return build_config(TrainConfig, raw, "configuration")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
