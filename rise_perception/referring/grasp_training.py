"""A referring model goes on learning from grasps: `referred` says which item a sentence meant.

The newest grasps are held out and judge. A model that does not answer them better than the one that it
started from, or that has forgotten what other scenes taught, replaces nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rise_perception.core.errors import DataError
from rise_perception.inference.segmenter import Segmenter
from rise_perception.referring.config import ReferringTraining
from rise_perception.referring.descriptors import describe
from rise_perception.referring.evaluation import answer_all, score
from rise_perception.referring.features import Features, compute_features, true_crops, true_crops_of
from rise_perception.referring.head_training import Example, make_examples, train_head
from rise_perception.referring.kind_training import train_on_descriptors
from rise_perception.referring.loaders import open_pairs
from rise_perception.referring.model import (
    ReferringCard,
    ReferringModel,
    load_referring_model,
    save_referring_model,
)
from rise_perception.referring.pairs import ReferringData
from rise_perception.referring.priors import Prior, make_prior
from rise_perception.referring.referrer import find_referring_model
from rise_perception.referring.text import TextEncoder

#: Share of the grasps, the newest, that judge.
HELD_OUT = 0.2
#: Grasps are shown so often that they are this share of what is learned; the rest is rehearsal.
SHARE = 0.3
#: Accuracy on rehearsal scenes that learning may cost.
FORGOTTEN = 0.01
#: A held-out grasp is no less probable than this: the robot may have been told wrong.
_LEAST = 0.05


@dataclasses.dataclass(frozen=True)
class _Given:
    """Scenes with sentences, measured; ``data`` cuts out their items."""

    data: ReferringData
    features: Features

    def examples(self, model: ReferringModel, prior: Prior, text: TextEncoder | None) -> list[Example]:
        return make_examples(self.features, list(self.data.names), model, prior, text)


def learn_from_grasps(
    config: ReferringTraining, command: str, device: str = "cpu", revision: str = ""
) -> ReferringCard:
    """Teach a model what grasps said of sentences, judge it, and write it, or else the start.

    It takes minutes; a call that was stopped begins again.

    Args:
        config: with ``init``, ``data.grasps``, rehearsal and validation.
        command: the command line, for the card.
        device: where it runs.
        revision: git revision of the code, for the card.

    Raises:
        DataError: too few grasps.
    """
    steps, data = config.optimisation, config.data
    if steps.threads:
        torch.set_num_threads(steps.threads)
    torch.manual_seed(steps.seed)
    segmenter, prior = Segmenter.load(data.segmenter, device), make_prior(data.prior)
    start, card = load_referring_model(find_referring_model(config.init), device)
    text = TextEncoder(Path(card.referring.text)) if card.referring.text else None

    def read(path: str) -> _Given:
        pairs = open_pairs(path)
        return _Given(pairs, compute_features(pairs, segmenter, Path(data.cache)))

    split = [_split(read(path)) for path in data.grasps]
    teaching, judging = [old for old, _ in split], [new for _, new in split]
    rehearsal, validation = [read(path) for path in data.train], read(data.validation)

    model = copy.deepcopy(start)
    _teach_kinds(model, teaching, config, device)
    known = [e for part in rehearsal for e in part.examples(model, prior, text)]
    grasped = [e for part in teaching for e in part.examples(model, prior, text)]
    repeats = max(1, round(SHARE / (1 - SHARE) * len(known) / len(grasped)))
    train_head(model.head, known + repeats * grasped, steps, None, device)

    def figures(judged: ReferringModel) -> tuple[dict[str, Any], np.ndarray]:
        held = [(part, part.examples(judged, prior, text)) for part in judging]
        summary, logs = _judge_grasps(judged, held, device)
        checked = validation.examples(judged, prior, text)
        chances = answer_all(judged.head, checked, device)
        return {**summary, "validation": score(checked, chances, card.thresholds)}, logs

    (before, was), (after, now) = figures(start), figures(model)
    better, reason = _verdict(before, after, now - was)
    print(reason, file=sys.stderr)
    count = len(grasped)
    taught = f"then {count} grasps of {', '.join(data.grasps)}; seed {steps.seed}"
    if not better:
        taught = f"the weights of {card.version}: {count} grasps were no improvement"
    new = dataclasses.replace(
        card,
        name=config.name,
        segmenter=segmenter.version,
        data=f"{card.version} ({card.data}), {taught}",
        command=command,
        metrics={"grasps": {"before": before, "after": after, "reason": reason}},
        git_revision=revision,
        notes=config.notes,
    )
    return save_referring_model(Path(config.out), model if better else start, new)


def _split(given: _Given) -> tuple[_Given, _Given]:
    """Older grasps and newer ones, in the order of the episodes."""
    pairs = given.features.pairs
    held = round(HELD_OUT * len(pairs))
    if not held:
        raise DataError(
            f"{getattr(given.data, 'path', 'the grasps')} has {len(pairs)} sentences; at least 3 are needed, "
            "since some of them judge; let the robot report `referred` of more grasps"
        )
    old, new = (dataclasses.replace(given.features, pairs=p) for p in (pairs[:-held], pairs[-held:]))
    return _Given(given.data, old), _Given(given.data, new)


def _teach_kinds(
    model: ReferringModel, teaching: Sequence[_Given], config: ReferringTraining, device: str
) -> None:
    """Teach the crop encoder the kinds of right items, seen from all sides, beside those of the rehearsal."""
    found = [
        true_crops_of(part.data[image])
        for part in teaching
        for image in sorted({pair.image for pair in part.features.pairs if pair.labels})
    ]
    crops = np.concatenate([c for c, _ in found] or [np.zeros(0)])
    if not len(crops):
        return
    kinds = np.concatenate([k for _, k in found])
    turned = [np.rot90(side, turn, (2, 3)) for side in (crops, crops[..., ::-1]) for turn in range(4)]
    known, known_kinds = (
        np.concatenate(part)
        for part in zip(*(true_crops(open_pairs(path)) for path in config.data.kinds), strict=True)
    )
    repeats = max(1, round(SHARE / (1 - SHARE) * len(known) / (len(turned) * len(crops))))
    described = np.concatenate(
        [describe(known), *repeats * [describe(np.ascontiguousarray(t)) for t in turned]]
    )
    targets = np.concatenate([known_kinds, *repeats * len(turned) * [kinds]])
    train_on_descriptors(model.encoder, described, targets, config.optimisation, None, device, fit=False)


def _judge_grasps(
    model: ReferringModel, held: Sequence[tuple[_Given, list[Example]]], device: str
) -> tuple[dict[str, Any], np.ndarray]:
    """How probable a model finds what was said of grasps that it has not learned from.

    Returns:
        ``likelihood``, the mean logarithm; ``likeliest``, share of them where the likeliest item is a right
        one, or is no wrong one; and ``held_out``, their number. Items that the segmenter did not find are
        left out. Then the logarithm for each.
    """
    logs, hits = [], []
    for part, examples in held:
        chances = answer_all(model.head, examples, device)
        for pair, pi in zip(part.features.pairs, chances, strict=True):
            rows = list(part.features.truths[pair.image].instances_of(pair.labels or pair.wrong))
            if not rows:
                continue
            share, named = float(pi[rows].sum()), int(pi[:-1].argmax()) in rows
            right = bool(pair.labels)
            logs.append(np.log(np.clip(share if right else 1 - share, _LEAST, 1)))
            hits.append(named == right)
    found = {
        "likelihood": round(float(np.mean(logs)), 4) if logs else float(np.log(_LEAST)),
        "likeliest": round(float(np.mean(hits)), 4) if hits else 0.0,
        "held_out": len(hits),
    }
    return found, np.array(logs)


def _verdict(before: dict[str, Any], after: dict[str, Any], gains: np.ndarray) -> tuple[bool, str]:
    """Whether the taught model replaces the start, and why.

    Its gain has to exceed the gain's standard error: a handful of grasps, some of which the robot may have
    been told wrong, is soon a little more probable by chance.
    """
    error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else np.inf
    one, other = (found["validation"]["accuracy"] for found in (before, after))
    said = (
        f"{after['held_out']} held-out grasps: log-likelihood {before['likelihood']:.3f} before, "
        f"{after['likelihood']:.3f} after; right item on rehearsal scenes {one:.3f} before, {other:.3f} after"
    )
    if not len(gains) or gains.mean() <= error:
        return False, f"kept the start: not certainly better on grasps (standard error {error:.3f}). {said}"
    if other < one - FORGOTTEN:
        return False, f"kept the start: it has forgotten. {said}"
    return True, f"learned. {said}"
