"""The goods of the tote world: what a warehouse, a kitchen and a desk drawer hold.

An item is wholly determined by its *recipe*, a number: shape, size, colours and print are drawn from
a random generator seeded with it. Train, val and test draw recipes from disjoint ranges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rise_perception.simulation import shapes, textures
from rise_perception.simulation.assets import Builder

RECIPES_PER_SPLIT = 1 << 40


@dataclass(frozen=True)
class Item:
    """An item in a model.

    Attributes:
        body: name of its MuJoCo body, whose origin is the middle of the item's bounding box.
        kind: name of its shape, a key of the ``KINDS`` that it was made from.
        recipe: the number it was made from.
        half: (3,) half sizes of its bounding box in metres, in its own axes; soft things may bulge out.
        shiny: a depth camera sees it badly.
    """

    body: str
    kind: str
    recipe: int
    half: np.ndarray
    shiny: bool


def draw_recipe(rng: np.random.Generator, split_code: int) -> int:
    """A recipe number from the range of one split."""
    return split_code * RECIPES_PER_SPLIT + int(rng.integers(RECIPES_PER_SPLIT))


def add_item(
    builder: Builder,
    recipe: int,
    name: str,
    ground: np.ndarray | None = None,
    kinds: dict[str, tuple[float, shapes.Make]] = shapes.KINDS,
    prints: shapes.Prints = textures,
) -> Item:
    """Add the item of ``recipe`` to the model as a free body called ``name``.

    Args:
        ground: overrides the recipe's main colour, (3,) RGB in [0, 255] (an item in the colour of its tote).
        kinds: the shapes that it may have.
        prints: who prints on it.
    """
    rng = np.random.default_rng(recipe)
    weights = np.array([weight for weight, _ in kinds.values()])
    kind = str(rng.choice(list(kinds), p=weights / weights.sum()))
    gloss = float(rng.choice([rng.uniform(0.0, 0.25), rng.uniform(0.4, 1.0)]))
    own = textures.colour(rng)
    clear = kind in ("bottle", "mug", "cup", "bag") and rng.random() < 0.06
    look = shapes.Look(rng, own if ground is None else ground, gloss, 0.45 if clear else 1.0, prints)
    body = builder.spec.worldbody.add_body()
    body.name = name
    joint = body.add_freejoint()
    joint.name = name
    half = kinds[kind][1](builder, body, look)
    shiny = clear or kind in shapes.CLEAR or bool(gloss > 0.85 and rng.random() < 0.5)
    return Item(name, kind, recipe, np.asarray(half, float), shiny)
