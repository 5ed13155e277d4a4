"""A model on simulated and real labelled sets: the end of a training and `rise bench models` measure so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, DataError
from rise_perception.data.coco import CocoDataset
from rise_perception.evaluation.comparison import Row, row
from rise_perception.evaluation.counts import calibration_error, count
from rise_perception.evaluation.labelled_folder import LabelledFolder
from rise_perception.network.card import read_card
from rise_perception.simulation.world_source import WorldConfig, WorldImages
from rise_perception.training.validation import LabelledImages, predicted_pairs, rated


@dataclass(frozen=True)
class EvaluationSet:
    """A labelled set that a model is measured on and never trained on.

    Attributes:
        path: COCO annotation file, or folder of pictures with label images beside them.
        world: or images of the tote world.
        name: in tables; the folder's name if empty.
        depth_scale: metres per unit of the depth maps of a folder; 0: its depth is of no use.
    """

    path: str = ""
    world: WorldConfig | None = None
    name: str = ""
    depth_scale: float = 0.0

    def __post_init__(self) -> None:
        if isinstance(self.world, dict):
            object.__setattr__(self, "world", build_config(WorldConfig, self.world, "evaluation.world"))
        if bool(self.path) == (self.world is not None):
            raise ConfigError(
                "evaluation: a set has a path (a COCO file or a folder) or a world, one of both"
            )
        if self.depth_scale < 0:
            raise ConfigError(f"evaluation: depth_scale of {self.path} is {self.depth_scale}; give 0 or more")

    @property
    def title(self) -> str:
        """What tables call it."""
        if self.world:
            return self.name or f"world {self.world.world}, {self.world.split}, seed {self.world.seed}"
        path = Path(self.path)
        return self.name or (f"{path.parent.name}/{path.stem}" if path.suffix == ".json" else path.name)

    def open(self, model: str | Path, cache: str | Path) -> LabelledImages:
        """The images as ``model`` needs them; worlds are rendered into ``cache``.

        Raises:
            DataError: it is not there, or cannot serve this model; the message is the reason to skip it.
        """
        network, path = read_card(model).network, Path(self.path)
        depth = network.sees_depth
        if self.world:
            return WorldImages(self.world, cache, network.classes, depth)
        if not path.exists():
            raise DataError(f"{path} is not there")
        if path.suffix == ".json":
            return CocoDataset(path, network.classes, depth)
        if depth and not self.depth_scale:
            raise DataError(f"{path} has no depth that is registered to its pictures")
        return LabelledFolder(path, self.depth_scale if depth else None)


def assess(
    model: str | Path,
    data: EvaluationSet,
    device: str = "cpu",
    threshold: float | None = None,
    cache: str | Path = "data/worlds",
) -> Row:
    """Measure a model on a set.

    Args:
        model: folder.
        data: which set.
        device: where the network runs.
        threshold: of the masks that count; None is the card's.
        cache: where worlds are rendered.

    Raises:
        DataError: the set is not there or cannot serve the model.
    """
    card = read_card(model)
    threshold = card.score_threshold if threshold is None else threshold
    images = data.open(model, cache)
    everything = predicted_pairs(model, images, device)
    kept = predicted_pairs(model, images, device, threshold)
    guesses = rated(kept)
    calibration = calibration_error(guesses.scores, guesses.right)
    return row(data.title, card.version, threshold, everything, kept, count(kept), calibration)
