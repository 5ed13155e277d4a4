"""Pseudo-labels for sentences: what a model predicts of them, what is known of it, and what it may teach."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rise_perception.language.phrase import Phrase, Relation
from rise_perception.language.vocabulary import LEFT, RIGHT
from rise_perception.referring.head import Question, ReferringHead, collate
from rise_perception.referring.head_training import Example, on_device
from rise_perception.referring.scene import Scene
from rise_perception.selection.candidates import (
    ALL,
    CERTAIN,
    CORE,
    DROP,
    PRIOR,
    Candidates,
    make_candidates,
    mask_columns,
    mask_iou,
)

_MIRRORED = {LEFT: RIGHT, RIGHT: LEFT, "leftmost": "rightmost", "rightmost": "leftmost"}
_BATCH = 64


@dataclass(frozen=True)
class Predicted:
    """What a model answers to M sentences, and what is known of the answers.

    Attributes:
        examples: the sentences; nothing here reads their truth.
        pi: for each (N + 1,) float32, instances and null.
        pixels: for each (h, w) uint8, P, 255 = 1.
        chosen: (M,) int64, the likeliest instance; N stands for null.
        prior: (M,) int64, the prior's likeliest, N for null; -1 where it says nothing.
        candidates: their states; ``time`` is 0.
    """

    examples: list[Example]
    pi: list[np.ndarray]
    pixels: list[np.ndarray]
    chosen: np.ndarray
    prior: np.ndarray
    candidates: Candidates

    def at(self, time: float) -> Candidates:
        """The candidates when this fraction of the training is over."""
        state = self.candidates.state.clone()
        state[:, -1] = time
        return Candidates(state, self.candidates.allowed)


def without_truth(example: Example) -> Example:
    """The same sentence as if nobody knew what it means."""
    return dataclasses.replace(
        example, target=np.zeros_like(example.target), mask=None, overlap=None, fits=0, weights=None
    )


def mirror_phrase(phrase: Phrase) -> Phrase:
    """What the phrase's items are called in the mirrored image."""
    relations = tuple(
        Relation(_MIRRORED.get(said.name, said.name), mirror_phrase(said.anchor)) for said in phrase.relations
    )
    most = _MIRRORED.get(phrase.superlative, phrase.superlative) if phrase.superlative else None
    return dataclasses.replace(phrase, superlative=most, relations=relations)


def mirror_scene(scene: Scene) -> Scene:
    """The scene of the mirrored image, its instances in the same order."""
    things = scene.things
    boxes, centres = things.boxes.copy(), things.centres.copy()
    boxes[:, 0], boxes[:, 2] = things.width - things.boxes[:, 2], things.width - things.boxes[:, 0]
    centres[:, 0] = things.width - 1 - things.centres[:, 0]
    return dataclasses.replace(
        scene,
        things=dataclasses.replace(things, boxes=boxes, centres=centres),
        crops=np.ascontiguousarray(scene.crops[..., ::-1]),
        masks=np.ascontiguousarray(scene.masks[..., ::-1]),
        picture=np.ascontiguousarray(scene.picture[..., ::-1]),
    )


@torch.no_grad()
def predict(head: ReferringHead, examples: Sequence[Example], mirrored: Sequence[Question]) -> Predicted:
    """Answer sentences, and their mirrored forms, as if nobody knew what they mean.

    Args:
        head: the head.
        examples: sentences; one item, none or several may be meant.
        mirrored: the same about the mirrored images.
    """
    head.eval()
    hidden = [without_truth(example) for example in examples]
    pi, pixels, flipped = [], [], []
    for start in range(0, len(hidden), _BATCH):
        part = hidden[start : start + _BATCH]
        asked = on_device(collate([e.question for e in part], head.config.embedding, True), "cpu")
        logs, logits = head(asked, with_pixels=True)
        assert logits is not None
        other, _ = head(collate(list(mirrored[start : start + _BATCH]), head.config.embedding))
        for row, example in enumerate(part):
            n, (h, w) = len(example.question.scene), example.question.scene.picture.shape[1:]
            keep = [*range(n), logs.shape[1] - 1]
            pi.append(logs[row, keep].exp().numpy())
            flipped.append(other[row, keep].exp().numpy())
            pixels.append((255 * logits[row, :h, :w].sigmoid()).round().byte().numpy())
    chosen = np.array([p.argmax() for p in pi], np.int64)
    prior = np.array([_of_prior(e.question)[0] for e in hidden], np.int64)
    columns: dict[str, Tensor] = {
        "score": _column(p.max() for p in pi),
        "margin": _column(_margin(p) for p in pi),
        "entropy": _column(_entropy(p) for p in pi),
        "null": _column(p[-1] for p in pi),
        "agreement": _column(_of_prior(e.question, k)[1] for e, k in zip(hidden, chosen, strict=True)),
        "flip": _column(p[k] for p, k in zip(flipped, chosen, strict=True)),
    }
    shapes = [mask_columns(torch.from_numpy(p)[None].float() / 255) for p in pixels]
    for name in ("area", "solidity"):
        columns[name] = torch.cat([s[name] for s in shapes]) if shapes else torch.zeros(0)
    candidates = make_candidates(columns, (DROP, CORE, ALL, PRIOR))
    for row, example in enumerate(hidden):
        null = chosen[row] == len(example.question.scene)
        candidates.allowed[row, CORE] = bool(null or (pixels[row] >= 255 * CERTAIN).any())
        candidates.allowed[row, PRIOR] = bool(prior[row] >= 0)
    return Predicted(hidden, pi, pixels, chosen, prior, candidates)


def as_label(found: Predicted, row: int, action: int) -> Example | None:
    """What a sentence teaches when this is done with its pseudo-label; None when it is dropped."""
    example, likely = found.examples[row], found.pixels[row].astype(np.float32) / 255
    if action == DROP:
        return None
    if action == CORE:
        certain = (likely >= CERTAIN) | (likely <= 1 - CERTAIN)
        mask = np.where(likely >= CERTAIN, 255, 0).astype(np.uint8)
        return dataclasses.replace(example, mask=mask, weights=certain.astype(np.float32))
    item = int(found.chosen[row] if action == ALL else found.prior[row])
    scene = example.question.scene
    target = np.zeros(len(scene) + 1, np.float32)
    target[item] = 1
    mask = np.zeros(likely.shape, np.uint8)
    if item < len(scene):
        mask = np.where(likely > 0.5, 255, 0).astype(np.uint8) if action == ALL else scene.masks[item]
    return dataclasses.replace(example, target=target, mask=mask)


def as_soft_label(found: Predicted, row: int, weights: np.ndarray) -> Example:
    """What a sentence teaches by the probabilities themselves, its pixels weighted by (h, w) ``weights``."""
    mask = np.where(found.pixels[row] > 127, 255, 0).astype(np.uint8)
    return dataclasses.replace(found.examples[row], target=found.pi[row], mask=mask, weights=weights)


def worth(found: Predicted, truths: Sequence[Example]) -> Tensor:
    """(M, 4) float32: overlap with the truth after each action; 0 for dropping.

    Where nothing fits, "nothing" overlaps by 1; where several fit, one item or none is wrong.
    """
    table = torch.zeros(len(truths), 4)
    for row, truth in enumerate(truths):
        if truth.fits > 1:
            continue
        for action, item in ((ALL, found.chosen[row]), (PRIOR, found.prior[row])):
            null = item == len(truth.question.scene)
            if truth.fits == 0:
                table[row, action] = float(null)
            elif not null and item >= 0:
                assert truth.overlap is not None
                table[row, action] = float(truth.overlap[item])
        assert truth.mask is not None
        likely = torch.from_numpy(found.pixels[row]).float() / 255
        certain = (likely >= CERTAIN) | (likely <= 1 - CERTAIN)
        meant = torch.from_numpy(truth.mask) > 127
        table[row, CORE] = mask_iou(((likely >= CERTAIN) & certain)[None], (meant & certain)[None])[0]
    return table


def _of_prior(question: Question, item: int | None = None) -> tuple[int, float]:
    """The prior's likeliest item and its probability, or that of ``item``; -1 and 0 without a prior."""
    belief = question.prior
    if belief is None:
        return -1, 0.0
    chances = np.append(belief.unique, belief.none)
    best = int(chances.argmax()) if item is None else int(item)
    return best, float(chances[best])


def _margin(pi: np.ndarray) -> float:
    first, second = np.partition(np.append(pi, 0.0), -2)[-2:][::-1]
    return float(first - second)


def _entropy(pi: np.ndarray) -> float:
    return float(-(pi * np.log(pi.clip(1e-9))).sum() / np.log(max(2, len(pi))))


def _column(values: Iterable[float]) -> Tensor:
    return torch.tensor([float(v) for v in values], dtype=torch.float32)
