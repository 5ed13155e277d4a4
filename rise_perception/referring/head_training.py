"""Training of the referring head on sentences whose items are known."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from rise_perception.core.errors import DataError
from rise_perception.language.meaning import Meaning
from rise_perception.language.parser import parse
from rise_perception.language.vocabulary import NotUnderstood
from rise_perception.referring.config import ReferringSteps
from rise_perception.referring.features import Features
from rise_perception.referring.head import Question, Questions, ReferringHead, collate, write_down
from rise_perception.referring.kind_training import rate_factor
from rise_perception.referring.model import ReferringModel
from rise_perception.referring.priors import Asked, Prior
from rise_perception.referring.referrer import encode
from rise_perception.referring.text import TextEncoder
from rise_perception.training.train_state import load_state, save_state

#: Of a batch, so many masks take part in the pixel loss, whose convolution costs more than all the rest.
_DRAWN = 8
#: No probability of a prior counts less than this where the prior was wrong.
_DOUBT = 1e-2


@dataclass(frozen=True)
class Example:
    """A question with its answer.

    Attributes:
        question: what is asked.
        target: (N + 1,) float32, of each instance being meant, and of none; sums to 1, or is 0 where only
            the mask teaches.
        mask: (h, w) uint8 fraction of each cell that is meant, 255 = all of it; None where several items fit.
        overlap: (N,) float32, overlap of each instance with the one item that fits; None unless one does.
        fits: number of items that fit.
        named: True where a kind is named, in the sentence or of an anchor.
        image: index of the image.
        weights: (h, w) float32 of the mask's pixels; None: all count the same.
    """

    question: Question
    target: np.ndarray
    mask: np.ndarray | None
    overlap: np.ndarray | None
    fits: int
    named: bool
    image: int
    weights: np.ndarray | None = None


@torch.inference_mode()
def make_examples(
    features: Features,
    names: Sequence[str],
    model: ReferringModel,
    prior: Prior,
    text: TextEncoder | None = None,
    blind_to_kinds: bool = False,
    described: Sequence[np.ndarray] | None = None,
) -> list[Example]:
    """Questions and answers of a data set, in the order of its pairs.

    Args:
        features: of :func:`rise_perception.referring.features.compute_features`.
        names: file name of each image, for priors out of files.
        model: whose crop encoder looks at the instances.
        prior: what the head starts from.
        text: a pretrained text encoder, or None.
        blind_to_kinds: give the prior no kinds: what can be known without any training.
        described: descriptors of each image's crops, where they are known already.

    Raises:
        DataError: a sentence is not understood, or there is none.
    """
    model.eval()
    device = next(model.parameters()).device
    known = described if described is not None else [None] * len(features.scenes)
    seen = [encode(model, s, device, d) for s, d in zip(features.scenes, known, strict=True)]
    examples = []
    for pair in features.pairs:
        (scene, items), truth = seen[pair.image], features.truths[pair.image]
        try:
            phrase = parse(pair.sentence)
        except NotUnderstood as error:
            if text is None:
                raise DataError(f"{names[pair.image]}: {pair.sentence!r}: {error}") from error
            phrase = None
        belief = None
        if phrase is not None:
            told = scene
            if blind_to_kinds:
                told = dataclasses.replace(scene, things=dataclasses.replace(scene.things, kinds=None))
            belief = prior(Asked(names[pair.image], None, told, pair.sentence, phrase))
        if text is not None:
            words = text(pair.sentence)
        else:
            assert phrase is not None
            words = np.array(write_down(phrase), np.int64)
        rows = truth.instances_of(pair.labels)
        target = np.zeros(len(scene) + 1, np.float32)
        target[list(rows) or [-1]] = 1 / max(1, len(rows))
        mask = overlap = None
        if pair.wrong:
            target = _anything_but(truth.instances_of(pair.wrong), len(scene), belief)
        elif len(pair.labels) <= 1:
            columns = [int(np.flatnonzero(truth.ids == label)[0]) for label in pair.labels]
            mask = truth.masks[columns[0]] if columns else np.zeros(scene.picture.shape[1:], np.uint8)
            if columns:
                overlap = truth.overlap[:, columns[0]]
        named = phrase is not None and any(part.kind != "thing" for part in phrase.parts)
        question = Question(scene, items, words, belief)
        examples.append(Example(question, target, mask, overlap, len(pair.labels), named, pair.image))
    if not examples:
        raise DataError("there is no sentence to learn from")
    return examples


def _anything_but(wrong: Sequence[int], count: int, belief: Meaning | None) -> np.ndarray:
    """(N + 1,) what is meant where it is known of instances that they are not: the prior without them."""
    chances = np.ones(count + 1) if belief is None else np.append(belief.unique, belief.none)
    chances = chances.clip(_DOUBT, 1)
    chances[list(wrong)] = 0.0
    return np.asarray(chances / chances.sum(), np.float32)


def train_head(
    head: ReferringHead, examples: Sequence[Example], steps: ReferringSteps, state: Path | None, device: str
) -> None:
    """Train a head, going on after the last finished pass in the file ``state``, where there is one."""
    head.to(device).train()
    optimiser = torch.optim.AdamW(head.parameters(), steps.rate, weight_decay=steps.weight_decay)
    done = load_state(state, head, None, optimiser) if state is not None and state.exists() else 0
    total = steps.epochs * -(-len(examples) // steps.batch)
    for epoch in range(done, steps.epochs):
        rng = np.random.default_rng([steps.seed, epoch, 3])
        torch.manual_seed(hash((steps.seed, epoch, 4)) % 2**63)  # dropout
        order = rng.permutation(len(examples))
        chunks = np.array_split(order, -(-len(order) // steps.batch))
        losses = []
        for number, chunk in enumerate(tqdm(chunks, desc=f"head {epoch + 1}", mininterval=5)):
            for group in optimiser.param_groups:
                group["lr"] = steps.rate * rate_factor((epoch * len(chunks) + number) / total)
            batch = [examples[k] for k in chunk]
            hidden = rng.random(len(batch)) < steps.blind
            loss = head_loss(head, batch, steps.pixels, device, hidden)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
            optimiser.step()
            losses.append(float(loss.detach()))
        if state is not None:
            save_state(state, epoch + 1, head, None, optimiser)
        print(f"head: pass {epoch + 1} of {steps.epochs}, loss {np.mean(losses):.3f}", file=sys.stderr)
    head.eval()


def head_loss(
    head: ReferringHead, batch: Sequence[Example], pixels: float, device: str, hidden: np.ndarray
) -> Tensor:
    """Cross-entropy of pi, and of P by pixel with Dice, weighted by ``pixels``.

    Args:
        head: the head.
        batch: examples.
        pixels: weight of the second term.
        device: of the head.
        hidden: (B,) bool, questions that are asked without their prior.
    """
    questions = [
        dataclasses.replace(e.question, prior=None) if hide else e.question
        for e, hide in zip(batch, hidden, strict=True)
    ]
    logs, _ = head(on_device(collate(questions, head.config.embedding), device))
    target = torch.zeros(logs.shape)
    for row, example in enumerate(batch):
        target[row, : len(example.target) - 1] = torch.from_numpy(example.target[:-1])
        target[row, -1] = float(example.target[-1])
    loss = -(target.to(device) * logs.masked_fill(logs.isneginf(), 0.0)).sum(-1).mean()
    drawn = [row for row, example in enumerate(batch) if example.mask is not None][:_DRAWN]
    if not pixels or not drawn:
        return loss
    shown = collate([questions[k] for k in drawn], head.config.embedding, with_pixels=True)
    _, logits = head(on_device(shown, device), with_pixels=True)
    assert logits is not None
    truth, weights = torch.zeros(logits.shape), torch.ones(logits.shape)
    for row, k in enumerate(drawn):
        mask, own = batch[k].mask, batch[k].weights
        assert mask is not None
        truth[row, : mask.shape[0], : mask.shape[1]] = torch.from_numpy(mask) / 255
        if own is not None:
            weights[row] = 0.0
            weights[row, : own.shape[0], : own.shape[1]] = torch.from_numpy(own)
    return loss + pixels * pixel_loss(logits, truth.to(device), weights.to(device))


def on_device(asked: Questions, device: str) -> Questions:
    """Questions with their tensors elsewhere."""
    return Questions(*(tensor.to(device) for tensor in vars(asked).values()))


def pixel_loss(logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Mean over B masks of weighted cross-entropy and Dice.

    Args:
        logits: (B, h, w).
        truth: (B, h, w) in [0, 1].
        weights: (B, h, w); pixels of weight 0 play no part.
    """
    each = functional.binary_cross_entropy_with_logits(logits, truth, weights, reduction="none")
    entropy = each.sum((1, 2)) / weights.sum((1, 2)).clamp(min=1)
    likely = logits.sigmoid() * weights
    common = (likely * truth).sum((1, 2))
    dice = 1 - (2 * common + 1) / (likely.sum((1, 2)) + (truth * weights).sum((1, 2)) + 1)
    return (entropy + dice).mean()
