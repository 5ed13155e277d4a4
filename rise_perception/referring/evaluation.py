"""How good answers are: the right item, what is refused, and with which thresholds that is so."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import torch

from rise_perception.referring.answer import Status, Thresholds, judge
from rise_perception.referring.features import SAME
from rise_perception.referring.head import ReferringHead, collate
from rise_perception.referring.head_training import Example, on_device

#: Of the sentences that fit nothing, and of those that fit several, at least this fraction is not to be
#: answered by an item.
WANTED = 0.8


@torch.inference_mode()
def answer_all(
    head: ReferringHead | None, examples: Sequence[Example], device: str, batch: int = 64
) -> list[np.ndarray]:
    """(N + 1,) probabilities for each example, by a head, or by the prior alone."""
    if head is None:
        return [_of_prior(example) for example in examples]
    head.eval()
    found: list[np.ndarray] = []
    for start in range(0, len(examples), batch):
        part = examples[start : start + batch]
        asked = collate([e.question for e in part], head.config.embedding)
        logs, _ = head(on_device(asked, device))
        pi = logs.exp().double().cpu().numpy()
        found += [np.append(row[: len(e.question.scene)], row[-1]) for row, e in zip(pi, part, strict=True)]
    return found


def _of_prior(example: Example) -> np.ndarray:
    belief = example.question.prior
    if belief is None:
        return np.append(np.zeros(len(example.question.scene)), 0.0)
    return np.append(belief.unique, belief.none)


def score(
    examples: Sequence[Example], chances: Sequence[np.ndarray], thresholds: Thresholds
) -> dict[str, float]:
    """Figures of answers.

    Returns:
        ``accuracy``, fraction of the sentences that fit one item which found it (intersection over union
        0.5); ``accuracy_without_kinds``, of those that name no kind; ``top1``, the same as the first whatever
        the thresholds; ``t_acc``, fraction of them not refused; ``n_acc``, fraction refused of the sentences
        that fit nothing; ``several_acc``, of those that fit several; ``precision``, fraction of the found
        that are right; ``miou``, mean overlap over the sentences that fit one item; and ``sentences``.
    """
    right, top, given, overlaps, plain = [], [], [], [], []
    refused: dict[int, list[bool]] = {0: [], 2: []}
    found = found_right = 0
    for example, pi in zip(examples, chances, strict=True):
        status, rows = judge(pi, thresholds, example.question.prior)
        is_found = status is Status.FOUND
        found += is_found
        if example.fits != 1:
            refused[min(2, example.fits)].append(not is_found)
            continue
        assert example.overlap is not None
        overlap = float(example.overlap[rows[0]]) if is_found else 0.0
        right.append(overlap >= SAME)
        found_right += overlap >= SAME
        if not example.named:
            plain.append(right[-1])
        best = float(example.overlap[int(pi[:-1].argmax())]) if len(pi) > 1 else 0.0
        top.append(best >= SAME)
        given.append(is_found)
        overlaps.append(overlap)
    return {
        "accuracy": _mean(right),
        "accuracy_without_kinds": _mean(plain),
        "top1": _mean(top),
        "t_acc": _mean(given),
        "n_acc": _mean(refused[0]),
        "several_acc": _mean(refused[2]),
        "precision": round(found_right / found, 4) if found else 0.0,
        "miou": _mean(overlaps),
        "sentences": len(examples),
    }


def choose_thresholds(examples: Sequence[Example], chances: Sequence[np.ndarray]) -> Thresholds:
    """The thresholds under which most fitting sentences find their item while enough others are refused.

    Enough is :data:`WANTED` of those that fit nothing, and of those that fit several; where no thresholds
    refuse so many, those that come nearest are taken.
    """
    best, chosen = -np.inf, Thresholds()
    result = chosen
    for found, lead, several in itertools.product(
        np.arange(0.2, 0.91, 0.05), (1.5, 2.0, 3.0), (0.4, 0.5, 0.6, 0.7)
    ):
        tried = dataclasses.replace(chosen, found=round(float(found), 2), lead=lead, several=several)
        figures = score(examples, chances, tried)
        missing = sum(1 - min(figures[name], WANTED) / WANTED for name in ("n_acc", "several_acc"))
        value = figures["accuracy"] - 4 * missing
        if value > best:
            best, result = value, tried
    return result


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if len(values) else 0.0
