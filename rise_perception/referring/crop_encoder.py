"""The crop encoder: what kind of thing an item is, and a vector of how it looks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from rise_perception.language.vocabulary import KINDS
from rise_perception.referring.crops import CHANNELS

#: Outputs of the kind classifier: the kinds that have a name, and one for what has none.
OUTPUTS = len(KINDS) + 1


class CropEncoder(nn.Module):
    """A small residual network.

    Args:
        width: of the first stage; the others have two and four times as many channels.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.features = 4 * width
        self.stem = _convolution(CHANNELS, width, 2)
        self.stages = nn.Sequential(
            _Block(width, width),
            _convolution(width, 2 * width, 2),
            _Block(2 * width, 2 * width),
            _convolution(2 * width, 4 * width, 2),
            _Block(4 * width, 4 * width),
        )
        self.kinds = nn.Linear(self.features, OUTPUTS)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Encode crops.

        Args:
            crops: (N, 6, 48, 48) uint8 (:func:`rise_perception.referring.crops.cut_crops`).

        Returns:
            (N, features) float32 vectors, and (N, 9) logits of the kinds and of "no name".
        """
        x = (crops.float() - 128) / 64
        x = self.stages(self.stem(x)).mean((2, 3))
        return x, self.kinds(functional.dropout(x, 0.2, self.training))


class _Block(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.first = _convolution(width, inner, 1)
        self.second = nn.Sequential(nn.Conv2d(inner, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(self.first(x)))


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def kind_probabilities(logits: Tensor) -> Tensor:
    """(N, 9) logits -> (N, 8) probabilities of the kinds that have a name."""
    return torch.softmax(logits.float(), -1)[:, : len(KINDS)]
