"""The selectors that learn nothing, and the regressor; all behind one protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from rise_perception.core.errors import require
from rise_perception.selection.candidates import ALL, DROP, STATE, Candidates

#: Overlap with the truth from which on a pseudo-label is worth believing.
WORTH = 0.7


class Selector(Protocol):
    """Decides about pseudo-labels."""

    def choose(self, candidates: Candidates) -> Tensor:
        """(N,) int64, one of :data:`rise_perception.selection.candidates.ACTIONS` for each candidate."""


@dataclass(frozen=True)
class Threshold:
    """Believes what scores at least ``threshold``.

    Attributes:
        threshold: lowest score at the start and at the end of the training.
    """

    threshold: tuple[float, float] = (0.85, 0.98)

    def __post_init__(self) -> None:
        require(
            all(0 <= t <= 1 for t in self.threshold),
            "threshold",
            self.threshold,
            "two scores between 0 and 1",
        )

    def choose(self, candidates: Candidates) -> Tensor:
        """See :class:`Selector`."""
        time = candidates.column("time")
        lowest = self.threshold[0] + (self.threshold[1] - self.threshold[0]) * time
        return _believe(candidates.column("score") >= lowest)


@dataclass(frozen=True)
class Cascade:
    """A threshold that rises, then a quantile of what passed it, that falls (RISE, Eq. 6).

    Attributes:
        threshold: lowest score at the start and at the end of the training.
        quantile: level of the quantile at the start; 0 at the end.
    """

    threshold: tuple[float, float] = (0.5, 0.85)
    quantile: float = 0.995

    def choose(self, candidates: Candidates) -> Tensor:
        """See :class:`Selector`; the candidates of one call share the quantile."""
        if not len(candidates):
            return torch.zeros(0, dtype=torch.int64)
        score, time = candidates.column("score"), candidates.column("time")
        passed = score >= self.threshold[0] + (self.threshold[1] - self.threshold[0]) * time
        if passed.any():
            level = self.quantile * max(0.0, 1 - float(time.max()))
            passed &= score >= score[passed].quantile(level, interpolation="nearest")
        return _believe(passed)


class Everything:
    """Believes all; soft weights of the pixels (:func:`pixel_weights`) may go with it."""

    def choose(self, candidates: Candidates) -> Tensor:
        """See :class:`Selector`."""
        return _believe(torch.ones(len(candidates), dtype=torch.bool, device=candidates.state.device))


class Random:
    """Draws among what is allowed: a control.

    Args:
        seed: of the draws.
        fraction: of the candidates that are dropped.
    """

    def __init__(self, seed: int, fraction: float = 0.5) -> None:
        require(0 <= fraction <= 1, "fraction", fraction, "between 0 and 1")
        self._generator = torch.Generator().manual_seed(seed)
        self._fraction = fraction

    def choose(self, candidates: Candidates) -> Tensor:
        """See :class:`Selector`."""
        chance = candidates.allowed.float().cpu()
        others = (chance.sum(1, keepdim=True) - 1).clamp(min=1)
        chance = chance * (1 - self._fraction) / others
        chance[:, DROP] = self._fraction
        chance[chance.sum(1) <= 0, DROP] = 1.0
        if not len(chance):
            return torch.zeros(0, dtype=torch.int64)
        drawn = torch.multinomial(chance, 1, generator=self._generator)[:, 0]
        return drawn.to(candidates.state.device)


class Regressor:
    """Predicts the overlap of a pseudo-label with the truth from its state, and believes what is worth it.

    It learns from labelled pairs in disguise: pairs whose truth is known, predicted as if it were not.

    Args:
        seed: of its weights.
        hidden: units of its hidden layer.
        rate: learning rate.
    """

    def __init__(self, seed: int = 0, hidden: int = 32, rate: float = 3e-3) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(len(STATE), hidden), nn.ReLU(), nn.Linear(hidden, 1))
        self._optimiser = torch.optim.Adam(self.network.parameters(), rate)

    def learn(self, candidates: Candidates, overlap: Tensor) -> float:
        """One step on candidates whose overlap (N,) with the truth is known; the loss before it."""
        if not len(candidates):
            return 0.0
        loss = functional.mse_loss(self.predict(candidates), overlap.detach())
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        return float(loss.detach())

    def predict(self, candidates: Candidates) -> Tensor:
        """(N,) overlap with the truth, in [0, 1]."""
        return self.network.to(candidates.state.device)(candidates.state)[:, 0].sigmoid()

    @torch.no_grad()
    def choose(self, candidates: Candidates) -> Tensor:
        """See :class:`Selector`."""
        return _believe(self.predict(candidates) >= WORTH)


def pixel_weights(probabilities: Tensor) -> Tensor:
    """Weights of a pseudo-mask's pixels by their certainty, as SemiRES has them.

    1.3 - exp(-(p - 0.5)^2 / 0.2) / sqrt(0.2 pi): least at 0.5, most at 0 and 1.
    """
    return 1.3 - torch.exp(-((probabilities - 0.5) ** 2) / 0.2) / (0.2 * torch.pi) ** 0.5


def _believe(kept: Tensor) -> Tensor:
    return torch.where(kept, ALL, DROP)
