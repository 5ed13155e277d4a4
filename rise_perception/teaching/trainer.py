"""The trainer of a round: as long as its time, silent where nothing is known, from a model that is good."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rise_perception.data.annotated import IGNORED_ID
from rise_perception.network.build import Network
from rise_perception.network.checkpoint import load_model
from rise_perception.network.outputs import QueryOutputs
from rise_perception.teaching.scenes import TeachScenes
from rise_perception.training.batches import Batch
from rise_perception.training.boxes import fraction_on
from rise_perception.training.config import TrainConfig
from rise_perception.training.loader import training_loader, with_plain_errors
from rise_perception.training.matching import Targets
from rise_perception.training.train_state import MovingAverage
from rise_perception.training.trainer import Trainer

#: Steps over which the learning rate rises.
WARM_UP = 20
#: In the finish the rate is this fraction of what it would be.
FINISH_RATE = 0.1
#: A query is left out of the loss where more than this fraction of its box lies on what nobody knows.
IGNORED = 0.5
#: Logit of a query that is left out: its loss and gradient vanish.
SILENT = -30.0
#: Seconds between two checkpoints.
SAVE_EVERY = 30.0


class SteadyAverage(MovingAverage):
    """The average of weights that are good from the start: its decay does not begin low."""

    def update(self, network: nn.Module, iteration: int) -> None:
        """Take in the weights after a step."""
        super().update(network, sys.maxsize)


class TeachTrainer(Trainer):
    """Trains a round.

    Args:
        config: of the round.
        device: where the step runs.
        seconds: time that the steps may take, over all runs of the round.
        finish: fraction of the training, at its end, at a tenth of the rate.
        foreground: the network that makes M where the images are served; batches carry an M of their own.
    """

    def __init__(
        self,
        config: TrainConfig,
        device: str,
        seconds: float,
        finish: float,
        foreground: nn.Module | None = None,
    ) -> None:
        super().__init__(config, config.notes, device)
        self.foreground = foreground
        if foreground is not None:
            self._represent().foreground.load_state_dict(foreground.state_dict())
        if self.iteration == 0:
            spread_class_heads(self.network, Path(config.init))
        resumed = self.average.state if self.average and self.iteration else None
        self.average = SteadyAverage(self.network, config.optimisation.average)
        if resumed is not None:
            self.average.state = resumed
        self._time, self._finish, self._finishing = seconds, finish, False
        self._unknown: dict[int, Tensor] = {}

    @property
    def fraction(self) -> float:
        """Of the steps, or of the time if that ends first: the rate has to reach zero in both."""
        return max(super().fraction, min(1.0, self.seconds / self._time))

    def train(self, scenes: TeachScenes, marks: list[float], evaluate: Callable[[float], None]) -> None:
        """Train to the end of steps or time.

        Args:
            scenes: what the steps see.
            marks: fractions of the training, rising.
            evaluate: called with each of them when it is reached, the average in place as the network.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        marks = [m for m in marks if m > self.fraction or self.iteration == 0]
        self.network.train()
        self._begun = saved = time.monotonic()
        total = self.config.optimisation.iterations
        losses: dict[str, float] = {}
        with tqdm(
            total=total, initial=self.iteration, unit="step", file=sys.stderr, mininterval=5, leave=False,
            disable=not sys.stderr.isatty(),
        ) as bar:  # fmt: skip
            for batch in with_plain_errors(training_loader(scenes, self.iteration)):
                if self._finish and self.fraction >= 1 - self._finish:
                    scenes.finish_from(self.iteration)
                self._finishing = scenes.finishes(self.iteration)
                for name, value in self.step(batch).items():
                    losses[name] = 0.95 * losses.get(name, value) + 0.05 * value
                bar.update()
                over = self.fraction >= 1
                if over or time.monotonic() - saved > SAVE_EVERY:
                    self.save(losses)
                    saved = time.monotonic()
                while marks and (self.fraction >= marks[0] or over):
                    pause = time.monotonic()
                    evaluate(marks.pop(0))
                    self._begun += time.monotonic() - pause  # evaluating is not training
                if over:
                    break

    def save(self, losses: dict[str, float]) -> None:
        """See :meth:`rise_perception.training.trainer.Trainer.save`."""
        super().save({k: v for k, v in losses.items() if "/" not in k} | {"seconds": round(self.seconds, 1)})

    def step(self, batch: Batch) -> dict[str, float]:
        """See :meth:`rise_perception.training.trainer.Trainer.step`; the finish has a tenth of the rate."""
        if self._finishing:
            for group in self.optimiser.param_groups:
                group.setdefault("full_lr", group["base_lr"])
                group["base_lr"] = FINISH_RATE * group["full_lr"]
        return super().step(batch)

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, float]]:
        """See :meth:`rise_perception.training.trainer.Trainer.losses`; what is not known is no target."""
        self._unknown = {}
        targets = []
        for index, objects in enumerate(batch.targets):
            unknown = objects.ids == IGNORED_ID
            if bool(unknown.any()):
                self._unknown[index] = objects.masks[unknown].any(0)
                objects = _kept(objects, ~unknown)
            targets.append(objects)
        return super().losses(replace(batch, targets=targets))

    def pseudo_labels(self, batch: Batch) -> list[Targets]:
        """See :meth:`rise_perception.training.trainer.Trainer.pseudo_labels`; the teacher sees its own M."""
        if self.foreground is not None and len(batch.before):
            batch = replace(batch, before=batch.before[:, :-1])
        return super().pseudo_labels(batch)

    def _represent(self) -> Any:
        """What makes M in the network: an InputRepresentation."""
        return self.network.backbone.represent

    def predictions(self, batch: Batch, pseudo: list[Targets]) -> QueryOutputs:
        """Predictions of which those on what nobody knows are silent; M is what the batch carries."""
        if self.foreground is not None:
            represent = self._represent()
            represent.given = batch.images[:, -1:]
            try:
                outputs = super().predictions(replace(batch, images=batch.images[:, :-1]), pseudo)
            finally:
                represent.given = None
        else:
            outputs = super().predictions(batch, pseudo)
        return silenced(outputs, self._unknown) if self._unknown else outputs


def silenced(outputs: QueryOutputs, unknown: dict[int, Tensor]) -> QueryOutputs:
    """Silence the queries that lie mostly on what nobody knows.

    Args:
        outputs: predictions.
        unknown: image -> (h, w) bool.
    """

    def stage_logits(stage: QueryOutputs) -> Tensor:
        mute = torch.zeros(stage.logits.shape[:2], dtype=torch.bool, device=stage.logits.device)
        for image, area in unknown.items():
            mute[image] = fraction_on(stage.boxes[image].detach().float(), area) > IGNORED
        return stage.logits.masked_fill(mute[..., None], SILENT)

    auxiliary = [replace(stage, logits=stage_logits(stage)) for stage in outputs.auxiliary]
    return replace(outputs, logits=stage_logits(outputs), auxiliary=auxiliary)


@torch.no_grad()
def spread_class_heads(network: Network, start: Path) -> None:
    """Let every class begin as the start's class of its name, or else as what the start calls an object.

    Class heads of another number of classes are not taken over by
    :func:`rise_perception.network.convert.initialise`; without this, telling objects from background would
    be learned anew.
    """
    other, card = load_model(start)
    theirs, ours = card.network.classes, network.config.classes
    if theirs == ours:
        return
    items = [k for k, name in enumerate(theirs) if name not in card.network.containers]
    lower = [name.lower() for name in theirs]
    rows = [lower.index(n.lower()) if n.lower() in lower else items[0] for n in ours]
    state = other.state_dict()
    for name, parameter in network.named_parameters():
        part = name.split(".")[0]
        if part in ("class_heads", "dense_class") and name in state:
            parameter.copy_(state[name][rows])


def _kept(targets: Targets, kept: Tensor) -> Targets:
    """The rows of ``targets`` where ``kept`` (N,) bool."""
    parts = (targets.classes, targets.boxes, targets.masks, targets.ids)
    return Targets(*(part[kept.to(part.device)] for part in parts))
