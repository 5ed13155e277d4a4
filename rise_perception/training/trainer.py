"""The trainer: labelled and unlabelled images, seeded, resumable after any kill, in one process or many."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rise_perception.core.errors import ModelError
from rise_perception.core.files import write_json
from rise_perception.network.build import build_network
from rise_perception.network.card import CARD, ModelCard, read_card
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.network.convert import initialise
from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.batches import Batch
from rise_perception.training.config import OptimisationConfig, TrainConfig
from rise_perception.training.distributed import (
    average_gradients,
    from_first,
    mean_over_processes,
    rank,
    start_processes,
    wait_for_all,
)
from rise_perception.training.learned_choice import SELECTOR, LearnedChoice
from rise_perception.training.loader import training_loader, with_plain_errors
from rise_perception.training.matching import Targets
from rise_perception.training.pseudo_labels import (
    LEARNED,
    UNKNOWN,
    class_threshold,
    pseudo_targets,
    unlabelled_factor,
)
from rise_perception.training.scenes import Scenes, open_source
from rise_perception.training.total_loss import unified_loss
from rise_perception.training.train_state import MovingAverage, load_state, save_state, saved_seconds
from rise_perception.training.validation import LabelledImages, ap50

CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.jsonl"
TENSORBOARD = "tensorboard"
#: Folder of the weights that were best on the validation images.
BEST = "best"
#: The last step of a training that ends by the clock.
ENDLESS = 1 << 40
#: Steps between two entries in TensorBoard.
LOG_EVERY = 10


class Trainer:
    """Trains one network by the unified loss (Eq. 9).

    Under torchrun every process makes one; each takes its share of the batches, the first writes the files.

    Args:
        config: what to train on what.
        command: the command line, for the model card.
        device: where the step runs.
        revision: git revision of the code, for the model card.
        hours: end after this time instead of after ``optimisation.iterations``; 0 does not.

    Attributes:
        iteration: steps that are done.
        stopping: set it to end the run after the step that runs, with its state saved.
    """

    def __init__(
        self,
        config: TrainConfig,
        command: str,
        device: str = "cpu",
        revision: str = "",
        hours: float = 0.0,
    ) -> None:
        self.config, self.command, self.revision = config, command, revision
        self.device = start_processes(torch.device(device))
        self.out = Path(config.out)
        optimisation = config.optimisation
        if optimisation.threads:
            torch.set_num_threads(optimisation.threads)
        torch.manual_seed(optimisation.seed)
        self.network = build_network(config.network)
        resumes = (self.out / CHECKPOINT).exists()
        if config.init and not resumes:
            untouched = ", ".join(initialise(self.network, config.init)) or "nothing"
            print(f"weights start from {config.init}; at random start: {untouched}", file=sys.stderr)
        self.network.to(self.device).to(memory_format=torch.channels_last)
        self.average = MovingAverage(self.network, optimisation.average) if optimisation.average else None
        # Shares the average's tensors: it predicts with whatever they hold.
        self._average_network: nn.Module | None = None
        self.optimiser = make_optimiser(self.network, optimisation)
        self.iteration, self.stopping = 0, False
        self._limit, self._spent, self._begun = 3600 * hours, 0.0, time.monotonic()
        learns = config.self_supervision.selector in LEARNED and bool(config.data.unlabelled)
        self.choice = LearnedChoice(config.self_supervision, optimisation.seed) if learns else None
        if self.choice and resumes:
            self.choice.load(self.out / SELECTOR)
        if resumes:
            self.iteration = load_state(self.out / CHECKPOINT, self.network, self.average, self.optimiser)
            self._spent = saved_seconds(self.out / CHECKPOINT)

    def run(self) -> ModelCard | None:
        """Train to the end and write the model; a second call resumes.

        Returns:
            the model's card; None when :attr:`stopping` was set, and the state alone is written.
        """
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only a run needs it

        config, steps = self.config, self.config.optimisation
        # What is wrong with the validation set should show now, not when the training is over.
        validation = self._validation()
        scenes = Scenes(config)
        last = ENDLESS if self._limit else steps.iterations
        done = self._limit > 0 and self.fraction >= 1
        loader = training_loader(scenes, self.iteration, self.iteration if done else last)
        self.out.mkdir(parents=True, exist_ok=True)
        self.network.train()
        first = rank() == 0
        # What a killed run logged after its last checkpoint is logged again.
        log = SummaryWriter(self.out / TENSORBOARD, purge_step=self.iteration + 1) if first else None
        recent: dict[str, float] = {}
        waited, since = time.perf_counter(), (time.perf_counter(), self.iteration)
        self._begun = time.monotonic()
        total = None if self._limit else steps.iterations
        with tqdm(
            total=total, initial=self.iteration, unit="it", file=sys.stderr, mininterval=2, disable=not first
        ) as bar:
            for batch in with_plain_errors(loader):
                begun = time.perf_counter()
                values = self.step(batch)
                ended = time.perf_counter()
                for name, value in values.items():
                    recent[name] = 0.98 * recent.get(name, value) + 0.02 * value
                bar.update()
                shown = " ".join(f"{n} {v:.3f}" for n, v in recent.items() if "/" not in n)
                bar.set_postfix_str(shown, refresh=False)
                if log and self.iteration % LOG_EVERY == 0:
                    values |= {"seconds/step": ended - begun, "seconds/waiting_for_data": begun - waited}
                    for name, value in values.items():
                        log.add_scalar(name if "/" in name else f"loss/{name}", value, self.iteration)
                self.stopping = bool(from_first(float(self.stopping), self.device))
                over = self._over()
                validates = bool(steps.validate_every) and (
                    self.iteration % steps.validate_every == 0 or over
                )
                if self.iteration % steps.save_every == 0 or over or validates or self.stopping:
                    speed = (self.iteration - since[1]) * steps.batch / (time.perf_counter() - since[0])
                    figures = recent | {"images/second": speed}
                    if validates and first and validation is not None:
                        figures["validation/ap50"] = self.validate(validation)
                    self.save(figures)
                    since = time.perf_counter(), self.iteration
                    if log:
                        log.flush()
                if over or self.stopping:
                    break
                waited = time.perf_counter()
        if log:
            log.close()
            if not self.stopping:
                self.write_model()
                self._take_best()
        wait_for_all()
        return None if self.stopping else read_card(self.out)

    @property
    def fraction(self) -> float:
        """Fraction of the training that is over."""
        if self._limit:
            return min(1.0, from_first(self.seconds, self.device) / self._limit)
        return self.iteration / self.config.optimisation.iterations

    @property
    def seconds(self) -> float:
        """How long the training has run, over all interruptions."""
        return self._spent + time.monotonic() - self._begun

    @property
    def shown(self) -> int:
        """Labelled source images that have been drawn so far."""
        return self.iteration * self.config.optimisation.batch // 2

    @property
    def planned(self) -> int:
        """Steps of the whole training, as far as is known by now."""
        if not self._limit:
            return self.config.optimisation.iterations
        return max(self.iteration + 1, round(self.iteration / max(self.fraction, 1e-3)))

    def _over(self) -> bool:
        return self.fraction >= 1 if self._limit else self.iteration >= self.config.optimisation.iterations

    def _validation(self) -> LabelledImages | None:
        network, data = self.config.network, self.config.data
        if not data.validation:
            return None
        return open_source(data.validation, data.cache, network.classes, network.sees_depth)

    def validate(self, images: LabelledImages) -> float:
        """AP50 on the first validation images; the model is kept in :data:`BEST` if it is the best so far."""
        fresh = self.out / f"{BEST}.new"
        self.write_model(fresh)
        count = min(self.config.optimisation.validation_images, len(images))
        score = ap50(fresh, images, count, str(self.device))
        best = self.out / BEST
        if not best.exists() or score >= read_card(best).metrics["ap50"]:
            card = read_card(fresh)
            write_json(fresh / CARD, dataclasses.asdict(dataclasses.replace(card, metrics={"ap50": score})))
            shutil.rmtree(best, ignore_errors=True)
            fresh.rename(best)
        else:
            shutil.rmtree(fresh)
        return score

    def _take_best(self) -> None:
        """Put the weights that were best on the validation images in the place of the last ones."""
        if (best := self.out / BEST).exists():
            network, card = load_model(best)
            save_model(self.out, network, dataclasses.replace(card, metrics={}))

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimisation step; losses, counts and rate as floats.

        Raises:
            ModelError: the loss or its gradient is not finite; weights and last checkpoint are untouched.
        """
        # Dropout depends on the step alone, so that a resumed run repeats it.
        torch.manual_seed(hash((self.config.optimisation.seed, self.iteration, 0)) % 2**63)
        fraction = self.fraction
        for group in self.optimiser.param_groups:
            factor = rate_factor(self.iteration, self.config.optimisation, fraction)
            group["lr"] = group["base_lr"] * factor
        losses, values = self.losses(batch.to(self.device))
        self.optimiser.zero_grad(set_to_none=True)
        losses["total"].backward()
        average_gradients(self.network)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optimisation.clip)
        # Before the step: one step with such a gradient would ruin every weight.
        if not torch.isfinite(losses["total"]) or not torch.isfinite(norm):
            raise ModelError(
                f"the loss is {losses['total'].item()} and its gradient {norm.item()} at iteration "
                f"{self.iteration}; lower optimisation.learning_rate "
                f"({self.config.optimisation.learning_rate}) and start again from the last checkpoint in "
                f"{self.out}"
            )
        self.optimiser.step()
        if self.average:
            self.average.update(self.network, self.iteration)
        self.iteration += 1
        rate = self.optimiser.param_groups[0]["lr"]
        return (
            mean_over_processes(losses)
            | values
            | {"optimisation/rate": rate, "optimisation/norm": float(norm)}
        )

    def losses(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The unified loss of a batch on the trainer's device.

        Returns:
            losses attached to the graph, and what TensorBoard shows beside them.
        """
        steps = self.config.optimisation
        half = steps.precision == "bf16" or (steps.precision == "auto" and self.device.type == "cuda")
        factor = unlabelled_factor(self.config.self_supervision, self.iteration, self.planned)
        weights = dataclasses.replace(
            self.config.loss, unlabelled_weight=factor * self.config.loss.unlabelled_weight
        )
        # Each in its own: weights that autocast converts without gradient must not serve the student too.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            pseudo = self.pseudo_labels(batch) if factor else []
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            outputs = self.predictions(batch, pseudo)
            losses = unified_loss(outputs, batch.targets, batch.labelled, pseudo, weights)
        values = self.choice.learn_from(outputs, batch, self.fraction) if self.choice else {}
        if pseudo:
            count = sum(int((t.ids == UNKNOWN).sum()) for t in pseudo)
            values["pseudo_labels/per_image"] = count / len(pseudo)
            values["pseudo_labels/weight"] = weights.unlabelled_weight
            values["pseudo_labels/class_threshold"] = class_threshold(
                self.config.self_supervision, self.iteration, self.planned
            )
        return losses, values

    def predictions(self, batch: Batch, pseudo: list[Targets]) -> QueryOutputs:
        """What the student is judged by: its predictions on all views, given the pseudo-labels."""
        return self.network(batch.images, batch.padding)

    @torch.no_grad()
    def pseudo_labels(self, batch: Batch) -> list[Targets]:
        """What the teacher says about the "before" view of each unlabelled scene of a batch."""
        if len(batch.before) == 0:
            return []
        first_views = (~batch.labelled).nonzero().flatten()[::2].tolist()
        teacher = self._teacher()
        teacher.eval()
        targets = pseudo_targets(
            teacher(batch.before, batch.before_padding),
            [batch.targets[i] for i in first_views],
            self.config.self_supervision,
            self.iteration,
            self.planned,
            batch.to_strong,
            self.choice,
        )
        self.network.train()
        return targets

    def _teacher(self) -> nn.Module:
        if self.config.self_supervision.teacher == "student":
            return self.network
        assert self.average is not None  # the configuration has seen to it
        if self._average_network is None:
            self._average_network = copy.deepcopy(self.network)
            self._average_network.load_state_dict(self.average.state, assign=True)
        return self._average_network

    def save(self, losses: dict[str, float]) -> None:
        """Write the whole state atomically, and a line of history; of all processes the first does."""
        if rank() == 0:
            state = (self.network, self.average, self.optimiser)
            save_state(self.out / CHECKPOINT, self.iteration, *state, self.seconds)
            if self.choice:
                self.choice.save(self.out / SELECTOR)
            with (self.out / HISTORY).open("a") as stream:
                stream.write(json.dumps({"iteration": self.iteration, **losses}) + "\n")
        wait_for_all()

    def write_model(self, folder: Path | None = None) -> ModelCard:
        """Write the (averaged) weights and their card into ``folder``, the run's own if None."""
        network = self.network
        if self.average:
            network = copy.deepcopy(network)
            network.load_state_dict(self.average.state)
        steps, sources = self.config.optimisation, self.config.data
        data = f"{', '.join(map(str, sources.train))}; {self.iteration} iterations of {steps.batch} views"
        if sources.unlabelled:
            data += (
                f", and of {steps.unlabelled_batch} views without labels from {', '.join(sources.unlabelled)}"
            )
        if self.config.init:
            data += f", from the weights of {self.config.init}"
        card = ModelCard(
            name=self.config.name,
            network=self.config.network,
            classification=self.config.loss.classification,
            data=f"{data}, seed {steps.seed}",
            command=self.command,
            git_revision=self.revision,
            notes=self.config.notes,
        )
        return save_model(folder or self.out, network, card)


def make_optimiser(network: nn.Module, config: OptimisationConfig) -> torch.optim.AdamW:
    """AdamW with a lower rate for the backbone and no decay on biases and norms."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("backbone."), parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "base_lr": config.learning_rate * (config.backbone_factor if backbone else 1.0),
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (backbone, decays), parameters in groups.items()
        ],
        lr=config.learning_rate,
    )


def rate_factor(iteration: int, config: OptimisationConfig, fraction: float | None = None) -> float:
    """What multiplies the learning rate: warm-up, the drop to a tenth, the linear decay to zero.

    Args:
        iteration: steps that are done.
        config: when.
        fraction: of the training that is over; that of the steps if None.
    """
    if fraction is None:
        fraction = iteration / config.iterations
    factor = min(1.0, (iteration + 1) / config.warmup) if config.warmup else 1.0
    if fraction >= config.drop_at:
        factor *= 0.1
    if fraction > config.decay_from:
        factor *= max(0.0, (1 - fraction) / (1 - config.decay_from))
    return factor
