"""One update: the learning room's trainer on anchors and episodes, from the first weights, in a budget.

Every update begins with the weights that the store began with, and learns from all episodes that are trusted:
versions do not drift away, and what an update lost is not lost for the next.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import torch
from torch import Tensor, nn

from rise_perception.core.errors import ConfigError
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.labelling.background import FalsePlaces
from rise_perception.grasp_learning.labelling.failures import LARGEST
from rise_perception.grasp_learning.labelling.label_propagation import KnownItems
from rise_perception.grasp_learning.update.model_store import StoredModel
from rise_perception.grasp_learning.update.scenes import (
    BARE,
    NOTHING,
    ROBOT,
    EpisodeImages,
    EpisodeScenes,
    is_certain,
)
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.batches import Batch
from rise_perception.training.boxes import fraction_on, iou_and_giou, to_corners
from rise_perception.training.config import DataConfig, OptimisationConfig, SequenceConfig, TrainConfig
from rise_perception.training.criterion import LossConfig, focal_loss
from rise_perception.training.loader import training_loader, with_plain_errors
from rise_perception.training.matching import Targets
from rise_perception.training.pseudo_labels import UNKNOWN, SelfSupervisionConfig
from rise_perception.training.train_state import MovingAverage
from rise_perception.training.trainer import Trainer, make_optimiser

#: A query is judged where more than this fraction of its box, or its centre, lies on a known object.
JUDGED = 0.3
#: A query whose box overlaps that of a refuted mask by more (intersection over union) repeats it.
REPEATS = 0.4
#: Queries that repeat a mask, for the scale of their loss: an object is matched with about as many.
REPEATERS = 10
#: What an update may change.
PARAMETERS = ("adapter", "all")
#: Logit of a query that is not judged: its loss and gradient vanish.
SILENT = -30.0
#: Fraction of an update over which the learning rate rises.
WARM_UP = 0.1
#: Fraction of an update after which it falls, to zero at the end: weights that still jump about are worse.
DECAY_FROM = 0.3


@dataclass(frozen=True)
class UpdateConfig:
    """How a candidate is trained.

    Attributes:
        parameters: what is trained: ``adapter``, the norms, the biases and the class heads behind the
            backbone (some ten thousand numbers, which stay where they are in the network, so that engines
            are rebuilt or refitted as after any training), or ``all``, which is what was measured.
        iterations: most steps.
        seconds: most time they may take.
        batch: views of labelled anchors in a step, an even number.
        episode_batch: views of episodes, likewise.
        learning_rate: of AdamW; the backbone learns at a tenth of it. For an adapter well above that of the
            training; for all weights near the highest one that the model was trained with.
        average: decay of the moving average of the weights, which teaches, and which the candidate is.
        objects: most objects of the bank pasted on an image.
        label_weight: weight of what the episodes and the teacher say, beside the anchors' labels (l4).
        augmentation: strength of the colour augmentation.
        scale: range of the geometric scale factor.
        threads: CPU threads of a step; 0 leaves PyTorch's choice.
        seed: of order and augmentation.
    """

    parameters: str = "all"
    iterations: int = 120
    seconds: float = 600.0
    batch: int = 4
    episode_batch: int = 4
    learning_rate: float = 5e-4
    average: float = 0.98
    objects: int = 4
    label_weight: float = 1.0
    augmentation: float = 0.5
    scale: tuple[float, float] = (0.8, 1.3)
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.parameters not in PARAMETERS:
            raise ConfigError(f"parameters is {self.parameters!r}; it must be one of {', '.join(PARAMETERS)}")
        if self.iterations < 1 or not self.seconds > 0:
            raise ConfigError(
                f"an update has {self.iterations} iterations and {self.seconds} seconds; both must be above 0"
            )
        if not 0 < self.average < 1:
            raise ConfigError(f"average is {self.average}; it must lie between 0 and 1, such as 0.98")


@dataclass(frozen=True)
class Progress:
    """How far an update is; ``loss`` is a running mean."""

    stage: str
    iteration: int = 0
    iterations: int = 0
    loss: float = float("nan")
    seconds_left: float = float("nan")


class Stopped(Exception):
    """Somebody asked for the end of an update; nothing of it stays."""


class SteadyAverage(MovingAverage):
    """The average of weights that are good from the start: its decay does not begin low."""

    def update(self, network: nn.Module, iteration: int) -> None:
        """Take in the weights after a step."""
        super().update(network, sys.maxsize)


class EpisodeTrainer(Trainer):
    """The unified loss with episodes as the unlabelled images: their certain objects join the pseudo-labels.

    In an episode's frame no query is judged that lies off all known and pseudo-labelled objects: what nobody
    knows is not taught as background. What lies on them is: a prediction that holds an item and its neighbour
    is wrong, and learns so. Where the robot is, no query is judged, and nothing the teacher sees is believed.
    Queries that repeat a refuted mask learn that nothing is there.
    """

    def __init__(
        self, config: TrainConfig, command: str, device: str, seconds: float, parameters: str = "all"
    ) -> None:
        super().__init__(config, command, device)
        if parameters == "adapter":
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_(in_adapter(name, parameter))
            self.optimiser = make_optimiser(self.network, config.optimisation)
        self._begun, self._seconds = float("nan"), seconds
        self.average = SteadyAverage(self.network, config.optimisation.average)
        self._robots: dict[int, Tensor] = {}  # image of the batch -> (h, w) bool
        self._refuted: dict[int, Targets] = {}
        self._seen: QueryOutputs | None = None

    @property
    def spent(self) -> float:
        """Seconds since the first step began."""
        return 0.0 if math.isnan(self._begun) else time.monotonic() - self._begun

    @property
    def fraction(self) -> float:
        """Of the steps, or of the time if that ends first: the learning rate has to reach zero in both."""
        return max(super().fraction, min(1.0, self.spent / self._seconds))

    def step(self, batch: Batch) -> dict[str, float]:
        """See :meth:`rise_perception.training.trainer.Trainer.step`."""
        if math.isnan(self._begun):
            self._begun = time.monotonic()
        return super().step(batch)

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, float]]:
        """See :meth:`rise_perception.training.trainer.Trainer.losses`; the robot is no target."""
        robots = {i: t.masks[t.ids == ROBOT] for i, t in enumerate(batch.targets)}
        nothing = [(t.ids == NOTHING) | (t.ids == BARE) for t in batch.targets]
        refuted = {i: t.of(empty) for i, (t, empty) in enumerate(zip(batch.targets, nothing, strict=True))}
        self._robots = {i: masks.any(0) for i, masks in robots.items() if len(masks)}
        self._refuted = {i: targets for i, targets in refuted.items() if len(targets)}
        items = [t.of((t.ids != ROBOT) & ~empty) for t, empty in zip(batch.targets, nothing, strict=True)]
        losses, values = super().losses(replace(batch, targets=items))
        assert self._seen is not None  # `predictions` has run
        losses["refuted"] = refuted_loss(self._seen, self._refuted, items)
        losses["total"] = losses["total"] + self.config.loss.unlabelled_weight * losses["refuted"]
        return losses, values

    def pseudo_labels(self, batch: Batch) -> list[Targets]:
        """The certain objects of each episode's scene, and what the teacher sees beside them."""
        known = [t.of(torch.from_numpy(is_certain(t.ids.cpu().numpy()))) for t in batch.targets]
        found = super().pseudo_labels(replace(batch, targets=known))
        first_views = (~batch.labelled).nonzero().flatten()[::2].tolist()
        believed = []
        for seen, i in zip(found, first_views, strict=True):
            for region in (self._robots.get(i), self._nothing(i)):
                if region is not None:
                    on_it = (seen.masks.bool() & region).sum((1, 2)) > JUDGED * seen.masks.sum((1, 2))
                    seen = seen.of(~on_it | (seen.ids != UNKNOWN))
            believed.append(seen if len(seen) else known[i])
        return believed

    def predictions(self, batch: Batch, pseudo: list[Targets]) -> QueryOutputs:
        """Predictions of which those on what nobody knows are silent."""
        first_views = (~batch.labelled).nonzero().flatten()[::2]
        self._seen = super().predictions(batch, pseudo)
        return without_unknown(self._seen, first_views, pseudo, self._robots)

    def _nothing(self, image: int) -> Tensor | None:
        """(h, w) bool, where the refuted masks of an image are."""
        refuted = self._refuted.get(image)
        return None if refuted is None else refuted.masks.bool().any(0)


def in_adapter(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter belongs to the adapter: norms, biases and class heads behind the backbone."""
    return not name.startswith("backbone.") and (parameter.ndim <= 1 or "class" in name)


def refuted_loss(outputs: QueryOutputs, refuted: Mapping[int, Targets], known: list[Targets]) -> Tensor:
    """The focal loss of queries that repeat refuted masks: they are to find nothing.

    Args:
        outputs: predictions on all images of a batch.
        refuted: image -> its refuted masks; where one is the bare place, all queries but the largest, which
            may be of the container.
        known: the objects of each image; queries on them are judged elsewhere.

    Returns:
        a scalar: the sum over the output stages, by mask and query.
    """
    loss = outputs.logits.sum() * 0.0
    for image, masks in refuted.items():
        whole = masks.ids == BARE
        for stage in [*outputs.auxiliary, outputs]:
            boxes = stage.boxes[image].detach().float()
            overlap, _ = iou_and_giou(to_corners(boxes)[:, None], to_corners(masks.boxes[~whole])[None])
            repeats = (overlap > REPEATS).any(1)
            if whole.any():
                repeats |= boxes[:, 2:].prod(-1) < LARGEST
            logits = stage.logits[image][repeats & ~is_judged(boxes, known[image].boxes)].float()
            loss = loss + focal_loss(logits, torch.zeros_like(logits)).sum() / REPEATERS
    return loss / max(1, len(refuted))


def without_unknown(
    outputs: QueryOutputs, images: Tensor, targets: list[Targets], robots: Mapping[int, Tensor]
) -> QueryOutputs:
    """Silence the queries of some images that lie off all their targets, or on the robot.

    Args:
        outputs: predictions.
        images: (n,) int64, the images of which not every object is known.
        targets: what is known of each of them.
        robots: image -> (h, w) bool, where the robot is.
    """

    def silenced(stage: QueryOutputs) -> Tensor:
        unknown = torch.zeros(stage.logits.shape[:2], dtype=torch.bool, device=stage.logits.device)
        for image, objects in zip(images.tolist(), targets, strict=True):
            boxes = stage.boxes[image].detach().float()
            unknown[image] = ~is_judged(boxes, objects.boxes)
            if (robot := robots.get(image)) is not None:
                unknown[image] |= fraction_on(boxes, robot) > JUDGED
        return stage.logits.masked_fill(unknown[..., None], SILENT)

    return replace(
        outputs,
        logits=silenced(outputs),
        auxiliary=[replace(stage, logits=silenced(stage)) for stage in outputs.auxiliary],
    )


def is_judged(boxes: Tensor, known: Tensor) -> Tensor:
    """(Q, 4) and (N, 4) centre boxes -> (Q,) bool: which of the queries lie on a known object."""
    mine, theirs = to_corners(boxes)[:, None], to_corners(known)[None]  # (Q, 1, 4), (1, N, 4)
    size = torch.minimum(mine[..., 2:], theirs[..., 2:]) - torch.maximum(mine[..., :2], theirs[..., :2])
    shared = size.clamp(min=0).prod(-1)
    centre = boxes[:, None, :2]
    inside = ((centre > theirs[..., :2]) & (centre < theirs[..., 2:])).all(-1)
    return (inside | (shared > JUDGED * boxes[:, None, 2:].prod(-1))).any(1)


def training_config(
    config: UpdateConfig, parent: StoredModel, anchors: tuple[str, ...], out: Path
) -> TrainConfig:
    """The learning room's configuration of an update."""
    return TrainConfig(
        name=parent.card.name.split("-snapshot")[0],
        out=str(out),
        init=str(parent.folder),
        data=DataConfig(
            train=anchors,
            broken="skip",
            augmentation=config.augmentation,
            scale=config.scale,
            workers=0,  # the learner is a guest: the loader shares the step's thread
        ),
        # A handful of images says nothing about the statistics of norms.
        network=replace(parent.card.network, pretrained=False, frozen_norm=True),
        loss=LossConfig(classification=parent.card.classification, unlabelled_weight=config.label_weight),
        # The views that the update was measured with: x3 has the geometry and the depth of x1.
        sequences=SequenceConfig(
            objects=config.objects,
            strong_scale=(1.0, 1.0),
            strong_rotation=0.0,
            strong_flip=0.0,
            depth_noise=0.0,
        ),
        self_supervision=SelfSupervisionConfig(teacher="average"),
        optimisation=OptimisationConfig(
            iterations=config.iterations,
            batch=config.batch,
            unlabelled_batch=config.episode_batch,
            learning_rate=config.learning_rate,
            warmup=round(WARM_UP * config.iterations),
            drop_at=2.0,
            decay_from=DECAY_FROM,
            average=config.average,
            threads=config.threads,
            seed=config.seed,
        ),
    )


def train_candidate(
    config: UpdateConfig,
    parent: StoredModel,
    anchors: tuple[str, ...],
    episodes: tuple[EpisodeStore, list[Entry], Mapping[str, KnownItems], FalsePlaces | None],
    out: Path,
    report: Callable[[Progress], None],
    stop: Event,
    device: str = "cpu",
) -> tuple[ModelCard, int]:
    """Train from the parent's weights and write the candidate into ``out``.

    Returns:
        its card, and the number of steps that the budget allowed.

    Raises:
        Stopped: ``stop`` was set.
        ModelError: the loss is not finite any more.
    """
    full = training_config(config, parent, anchors, out)
    trainer = EpisodeTrainer(full, "learner", device, config.seconds, config.parameters)
    trainer.network.train()
    store, entries, known, places = episodes
    images = EpisodeImages(store, entries, full.network, known, places)
    mean, step = float("nan"), 0
    for batch in with_plain_errors(training_loader(EpisodeScenes(full, images), 0)):
        loss = trainer.step(batch)["total"]
        step += 1
        mean = loss if step == 1 else 0.9 * mean + 0.1 * loss
        spent = trainer.spent
        left = min(config.seconds - spent, spent / step * (config.iterations - step))
        report(Progress("training", step, config.iterations, mean, max(left, 0.0)))
        if stop.is_set():
            raise Stopped
        if spent > config.seconds:
            break
    assert trainer.average is not None
    trainer.network.load_state_dict(trainer.average.state)
    count = len(entries)
    card = dataclasses.replace(
        parent.card,
        name=full.name,
        data=f"{parent.version}, then {step} steps on {count} episodes and {', '.join(anchors)}",
        command="learner",
        metrics={},
        git_revision="",
        notes="",
    )
    return save_model(out, trainer.network, card), step


def interpolate_weights(place: Path, parent: StoredModel, fraction: float) -> ModelCard:
    """Replace the candidate in ``place`` by one on the straight way to it from the parent's weights.

    What a fine-tuned network has forgotten comes back faster on this way than what it has learned goes
    (Wortsman et al., Robust fine-tuning of zero-shot models).

    Args:
        place: folder of the candidate; the new one is written over it.
        parent: where the way begins.
        fraction: of the way, between 0 and 1.

    Returns:
        its card.
    """
    network, card = load_model(place)
    begin = load_model(parent.folder)[0].state_dict()
    there = {
        name: torch.lerp(begin[name], tensor, fraction) if tensor.is_floating_point() else tensor
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(there)
    return save_model(
        place, network, dataclasses.replace(card, data=f"{card.data}; {fraction:.0%} of the way")
    )
