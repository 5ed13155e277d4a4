"""Referring models of the benchmark: a split made ready, questions about it, and models taught it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.referring_labels import Predicted, mirror_phrase, mirror_scene, predict
from rise_perception.core.errors import DataError
from rise_perception.core.files import atomic_write
from rise_perception.inference.segmenter import Segmenter
from rise_perception.language.meaning import Meaning
from rise_perception.language.parser import parse
from rise_perception.referring.config import ReferringSteps
from rise_perception.referring.crops import CHANNELS, SIZE
from rise_perception.referring.descriptors import describe
from rise_perception.referring.features import Features, compute_features, true_crops_of
from rise_perception.referring.head import HeadConfig, Question, write_down
from rise_perception.referring.head_training import Example, head_loss, make_examples
from rise_perception.referring.kind_training import rate_factor, train_on_descriptors
from rise_perception.referring.model import ReferringConfig, ReferringModel
from rise_perception.referring.pairs import Pair, ToteWorldPairs
from rise_perception.referring.priors import Asked, Prior
from rise_perception.referring.referrer import encode
from rise_perception.referring.scene import Scene

#: Labelled sentences of a step, and believed ones beside them.
BATCH = 16
STEPS = ReferringSteps(kind_epochs=12, kind_batch=64)


@dataclass(frozen=True)
class Part:
    """One split, ready to be asked about.

    Attributes:
        features: scenes without their crops, truths and pairs.
        names: file names of the images.
        described: for each image (N, LENGTH) descriptors of its instances' crops.
        mirrored: for each image the scene of the mirrored image, and the descriptors of its crops; empty
            where nobody asks.
        known: for each image descriptors of its true items' crops, and their kinds; empty where nobody asks.
    """

    features: Features
    names: list[str]
    described: list[np.ndarray]
    mirrored: list[tuple[Scene, np.ndarray]]
    known: list[tuple[np.ndarray, np.ndarray]]

    def pairs_of(self, images: np.ndarray) -> list[Pair]:
        """The sentences about these images, in the order of their file."""
        chosen = set(images.tolist())
        return [pair for pair in self.features.pairs if pair.image in chosen]


def read_part(path: Path, segmenter: Segmenter, cache: Path, teaches: bool) -> Part:
    """Segment, measure and describe a split, or read what an earlier call has left in ``cache``.

    Args:
        path: its ``SPLIT.sentences.jsonl``.
        segmenter: finds the instances.
        cache: folder.
        teaches: make ready what only learning asks for.
    """
    data = ToteWorldPairs(path)
    features = compute_features(data, segmenter, cache)
    facts = (str(path.resolve()), segmenter.version, str(len(data.names)))
    tag = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
    described = _described([scene.crops for scene in features.scenes], cache / f"{tag}-crops.npy")
    mirrored: list[tuple[Scene, np.ndarray]] = []
    known: list[tuple[np.ndarray, np.ndarray]] = []
    if teaches:
        others = [mirror_scene(scene) for scene in features.scenes]
        seen = _described([scene.crops for scene in others], cache / f"{tag}-mirrored.npy")
        mirrored = [(_bare(scene), d) for scene, d in zip(others, seen, strict=True)]
        known = _known(data, cache / f"{tag}-known.npz")
    features = dataclasses.replace(features, scenes=[_bare(scene) for scene in features.scenes])
    return Part(features, list(data.names), described, mirrored, known)


def _bare(scene: Scene) -> Scene:
    """The scene without its crops, which take most of the memory and have been described."""
    return dataclasses.replace(scene, crops=np.zeros((0, CHANNELS, SIZE, SIZE), np.uint8))


def _described(crops: list[np.ndarray], path: Path) -> list[np.ndarray]:
    ends = np.cumsum([len(c) for c in crops])[:-1]
    if path.exists():
        return np.split(np.load(path, allow_pickle=False), ends)
    found = [describe(c) for c in crops]
    with atomic_write(path) as temporary:
        np.save(temporary, np.concatenate(found))
    return found


def _known(data: ToteWorldPairs, path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    if not path.exists():
        arrays: dict[str, list[np.ndarray]] = {"described": [], "kinds": [], "counts": []}
        for index in range(len(data.names)):
            crops, kinds = true_crops_of(data[index])
            arrays["described"].append(describe(crops))
            arrays["kinds"].append(kinds)
            arrays["counts"].append(np.array([len(kinds)]))
        with atomic_write(path) as temporary:
            joined: dict[str, Any] = {name: np.concatenate(part) for name, part in arrays.items()}
            np.savez(temporary, **joined)
    with np.load(path, allow_pickle=False) as stored:
        ends = np.cumsum(stored["counts"])[:-1]
        parts = np.split(stored["described"], ends), np.split(stored["kinds"], ends)
    return list(zip(*parts, strict=True))


class ModelFactory:
    """Teaches models, and asks them about the training split.

    Args:
        part: the training split.
        prior: what every head starts from.
        head: sizes of every head.
    """

    def __init__(self, part: Part, prior: Prior, head: HeadConfig) -> None:
        self.part, self.prior, self.head = part, prior, head

    def new(
        self, images: np.ndarray, seed: int, believed: tuple[np.ndarray, np.ndarray] | None = None
    ) -> ReferringModel:
        """A model whose crop encoder was taught the items of labelled images, and believed crops.

        Args:
            images: the labelled ones.
            seed: of weights and order.
            believed: (M, LENGTH) descriptors and (M,) kinds of crops beside them.
        """
        torch.manual_seed(seed)
        model = ReferringModel(ReferringConfig(self.head))
        crops = [self.part.known[k][0] for k in images] + ([believed[0]] if believed else [])
        kinds = [self.part.known[k][1] for k in images] + ([believed[1]] if believed else [])
        described, named = np.concatenate(crops), np.concatenate(kinds)
        if not len(named):
            raise DataError("the labelled images show no item whose kind is known; label more of them")
        steps = dataclasses.replace(STEPS, seed=seed)
        train_on_descriptors(model.encoder, described, named, steps, None, "cpu")
        return model.eval()

    def examples(
        self, model: ReferringModel, pairs: Sequence[Pair], part: Part | None = None
    ) -> list[Example]:
        """Questions and answers about the training split, or another part, as a model's encoder sees them."""
        part = part or self.part
        features = dataclasses.replace(part.features, pairs=list(pairs))
        return make_examples(features, part.names, model, self.prior, described=part.described)

    @torch.no_grad()
    def predict(self, model: ReferringModel, pairs: Sequence[Pair]) -> Predicted:
        """What a model answers; truth is left out."""
        cpu = torch.device("cpu")
        seen = {k: encode(model, *self._mirrored(k, cpu)) for k in {pair.image for pair in pairs}}
        examples = self.examples(model, pairs)
        mirrored = []
        for pair, example in zip(pairs, examples, strict=True):
            scene, items = seen[pair.image]
            words = np.array(write_down(mirror_phrase(parse(pair.sentence))), np.int64)
            mirrored.append(Question(scene, items, words, example.question.prior))
        return predict(model.head, examples, mirrored)

    def _mirrored(self, image: int, device: torch.device) -> tuple[Scene, torch.device, np.ndarray]:
        scene, described = self.part.mirrored[image]
        return scene, device, described


def train_head(
    model: ReferringModel,
    labelled: Sequence[Example],
    believed: Sequence[Sequence[Example]],
    steps: int,
    seed: int,
) -> None:
    """Teach a model's head labelled examples and, beside them, lists of believed ones, one after another."""
    torch.manual_seed(seed)
    rng = np.random.default_rng([seed, 13])
    head = model.head.train()
    optimiser = torch.optim.AdamW(head.parameters(), STEPS.rate, weight_decay=STEPS.weight_decay)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = STEPS.rate * rate_factor(step / steps)
        batch = [labelled[k] for k in rng.choice(len(labelled), BATCH)]
        also = believed[step * len(believed) // steps] if believed else ()
        if also:
            batch += [also[k] for k in rng.choice(len(also), BATCH)]
        batch = [batch[k] for k in rng.permutation(len(batch))]  # the first of them are drawn
        loss = head_loss(head, batch, STEPS.pixels, "cpu", rng.random(len(batch)) < STEPS.blind)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimiser.step()
    head.eval()


def random_prior(asked: Asked) -> Meaning:
    """An item by lot, or none: a prior that is of no use."""
    seed = int.from_bytes(hashlib.sha256(f"{asked.name}\n{asked.sentence}".encode()).digest()[:4], "big")
    chances = np.random.default_rng(seed).dirichlet(np.full(len(asked.scene) + 1, 0.3))
    return Meaning(chances[:-1], chances[:-1], float(chances[-1]))
