"""A referring model from a configuration: the crop encoder, then the head, then thresholds and figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from rise_perception.core.errors import ConfigError
from rise_perception.inference.segmenter import Segmenter
from rise_perception.referring.answer import Thresholds
from rise_perception.referring.config import ReferringTraining
from rise_perception.referring.evaluation import answer_all, choose_thresholds, score
from rise_perception.referring.features import Features, compute_features, true_crops
from rise_perception.referring.head_training import Example, make_examples, train_head
from rise_perception.referring.kind_training import train_kinds
from rise_perception.referring.loaders import open_pairs
from rise_perception.referring.model import ReferringCard, ReferringModel, save_referring_model
from rise_perception.referring.priors import make_prior
from rise_perception.referring.text import TextEncoder

KINDS_STATE, HEAD_STATE = "kinds.safetensors", "head.safetensors"


def train_referring(
    config: ReferringTraining, command: str, device: str = "cpu", revision: str = ""
) -> ReferringCard:
    """Train, choose thresholds on the validation sentences, and write the model.

    A second call resumes after the last finished pass of the first.

    Args:
        config: what to train on what.
        command: the command line, for the card.
        device: where it runs.
        revision: git revision of the code, for the card.
    """
    steps, out = config.optimisation, Path(config.out)
    if steps.threads:
        torch.set_num_threads(steps.threads)
    out.mkdir(parents=True, exist_ok=True)
    segmenter = Segmenter.load(config.data.segmenter, device)
    prior = make_prior(config.data.prior)
    text = TextEncoder(Path(config.referring.text)) if config.referring.text else None
    if text is not None and text.width != config.referring.head.text_features:
        raise ConfigError(
            f"referring.head.text_features is {config.referring.head.text_features}; the encoder "
            f"{config.referring.text} has {text.width}"
        )
    torch.manual_seed(steps.seed)
    model = ReferringModel(config.referring)

    def read(paths: Sequence[str]) -> list[tuple[Features, list[str]]]:
        parts = []
        for path in paths:
            data = open_pairs(path)
            parts.append((compute_features(data, segmenter, Path(config.data.cache)), list(data.names)))
        return parts

    cut = [true_crops(open_pairs(path)) for path in config.data.kinds]
    crops, kinds = (np.concatenate(part) for part in zip(*cut, strict=True))
    train_kinds(model.encoder, crops, kinds, steps, out / KINDS_STATE, device)
    examples: list[Example] = []
    for features, names in read(config.data.train):
        examples += make_examples(features, names, model, prior, text)
    train_head(model.head, examples, steps, out / HEAD_STATE, device)
    thresholds, metrics = Thresholds(), {}
    if config.data.validation:
        ((features, names),) = read([config.data.validation])
        checked = make_examples(features, names, model, prior, text)
        chances = answer_all(model.head, checked, device)
        thresholds = choose_thresholds(checked, chances)
        metrics["validation"] = {"data": config.data.validation, **score(checked, chances, thresholds)}
        print(f"validation: {metrics['validation']}", file=sys.stderr)
    card = ReferringCard(
        config.name,
        config.referring,
        thresholds,
        segmenter.version,
        f"kinds of {', '.join(config.data.kinds)}; {len(examples)} sentences of "
        f"{', '.join(config.data.train)}; seed {steps.seed}",
        command,
        metrics,
        revision,
        notes=config.notes,
    )
    return save_referring_model(out, model, card)
