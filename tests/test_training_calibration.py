"""Calibrated scores: a fit that is right by construction, and weights that say the new scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config

from rise_perception.evaluation.counts import calibration_error
from rise_perception.network.build import build_network
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.training.calibration import MASK_PROBABILITY, ROUNDS, calibrate, fit
from rise_perception.training.validation import Guesses


def guesses(scale: float, offset: float, count: int = 20000) -> Guesses:
    """Guesses whose scores would be right after ``scale`` and ``offset``."""
    rng = np.random.default_rng(0)
    logit = rng.normal(-0.5, 1.5, count)
    true = MASK_PROBABILITY / (1 + np.exp(-(scale * logit + offset)))
    return Guesses(MASK_PROBABILITY / (1 + np.exp(-logit)), rng.random(count) < true, count)


def test_the_fit_finds_what_makes_scores_true() -> None:
    asked = guesses(1.7, 0.8)
    scale, offset = fit(asked)
    assert (scale, offset) == (pytest.approx(1.7, abs=0.1), pytest.approx(0.8, abs=0.1))
    logit = np.log(asked.scores / (MASK_PROBABILITY - asked.scores))
    after = MASK_PROBABILITY / (1 + np.exp(-(scale * logit + offset)))
    before_error, after_error = (
        calibration_error(asked.scores, asked.right),
        calibration_error(after, asked.right),
    )
    assert before_error is not None
    assert after_error is not None
    assert before_error > 0.08
    assert after_error < 0.02


def test_too_little_says_nothing() -> None:
    assert fit(guesses(1.7, 0.8, 60)) == (1.0, 0.0)


@pytest.mark.parametrize("architecture", ["rise", "mask_rcnn"])
def test_the_last_class_layer_takes_scale_and_offset(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = tiny_config(classes=["object"], containers=[], input="rgb", architecture=architecture)
    before = save_model(tmp_path / "model", build_network(config), ModelCard("tiny", config, 0.3))
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        old = load_model(tmp_path / "model")[0](image).logits
    rounds = iter([guesses(2.0, 1.0), guesses(1.0, 0.0), guesses(1.0, 0.0)])
    card = calibrate(tmp_path / "model", lambda folder: next(rounds))
    assert len(list(rounds)) == 3 - ROUNDS
    said = card.metrics["calibration"]
    with torch.no_grad():
        new = load_model(tmp_path / "model")[0](image).logits
    seen = old > -1e3  # queries that do not exist stay so
    torch.testing.assert_close(new[seen], old[seen] * said["scale"] + said["offset"], atol=1e-4, rtol=1e-4)
    assert said["scale"] == pytest.approx(2.0, abs=0.15)
    assert card.checksum != before.checksum
