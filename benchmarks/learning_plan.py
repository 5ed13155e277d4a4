"""The pieces of the learning benchmark: which method is trained on what, at which fraction of labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

LABELS, SEEDS = (0.01, 0.1, 1.0), (0, 1, 2)
#: Steps of a training, by its input: colour alone learns more slowly.
STEPS = {"rgbd": 3000, "rgb": 4000}
#: Fractions of the steps after which the supervised peer is judged; the best of them counts.
LENGTHS = (0.2, 0.5, 1.0)
#: Methods of the main table, and those that are told apart where nothing is unlabelled.
MAIN, MAIN_ALL = ("none", "supervised", "ps_ot", "rise"), ("supervised", "rise")
#: The paper's Table 3, cumulative, and its Table 4 with a learned policy beside it, at one fraction of
#: labels: the one where they matter most.
PARTS = ("none", "ps", "ps_ot", "self_supervision", "m2b", "rise")
SELECTORS = ("threshold", "quantile", "reversed", "policy", "rise")
FEW = 0.01
#: `rise` with one change each, and what each of them is.
VARIANTS = {
    "same_view": "x3 has the geometry and the depth of x1",
    "same_geometry": "x3 has the geometry of x1",
    "same_depth": "x3 has the depth of x1",
    "linear_quantile": "the quantile lies between two scores and loses the lowest",
    "m2b": "one target per object, no Multi-Label Matching",
    "mask_schedule": "mask threshold rising from 0.5 to 0.85",
    "average_teacher": "the teacher is the moving average",
    "burn_in": "no L_u for a fifth of the steps, then a ramp over a fifth",
    "mask_trust": "trust is class score times mask quality",
    "soft": "weights by class score times mask quality, no thresholds",
    "small_student": "the student sees the image at 0.4 to 0.8 of the teacher's scale",
    "more_unlabelled": "three unlabelled images for each labelled one",
    "combined": "average_teacher, burn_in, soft and one target per object",
    "paper": "the paper's setting, whatever the defaults are",
}
METHODS = tuple(dict.fromkeys((*MAIN, *PARTS, *SELECTORS, *VARIANTS)))
#: Fractions of the shelf's eight views that are labelled: one, three and five.
SHELF_LABELS = (0.125, 0.375, 0.625)
TABLES = ("main", "parts", "filters", "models", "shelf")
#: What a row of the results must hold.
ROW = {
    "method": str,
    "labels": float,
    "seed": int,
    "ap": float,
    "ap50": float,
    "ap75": float,
    "iterations": int,
    "input": str,
    "architecture": str,
    "data": str,
    "split": str,
    "machine": str,
}


@dataclass(frozen=True)
class Piece:
    """One training and its evaluation.

    Attributes:
        method: row of the benchmark's table of configurations.
        labels: fraction of the training images that is labelled.
        seed: of the split, the weights, the order and the augmentation.
        iterations: steps.
        input: ``rgbd`` or ``rgb``.
        architecture: ``rise`` or ``mask_rcnn``.
        data: ``tote``, the tote world, or ``shelf``, real views of one shelf bin.
    """

    method: str
    labels: float
    seed: int
    iterations: int = STEPS["rgbd"]
    input: str = "rgbd"
    architecture: str = "rise"
    data: str = "tote"

    @property
    def name(self) -> str:
        """Name of its folder."""
        parts = [self.method, f"{self.labels:g}", f"seed{self.seed}", str(self.iterations), self.input]
        parts += [part for part in (self.architecture, self.data) if part not in ("rise", "tote")]
        return "_".join(parts)

    @classmethod
    def of(cls, row: dict[str, Any]) -> Piece:
        """The piece that a row of the results is about."""
        return cls(*(row[name] for name in cls.__dataclass_fields__))


@dataclass(frozen=True)
class Choice:
    """What of the benchmark is to be done.

    Attributes:
        tables: of :data:`TABLES`.
        variants: of :data:`VARIANTS`; `ps_ot` and `rise` come with them.
        input: ``rgbd`` or ``rgb``; the shelf is ``rgb`` always.
        steps: of a training; None takes :data:`STEPS`.
        seeds: None takes all for a table, and the first for models and variants: what clearly loses with one
            seed needs no second.
    """

    tables: tuple[str, ...] = ("main",)
    variants: tuple[str, ...] = ()
    input: str = "rgbd"
    steps: int | None = None
    seeds: tuple[int, ...] | None = None


def plan(choice: Choice) -> list[Piece]:
    """The pieces of a choice, in the order of the work; what two tables share is there once."""
    pieces: list[Piece] = []
    for table in choice.tables:
        pieces += _table(table, choice)
    if choice.variants:
        methods = ("ps_ot", "rise", *choice.variants)
        pieces += _pieces(choice, methods, (FEW,), choice.seeds or SEEDS[:1])
    return list(dict.fromkeys(pieces))


def _table(table: str, choice: Choice) -> list[Piece]:
    seeds = choice.seeds or SEEDS
    if table == "main":
        few = _pieces(choice, MAIN, LABELS[:-1], seeds)
        every = _pieces(choice, MAIN_ALL, LABELS[-1:], seeds)
        return sorted([*few, *every], key=lambda piece: piece.seed)
    if table == "parts":
        return _pieces(choice, PARTS, (FEW,), seeds)
    if table == "filters":
        return _pieces(choice, SELECTORS, (FEW,), seeds)
    if table == "models":
        return _pieces(choice, MAIN_ALL, (FEW,), choice.seeds or SEEDS[:1], architecture="mask_rcnn")
    shelf = Choice(input="rgb", steps=choice.steps)
    return _pieces(shelf, ("supervised", "ps_ot", "rise"), SHELF_LABELS, seeds, data="shelf")


def _pieces(
    choice: Choice, methods: Iterable[str], labels: Iterable[float], seeds: Iterable[int], **where: str
) -> list[Piece]:
    steps = choice.steps or STEPS[choice.input]
    return [
        Piece(method, fraction, seed, length, choice.input, **where)
        for seed in seeds
        for fraction in labels
        for method in methods
        for length in (lengths(steps) if method == "supervised" else (steps,))
    ]


def lengths(steps: int) -> tuple[int, ...]:
    """After how many steps the supervised peer is judged: each is a training of its own."""
    return tuple(dict.fromkeys(max(1, round(fraction * steps)) for fraction in LENGTHS))
