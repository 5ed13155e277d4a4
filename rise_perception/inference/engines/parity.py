"""Does an exported network say what torch says? Compared on stored frames, instance by instance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import nn

from rise_perception.core.errors import RiseError
from rise_perception.core.frame import Frame
from rise_perception.inference.decoding import decode_chosen
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.inference.postprocess import DecodedQueries
from rise_perception.network.config import INPUT_CHANNELS
from rise_perception.network.inputs import fit_input

#: Instances of a frame that are compared where none reaches the threshold.
MIN_COMPARED = 5
#: Masks of fewer cells, of 4x4 pixels of the network's input, are specks.
SPECK = 8


class ParityError(RiseError):
    """A graph or an engine whose results differ from torch's by more than its precision allows."""


@dataclass(frozen=True)
class Limits:
    """How far a runtime may be from torch.

    Attributes:
        mask_iou: least mean IoU of masks.
        found: least fraction of torch's instances that are found again.
        boxes: largest mean difference of box coordinates, as a fraction of the input.
        scores: largest mean difference of class probabilities.
        embeddings: least mean cosine of embeddings.
    """

    mask_iou: float
    found: float
    boxes: float
    scores: float
    embeddings: float


FULL = Limits(mask_iou=0.99, found=1.0, boxes=0.001, scores=0.001, embeddings=0.999)
HALF = Limits(mask_iou=0.97, found=0.97, boxes=0.005, scores=0.02, embeddings=0.99)


@dataclass(frozen=True)
class Parity:
    """Agreement with torch over the instances of all frames; fields as in :class:`Limits`, means.

    Attributes:
        instances: how many of torch's were looked for.
    """

    mask_iou: float
    found: float
    boxes: float
    scores: float
    embeddings: float
    instances: int

    def problems(self, limits: Limits) -> list[str]:
        """What exceeds the limits, one text each; NaN exceeds every limit."""
        own = asdict(self)
        least = ("mask_iou", "found", "embeddings")
        return [
            f"{name} {own[name]:.4g} ({'least' if name in least else 'largest'} allowed {limit:g})"
            for name, limit in asdict(limits).items()
            if not (own[name] >= limit if name in least else own[name] <= limit)
        ]

    def __str__(self) -> str:
        return (
            f"mask IoU {self.mask_iou:.4f}, boxes {self.boxes:.1e}, scores {self.scores:.1e}, embeddings "
            f"{self.embeddings:.5f}, found {self.found:.0%} of {self.instances}"
        )


def limits_of(precision: str) -> Limits:
    """What is asked of a precision."""
    return FULL if precision == "fp32" else HALF


@torch.inference_mode()
def reference(
    network: nn.Module, spec: ExportSpec, frames: Sequence[Frame], threshold: float
) -> list[DecodedQueries]:
    """What torch says about frames: the instances that parity is measured on.

    Args:
        network: as it is loaded, in FP32.
        spec: of the graph that is compared.
        frames: images of ``spec.image``.
        threshold: class probability; frames with fewer instances above it give their best.
    """
    device = next(network.parameters()).device
    drawn = []
    for frame in frames:
        mode = network.config.input  # type: ignore[union-attr]
        depth = frame.depth if INPUT_CHANNELS[str(mode)] > 3 else None
        box = spec.letterbox
        images = torch.from_numpy(fit_input(box, frame.image, depth, str(mode)))[None].to(device)
        mask = box.padding()
        padding = None if mask is None else torch.from_numpy(mask)[None].to(device)
        outputs = network(images, padding)
        probability, query = outputs.logits[0].float().sigmoid().max(-1).values.sort(descending=True)
        likely = int((probability >= threshold).sum())
        drawn.append(decode_chosen(outputs, query[: min(max(likely, MIN_COMPARED), spec.topk)]))
    return drawn


def compare(expected: Sequence[DecodedQueries], got: Sequence[DecodedQueries]) -> Parity:
    """Find torch's instances again.

    Args:
        expected: torch's, per frame.
        got: the runtime's, per frame; may hold more and in another order.
    """
    ious, boxes, scores, cosines, count = [], [], [], [], 0
    for want, have in zip(expected, got, strict=True):
        count += len(want.probability)
        for i in range(len(want.probability)):
            if len(have.probability) == 0:
                continue
            # The same instance: the same class, and the nearest in box, score and embedding.
            distance = (
                np.abs(have.boxes - want.boxes[i]).sum(1)
                + np.abs(have.probability - want.probability[i])
                + np.abs(have.embeddings - want.embeddings[i]).mean(1)
                + 10.0 * (have.classes != want.classes[i])
            )
            j = int(distance.argmin())
            a, b = want.masks[i] > 0, have.masks[j] > 0
            union = np.count_nonzero(a | b)
            # Of a speck, one cell more or less is half of it: its box and score are compared, not its mask.
            iou = np.count_nonzero(a & b) / union if union >= SPECK else math.nan
            if not distance[j] < 1.0 or iou < 0.5:
                continue
            ious.append(iou)
            boxes.append(np.abs(have.boxes[j] - want.boxes[i]).mean())
            scores.append(abs(float(have.probability[j] - want.probability[i])))
            norms = np.linalg.norm(have.embeddings[j]) * np.linalg.norm(want.embeddings[i])
            cosines.append(float(have.embeddings[j] @ want.embeddings[i] / max(norms, 1e-12)))
    if not ious:
        return Parity(0.0, 0.0, 1.0, 1.0, 0.0, count)
    drawn = np.array(ious)[np.isfinite(ious)]
    means = [float(np.mean(values)) for values in (drawn if len(drawn) else [1.0], boxes, scores, cosines)]
    return Parity(means[0], len(ious) / count, means[1], means[2], means[3], count)
