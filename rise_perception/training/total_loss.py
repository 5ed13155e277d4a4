"""The unified loss: L = L_s on labelled images + l4 L_u on unlabelled ones + l3 L_embed on both (Eq. 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.association import association_loss
from rise_perception.training.criterion import LossConfig, match, supervised_loss
from rise_perception.training.matching import Targets


def unified_loss(
    outputs: QueryOutputs,
    known: list[Targets],
    labelled: Tensor,
    pseudo: list[Targets],
    config: LossConfig,
) -> dict[str, Tensor]:
    """All losses of a mixed batch.

    Args:
        outputs: the student's predictions on 2P images; images 2k and 2k + 1 are views of one scene.
        known: what is known of each image: everything where it is labelled, else the pasted objects.
        labelled: (2P,) bool.
        pseudo: targets of the first view of each unlabelled scene, those without any take no part; empty
            while nothing unlabelled teaches.
        config: the weights.

    Returns:
        scalars ``classes``, ``boxes``, ``masks`` (Eq. 1, unweighted) and their parts, ``unlabelled`` (L_u,
        Eq. 5), ``embeddings`` (L_embed, Eq. 4) and ``total``, attached to the graph also
        where nothing is to learn.
    """
    matches = match(outputs, known, config)  # of the last stage, for Eq. 1 and Eq. 4
    with_labels = labelled.nonzero().flatten()
    losses = supervised_loss(
        outputs.of_images(with_labels),
        [known[i] for i in with_labels.tolist()],
        config,
        matches.of_images(with_labels),
    )
    losses["unlabelled"] = unlabelled_loss(outputs, labelled, pseudo, config)
    assert outputs.embeddings is not None  # only auxiliary outputs have none
    losses["embeddings"] = association_loss(outputs.embeddings, matches, known)
    losses["total"] = (
        losses["total"]
        + config.unlabelled_weight * losses["unlabelled"]
        + config.embedding_weight * losses["embeddings"]
    )
    return losses


def unlabelled_loss(
    outputs: QueryOutputs, labelled: Tensor, pseudo: list[Targets], config: LossConfig
) -> Tensor:
    """L_u (Eq. 5): Eq. 1 against pseudo-labels, on the strongly augmented first views; zero without any.

    Args and scalar result as in :func:`unified_loss`.
    """
    first_views = (~labelled).nonzero().flatten()[::2][: len(pseudo)]
    taught = torch.tensor([len(t) > 0 for t in pseudo], dtype=torch.bool, device=first_views.device)
    images, targets = first_views[taught], [t for t in pseudo if len(t)]
    # With no image at all the sums are empty: a zero that is attached to the graph, in every process alike.
    return supervised_loss(outputs.of_images(images), targets, config)["total"]
