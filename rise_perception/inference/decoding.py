"""From the network's outputs to decoded queries: the last step that needs torch."""

from __future__ import annotations

import torch
from torchvision.ops import batched_nms, box_convert

from rise_perception.inference.postprocess import SAME_BOX_IOU, TOP_K, DecodedQueries
from rise_perception.network.outputs import QueryOutputs


@torch.inference_mode()
def draw_queries(outputs: QueryOutputs, threshold: float) -> DecodedQueries:
    """Choose the queries that may become instances and draw their masks: the network's last step.

    Few are drawn, since drawing all would cost more than the network: the
    :data:`~rise_perception.inference.postprocess.TOP_K` best of those whose class probability reaches
    ``threshold`` and whose box repeats no better one.

    Args:
        outputs: outputs with B = 1.
        threshold: the lowest class probability, in [0, 1].
    """
    probability, classes = outputs.logits[0].float().sigmoid().max(-1)
    boxes = outputs.boxes[0].float()
    likely = (probability >= threshold).nonzero()[:, 0]
    corners = box_convert(boxes[likely], "cxcywh", "xyxy")
    query = likely[batched_nms(corners, probability[likely], classes[likely], SAME_BOX_IOU)[:TOP_K]]
    return decode_chosen(outputs, query)


@torch.inference_mode()
def decode_chosen(outputs: QueryOutputs, query: torch.Tensor) -> DecodedQueries:
    """Draw the queries (M,) int64 of outputs with B = 1."""
    assert outputs.embeddings is not None, "the outputs of the last stage carry embeddings"
    assert outputs.masks is not None  # only auxiliary outputs have none
    probability, classes = outputs.logits[0].float().sigmoid().max(-1)
    boxes = outputs.boxes[0].float()
    masks = outputs.masks(torch.zeros_like(query), query)
    parts = (
        probability[query],
        classes[query],
        boxes[query],
        outputs.embeddings[0, query].float(),
        masks.float(),
    )
    return DecodedQueries(*(part.cpu().numpy() for part in parts))
