"""The referring benchmark: few masks, many sentences, and selectors of pseudo-labels for the others.

Of the labelled images masks and kinds are known, of the others sentences alone. Crop encoder and head are
taught the labelled ones ("supervised"); what this model answers to the other sentences are pseudo-labels, the
selector chooses among them, and another model is taught both. Where a believed sentence names a kind, its
crop teaches the crop encoder, too. All are judged on the same held-out scenes, with the same thresholds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.referring_choice import TIMES, Fold, learn_selector
from benchmarks.referring_labels import Predicted, as_label, as_soft_label, worth
from benchmarks.referring_models import STEPS, ModelFactory, random_prior, read_part, train_head
from rise_perception.core.errors import ConfigError, DataError
from rise_perception.core.files import write_json
from rise_perception.inference.segmenter import Segmenter
from rise_perception.language.parser import parse
from rise_perception.language.vocabulary import KINDS, THING
from rise_perception.referring.answer import Thresholds
from rise_perception.referring.evaluation import answer_all, score
from rise_perception.referring.features import SAME
from rise_perception.referring.head import HeadConfig
from rise_perception.referring.head_training import Example, head_loss
from rise_perception.referring.model import ReferringModel
from rise_perception.referring.pairs import Pair
from rise_perception.referring.priors import make_prior
from rise_perception.selection.candidates import ALL, DROP, PRIOR
from rise_perception.selection.policy import Guarded
from rise_perception.selection.selectors import (
    Cascade,
    Everything,
    Random,
    Selector,
    Threshold,
    pixel_weights,
)

#: What is compared: no pseudo-labels; the prior without a head; then selectors. ``exact`` is the policy with
#: the gradient of the expected worth in place of drawn actions.
SELECTORS = (
    "supervised", "grammar", "random", "threshold", "cascade", "soft", "regressor", "exact", "policy",
)  # fmt: skip
#: Those that choose nothing, and are all there is where everything is labelled.
CHOICELESS = ("supervised", "grammar")
LEARNED = ("regressor", "exact", "policy")
#: Smaller than the shipped head, so that a row takes seconds.
SMALL = HeadConfig(width=48, heads=4, layers=2, text_layers=1, residual=4)
#: Of every answer: those that the shipped model was given on validation sentences.
THRESHOLDS = Thresholds(found=0.3, lead=1.5)
#: Unlabelled sentences that virtual steps may take.
_VIRTUAL = 400
#: Fractions of the steps after which the supervised model is judged on the other fold; the best counts.
_LENGTHS = (0.3, 1.0)
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured where.

    Attributes:
        out: folder of rows and cached features.
        data: data set of ``rise scenes stills`` with sentences: ``train`` teaches, ``test`` judges.
        segmenter: whose instances are asked about.
        prior: of :func:`rise_perception.referring.priors.make_prior`, or ``random``, an item by lot.
        steps: of every head.
        head: sizes of every head.
    """

    out: Path
    data: Path
    segmenter: str = "auto"
    prior: str = "grammar"
    steps: int = 100
    head: HeadConfig = SMALL


@dataclass(frozen=True)
class Base:
    """What the labelled images alone give, and what all selectors of a fraction and a seed have in common.

    Attributes:
        images: the labelled ones.
        pairs, free: sentences about them, and about the others.
        model: taught the labelled ones.
        found: its answers to the free sentences; None where there are none.
        folds: of the labelled sentences.
        steps: of the model's head: best on the other fold.
    """

    images: np.ndarray
    pairs: list[Pair]
    free: list[Pair]
    model: ReferringModel
    found: Predicted | None
    folds: list[Fold]
    steps: int


class ReferringBenchmark:
    """The rows of one plan; what is finished is read.

    Raises:
        DataError: the folder is another plan's, or the data are broken.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        segmenter = Segmenter.load(plan.segmenter, "cpu")
        self._claim(segmenter.version)
        prior = random_prior if plan.prior == "random" else make_prior(plan.prior)
        cache = plan.out / "cache"
        train = read_part(plan.data / "train.sentences.jsonl", segmenter, cache, teaches=True)
        self.test = read_part(plan.data / "test.sentences.jsonl", segmenter, cache, teaches=False)
        self.factory = ModelFactory(train, prior, plan.head)
        self.train = train
        self._base: tuple[tuple[float, int], Base] | None = None

    def row(self, selector: str, labelled: float, seed: int) -> Row:
        """Measure one row, or read it."""
        prior = self.plan.prior.replace("/", "_")
        path = self.plan.out / "rows" / f"{prior}-{labelled:g}-{seed}-{selector}.json"
        if path.is_file():
            return dict(json.loads(path.read_text(encoding="utf-8")))
        begun = time.monotonic()
        base = self._base_of(labelled, seed)
        model, figures = base.model, {"precision": None, "recall": None, "steps": base.steps}
        if selector not in CHOICELESS:
            model, figures = self._taught(selector, base, seed)
        row = {
            "selector": selector,
            "labelled": labelled,
            "seed": seed,
            "prior": self.plan.prior,
            "images": len(base.images),
            **figures,
            **self._judge(model, with_head=selector != "grammar"),
            "seconds": round(time.monotonic() - begun, 1),
        }
        write_json(path, row)
        return row

    def _claim(self, segmenter: str) -> None:
        """Let no folder hold rows that cannot be compared."""
        path = self.plan.out / "plan.json"
        content = {
            "data": str(self.plan.data.resolve()),
            "segmenter": segmenter,
            "steps": self.plan.steps,
            "thresholds": asdict(THRESHOLDS),
            "head": asdict(self.plan.head),
        }
        if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != content:
            raise DataError(f"{self.plan.out} holds rows of another plan ({path}); give another folder")
        write_json(path, content)

    def _base_of(self, labelled: float, seed: int) -> Base:
        if self._base is None or self._base[0] != (labelled, seed):
            self._base = None  # one is enough in memory
            self._base = (labelled, seed), self._make_base(labelled, seed)
        return self._base[1]

    def _make_base(self, labelled: float, seed: int) -> Base:
        images = labelled_images(len(self.train.names), labelled, seed)
        pairs = self.train.pairs_of(images)
        free = self.train.pairs_of(np.setdiff1d(np.arange(len(self.train.names)), images))
        if not free:
            model = self._supervised(images, pairs, seed, self.plan.steps)
            return Base(images, pairs, [], model, None, [], self.plan.steps)
        halves = images[::2], images[1::2]
        lengths = [max(1, round(fraction * self.plan.steps)) for fraction in _LENGTHS]
        models = [[self._supervised(h, self.train.pairs_of(h), seed, n) for n in lengths] for h in halves]
        truths = [
            [self.factory.examples(m, self.train.pairs_of(other)) for m in half]
            for half, other in zip(models, halves[::-1], strict=True)
        ]
        losses = [sum(_loss(models[f][k], truths[f][k]) for f in (0, 1)) for k in range(len(lengths))]
        best = int(np.argmin(losses))
        asked = np.random.default_rng([seed, 5]).permutation(len(free))[:_VIRTUAL]
        folds = []
        for fold, other in enumerate(halves[::-1]):
            model, known = models[fold][best], truths[fold][best]
            disguised = self.factory.predict(model, self.train.pairs_of(other))
            unlabelled = self.factory.predict(model, [free[k] for k in asked])
            folds.append(Fold(model.head, disguised, worth(disguised, known), known, unlabelled))
        model = self._supervised(images, pairs, seed, lengths[best])
        return Base(images, pairs, free, model, self.factory.predict(model, free), folds, lengths[best])

    def _supervised(self, images: np.ndarray, pairs: list[Pair], seed: int, steps: int) -> ReferringModel:
        model = self.factory.new(images, seed)
        train_head(model, self.factory.examples(model, pairs), (), steps, seed)
        return model

    def _taught(self, name: str, base: Base, seed: int) -> tuple[ReferringModel, Row]:
        """A model taught the labelled sentences and what is believed of others, and figures of the choice."""
        found = base.found
        if found is None:
            raise ConfigError(f"{name} chooses nothing at 100 % of the labels; ask for less of them")
        selector = make_selector(name, base.folds, seed)
        choices = [selector.choose(found.at(fraction)) for fraction in TIMES]
        # The truth of these sentences counts the choices, and is read for nothing else.
        figures = judge_choice(choices, worth(found, self.factory.examples(base.model, base.free)))
        if isinstance(selector, Guarded):
            figures["served"] = "learned" if selector.serving is selector.learned else "cascade"
        model = self.factory.new(base.images, seed, self._believed_crops(base, choices))
        labels = [self._labels(name, found, choice) for choice in choices]
        rows = sorted(set().union(*labels))
        seen = self.factory.examples(model, [base.free[row] for row in rows]) if rows else []
        questions = {row: example.question for row, example in zip(rows, seen, strict=True)}
        believed = [[replace(e, question=questions[row]) for row, e in part.items()] for part in labels]
        known = self.factory.examples(model, base.pairs)
        train_head(model, known, believed, self.plan.steps, seed)
        return model, figures

    def _believed_crops(self, base: Base, choices: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """Descriptors and kinds of the instances that are believed to be what a sentence names."""
        assert base.found is not None
        kinds: dict[tuple[int, int], int] = {}
        for choice in choices:
            for row in (choice != DROP).nonzero().flatten().tolist():
                pair, scene = base.free[row], base.found.examples[row].question.scene
                item = int(base.found.prior[row] if choice[row] == PRIOR else base.found.chosen[row])
                kind = parse(pair.sentence).kind
                if item < len(scene) and kind != THING:
                    kinds[pair.image, item] = KINDS.index(kind)
        crops = [self.train.described[image][item] for image, item in kinds]
        width = self.train.described[0].shape[1]
        return np.array(crops, np.float32).reshape(-1, width), np.array(list(kinds.values()), np.int64)

    @staticmethod
    def _labels(name: str, found: Predicted, choice: Tensor) -> dict[int, Example]:
        """Row -> what it teaches, of the believed."""
        if name == "soft":
            weights = (pixel_weights(torch.from_numpy(p).float() / 255).numpy() for p in found.pixels)
            return {row: as_soft_label(found, row, weight) for row, weight in enumerate(weights)}
        made = {row: as_label(found, row, action) for row, action in enumerate(choice.tolist())}
        return {row: label for row, label in made.items() if label is not None}

    def _judge(self, model: ReferringModel, with_head: bool) -> Row:
        examples = self.factory.examples(model, self.test.features.pairs, self.test)
        chances = answer_all(model.head if with_head else None, examples, "cpu")
        return {
            name: value
            for name, value in score(examples, chances, THRESHOLDS).items()
            if name not in ("precision", "sentences")
        }


def labelled_images(count: int, fraction: float, seed: int) -> np.ndarray:
    """Which of so many images are labelled, in random order: at least two, one for each fold."""
    return np.random.default_rng([seed, 3]).permutation(count)[: max(2, round(fraction * count))]


def make_selector(name: str, folds: Sequence[Fold], seed: int) -> Selector:
    """The selector of a name of :data:`SELECTORS`."""
    if name in LEARNED:
        return learn_selector(name, folds, seed, STEPS.pixels)
    made: dict[str, Callable[[], Selector]] = {
        "random": lambda: Random(seed),
        "threshold": Threshold,
        "cascade": Cascade,
        "soft": Everything,
    }
    return made[name]()


def judge_choice(choices: Sequence[Tensor], table: Tensor) -> Row:
    """Precision and recall of choices.

    Args:
        choices: (M,) actions of each choice.
        table: (M, 4) overlap with the truth after each action.

    Returns:
        ``precision``, fraction of the believed that are right; ``recall``, fraction that is believed and
        right, of the sentences of which the model's or the prior's answer is right; None where that is none.
    """
    believed = right = 0
    able = len(choices) * int((table[:, [ALL, PRIOR]] >= SAME).any(1).sum())
    for choice in choices:
        taken = table.gather(1, choice[:, None])[:, 0]
        believed += int((choice != DROP).sum())
        right += int(((choice != DROP) & (taken >= SAME)).sum())
    return {
        "precision": round(right / believed, 4) if believed else None,
        "recall": round(right / able, 4) if able else None,
    }


@torch.no_grad()
def _loss(model: ReferringModel, examples: list[Example]) -> float:
    return float(head_loss(model.head.eval(), examples, 0.0, "cpu", np.zeros(len(examples), bool)))
