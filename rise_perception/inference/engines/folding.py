"""Folds the norms of convolutions into their weights: exact at inference, and two passes less each."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


def fold_norms(network: nn.Module, sample: Tensor, in_place: bool = False) -> nn.Module:
    """A network for inference, without the norms that follow a convolution.

    Which norm follows which convolution is seen by running the network once; modules that are called more
    than once stay as they are.

    Args:
        network: in evaluation mode.
        sample: (1, C, H, W), any input that the network takes.
        in_place: change the network itself; otherwise it stays as it is, and a copy is changed.
    """
    network = network.eval() if in_place else copy.deepcopy(network).eval()
    made: dict[
        int, tuple[nn.Conv2d, Tensor]
    ] = {}  # output's identity -> who made it, and the output, kept alive
    pairs: list[tuple[nn.Conv2d, nn.Module]] = []
    calls: dict[nn.Module, int] = {}

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[module] = calls.get(module, 0) + 1
        if isinstance(module, nn.Conv2d):
            made[id(output)] = (module, output)
        elif id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], module))

    watched = [m for m in network.modules() if isinstance(m, (nn.Conv2d, *NORMS))]
    hooks = [module.register_forward_hook(after) for module in watched]
    try:
        with torch.inference_mode():
            network(sample)
    finally:
        for hook in hooks:
            hook.remove()
    names = {module: name for name, module in network.named_modules()}
    for conv, norm in pairs:
        if calls[conv] == calls[norm] == 1:
            _fold(conv, norm)
            parent, _, name = names[norm].rpartition(".")
            # timm's norms carry their activation.
            rest = nn.Sequential(*(getattr(norm, part, nn.Identity()) for part in ("drop", "act")))
            plain = all(isinstance(part, nn.Identity) for part in rest)
            setattr(network.get_submodule(parent), name, nn.Identity() if plain else rest)
    return network


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.Module) -> None:
    scale = torch.rsqrt(norm.running_var + norm.eps)  # type: ignore[operator]
    shift = -norm.running_mean * scale  # type: ignore[operator]
    if norm.weight is not None:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias  # type: ignore[operator]
    bias = shift if conv.bias is None else shift + conv.bias * scale
    conv.weight = nn.Parameter((conv.weight * scale[:, None, None, None]), requires_grad=False)
    conv.bias = nn.Parameter(bias, requires_grad=False)
