"""The protocol between a network and everything that learns from it or serves it.

A network is any ``torch.nn.Module`` whose ``forward(images, padding)`` returns :class:`QueryOutputs`.
Learning and runtime read nothing else of it, which makes them model-agnostic (the paper's Sec. 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


class MaskDecoder(Protocol):
    """Draws the masks of chosen queries only: of 300 queries, training matches a few dozen."""

    def __call__(self, batch: Tensor, query: Tensor, /) -> Tensor:
        """Mask logits of M (image, query) pairs.

        Args:
            batch: (M,) int64, index of the image; must not fall.
            query: (M,) int64, index of the query in that image.

        Returns:
            (M, h, w) float, logits at a quarter of the network's input size.
        """
        ...


#: Class logit before training: a prior of 1 %, for the focal loss.
PRIOR_LOGIT = -math.log((1 - 0.01) / 0.01)


@dataclass
class QueryOutputs:
    """Predictions of Q queries on B images.

    Attributes:
        logits: (B, Q, C) class logits; their sigmoid is the score.
        boxes: (B, Q, 4) centre x, centre y, width, height as fractions of the network's input.
        embeddings: (B, Q, D) contrastive embeddings z, or None on an auxiliary output.
        masks: draws mask logits of chosen queries; None on an auxiliary output that has no masks.
        auxiliary: outputs of earlier stages, trained alike and unused at inference. Their Q may differ.
    """

    logits: Tensor
    boxes: Tensor
    embeddings: Tensor | None
    masks: MaskDecoder | None
    auxiliary: list[QueryOutputs] = field(default_factory=list)

    def of_images(self, images: Tensor) -> QueryOutputs:
        """The predictions on some of the images.

        Args:
            images: (b,) int64, rising indices of images.
        """
        draw = self.masks
        return QueryOutputs(
            logits=self.logits[images],
            boxes=self.boxes[images],
            embeddings=None if self.embeddings is None else self.embeddings[images],
            masks=None if draw is None else lambda batch, query: draw(images[batch], query),
            auxiliary=[stage.of_images(images) for stage in self.auxiliary],
        )
