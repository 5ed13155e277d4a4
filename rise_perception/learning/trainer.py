"""The supervised trainer: seeded, resumable after any kill, with a moving average of the weights."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from rise_perception.data.atomic import atomic_write
from rise_perception.data.coco import CocoDataset
from rise_perception.errors import ModelError
from rise_perception.learning.association import association_loss
from rise_perception.learning.batches import Batch, TrainingSamples, training_loader
from rise_perception.learning.config import OptimisationConfig, TrainConfig
from rise_perception.learning.criterion import match, supervised_loss
from rise_perception.learning.validation import validate
from rise_perception.network.checkpoint import ModelCard, save_model
from rise_perception.network.convert import initialise
from rise_perception.network.rise import RiseNetwork

CHECKPOINT = "checkpoint.safetensors"
HISTORY = "history.jsonl"


class Trainer:
    """Trains one network on labelled images.

    Args:
        config: what to train on what.
        command: the command line, for the model card.
        device: where the step runs.
        revision: git revision of the code, for the model card.
    """

    def __init__(self, config: TrainConfig, command: str, device: str = "cpu", revision: str = "") -> None:
        self.config, self.command, self.revision = config, command, revision
        self.device = torch.device(device)
        self.out = Path(config.out)
        optimisation = config.optimisation
        if optimisation.threads:
            torch.set_num_threads(optimisation.threads)
        torch.manual_seed(optimisation.seed)
        self.network = RiseNetwork(config.network)
        resumes = (self.out / CHECKPOINT).exists()
        if config.init and not resumes:
            untouched = ", ".join(initialise(self.network, config.init)) or "nothing"
            print(f"weights start from {config.init}; at random start: {untouched}", file=sys.stderr)
        self.network.to(self.device).to(memory_format=torch.channels_last)
        self.average = MovingAverage(self.network, optimisation.average) if optimisation.average else None
        self.optimiser = make_optimiser(self.network, optimisation)
        self.iteration = 0
        if resumes:
            self.restore(self.out / CHECKPOINT)

    def run(self) -> ModelCard:
        """Train up to ``optimisation.iterations`` and write the model; a second call goes on where it was."""
        config, steps = self.config, self.config.optimisation
        depth = config.network.input == "rgbd"
        sets = [CocoDataset(path, config.network.classes, depth) for path in config.data.train]
        if config.data.validation:
            # What is wrong with the file should show now, not when the training is over.
            CocoDataset(config.data.validation, config.network.classes, depth)
        samples = TrainingSamples(sets, config.data, config.network, steps.seed)
        loader = training_loader(samples, steps.batch, steps.iterations, self.iteration, config.data.workers)
        self.out.mkdir(parents=True, exist_ok=True)
        self.network.train()
        recent: dict[str, float] = {}
        with tqdm(
            total=steps.iterations, initial=self.iteration, unit="it", file=sys.stderr, mininterval=2
        ) as bar:
            for batch in loader:
                losses = self.step(batch)
                self.iteration += 1
                for name, value in losses.items():
                    recent[name] = 0.98 * recent.get(name, value) + 0.02 * value
                bar.update()
                bar.set_postfix_str(" ".join(f"{n} {v:.3f}" for n, v in recent.items()), refresh=False)
                if self.iteration % steps.save_every == 0 or self.iteration == steps.iterations:
                    self.save(recent)
        card = self.write_model()
        if config.data.validation:
            card = validate(self.out, config.data.validation, str(self.device))
        return card

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimisation step; the losses as floats.

        Raises:
            ModelError: the loss or its gradient is not finite; weights and last checkpoint are untouched.
        """
        # Dropout depends on the step alone, so that a resumed run repeats it.
        torch.manual_seed(hash((self.config.optimisation.seed, self.iteration, 0)) % 2**63)
        for group in self.optimiser.param_groups:
            group["lr"] = group["base_lr"] * rate_factor(self.iteration, self.config.optimisation)
        images = batch.images.to(self.device, memory_format=torch.channels_last)
        padding = None if batch.padding is None else batch.padding.to(self.device)
        targets = [t.to(self.device) for t in batch.targets]
        outputs = self.network(images, padding)
        losses = supervised_loss(outputs, targets, self.config.loss)
        matches = match(outputs, targets, self.config.loss.matching)
        losses["embeddings"] = association_loss(outputs.embeddings, matches, targets)
        losses["total"] = losses["total"] + self.config.loss.embedding_weight * losses["embeddings"]
        self.optimiser.zero_grad(set_to_none=True)
        losses["total"].backward()
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
        return {name: float(value.detach()) for name, value in losses.items()}

    def save(self, losses: dict[str, float]) -> None:
        """Write the whole state atomically, and a line of history."""
        tensors = {f"network.{n}": t for n, t in self.network.state_dict().items()}
        if self.average:
            tensors |= {f"average.{n}": t for n, t in self.average.state.items()}
        names = {id(p): n for n, p in self.network.named_parameters()}
        for group in self.optimiser.param_groups:
            for parameter in group["params"]:
                for key, value in self.optimiser.state[parameter].items():
                    tensors[f"adam.{key}.{names[id(parameter)]}"] = value
        meta = {"iteration": str(self.iteration)}
        with atomic_write(self.out / CHECKPOINT) as temporary:
            save_file(
                {n: t.detach().cpu().contiguous() for n, t in tensors.items()}, temporary, metadata=meta
            )
        with (self.out / HISTORY).open("a") as stream:
            stream.write(json.dumps({"iteration": self.iteration, **losses}) + "\n")

    def restore(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ModelError: the checkpoint is damaged or belongs to another network.
        """
        try:
            with safe_open(path, "pt") as stream:
                state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
                meta = stream.metadata()
            parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "adam": {}}
            for name, tensor in state.items():
                part, rest = name.split(".", 1)
                parts[part][rest] = tensor
            self.network.load_state_dict(parts["network"])
            if self.average and parts["average"]:
                self.average.state = {n: t.to(self.device) for n, t in parts["average"].items()}
            parameters = dict(self.network.named_parameters())
            for name, tensor in parts["adam"].items():
                key, name = name.split(".", 1)
                self.optimiser.state[parameters[name]][key] = _place(tensor, parameters[name])
            self.iteration = int(meta["iteration"])
        except (SafetensorError, KeyError, RuntimeError, ValueError) as error:
            raise ModelError(
                f"{path} does not fit this configuration or is damaged ({error}); remove it to start anew, "
                "or give another `out`"
            ) from error

    def write_model(self) -> ModelCard:
        """Write the (averaged) weights and their card."""
        if self.average:
            network = RiseNetwork(dataclasses.replace(self.config.network, pretrained=False))
            network.load_state_dict(self.average.state)
        else:
            network = self.network
        steps = self.config.optimisation
        data = f"{', '.join(self.config.data.train)}; {self.iteration} iterations of {steps.batch} images"
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


class MovingAverage:
    """Exponential moving average of a network's weights and norm statistics; counters are copied.

    The decay rises with the step so that the random start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {n: t.detach().clone() for n, t in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, iteration: int) -> None:
        """Take in the weights after step ``iteration``."""
        decay = min(self.decay, (1 + iteration) / (10 + iteration))
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)


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


def rate_factor(iteration: int, config: OptimisationConfig) -> float:
    """What multiplies the learning rate at a step: warm-up, the drop to a tenth, the linear decay to zero."""
    factor = min(1.0, (iteration + 1) / config.warmup) if config.warmup else 1.0
    share = iteration / config.iterations
    if share >= config.drop_at:
        factor *= 0.1
    if share > config.decay_from:
        factor *= max(0.0, (1 - share) / (1 - config.decay_from))
    return factor


def _place(tensor: Tensor, parameter: Tensor) -> Tensor:
    if tensor.ndim == 0:
        return tensor  # AdamW keeps its step count on the CPU
    return tensor.to(parameter.device).contiguous(
        memory_format=torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    )
