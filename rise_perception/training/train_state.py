"""The whole state of a training run in one safetensors file, written atomically."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from rise_perception.core.errors import ModelError
from rise_perception.core.files import atomic_write


class MovingAverage:
    """Exponential moving average of a network's weights and norm statistics; counters are copied.

    The decay rises with the step so that the random start is soon forgotten.

    Attributes:
        state: the averaged state dictionary.
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


def save_state(
    path: Path,
    iteration: int,
    network: nn.Module,
    average: MovingAverage | None,
    optimiser: torch.optim.Optimizer,
    seconds: float = 0.0,
) -> None:
    """Write everything that a run needs to go on after step ``iteration``, ``seconds`` after it began."""
    tensors = {f"network.{n}": t for n, t in network.state_dict().items()}
    if average:
        tensors |= {f"average.{n}": t for n, t in average.state.items()}
    names = {id(p): n for n, p in network.named_parameters()}
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            for key, value in optimiser.state[parameter].items():
                tensors[f"adam.{key}.{names[id(parameter)]}"] = value
    with atomic_write(path) as temporary:
        save_file(
            {n: t.detach().cpu().contiguous() for n, t in tensors.items()},
            temporary,
            metadata={"iteration": str(iteration), "seconds": repr(seconds)},
        )


def load_state(
    path: Path, network: nn.Module, average: MovingAverage | None, optimiser: torch.optim.Optimizer
) -> int:
    """Put a saved state into its parts; the iteration after which it was saved.

    Raises:
        ModelError: the file is damaged or belongs to another network.
    """
    try:
        with safe_open(path, "pt") as stream:
            state = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
            iteration = int(stream.metadata()["iteration"])
        parts: dict[str, dict[str, Tensor]] = {"network": {}, "average": {}, "adam": {}}
        for name, tensor in state.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = tensor
        network.load_state_dict(parts["network"])
        if average and parts["average"]:
            average.state = {n: t.to(average.state[n].device) for n, t in parts["average"].items()}
        parameters = dict(network.named_parameters())
        for name, tensor in parts["adam"].items():
            key, name = name.split(".", 1)
            optimiser.state[parameters[name]][key] = _place(tensor, parameters[name])
    except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"{path} does not fit this configuration or is damaged ({error}); remove it to start anew, "
            "or give another `out`"
        ) from error
    return iteration


def saved_seconds(path: Path) -> float:
    """How long the run that wrote the state had been training."""
    with safe_open(path, "pt") as stream:
        return float((stream.metadata() or {}).get("seconds", 0.0))


def _place(tensor: Tensor, parameter: Tensor) -> Tensor:
    if tensor.ndim == 0:
        return tensor  # AdamW keeps its step count on the CPU
    return tensor.to(parameter.device).contiguous(
        memory_format=torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
    )
