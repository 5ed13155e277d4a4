"""Typed configuration of the grasp segmenter's training, read from YAML; an unknown key is an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, require
from rise_perception.training.config_files import read_mapping


@dataclass(frozen=True)
class SegmenterSteps:
    """How long and how fast.

    Attributes:
        rounds: of drawing pairs and learning from them.
        pairs: drawn in a round.
        repeats: times that a round learns from each of its pairs.
        batch: pairs of a step.
        rate, weight_decay: of AdamW.
        threads: CPU threads; 0 leaves PyTorch's choice.
        seed: seeds weights, pairs and order.
    """

    rounds: int = 60
    pairs: int = 64
    repeats: int = 4
    batch: int = 8
    rate: float = 2e-3
    weight_decay: float = 1e-3
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "pairs", "repeats", "batch"):
            require(getattr(self, name) >= 1, f"optimisation.{name}", getattr(self, name), "at least 1")
        require(self.rate > 0, "optimisation.rate", self.rate, "above 0")


@dataclass(frozen=True)
class SegmenterFilms:
    """What it learns from; paths are relative to the working directory.

    Attributes:
        folder: where films of grasps are kept; those that are missing are rendered.
        train, validation: how many. The first teach, the others choose the thresholds.
        seed: of the scenes.
    """

    folder: str = "runs/grasp_films"
    train: int = 70
    validation: int = 12
    seed: int = 41

    def __post_init__(self) -> None:
        for name in ("train", "validation"):
            require(getattr(self, name) >= 1, f"films.{name}", getattr(self, name), "at least 1")


@dataclass(frozen=True)
class SegmenterTraining:
    """A training of the grasp segmenter.

    Attributes:
        name: short name of the model; `rise_grasp_segmenter` below models/ is the one that serves.
        out: folder that it is written to.
        films: what it learns from.
        optimisation: how long and how fast.
        notes: goes into the model card.
    """

    name: str
    out: str
    films: SegmenterFilms = field(default_factory=SegmenterFilms)
    optimisation: SegmenterSteps = field(default_factory=SegmenterSteps)
    notes: str = ""


def is_segmenter_training(path: str | Path) -> bool:
    """True for a YAML file with a section ``films``: what tells it from the training of other models."""
    try:
        return "films" in read_mapping(path)
    except ConfigError:
        return False  # whoever reads the file next says what is wrong with it


def read_segmenter_training(path: str | Path) -> SegmenterTraining:
    """Read a training configuration; ConfigError where it is missing, no YAML or has a wrong key."""
    raw = read_mapping(path)
    try:
        config: SegmenterTraining = build_config(SegmenterTraining, raw, "configuration")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return config
