"""Training in several processes: ``torchrun --nproc-per-node N -m rise_perception.cli.main train CONFIG``.

Every process takes its share of each batch. Losses are divided by the mean count over the processes and the
gradients averaged after the backward pass, which gives the gradient of the joined batch. (Not through
DistributedDataParallel: masks are drawn after the forward pass, which its hooks do not see.)
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rise_perception.core.errors import ConfigError


def start_processes(device: torch.device) -> torch.device:
    """Join the group that torchrun describes, if it does; each process gets a GPU of its own on CUDA.

    Returns:
        the device of this process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return device


def stop_processes() -> None:
    """Leave the group; nothing happens without one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 writes the files."""
    return dist.get_rank() if dist.is_initialized() else 0


def wait_for_all() -> None:
    """Return when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def from_first(value: float, device: torch.device) -> float:
    """What the first process says."""
    if not dist.is_initialized():
        return value
    told = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(told, 0)
    return float(told)


def local_part(items: list[int]) -> list[int]:
    """This process's share of the items of a batch.

    Raises:
        ConfigError: they cannot be shared evenly.
    """
    if len(items) % processes():
        raise ConfigError(
            f"{len(items)} source images a step cannot be shared by {processes()} processes; "
            "change optimisation.batch or the number of processes"
        )
    return items[rank() :: processes()]


def normaliser(count: int, device: torch.device) -> float:
    """What this process divides a sum over ``count`` items by: the mean count over all processes.

    At least one item is counted among all, so that nothing is divided by zero.
    """
    if not dist.is_initialized():
        return float(max(count, 1))
    total = torch.tensor(float(count), device=device)
    dist.all_reduce(total)
    return max(float(total), 1.0) / processes()


@torch.no_grad()
def average_gradients(network: nn.Module) -> None:
    """Replace every gradient by its mean over the processes; a missing one counts as zero."""
    if not dist.is_initialized():
        return
    gradients = []
    for parameter in network.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= processes()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def mean_over_processes(values: dict[str, Tensor]) -> dict[str, float]:
    """Scalars, averaged over the processes."""
    stacked = torch.stack([v.detach().float() for v in values.values()])
    if dist.is_initialized():
        dist.all_reduce(stacked)
        stacked /= processes()
    return dict(zip(values, stacked.tolist(), strict=True))
