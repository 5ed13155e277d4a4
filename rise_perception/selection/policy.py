"""A policy over pseudo-labels, learned by group-relative policy optimisation.

    loss = -mean_g min(r_g A_g, clip(r_g, 0.8, 1.2) A_g) + 0.02 KL(policy || cascade) - 0.01 entropy

Groups of 8 joint actions are drawn on the same candidates; A = (R - mean R) / deviation within the group. The
policy starts as the cascade: its logits are the cascade's, plus a network whose last layer is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rise_perception.core.errors import ModelError, require
from rise_perception.core.files import atomic_write
from rise_perception.selection.candidates import ACTIONS, STATE, Candidates
from rise_perception.selection.selectors import Cascade, Selector


@dataclass(frozen=True)
class PolicyConfig:
    """How a policy learns; the defaults are the method's.

    Attributes:
        group: joint actions that are drawn on one set of candidates.
        clip: how far the probability of an action may change in one update, as a ratio.
        kl: weight of the divergence from the cascade.
        entropy: weight of the entropy.
        rate: learning rate.
        steps: gradient steps on each group.
        hidden: units of the hidden layer.
        faith: probability that the policy gives the cascade's action at the start.
        seed: of weights and draws.
    """

    group: int = 8
    clip: float = 0.2
    kl: float = 0.02
    entropy: float = 0.01
    rate: float = 3e-3
    steps: int = 2
    hidden: int = 32
    faith: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.group >= 2, "policy.group", self.group, "at least 2")
        require(0 < self.clip < 1, "policy.clip", self.clip, "between 0 and 1")
        for name in ("kl", "entropy"):
            require(getattr(self, name) >= 0, f"policy.{name}", getattr(self, name), "0 or more")
        require(self.rate > 0, "policy.rate", self.rate, "above 0")
        for name in ("steps", "hidden"):
            require(getattr(self, name) >= 1, f"policy.{name}", getattr(self, name), "at least 1")
        require(0.25 <= self.faith < 1, "policy.faith", self.faith, "from 0.25 to below 1")


class Policy:
    """See the module.

    Args:
        config: how it learns.
        start: what it starts as and is held to.
    """

    def __init__(self, config: PolicyConfig | None = None, start: Selector | None = None) -> None:
        self.config = config or PolicyConfig()
        self.start = start or Cascade()
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            self.network = nn.Sequential(
                nn.Linear(len(STATE), self.config.hidden),
                nn.Tanh(),
                nn.Linear(self.config.hidden, len(ACTIONS)),
            )
        last = self.network[2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self._generator = torch.Generator().manual_seed(self.config.seed)
        self._optimiser = torch.optim.Adam(self.network.parameters(), self.config.rate)

    def reference(self, candidates: Candidates) -> Tensor:
        """(N, 4) log-probabilities of the start: ``faith`` on its action, the rest on the others."""
        chosen = self.start.choose(candidates).to(candidates.state.device)
        others = (candidates.allowed.sum(1, keepdim=True) - 1).clamp(min=1)
        chance = candidates.allowed.float() * (1 - self.config.faith) / others
        chance.scatter_(1, chosen[:, None], self.config.faith)
        return torch.where(candidates.allowed, chance, 0.0).clamp(min=1e-12).log().log_softmax(1)

    def log_probabilities(self, candidates: Candidates) -> Tensor:
        """(N, 4) log-probabilities of the actions; those not allowed have none (-inf)."""
        logits = self.reference(candidates) + self.network.to(candidates.state.device)(candidates.state)
        return logits.masked_fill(~candidates.allowed, -torch.inf).log_softmax(1)

    @torch.no_grad()
    def choose(self, candidates: Candidates) -> Tensor:
        """(N,) the likeliest action of each candidate."""
        if not len(candidates):
            return torch.zeros(0, dtype=torch.int64, device=candidates.state.device)
        return self.log_probabilities(candidates).argmax(1)

    @torch.no_grad()
    def sample(self, candidates: Candidates) -> Tensor:
        """(G, N) joint actions, drawn independently for each candidate."""
        if not len(candidates):
            return torch.zeros(self.config.group, 0, dtype=torch.int64)
        chance = self.log_probabilities(candidates).exp().cpu()
        drawn = torch.multinomial(chance, self.config.group, replacement=True, generator=self._generator)
        return drawn.T.to(candidates.state.device)

    def learn(self, candidates: Candidates, actions: Tensor, rewards: Tensor) -> dict[str, float]:
        """Learn from one group.

        Args:
            candidates: N pseudo-labels.
            actions: (G, N) int64, of :meth:`sample`.
            rewards: (G,) of each joint action; or (G, N), where every candidate's own is known.

        Returns:
            mean reward, divergence from the start, and entropy.
        """
        if not len(candidates):
            return {"reward": 0.0, "kl": 0.0, "entropy": 0.0}
        rewards = torch.nan_to_num(rewards.float().to(candidates.state.device))
        advantage = (rewards - rewards.mean(0)) / rewards.std(0).clamp(min=1e-6)
        if rewards.ndim == 1:
            advantage = advantage[:, None]
        index = actions[..., None]
        with torch.no_grad():
            before = self._taken(self.log_probabilities(candidates), index)
        clip = self.config.clip
        for _ in range(self.config.steps):
            logs = self.log_probabilities(candidates)
            ratio = (self._taken(logs, index) - before).exp()
            gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
            self._step(-gain.mean(), candidates, logs)
        kl, entropy = self._divergence(candidates, logs)
        return {"reward": float(rewards.mean()), "kl": float(kl.detach()), "entropy": float(entropy.detach())}

    def learn_exactly(self, candidates: Candidates, worth: Tensor) -> float:
        """The exact gradient of the expected reward, where every action's reward is known: a control.

        Args:
            candidates: N pseudo-labels.
            worth: (N, 4) reward of each action; what is not allowed plays no part.

        Returns:
            the expected reward before the step.
        """
        logs = self.log_probabilities(candidates)
        expected = (logs.exp() * worth.masked_fill(~candidates.allowed, 0.0)).sum(1).mean()
        self._step(-expected, candidates, logs)
        return float(expected.detach())

    def state(self) -> dict[str, Tensor]:
        """The network's weights."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write the weights as safetensors, atomically."""
        with atomic_write(path) as temporary:
            save_file(self.state(), temporary)

    def load(self, path: Path) -> None:
        """Read weights; ModelError where they are damaged or of another size."""
        try:
            self.network.load_state_dict(load_file(path))
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ModelError(f"policy {path} cannot be read ({error}); remove it to start anew") from error

    def _step(self, objective: Tensor, candidates: Candidates, logs: Tensor) -> None:
        kl, entropy = self._divergence(candidates, logs)
        loss = objective + self.config.kl * kl - self.config.entropy * entropy
        self._optimiser.zero_grad()
        loss.backward()
        if all(torch.isfinite(p.grad).all() for p in self.network.parameters() if p.grad is not None):
            self._optimiser.step()

    def _divergence(self, candidates: Candidates, logs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean KL(policy || start), and mean entropy."""
        chance = logs.exp()
        finite = logs.masked_fill(~candidates.allowed, 0.0)
        kl = (chance * (finite - self.reference(candidates)).masked_fill(~candidates.allowed, 0.0)).sum(1)
        return kl.mean(), -(chance * finite).sum(1).mean()

    @staticmethod
    def _taken(logs: Tensor, index: Tensor) -> Tensor:
        """(N, 4) and (G, N, 1) -> (G, N) log-probabilities of the actions taken."""
        return logs[None].expand(len(index), -1, -1).gather(2, index)[..., 0]


class Guarded:
    """A learned selector that has to be at least as precise as the cascade on what is held out.

    Precision is the fraction of the believed pseudo-labels that overlap the truth enough; both are measured
    on the same held-out candidates, as moving averages. Until something was measured the cascade chooses.

    Args:
        learned: the selector that learns.
        cascade: what chooses in its place.
        worth: overlap from which on a pseudo-label is right.
        memory: decay of the averages.
    """

    def __init__(
        self, learned: Selector, cascade: Selector | None = None, worth: float = 0.5, memory: float = 0.95
    ) -> None:
        self.learned, self.cascade = learned, cascade or Cascade()
        self._worth, self._memory = worth, memory
        #: Believed and right, of the learned selector and of the cascade.
        self._counts = torch.zeros(2, 2, dtype=torch.float64)

    def measure(self, candidates: Candidates, overlap: Tensor) -> None:
        """Take in held-out candidates; none is learned from.

        Args:
            candidates: N pseudo-labels.
            overlap: (N,) with the truth, or (N, 4) after each action.
        """
        self._counts *= self._memory
        for row, selector in enumerate((self.learned, self.cascade)):
            actions = selector.choose(candidates)
            own = overlap if overlap.ndim == 1 else overlap.gather(1, actions[:, None])[:, 0]
            believed = actions > 0
            right = believed & (own >= self._worth)
            self._counts[row] += torch.stack([believed.sum(), right.sum()]).double().cpu()

    @property
    def precisions(self) -> tuple[float, float]:
        """Of the learned selector and of the cascade; NaN where nothing was believed."""
        believed, right = self._counts.T.tolist()
        learned, cascade = (r / b if b else float("nan") for r, b in zip(right, believed, strict=True))
        return learned, cascade

    @property
    def serving(self) -> Selector:
        """The learned selector while it is not less precise than the cascade, else the cascade."""
        learned, cascade = self.precisions
        if learned != learned:
            return self.cascade
        return self.learned if cascade != cascade or learned >= cascade else self.cascade

    def choose(self, candidates: Candidates) -> Tensor:
        """See :class:`rise_perception.selection.selectors.Selector`."""
        return self.serving.choose(candidates)
