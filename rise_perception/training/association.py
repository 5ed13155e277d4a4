"""Association loss: embeddings of one object in two views attract, all others repel (Eq. 4)."""

from __future__ import annotations

import torch
from torch import Tensor

from rise_perception.training.criterion import Matches
from rise_perception.training.distributed import normaliser
from rise_perception.training.matching import Targets


def association_loss(embeddings: Tensor, matches: Matches, targets: list[Targets]) -> Tensor:
    """L_embed = log(1 + sum over k+ and k- of exp(z . k- - z . k+)), the mean over the anchors z (Eq. 4).

    Images 2k and 2k + 1 are views of one scene. Anchors z are the matched queries of the first view; k+ are
    the queries of the second view that matched the same object, k- those that matched another.

    Args:
        embeddings: (B, Q, D), B even.
        matches: matched queries of all images.
        targets: the objects of each image that are known in both views, with their ids.

    Returns:
        scalar; zero, attached to the graph, when no object is in both views.
    """
    ids = torch.cat([targets[b].ids[matches.target[matches.batch == b]] for b in range(len(targets))])
    # `matches` is sorted by image, and so are the ids.
    total, anchors = embeddings.sum() * 0.0, 0
    for first in range(0, len(targets), 2):
        here, there = matches.batch == first, matches.batch == first + 1
        same = ids[here][:, None] == ids[there][None]  # (anchors, references)
        anchors += int(same.any(1).sum())
        # An anchor without any negative has nothing to learn: log(1 + 0).
        usable = same.any(1) & ~same.all(1)
        z = embeddings[first, matches.query[here][usable]].float()
        k = embeddings[first + 1, matches.query[there]].float()
        with torch.autocast(z.device.type, enabled=False):  # losses stay in full precision
            similarity = z @ k.T
        same = same[usable]
        # The double sum factorises: log(1 + sum exp(s-) * sum exp(-s+)) = softplus of two log-sum-exps.
        negative = similarity.masked_fill(same, -torch.inf).logsumexp(1)
        positive = (-similarity).masked_fill(~same, -torch.inf).logsumexp(1)
        total = total + torch.nn.functional.softplus(negative + positive).sum()
    return total / normaliser(anchors, embeddings.device)
