"""RISE's pseudo-labels chosen by a selector that learns on labelled images in disguise.

Labelled views of a batch are predicted like any other. How well each prediction overlaps the truth teaches
the selector on every other of these views; on the rest its precision is measured beside the cascade's. Where
it is lower, the cascade chooses. The truth of unlabelled images plays no part: nothing here ever sees it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rise_perception.network.outputs import QueryOutputs
from rise_perception.selection.candidates import ALL, DROP, Candidates, make_candidates, mask_columns
from rise_perception.selection.policy import Guarded, Policy, PolicyConfig
from rise_perception.selection.selectors import WORTH, Cascade, Random, Regressor
from rise_perception.training.batches import Batch
from rise_perception.training.boxes import iou_and_giou, masks_to_boxes, to_corners
from rise_perception.training.matching import Targets
from rise_perception.training.pseudo_labels import SelfSupervisionConfig, select

#: File of what a policy has learned, beside the checkpoint.
SELECTOR = "selector.safetensors"
#: Of an image, so many predictions are looked at, the best by score.
LOOKED_AT = 100


class LearnedChoice:
    """Chooses as :func:`rise_perception.training.pseudo_labels.select` does, by what has been learned.

    Args:
        config: ``selector`` is random, regressor or policy; thresholds and quantile are the cascade's.
        seed: of weights and draws.
    """

    def __init__(self, config: SelfSupervisionConfig, seed: int) -> None:
        self.config = config
        cascade = Cascade(config.class_threshold, config.quantile)
        self.learner: Policy | Regressor | Random
        if config.selector == "policy":
            self.learner = Policy(PolicyConfig(seed=seed), cascade)
        elif config.selector == "regressor":
            self.learner = Regressor(seed)
        else:
            self.learner = Random(seed)
        # Random is a control: it is not held back.
        self.guard = None if isinstance(self.learner, Random) else Guarded(self.learner, cascade)

    def select(
        self, outputs: QueryOutputs, image: int, scores: Tensor, iteration: int, iterations: int
    ) -> Tensor:
        """Which predictions of one image are believed.

        Args:
            outputs: predictions on B images.
            image: index of the image.
            scores: (Q,) class scores of its queries.
            iteration, iterations: the step t of T.

        Returns:
            (Q,) bool.
        """
        if self.guard is not None and self.guard.serving is self.guard.cascade:
            return select(scores, self.config, iteration, iterations)
        query, candidates, _ = look(outputs, image, scores, iteration / iterations, self.config)
        kept = torch.zeros_like(scores, dtype=torch.bool)
        kept[query] = self.learner.choose(candidates) == ALL
        return kept

    @torch.no_grad()
    def _looked_at(
        self, outputs: QueryOutputs, known: list[Targets], time: float
    ) -> list[tuple[Candidates, Tensor]]:
        """Candidates of each labelled view, and how well they overlap the truth (N,)."""
        found = []
        for image, truth in enumerate(known):
            scores = outputs.logits[image].float().sigmoid().max(-1).values
            _, candidates, masks = look(outputs, image, scores, time, self.config)
            found.append((candidates, best_overlap(masks, truth.masks.to(masks.device))))
        return found

    def learn_from(self, outputs: QueryOutputs, batch: Batch, time: float) -> dict[str, float]:
        """Learn from the labelled views of a batch, as :meth:`learn`."""
        views = batch.labelled.nonzero().flatten()
        return self.learn(outputs.of_images(views), [batch.targets[k] for k in views.tolist()], time)

    def learn(self, outputs: QueryOutputs, known: list[Targets], time: float) -> dict[str, float]:
        """Learn from predictions on labelled views, and measure on every other of them.

        Args:
            outputs: predictions on B labelled views.
            known: their truth.
            time: fraction of the training that is over.

        Returns:
            figures for the log.
        """
        if self.guard is None:
            return {}
        for number, (candidates, overlap) in enumerate(self._looked_at(outputs, known, time)):
            if number % 2:
                self.guard.measure(candidates, overlap)
            elif isinstance(self.learner, Policy):
                actions = self.learner.sample(candidates)
                self.learner.learn(candidates, actions, (actions != DROP) * (overlap - WORTH)[None])
            elif isinstance(self.learner, Regressor):
                self.learner.learn(candidates, overlap)
        learned, cascade = self.guard.precisions
        own = float(self.guard.serving is self.learner)
        figures = {"selector/precision": learned, "selector/cascade": cascade, "selector/serves": own}
        return {name: value for name, value in figures.items() if value == value}

    def save(self, path: Path) -> None:
        """Write what a policy has learned; the others begin anew, which costs them little."""
        if isinstance(self.learner, Policy):
            self.learner.save(path)

    def load(self, path: Path) -> None:
        """Read what a policy has learned, if written; the cascade chooses until it is measured anew."""
        if isinstance(self.learner, Policy) and path.exists():
            self.learner.load(path)


@torch.no_grad()
def look(
    outputs: QueryOutputs, image: int, scores: Tensor, time: float, config: SelfSupervisionConfig
) -> tuple[Tensor, Candidates, Tensor]:
    """The best predictions of one image as candidates.

    Returns:
        (N,) int64 queries, the candidates, and their (N, h, w) bool masks.
    """
    assert outputs.masks is not None  # only auxiliary outputs have none
    query = scores.topk(min(LOOKED_AT, len(scores))).indices
    score = scores[query].float()
    probabilities = outputs.masks(torch.full_like(query, image), query).float().sigmoid()
    masks = probabilities > 0.5
    boxes = to_corners(outputs.boxes[image, query].float())
    agreement, _ = iou_and_giou(boxes, to_corners(masks_to_boxes(masks)))
    chance = score.clamp(1e-6, 1 - 1e-6)
    columns = {
        "score": score,
        "margin": (2 * score - 1).abs(),
        "entropy": -(chance * chance.log2() + (1 - chance) * (1 - chance).log2()),
        "null": 1 - score,
        "agreement": agreement,
        "time": torch.full_like(score, time),
        **mask_columns(probabilities),
    }
    return query, make_candidates(columns), masks


def best_overlap(masks: Tensor, truth: Tensor) -> Tensor:
    """(N, h, w) and (K, h, w) bool -> (N,) the best intersection over union with any of the K."""
    if not len(truth):
        return torch.zeros(len(masks), device=masks.device)
    with torch.autocast(masks.device.type, enabled=False):  # half precision cannot count that far
        both = masks.flatten(1).float() @ truth.flatten(1).float().T
        areas = masks.flatten(1).float().sum(1)[:, None] + truth.flatten(1).float().sum(1)[None]
    return (both / (areas - both).clamp(min=1)).max(1).values
