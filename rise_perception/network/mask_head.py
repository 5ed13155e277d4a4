"""Mask head: features at stride 8 (or 4) and, per query, the parameters of a tiny network that reads them.

Each query's MLP emits the weights of three 1x1 convolutions (Sec. 3.1): 8 mask channels and 2
coordinates relative to the query's centre -> 8 -> 8 -> 1, which makes 169 parameters. They are applied
as batched matrix products, which every runtime has.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rise_perception.network.config import NetworkConfig
from rise_perception.network.transformer import MLP

#: Relative coordinates are in units of this many pixels of the network's input.
COORDINATE_UNIT = 64.0


class MaskFeatures(nn.Module):
    """Top-down FPN over the memory at strides 8, 16, 32 (and over C2 for stride-4 masks)."""

    def __init__(self, config: NetworkConfig, c2_channels: int | None) -> None:
        super().__init__()
        width = config.width
        self.levels = min(config.levels, 3)
        self.lateral = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(self.levels - 1))
        self.smooth = nn.ModuleList(_conv_block(width, width) for _ in range(self.levels - 1))
        self.fine_lateral = None
        narrow = width
        if c2_channels is not None:
            narrow = max(32, width // 4)
            self.fine_reduce = nn.Conv2d(width, narrow, 1)
            self.fine_lateral = nn.Conv2d(c2_channels, narrow, 1)
        self.output = nn.Sequential(_conv_block(narrow, narrow), nn.Conv2d(narrow, config.mask_channels, 1))

    def forward(self, memory_maps: list[Tensor], c2: Tensor | None) -> Tensor:
        """Memory maps from fine to coarse (B, width, h, w) -> (B, mask_channels, H/stride, W/stride)."""
        top = memory_maps[self.levels - 1]
        for level in range(self.levels - 2, -1, -1):
            fine = self.lateral[level](memory_maps[level])
            top = self.smooth[level](fine + F.interpolate(top, size=fine.shape[-2:], mode="nearest"))
        if self.fine_lateral is not None:
            assert c2 is not None
            fine = self.fine_lateral(c2)
            top = fine + F.interpolate(
                self.fine_reduce(top), size=fine.shape[-2:], mode="bilinear", align_corners=False
            )
        return self.output(top)


class DynamicMaskHead(nn.Module):
    """Per-query weights of the three 1x1 convolutions, and their application."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        c = config.mask_channels
        self.shapes = [(c, c + 2), (c, c), (1, c)]  # (out, in) of each layer; the biases follow the weights
        self.parameters_per_query = sum(o * i + o for o, i in self.shapes)
        self.controller = MLP(config.width, config.width, self.parameters_per_query, 3)

    def forward(self, query: Tensor, centre: Tensor, features: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Mask logits of M queries of one image.

        Args:
            query: (M, width) decoder states.
            centre: (M, 2) centres of the queries' boxes, fractions of the input's width and height.
            features: (mask_channels, h, w) of the image.
            image_size: height and width of the network's input, in pixels.

        Returns:
            (M, h, w) logits at the features' stride.
        """
        count = query.shape[0]
        channels, h, w = features.shape
        parameters = self.controller(query)
        weights, biases, start = [], [], 0
        for out, inp in self.shapes:
            weights.append(parameters[:, start : start + out * inp].reshape(count, out, inp))
            biases.append(parameters[:, start + out * inp : start + out * inp + out].reshape(count, out, 1))
            start += out * inp + out
        extent = centre.new_tensor([image_size[1], image_size[0]])
        origin = (centre * extent / COORDINATE_UNIT)[:, :, None]  # (M, 2, 1)
        # W (position - centre) + b = W position + (b - W centre): the coordinates fold into the first bias,
        # and the first layer of all queries is one matrix product with one input.
        bias = biases[0] - torch.bmm(weights[0][:, :, channels:], origin)
        grid = pixel_grid(h, w, image_size, features)
        inputs = torch.cat([features.flatten(1), grid])  # (channels + 2, h*w)
        x = torch.addmm(bias.flatten(0, 1), weights[0].flatten(0, 1), inputs).unflatten(0, (count, channels))
        x = torch.baddbmm(biases[1], weights[1], torch.relu(x))
        x = torch.baddbmm(biases[2], weights[2], torch.relu(x))
        return x.view(count, h, w)


def pixel_grid(h: int, w: int, image_size: tuple[int, int], like: Tensor) -> Tensor:
    """(2, h*w): x and y of each cell's centre in units of COORDINATE_UNIT input pixels."""
    y = (torch.arange(h, dtype=like.dtype, device=like.device) + 0.5) * (image_size[0] / h / COORDINATE_UNIT)
    x = (torch.arange(w, dtype=like.dtype, device=like.device) + 0.5) * (image_size[1] / w / COORDINATE_UNIT)
    return torch.stack(torch.meshgrid(x, y, indexing="xy")).flatten(1)


def _conv_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.ReLU(inplace=True)
    )
