"""The trainer: labelled and unlabelled images, seeded, resumable after any kill, in one process or many."""

from __future__ import annotations

import copy
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from rise_perception.core.errors import ModelError
from rise_perception.data.coco import CocoDataset
from rise_perception.network.build import build_network
from rise_perception.network.checkpoint import ModelCard, read_card, save_model
from rise_perception.network.convert import initialise
from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.batches import Batch, Scenes, training_loader, with_plain_errors
from rise_perception.training.config import OptimisationConfig, TrainConfig
from rise_perception.training.distributed import (
    average_gradients,
    mean_over_processes,
    rank,
    start_processes,
    wait_for_all,
)
from rise_perception.training.learned_choice import LearnedChoice
from rise_perception.training.matching import Targets
from rise_perception.training.pseudo_labels import LEARNED, UNKNOWN, class_threshold, pseudo_targets
from rise_perception.training.total_loss import unified_loss
from rise_perception.training.train_state import MovingAverage, load_state, save_state
from rise_perception.training.validation import validate

CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.jsonl"
SELECTOR = "selector.safetensors"
TENSORBOARD = "tensorboard"
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
    """

    def __init__(self, config: TrainConfig, command: str, device: str = "cpu", revision: str = "") -> None:
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
        self.iteration = 0
        self.choice: LearnedChoice | None = None
        if config.self_supervision.selector in LEARNED and config.data.unlabelled:
            self.choice = LearnedChoice(config.self_supervision, optimisation.seed)
        if resumes:
            if self.choice:
                self.choice.load(self.out / SELECTOR)
            self.iteration = load_state(self.out / CHECKPOINT, self.network, self.average, self.optimiser)

    def run(self) -> ModelCard:
        """Train up to ``optimisation.iterations`` and write the model; a second call goes on where it was."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only a run needs it

        config, steps = self.config, self.config.optimisation
        if config.data.validation:
            # What is wrong with the file should show now, not when the training is over.
            CocoDataset(config.data.validation, config.network.classes, config.network.input == "rgbd")
        loader = training_loader(Scenes(config), self.iteration)
        self.out.mkdir(parents=True, exist_ok=True)
        self.network.train()
        first = rank() == 0
        # What a killed run logged after its last checkpoint is logged again.
        log = SummaryWriter(self.out / TENSORBOARD, purge_step=self.iteration + 1) if first else None
        recent: dict[str, float] = {}
        waited = time.perf_counter()
        with tqdm(
            total=steps.iterations, initial=self.iteration, unit="it", file=sys.stderr, mininterval=2,
            disable=not first,
        ) as bar:  # fmt: skip
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
                if self.iteration % steps.save_every == 0 or self.iteration == steps.iterations:
                    self.save(recent)
                    if log:
                        log.flush()
                waited = time.perf_counter()
        if log:
            log.close()
            self.write_model()
        wait_for_all()  # before the validation, which may outlast what a process waits for
        if first and config.data.validation:
            validate(self.out, config.data.validation, str(self.device))
        return read_card(self.out)

    @property
    def share(self) -> float:
        """Share of the training that is over."""
        return self.iteration / self.config.optimisation.iterations

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimisation step; losses, counts and rate as floats.

        Raises:
            ModelError: the loss or its gradient is not finite; weights and last checkpoint are untouched.
        """
        # Dropout depends on the step alone, so that a resumed run repeats it.
        torch.manual_seed(hash((self.config.optimisation.seed, self.iteration, 0)) % 2**63)
        for group in self.optimiser.param_groups:
            factor = rate_factor(self.iteration, self.config.optimisation, self.share)
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
        half = steps.precision == "bf16"
        # Each in its own: weights that autocast converts without gradient must not serve the student too.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            pseudo = self.pseudo_labels(batch)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            outputs = self.predictions(batch, pseudo)
            losses = unified_loss(outputs, batch.targets, batch.labelled, pseudo, self.config.loss)
        values = {}
        if self.choice:
            known = batch.labelled.nonzero().flatten()
            targets = [batch.targets[k] for k in known.tolist()]
            values |= self.choice.learn(outputs.of_images(known), targets, self.share)
        if pseudo:
            count = sum(int((t.ids == UNKNOWN).sum()) for t in pseudo)
            values["pseudo_labels/per_image"] = count / len(pseudo)
            values["pseudo_labels/class_threshold"] = class_threshold(
                self.config.self_supervision, self.iteration, steps.iterations
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
            self.config.optimisation.iterations,
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
            save_state(self.out / CHECKPOINT, self.iteration, self.network, self.average, self.optimiser)
            if self.choice:
                self.choice.save(self.out / SELECTOR)
            with (self.out / HISTORY).open("a") as stream:
                stream.write(json.dumps({"iteration": self.iteration, **losses}) + "\n")
        wait_for_all()

    def write_model(self) -> ModelCard:
        """Write the (averaged) weights and their card."""
        network = self.network
        if self.average:
            network = copy.deepcopy(network)
            network.load_state_dict(self.average.state)
        steps, sources = self.config.optimisation, self.config.data
        data = f"{', '.join(sources.train)}; {self.iteration} iterations of {steps.batch} views"
        if sources.unlabelled:
            data += (
                f", and of {steps.unlabelled_batch} views without labels from {', '.join(sources.unlabelled)}"
            )
        if self.config.init:
            data += f", from the weights of {self.config.init}"
        card = ModelCard(
            name=self.config.name,
            network=self.config.network,
            data=f"{data}, seed {steps.seed}",
            command=self.command,
            git_revision=self.revision,
            notes=self.config.notes,
        )
        return save_model(self.out, network, card)


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


def rate_factor(iteration: int, config: OptimisationConfig, share: float | None = None) -> float:
    """What multiplies the learning rate: warm-up, the drop to a tenth, the linear decay to zero.

    Args:
        iteration: steps that are done.
        config: when.
        share: of the training that is over; that of the steps if None.
    """
    if share is None:
        share = iteration / config.iterations
    factor = min(1.0, (iteration + 1) / config.warmup) if config.warmup else 1.0
    if share >= config.drop_at:
        factor *= 0.1
    if share > config.decay_from:
        factor *= max(0.0, (1 - share) / (1 - config.decay_from))
    return factor
