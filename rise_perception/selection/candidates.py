"""Pseudo-labels that wait for a decision: what is known of each, and what may be done with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: What can be done with a pseudo-label: leave it out; believe its certain pixels (p >= .9 or <= .1) alone;
#: believe all of it; believe the prior's mask in its place.
ACTIONS = ("drop", "core", "all", "prior")
DROP, CORE, ALL, PRIOR = range(len(ACTIONS))
#: What is known of a pseudo-label, each about 0 to 1: score, its lead before the next best, entropy of the
#: choice, probability of "nothing", area, solidity, agreement with the prior, agreement with what is
#: predicted on the mirrored image, fraction of unknown words, fraction of the training that is over.
STATE = (
    "score",
    "margin",
    "entropy",
    "null",
    "area",
    "solidity",
    "agreement",
    "flip",
    "unknown",
    "time",
)
#: Pixels that the action ``core`` believes.
CERTAIN = 0.9


@dataclass(frozen=True)
class Candidates:
    """N pseudo-labels.

    Attributes:
        state: (N, 10) float32, the columns of :data:`STATE`.
        allowed: (N, 4) bool, the :data:`ACTIONS` that can be taken; ``drop`` always can.
    """

    state: Tensor
    allowed: Tensor

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, chosen: Tensor) -> Candidates:
        return Candidates(self.state[chosen], self.allowed[chosen])

    def column(self, name: str) -> Tensor:
        """(N,) one column of the state."""
        return self.state[:, STATE.index(name)]


def make_candidates(columns: dict[str, Tensor], actions: Sequence[int] = (DROP, ALL)) -> Candidates:
    """Candidates of named columns (N,); a column that is missing is 0 for all.

    Args:
        columns: some of :data:`STATE`; values that are not finite become 0.
        actions: what may be done with every one of them.
    """
    first = next(iter(columns.values()))
    state = torch.zeros(len(first), len(STATE), device=first.device)
    for name, values in columns.items():
        state[:, STATE.index(name)] = torch.nan_to_num(values.float(), 0.0, 0.0, 0.0)
    allowed = torch.zeros(len(first), len(ACTIONS), dtype=torch.bool, device=first.device)
    allowed[:, list(actions)] = True
    allowed[:, DROP] = True
    return Candidates(state, allowed)


def mask_columns(probabilities: Tensor) -> dict[str, Tensor]:
    """``area`` and ``solidity`` of soft masks.

    Args:
        probabilities: (N, h, w) in [0, 1].

    Returns:
        (N,) fraction of the image, and (N,) fraction of the bounding box that the mask fills.
    """
    inside = probabilities > 0.5
    area = inside.flatten(1).sum(1).float()
    rows, columns = inside.any(2), inside.any(1)
    box = _extent(rows) * _extent(columns)
    return {
        "area": area / probabilities[0].numel() if len(area) else area,
        "solidity": area / box.clamp(min=1),
    }


def _extent(lines: Tensor) -> Tensor:
    """(N, L) bool -> (N,) float, from the first to the last that is set."""
    if not lines.shape[1]:
        return torch.zeros(len(lines), device=lines.device)
    first = lines.float().argmax(1)
    last = lines.shape[1] - 1 - lines.flip(1).float().argmax(1)
    return torch.where(lines.any(1), last - first + 1, 0).float()


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """(N,) intersection over union of (N, h, w) bool masks, one by one; 1 where both are empty."""
    both, either = (a & b).flatten(1).sum(1).float(), (a | b).flatten(1).sum(1).float()
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)
