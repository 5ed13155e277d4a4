"""What the learning benchmark found so far: a JSON file, a Markdown page and a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_plan import FEW, LABELS, MAIN, SELECTORS, SHELF_LABELS, STEPS, VARIANTS
from benchmarks.learning_statistics import PEER, Group, interval, merged, verdict
from benchmarks.learning_words import EARLIER, INTRODUCTION, PAPER, SECTIONS
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
_FIGURE_HEAD = ["AP", "AP50", "AP75", "n"]


def write_results(rows: Sequence[dict[str, Any]], folders: Sequence[Path]) -> int:
    """Write ``learning.json``, ``learning.md`` and ``learning.png``, with the rows that are there already.

    Args:
        rows: results of finished pieces (:data:`~benchmarks.learning_plan.ROW`).
        folders: where to.

    Returns:
        how many rows the last folder holds.
    """
    together: list[dict[str, Any]] = []
    for folder in folders:
        together = merged(read_rows(folder / "learning.json"), rows)
        write_json(folder / "learning.json", {"rows": together})
        write_bytes(folder / "learning.png", _plot(together))
        write_text(folder / "learning.md", page(together))
    return len(together)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of results; none where there is no such file."""
    try:
        return list(json.loads(path.read_bytes())["rows"])
    except FileNotFoundError:
        return []


def page(rows: Sequence[dict[str, Any]]) -> str:
    """The Markdown page."""

    def known(key: str) -> str:
        return "; ".join(sorted({str(row[key]) for row in rows})) or "none yet"

    parts = [INTRODUCTION.format(machines=known("machine"), dates=known("date"))]
    parts += ["## The paper and this benchmark\n", _paper_table(rows), PAPER]
    parts.append("![AP50 against the fraction of labels, and AP of the ablations](learning.png)\n")
    for name, title in (("rgbd", "## With depth\n"), ("rgb", "## In colour alone\n")):
        group = Group.of(rows, input=name)
        parts += [title, _main_tables(group) if group.rows else _nothing(f"--input {name}")]
    depth = Group.of(rows)
    parts += [SECTIONS["parts"], _ablation(depth, PART_TITLES, "--tables parts")]
    parts += [SECTIONS["filters"], _ablation(depth, SELECTOR_TITLES, "--tables filters")]
    parts += [SECTIONS["variants"], _variants(depth)]
    models = Group.of(rows, architecture="mask_rcnn")
    parts += [SECTIONS["models"], _methods(models, (PEER, "rise"), (FEW,), "--tables models")]
    shelf = Group.of(rows, data="shelf", input="rgb")
    methods = (PEER, "ps_ot", "rise")
    parts += [SECTIONS["shelf"], _methods(shelf, methods, SHELF_LABELS, "--tables shelf --shelf DIR")]
    earlier = Group.of(rows, split="views")
    if earlier.rows:
        titles = PART_TITLES | {name: name for name in ("threshold", "quantile", "reversed")}
        parts += [EARLIER.format(steps=earlier.steps), _main_tables(earlier), _ablation(earlier, titles, "")]
    return "\n".join(parts)


def _paper_table(rows: Sequence[dict[str, Any]]) -> str:
    """What the paper reports beside what was measured, with and without depth; AP in points."""
    groups = {name: _newest(rows, name) for name in STEPS}

    def lead(other: str, labels: float) -> list[str]:
        return [_points(group.differences("rise", other, labels)) for group in groups.values()]

    def fraction(group: Group) -> str:
        few = group.values("rise", FEW)
        full = [np.mean(list(v.values())) for m in (PEER, "rise") if (v := group.values(m, 1.0))]
        return f"{np.mean(list(few.values())) / max(full):.2f}" if few and full else "not measured"

    return _table(
        ["", "the paper", *(_head(name, group) for name, group in groups.items()), "what differs"],
        [
            [
                "RISE - supervised, 1 %",
                "no such row",
                *lead(PEER, 0.01),
                "the peer has RISE's augmentation and OT",
            ],
            [
                "RISE - none, 1 %",
                "+41.9 (R50), +34.3 (Swin-L)",
                *lead("none", 0.01),
                "5 labelled images, not 309",
            ],
            [
                "RISE - none, 10 %",
                "+25.4 (R50), +15.8 (Swin-L)",
                *lead("none", 0.1),
                "50 labelled images, not 3,099",
            ],
            [
                "RISE at 1 % / all labels",
                "0.94 (R50), 0.97 (Swin-L)",
                *map(fraction, groups.values()),
                "of the best method here at all labels",
            ],
            [
                "RISE - (PS+OT)",
                "+0.3 (R101, all labels)",
                *lead("ps_ot", FEW),
                "at 1 % of the labels: what unlabelled images bring",
            ],
        ],
    )


def _newest(rows: Sequence[dict[str, Any]], name: str) -> Group:
    """The results with this input: those of today, or else the earlier ones."""
    today = Group.of(rows, input=name)
    return today if today.rows else Group.of(rows, input=name, split="views")


def _head(name: str, group: Group) -> str:
    if not group.rows:
        return f"here, {name}"
    earlier = ", earlier results" if group.rows[0]["split"] == "views" else ""
    return f"here, {name}, {group.steps} steps{earlier}"


def _main_tables(group: Group) -> str:
    """AP of the methods at each fraction of labels, and the differences that matter."""
    differences = []
    for labels in LABELS:
        for method, other in (("rise", PEER), ("rise", "none"), ("rise", "ps_ot"), ("ps_ot", PEER)):
            values = group.differences(method, other, labels)
            if values:
                cells = [_points(group.differences(method, other, labels, figure)) for figure in FIGURES]
                what = f"{method} - {other}"
                differences.append([f"{labels:.0%}", what, *cells, str(len(values)), verdict(values)])
    head = ["labels", "difference, points", *_FIGURE_HEAD, ""]
    return _methods(group, MAIN, LABELS, "") + ("\n" + _table(head, differences) if differences else "")


def _methods(group: Group, methods: Sequence[str], fractions: Sequence[float], command: str) -> str:
    body = [
        [
            f"{labels:g}" if labels in SHELF_LABELS else f"{labels:.0%}",
            method,
            steps,
            *_cells(group, method, labels),
        ]
        for labels in fractions
        for method in methods
        if group.values(method, labels)
        for steps in [str(group.length(method, labels))]
    ]
    if not body:
        return _nothing(command)
    return _table(["labels", "method", "steps", *_FIGURE_HEAD], body)


def _ablation(group: Group, titles: dict[str, str], command: str) -> str:
    body = [
        [title, f"`{method}`", *_cells(group, method, FEW)]
        for method, title in titles.items()
        if group.values(method, FEW)
    ]
    if len(body) < 2:
        return _nothing(command)
    return _table(["", "method", *_FIGURE_HEAD], body)


def _variants(group: Group) -> str:
    body = []
    for method, words in {"rise": "all parts, the defaults", **VARIANTS}.items():
        values = group.values(method, FEW)
        if values:
            against = [group.differences(method, other, FEW) for other in ("ps_ot", "rise")]
            ap = _spread(list(values.values()))
            judged = verdict(against[0])
            body.append([f"`{method}`", words, ap, *map(_points, against), str(len(values)), judged])
    if not any(group.values(method, FEW) for method in VARIANTS):
        return _nothing("--variants")
    head = [
        "variant",
        "what it changes of `rise`",
        "AP",
        "- ps_ot, points",
        "- rise, points",
        "n",
        "against ps_ot",
    ]
    return _table(head, body)


def _nothing(command: str) -> str:
    return f"Not measured yet: `rise bench learning OUT {command} --docs docs/results`.\n".replace("  ", " ")


def _cells(group: Group, method: str, labels: float) -> list[str]:
    values = [list(group.values(method, labels, figure).values()) for figure in FIGURES]
    return [*map(_spread, values), str(len(values[0]))]


def _spread(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.3f}"


def _points(differences: Sequence[float]) -> str:
    """A mean difference in points, with its interval."""
    if not differences:
        return "not measured"
    mean, bounds = f"{100 * np.mean(differences):+.1f}", interval(differences)
    return f"{mean} [{100 * bounds[0]:+.1f}, {100 * bounds[1]:+.1f}]" if bounds else f"{mean} (one seed)"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _plot(rows: Sequence[dict[str, Any]]) -> bytes:
    group = _newest(rows, "rgbd")
    curves = {
        method: {
            labels: list(values.values())
            for labels in LABELS
            if (values := group.values(method, labels, "ap50"))
        }
        for method in (PEER, "rise")
    }
    bars = {
        f"{name}, {FEW:.0%} labels, {group.steps} steps": [
            Bar(title, list(group.values(method, FEW).values())) for method, title in titles.items()
        ]
        for name, titles in (("Parts", PART_TITLES), ("Filters", SELECTOR_TITLES))
    }
    return learning_plot(curves, bars)
