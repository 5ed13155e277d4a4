"""The rows of the benchmark of teaching: what is taught how, and what each is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.learning_statistics import verdict

#: Annotated pictures where nothing else is said.
PICTURES = 10
#: Pictures of a cell that are annotated at most; those beyond a row's own are its unlabelled ones.
MOST_PICTURES = 30
SEEDS = 3
#: A row that is behind its peer by more than this, certainly, needs no second seed.
CLEARLY = 0.05
COLOUR, DEPTH = "rise_small_rgb", "rise_small_rgbd"


@dataclass(frozen=True)
class Row:
    """One way to teach.

    Attributes:
        group: the table that it is in.
        title: what the page calls it.
        input: representation; the start is the shipped RGB-D model where it sees depth, else the RGB model.
        peer: name of the row that it is compared with; empty for none.
        pictures: annotated ones.
        recipe: changes to the recipe.
        unlabelled: whether the other pictures of the cell are given without labels.
        taught: False for the shipped model as it is.
        own_size: its network keeps its input size; otherwise it has that of the taught ones.
    """

    group: str
    title: str
    input: str
    peer: str = ""
    pictures: int = PICTURES
    recipe: dict[str, Any] = field(default_factory=dict)
    unlabelled: bool = False
    taught: bool = True
    own_size: bool = False

    @property
    def start(self) -> str:
        """Name of the shipped model that it starts from."""
        return DEPTH if self.input.endswith("d") else COLOUR


GROUPS = {
    "start": "The shipped models, taught nothing",
    "representations": "Input representations",
    "controls": "Controls",
    "adaptation": "Adaptation",
    "pictures": "Number of annotated pictures",
}
#: GLMask's representation, on which the controls and the adaptation are measured.
SEEDED = "glm"
ROWS: dict[str, Row] = {
    "shipped_rgb": Row("start", "shipped RGB model", "rgb", taught=False),
    "shipped_rgbd": Row("start", "shipped RGB-D model", "rgbd", taught=False),
    "shipped_rgb_own": Row(
        "start", "shipped RGB model, its own input size", "rgb", taught=False, own_size=True
    ),
    "shipped_rgbd_own": Row(
        "start", "shipped RGB-D model, its own input size", "rgbd", taught=False, own_size=True
    ),
    "rgb": Row("representations", "RGB", "rgb", "shipped_rgb"),
    "rgbd": Row("representations", "RGB-D", "rgbd", "shipped_rgbd"),
    "glm": Row("representations", "GLMask: grey, L*, M", "glm", "rgb"),
    "rgbm": Row("representations", "RGB and M", "rgbm", "rgb"),
    "glmd": Row("representations", "grey, L*, M and depth", "glmd", "rgbd"),
    "gl": Row("representations", "grey and L*", "gl", "rgb"),
    "gm": Row("representations", "grey and M (G and L* correlate)", "gm", "glm"),
    "lm": Row("representations", "L* and M", "lm", "glm"),
    "g": Row("representations", "grey", "g", "rgb"),
    "l": Row("representations", "L*", "l", "rgb"),
    "m": Row("representations", "M alone", "m", "rgb"),
    "by_hand": Row(
        "controls",
        "RGB, plain fine-tuning: no collages, no pasting, no rehearsal",
        "rgb",
        "rgb",
        recipe={"real": 1.0, "rehearsal": 0.0, "objects": 0},
    ),
    "hue": Row(
        "controls", "RGB, colour jitter (hue too) doubled", "rgb", "rgb", recipe={"augmentation": 1.4}
    ),
    "no_fakes": Row("controls", "GLMask without fakes", SEEDED, SEEDED, recipe={"fakes": 0.0}),
    "no_corruption": Row(
        "controls",
        "GLMask, M neither spoiled nor absent in training",
        SEEDED,
        SEEDED,
        recipe={"spoiled": 0.0, "absent": 0.0},
    ),
    "no_cross_fitting": Row(
        "controls", "GLMask, M by the network that learned the picture", SEEDED, SEEDED,
        recipe={"cross_fitted": False},
    ),
    "rotation": Row(
        "adaptation", "GLMask, rotated all round at the end", SEEDED, SEEDED, recipe={"finish": 0.25}
    ),
    "pseudo_labels": Row("adaptation", "GLMask, pseudo-labels", SEEDED, SEEDED, unlabelled=True),
    **{
        f"{name}_{count}": Row("pictures", f"{title}, {count} picture{'s' * (count > 1)}", name, name, count)
        for name, title in (("rgbd", "RGB-D"), (SEEDED, "GLMask"))
        for count in (1, 3, 30)
    },
}  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """One training: a row of :data:`ROWS` in a cell, with a seed."""

    row: str
    cell: int
    seed: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.row}-{self.cell}-{self.seed}"


def plan(rows: Iterable[str], cells: Sequence[int], seeds: int) -> list[Piece]:
    """The pieces in the order of the work: every row once in every cell, then the further seeds.

    The shipped models need no seed.
    """
    names = [name for name in ROWS if name in set(rows)]
    return [
        Piece(name, cell, seed)
        for seed in range(seeds)
        for name in names
        for cell in cells
        if ROWS[name].taught or seed == 0
    ]


def is_needed(piece: Piece, results: Sequence[dict[str, Any]]) -> bool:
    """False for a further seed of a row that is clearly behind its peer already."""
    if piece.seed == 0 or not ROWS[piece.row].peer:
        return True
    found = differences(results, piece.row, ROWS[piece.row].peer)
    return not (verdict(found) == "behind" and float(np.mean(found)) < -CLEARLY)


def by_cell(results: Sequence[dict[str, Any]], row: str, figure: str = "ap50") -> dict[int, float]:
    """Cell -> mean of a figure over the seeds; runs in one cell resemble each other."""
    found: dict[int, list[float]] = {}
    for result in results:
        if result["row"] == row and result.get(figure) is not None:
            found.setdefault(result["cell"], []).append(result[figure])
    return {cell: float(np.mean(values)) for cell, values in sorted(found.items())}


def differences(
    results: Sequence[dict[str, Any]], row: str, peer: str, figure: str = "ap50", of_peer: str = ""
) -> list[float]:
    """Row minus peer, cell by cell; ``of_peer`` is another figure of the peer."""
    own, other = by_cell(results, row, figure), by_cell(results, peer, of_peer or figure)
    return [own[cell] - other[cell] for cell in own if cell in other]
