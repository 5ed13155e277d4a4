"""What the learning benchmark found so far: a JSON file, a Markdown page and a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_plan import (
    ABLATION_LABELS,
    LABELS,
    MAIN,
    SELECTORS,
    Piece,
    plan,
)
from rise_perception.core.files import write_bytes, write_json, write_text
from rise_perception.evaluation.plots import Bar, learning_plot

#: What a method is called in the tables of the parts and of the filters.
PART_TITLES = {
    "none": "none",
    "ps": "+PS",
    "ps_ot": "+OT",
    "self_supervision": "+L_u",
    "m2b": "+M2B",
    "rise": "+MLM",
}
SELECTOR_TITLES = {method: method for method in SELECTORS} | {"rise": "cascade"}
FIGURES = ("ap", "ap50", "ap75")

_INTRODUCTION = """\
# Learning from few labels: what RISE and its parts bring

Written by `rise bench learning out/bench --docs docs`, which makes the data (tote world), trains, evaluates,
and goes on after a kill; several processes may share one folder. Another run of it replaces this page.

- Machine: {machines}. Dates: {dates}.
- Data: {images}.
- Each piece: {iterations} iterations of {batch} labelled views, and of {unlabelled} unlabelled ones where a
  method uses them. The seed draws the labelled images; a smaller share is a part of a larger one.
- Measured on the test images: COCO AP of the objects (no containers), guesses from a score of 0.02 on.
- "±" is the sample standard deviation over the seeds; n is their number.
- Configurations: `config/bench/METHOD.yaml`. All rows, each with its seconds: [learning.json](learning.json).
"""
_MAIN_WORDS = """\
The paper (ARMBench mix-object-tote, Swin-L, AP50) has RISE at 0.849, 0.852 and 0.864 for 1 %, 10 % and 100 %
of the labels, and Deformable DETR alone at 0.394, 0.755 and 0.770: a lead of 45, 10 and 9 points. Here
nothing is unlabelled at 100 %: RISE has its pseudo-sequences alone there.
"""
_PARTS_WORDS = """\
Cumulative, at {rate:.0%} labels: no part (Hungarian matching, no pasting, nothing unlabelled);
pseudo-sequences (PS); optimal transport (OT); unlabelled images with plain pseudo-labels (L_u); Mask-to-Box
(M2B); Multi-Label Matching (MLM), which is RISE. The paper's Table 3 (ResNet-101, all labels, AP): none
0.538, +PS 0.739, +OT 0.742, +M2B 0.744, +MLM 0.745.
"""
_SELECTORS_WORDS = """\
How pseudo-labels are chosen, at {rate:.0%} labels. The paper's Table 4 (ResNet-101, all labels, AP): cascade
0.745, reversed 0.730, threshold 0.729, quantile 0.726.
"""


def write_results(rows: Sequence[dict[str, Any]], facts: dict[str, Any], folders: Sequence[Path]) -> None:
    """Write ``learning.json``, ``learning.md`` and ``learning.png``.

    Args:
        rows: results of the finished pieces (:data:`~benchmarks.learning_plan.ROW`).
        facts: ``iterations``, ``batch``, ``unlabelled`` and ``images``, for the page.
        folders: where to.
    """
    missing = missing_pieces(rows)
    content = {"rows": list(rows), "missing": [piece.name for piece in missing]}
    text, plot = page(rows, facts), _plot(rows)
    for folder in folders:
        write_json(folder / "learning.json", content)
        write_bytes(folder / "learning.png", plot)
        write_text(folder / "learning.md", text)


def missing_pieces(rows: Sequence[dict[str, Any]]) -> list[Piece]:
    """The pieces of the plan that have no row."""
    done = {Piece(row["method"], row["labels"], row["seed"]) for row in rows}
    return [piece for piece in plan() if piece not in done]


def page(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """The Markdown page."""

    def known(key: str) -> str:
        return "; ".join(sorted({str(row[key]) for row in rows})) or "none yet"

    missing = missing_pieces(rows)
    parts = [_INTRODUCTION.format(machines=known("machine"), dates=known("date"), **facts)]
    if missing:
        parts.append(
            f"**{len(missing)} of {len(plan())} pieces are missing**: "
            + ", ".join(piece.name for piece in missing)
            + ".\n"
        )
    parts.append("![AP50 against the share of labels, and AP of the ablations](learning.png)\n")
    parts += ["## Supervised training and RISE\n", _main_table(rows), _MAIN_WORDS]
    for title, words, titles in (
        ("## The parts (Table 3)\n", _PARTS_WORDS, PART_TITLES),
        ("## The filters (Table 4)\n", _SELECTORS_WORDS, SELECTOR_TITLES),
    ):
        parts += [title, _ablation_table(rows, titles), words.format(rate=ABLATION_LABELS)]
    return "\n".join(parts)


def _main_table(rows: Sequence[dict[str, Any]]) -> str:
    body = []
    for labels in LABELS:
        for method in MAIN:
            body.append([f"{labels:.0%}", method, *_cells(rows, method, labels)])
        body.append([f"{labels:.0%}", "difference, same seed", *_differences(rows, labels)])
    return _table(["labels", "method", "AP", "AP50", "AP75", "n"], body)


def _ablation_table(rows: Sequence[dict[str, Any]], titles: dict[str, str]) -> str:
    body = [
        [title, f"`{method}`", *_cells(rows, method, ABLATION_LABELS)] for method, title in titles.items()
    ]
    return _table(["", "method", "AP", "AP50", "AP75", "n"], body)


def _cells(rows: Sequence[dict[str, Any]], method: str, labels: float) -> list[str]:
    values = [_values(rows, method, labels, figure) for figure in FIGURES]
    return [*map(_spread, map(list, map(dict.values, values))), str(len(values[0]))]


def _differences(rows: Sequence[dict[str, Any]], labels: float) -> list[str]:
    """RISE minus supervised, seed by seed: the split and the first weights are the same then."""
    cells, count = [], 0
    for figure in FIGURES:
        lower, upper = (_values(rows, method, labels, figure) for method in MAIN)
        both = [upper[seed] - lower[seed] for seed in upper if seed in lower]
        cells.append(_spread(both, sign=True))
        count = len(both)
    return [*cells, str(count)]


def _values(rows: Sequence[dict[str, Any]], method: str, labels: float, figure: str) -> dict[int, float]:
    """Seed -> figure."""
    return {r["seed"]: r[figure] for r in rows if (r["method"], r["labels"]) == (method, labels)}


def _spread(values: list[float], sign: bool = False) -> str:
    if not values:
        return "missing"
    mean = f"{np.mean(values):+.3f}" if sign else f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"


def _table(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _plot(rows: Sequence[dict[str, Any]]) -> bytes:
    curves = {
        method: {
            labels: list(values.values())
            for labels in LABELS
            if (values := _values(rows, method, labels, "ap50"))
        }
        for method in MAIN
    }
    bars = {
        f"{name}, {ABLATION_LABELS:.0%} labels": [
            Bar(title, list(_values(rows, method, ABLATION_LABELS, "ap").values()))
            for method, title in titles.items()
        ]
        for name, titles in (("Parts", PART_TITLES), ("Filters", SELECTOR_TITLES))
    }
    return learning_plot(curves, bars)
