"""Selectors of the referring benchmark that learn: from labelled sentences in disguise, and by virtual steps.

A fold is half of the labelled images. A model that was taught one fold answers the sentences of the other as
if nobody knew their meaning: what its answers are worth is then known, and it never saw them. Unlabelled
sentences have no such worth; of them a policy is told how much one step on the believed ones lowers the loss
of that model on the other fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.referring_labels import Predicted, as_label
from rise_perception.referring.features import SAME
from rise_perception.referring.head import ReferringHead
from rise_perception.referring.head_training import Example, head_loss
from rise_perception.selection.candidates import ALL, DROP, PRIOR, Candidates
from rise_perception.selection.policy import Guarded, Policy, PolicyConfig
from rise_perception.selection.selectors import WORTH, Cascade, Regressor

#: Updates of a policy, sentences of each without and with a known meaning, and the policy's learning rate:
#: there are few updates.
UPDATES, UNLABELLED, DISGUISED, RATE = 30, 16, 16, 1e-2
#: Steps of what learns from the disguised alone.
EXACT_STEPS, REGRESSOR_STEPS = 200, 400
#: Weights of agreement with the prior and of coverage beside the fall of the loss; rate of a virtual step.
AGREEMENT, COVERAGE, VIRTUAL_RATE = 0.5, 0.1, 0.1
#: Fractions of the training at which is chosen: for its first half, and for its second.
TIMES = (0.5, 1.0)


@dataclass(frozen=True)
class Fold:
    """A model taught one fold, and its answers to others.

    Attributes:
        head: of the model.
        disguised: the other fold's sentences, answered as if unknown.
        worth: (M, 4) of these (:func:`benchmarks.referring_labels.worth`).
        truths: their known meanings.
        unlabelled: sentences whose meaning nobody knows.
    """

    head: ReferringHead
    disguised: Predicted
    worth: Tensor
    truths: list[Example]
    unlabelled: Predicted


def learn_selector(name: str, folds: Sequence[Fold], seed: int, pixels: float) -> Guarded | Regressor:
    """A selector of what is learned on the folds.

    Args:
        name: ``policy``, ``exact`` (the gradient of the expected worth of the disguised in place of drawn
            actions) or ``regressor``.
        folds: of the labelled sentences.
        seed: of weights and draws.
        pixels: weight of the pixel loss in virtual steps.

    Returns:
        what was learned; policies give way to the cascade where that is more precise on disguised sentences
        that none of them has learned from.
    """
    rng = np.random.default_rng([seed, 11])
    if name == "regressor":
        regressor = Regressor(seed)
        for step in range(REGRESSOR_STEPS):
            fold = folds[step % len(folds)]
            regressor.learn(fold.disguised.at(TIMES[step // 2 % 2]), fold.worth[:, ALL])
        return regressor
    policy = Policy(PolicyConfig(rate=RATE, seed=seed))
    for step in range(EXACT_STEPS if name == "exact" else UPDATES):
        fold, time = folds[step % len(folds)], TIMES[step // 2 % 2]
        rows = _draw(rng, np.arange(0, len(fold.truths), 2), DISGUISED)
        if name == "exact":
            gain = (fold.worth[rows] - WORTH) * (torch.arange(4) != DROP)
            policy.learn_exactly(fold.disguised.at(time)[torch.from_numpy(rows)], gain)
        else:
            _update(
                policy, fold, time, rows, _draw(rng, np.arange(len(fold.unlabelled.pi)), UNLABELLED), pixels
            )
    guard = Guarded(policy, Cascade(), SAME, memory=1.0)
    for fold in folds:
        heldout = torch.arange(1, len(fold.truths), 2)
        for time in TIMES:
            guard.measure(fold.disguised.at(time)[heldout], fold.worth[heldout])
    return guard


def _update(
    policy: Policy, fold: Fold, time: float, rows: np.ndarray, free: np.ndarray, pixels: float
) -> None:
    """One group: the disguised are rewarded each by its worth, the unlabelled together by a virtual step."""
    known = fold.disguised.at(time)[torch.from_numpy(rows)]
    unknown = fold.unlabelled.at(time)[torch.from_numpy(free)]
    candidates = Candidates(
        torch.cat([known.state, unknown.state]), torch.cat([known.allowed, unknown.allowed])
    )
    actions = policy.sample(candidates)
    gain = fold.worth[rows].gather(1, actions[:, : len(rows)].T).T - WORTH
    own = gain * (actions[:, : len(rows)] != DROP)
    joint = virtual_rewards(fold, free, actions[:, len(rows) :], rows, pixels)
    policy.learn(candidates, actions, torch.cat([own, joint[:, None].expand(-1, len(free))], 1))


def virtual_rewards(
    fold: Fold, free: np.ndarray, actions: Tensor, judged: np.ndarray, pixels: float
) -> Tensor:
    """(G,) rewards of joint actions on unlabelled sentences.

    Args:
        fold: whose model makes the virtual steps.
        free: (M,) which of its unlabelled sentences.
        actions: (G, M).
        judged: which sentences of the other fold the loss is of.
        pixels: weight of the pixel loss in the steps.
    """
    judges = [fold.truths[k] for k in judged]
    before = _loss(fold.head, judges)
    rewards = []
    for joint in actions.tolist():
        labels = [as_label(fold.unlabelled, row, action) for row, action in zip(free, joint, strict=True)]
        taught = [label for label in labels if label is not None]
        if not taught:
            rewards.append(0.0)
            continue
        fall = before - _loss_after_step(fold.head, taught, judges, pixels)
        kept = [k for k, action in enumerate(joint) if action != DROP]
        agreements = fold.unlabelled.candidates[torch.from_numpy(free[kept])].column("agreement")
        beliefs = torch.tensor([joint[k] == PRIOR for k in kept])
        agreement = float(torch.where(beliefs, 1.0, agreements).mean())
        rewards.append(fall + AGREEMENT * agreement + COVERAGE * len(kept) / len(joint))
    return torch.tensor(rewards)


def _loss_after_step(
    head: ReferringHead, taught: list[Example], judges: list[Example], pixels: float
) -> float:
    """The loss on ``judges`` after one step on ``taught``; the head is left as it was."""
    kept = [p.detach().clone() for p in head.parameters()]
    head.zero_grad(set_to_none=True)
    head_loss(head.eval(), taught, pixels, "cpu", np.zeros(len(taught), bool)).backward()
    torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
    with torch.no_grad():
        for parameter in head.parameters():
            if parameter.grad is not None:
                parameter.sub_(VIRTUAL_RATE * parameter.grad)
    after = _loss(head, judges)
    with torch.no_grad():
        for parameter, old in zip(head.parameters(), kept, strict=True):
            parameter.copy_(old)
    head.zero_grad(set_to_none=True)
    return after


@torch.no_grad()
def _loss(head: ReferringHead, examples: list[Example]) -> float:
    """Of the choice alone: pixels follow it, and cost as much again."""
    return float(head_loss(head.eval(), examples, 0.0, "cpu", np.zeros(len(examples), bool)))


def _draw(rng: np.random.Generator, rows: np.ndarray, most: int) -> np.ndarray:
    return rng.permutation(rows)[:most]
