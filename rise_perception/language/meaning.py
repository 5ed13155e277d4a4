"""Which items of a scene a phrase fits, in probabilities: the grammar's own answer, without any training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rise_perception.language.colours import FRACTION
from rise_perception.language.phrase import Phrase, Relation
from rise_perception.language.things import Things
from rise_perception.language.vocabulary import (
    BEHIND,
    COLOURS,
    FRONT,
    IN,
    KINDS,
    LEFT,
    ON,
    RIGHT,
    THING,
)

#: What is believed of something that nobody can tell.
UNKNOWN = 0.5
#: Widths of the transitions from "does not hold" to "holds": fraction of pixels, fraction of the diagonal,
#: logarithm of an area ratio, metres, fraction of the outline.
_COLOUR, _PLACE, _SIZE, _DEPTH, _CONTACT = 0.03, 0.006, 0.04, 0.006, 0.04
#: Half way to a colour: a little below :data:`FRACTION`, where it certainly holds.
_COLOUR_AT = FRACTION - 0.05
#: Fraction of an item's surroundings that the item below or around it must be.
_ON_AT, _IN_AT = 0.3, 0.55
#: Fraction of an item's box that lies in the box of what it is in.
_INSIDE = 0.9


@dataclass(frozen=True)
class Meaning:
    """What a phrase means in a scene of N items.

    Attributes:
        fits: (N,) float64, probability that the phrase fits the item.
        unique: (N,) float64, probability that it fits the item and no other.
        none: probability that it fits no item.
    """

    fits: np.ndarray
    unique: np.ndarray
    none: float

    @property
    def several(self) -> float:
        """Probability that it fits more than one."""
        return float(max(0.0, 1 - self.none - self.unique.sum()))


def resolve(phrase: Phrase, things: Things) -> Meaning:
    """What a phrase means among things."""
    fits = _without_superlative(phrase, things)
    nobody = float(np.prod(1 - fits))
    if phrase.superlative is None:
        return Meaning(fits, _alone(fits), nobody)
    chosen = fits * _most(phrase.superlative, fits, things)
    # The most extreme one is one by its meaning: the events exclude each other.
    total = chosen.sum()
    return Meaning(chosen, chosen / max(1.0, total / max(1e-9, 1 - nobody)), nobody)


def _without_superlative(phrase: Phrase, things: Things) -> np.ndarray:
    fits = np.ones(len(things))
    if phrase.kind != THING:
        known = things.kinds is not None
        fits *= things.kinds[:, KINDS.index(phrase.kind)] if known else UNKNOWN  # type: ignore[index]
    if phrase.colour is not None:
        fits *= _step(things.colours[:, COLOURS.index(phrase.colour)] - _COLOUR_AT, _COLOUR)
    for said in phrase.relations:
        anchors = resolve(said.anchor, things).fits
        holds = relation(said, things) * anchors[None]
        np.fill_diagonal(holds, 0.0)
        fits *= 1 - np.prod(1 - holds, axis=1)
    return fits


def relation(said: Relation, things: Things) -> np.ndarray:
    """(N, N) probability that item i lies to item j as said, whatever the items are."""
    x, y = things.centres[:, 0], things.centres[:, 1]
    # Measured from i to j; a direction is a quarter of the circle.
    right, down = x[None] - x[:, None], y[None] - y[:, None]
    width = _PLACE * things.diagonal
    if said.name == LEFT:
        return _step(right - np.abs(down), width)
    if said.name == RIGHT:
        return _step(-right - np.abs(down), width)
    if said.name == BEHIND:
        return _step(down - np.abs(right), width)
    if said.name == FRONT:
        return _step(-down - np.abs(right), width)
    if said.name == ON:
        above = _nearer(things.depths, things.depths)
        return _step(things.contact - _ON_AT, _CONTACT) * above
    assert said.name == IN
    return (
        _step(things.contact - _IN_AT, _CONTACT) * _contained(things) * _nearer(things.near, things.depths).T
    )


def _nearer(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(N, N) probability that depth a of item i is less than depth b of item j."""
    return np.where(
        np.isnan(a[:, None] + b[None]), UNKNOWN, _step(np.nan_to_num(b[None] - a[:, None]), _DEPTH)
    )


def _contained(things: Things) -> np.ndarray:
    """(N, N) 1 where the box of item i lies in the box of item j."""
    low = np.maximum(things.boxes[:, None, :2], things.boxes[None, :, :2])
    high = np.minimum(things.boxes[:, None, 2:], things.boxes[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), -1)
    own = np.prod(things.boxes[:, 2:] - things.boxes[:, :2], -1)
    return (common > _INSIDE * np.maximum(own, 1)[:, None]).astype(np.float64)


def _most(superlative: str, fits: np.ndarray, things: Things) -> np.ndarray:
    """(N,) probability that nothing that fits is more extreme than item i."""
    if superlative in ("leftmost", "rightmost"):
        value, width = things.centres[:, 0].astype(np.float64), _PLACE * things.diagonal
        value = -value if superlative == "leftmost" else value
    elif superlative in ("largest", "smallest"):
        value, width = np.log(np.maximum(things.areas, 1.0)).astype(np.float64), _SIZE
        value = -value if superlative == "smallest" else value
    else:
        assert superlative == "nearest"
        value, width = -things.depths.astype(np.float64), _DEPTH
    difference = value[None] - value[:, None]  # how much more extreme item j is than item i
    beats = np.where(np.isnan(difference), UNKNOWN, _step(np.nan_to_num(difference), width))
    np.fill_diagonal(beats, 0.0)
    return np.prod(1 - fits[None] * beats, axis=1)


def _alone(fits: np.ndarray) -> np.ndarray:
    """(N,) probability that item i fits and no other does."""
    others = np.array([np.prod(np.delete(1 - fits, k)) for k in range(len(fits))])
    return fits * others if len(fits) else fits


def _step(x: np.ndarray, width: float) -> np.ndarray:
    """0 far below zero, 1 far above, 1/2 at zero."""
    return 1 / (1 + np.exp(-np.clip(x.astype(np.float64) / width, -50, 50)))
