"""The crop encoder: what kind of thing an item is, and a vector of how it looks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from rise_perception.language.vocabulary import KINDS
from rise_perception.referring.descriptors import LENGTH

#: Outputs of the kind classifier: the kinds that have a name, and one for what has none.
OUTPUTS = len(KINDS) + 1
#: Descriptors are cut off at so many deviations.
_LIMIT = 5.0


class CropEncoder(nn.Module):
    """Two layers behind the descriptors of a crop.

    Args:
        features: width of the vectors.
    """

    def __init__(self, features: int = 96) -> None:
        super().__init__()
        self.features = features
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(LENGTH))
        self.register_buffer("deviation", torch.ones(LENGTH))
        self.look = nn.Sequential(nn.Dropout(0.2), nn.Linear(LENGTH, features), nn.ReLU())
        self.kinds = nn.Sequential(nn.Dropout(0.4), nn.Linear(features, OUTPUTS))

    def fit(self, descriptors: np.ndarray) -> None:
        """Take mean and deviation from (N, LENGTH) descriptors."""
        self.mean.copy_(torch.from_numpy(descriptors.mean(0)))
        self.deviation.copy_(torch.from_numpy(descriptors.std(0) + 1e-3))

    def forward(self, descriptors: Tensor) -> tuple[Tensor, Tensor]:
        """Encode crops.

        Args:
            descriptors: (N, LENGTH) float32 (:func:`rise_perception.referring.descriptors.describe`).

        Returns:
            (N, features) float32 vectors, and (N, 9) logits of the kinds and of "no name".
        """
        vectors = self.look(((descriptors - self.mean) / self.deviation).clamp(-_LIMIT, _LIMIT))
        return vectors, self.kinds(vectors)


def kind_probabilities(logits: Tensor) -> Tensor:
    """(N, 9) logits -> (N, 8) probabilities of the kinds that have a name."""
    return torch.softmax(logits.float(), -1)[:, : len(KINDS)]
