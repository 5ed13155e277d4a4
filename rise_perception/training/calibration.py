"""Scores that mean what they say: a mask that scores 0.7 is right in seven of ten cases.

A scale and an offset on the class logit, found on the validation set, go into the weights of the last class
layer, so that every runtime serves calibrated scores and nothing else changes. The order of the class scores
stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize

from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.training.validation import Guesses

#: The score is the class probability times the mean probability inside the mask, which is about this.
MASK_PROBABILITY = 0.9
#: Guesses of either kind that it takes to say anything.
LEAST = 50
#: Rounds of measuring and fitting: the second corrects what the first took for granted about the masks.
ROUNDS = 2


def fit(guesses: Guesses) -> tuple[float, float]:
    """Scale and offset of the class logit under which scores are likeliest to be right.

    Returns:
        scale above 0 and offset; (1, 0) when there are too few right or wrong guesses.
    """
    if min(guesses.right.sum(), (~guesses.right).sum()) < LEAST:
        return 1.0, 0.0
    probability = np.clip(guesses.scores / MASK_PROBABILITY, 1e-4, 1 - 1e-4)
    logit = np.log(probability / (1 - probability))

    def surprise(x: np.ndarray) -> float:
        scores = MASK_PROBABILITY / (1 + np.exp(-(np.exp(x[0]) * logit + x[1])))
        return float(-np.where(guesses.right, np.log(scores + 1e-9), np.log(1 - scores)).mean())

    found = minimize(surprise, np.zeros(2), method="Nelder-Mead").x
    return float(np.exp(found[0])), float(found[1])


def calibrate(folder: str | Path, measure: Callable[[Path], Guesses]) -> ModelCard:
    """Calibrate the scores of the model in ``folder``, in place.

    Args:
        folder: the model.
        measure: gives the guesses of a model on a labelled set that it was not trained on.

    Returns:
        its new card, with scale and offset under ``metrics["calibration"]``.
    """
    folder, scale, offset = Path(folder), 1.0, 0.0
    for _ in range(ROUNDS):
        more_scale, more_offset = fit(measure(folder))
        scale, offset = scale * more_scale, offset * more_scale + more_offset
        network, card = load_model(folder)
        layer = network.score_layer
        with torch.no_grad():
            layer.weight.mul_(more_scale)
            layer.bias.mul_(more_scale).add_(more_offset)
        said = card.metrics | {"calibration": {"scale": scale, "offset": offset}}
        card = save_model(folder, network, dataclasses.replace(card, metrics=said))
    return card
