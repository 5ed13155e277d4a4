"""What the benchmark of teaching found so far: a JSON file and a Markdown page."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_statistics import interval, verdict
from benchmarks.teach_plan import GROUPS, ROWS, by_cell, differences
from benchmarks.teach_runs import CORRUPTED_IOU, EMPTY, HEIGHT, WIDTH
from rise_perception.core.files import write_json, write_text

NAME = "teach_cells"
TIME, RECOLOURED = "milliseconds_95", "recoloured_ap50"
Results = Sequence[dict[str, Any]]

INTRODUCTION = """\
# Teaching simulated cells: what each part of `rise teach` brings

Written by `{command}`, which makes the pictures, teaches and evaluates; the same command goes on after a
kill.

- {machine}, {date}. Pictures of {width}x{height}, and so the input of what is taught, and of the shipped
  models that it is compared with; those at their own size are rows of their own. {steps} steps each,
  all annotated pictures in one round.
- Cells of `rise scenes cell`, seeds {cells}; {empty} pictures of the empty tote. The test pictures show other
  fillings of the same tote; "recoloured" are the same ones with goods of other colours under another lamp.
- AP and AP50 of the items over all scores. In brackets the 95 % interval of the mean over the cells
  (Student's t), for seeds are no cells; "n" are trainings. Differences are paired by cell; where the interval
  holds zero, the page says tie. A row that clearly loses with one seed gets no second.
- "world" is the change of AP on pictures of the tote world: what was forgotten, below zero.
- Milliseconds: 95th percentile of a picture, one process, as trained. Memory: the highest of the process.
"""


def write_results(results: Results, folder: Path, command: str) -> None:
    """Write ``results/teach_cells.json`` and ``.md`` below a folder of documents."""
    place = folder / "results"
    content = {
        "benchmark": "teach",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "command": command,
        "rows": list(results),
    }
    write_json(place / f"{NAME}.json", content)
    write_text(place / f"{NAME}.md", page(results, command))


def page(results: Results, command: str) -> str:
    """The Markdown page."""
    done = {result["row"] for result in results}
    parts = [
        INTRODUCTION.format(
            command=command,
            machine=f"{platform.machine()}, Python {platform.python_version()}",
            date=datetime.datetime.now(datetime.timezone.utc).date(),
            width=WIDTH,
            height=HEIGHT,
            steps=max((result["steps"] for result in results), default=0),
            cells=", ".join(str(cell) for cell in sorted({result["cell"] for result in results}))
            or "none yet",
            empty=EMPTY,
        )
    ]
    for group, title in GROUPS.items():
        rows = [name for name, row in ROWS.items() if row.group == group and name in done]
        if rows:
            parts += [f"## {title}\n", _group(results, rows)]
    with_m = [name for name in ROWS if name in done and by_cell(results, name, "ap50_true")]
    if with_m:
        parts += [FOREGROUND.format(iou=CORRUPTED_IOU), _foreground(results, with_m)]
    parts += ["## Aims\n", _aims(results), _ties(results)]
    return "\n".join(parts)


FOREGROUND = """\
## M at the test

AP50 where the network is given another M than its own: one whose overlap with the true one is {iou:g}, none,
and the true one, which no robot has.
"""


def _group(results: Results, rows: Sequence[str]) -> str:
    head = ["", "AP50", "recoloured", "AP", "world", "n", "ms", "s", "against", "difference in AP50"]
    lines = []
    for name in rows:
        row = ROWS[name]
        own = [result for result in results if result["row"] == name]
        shipped = f"shipped_{'rgbd' if row.input.endswith('d') else 'rgb'}"
        world = differences(results, name, shipped, "world_ap") if row.taught else []
        found = differences(results, name, row.peer) if row.peer else []
        lines.append(
            [
                row.title,
                _mean(results, name, "ap50"),
                _mean(results, name, "recoloured_ap50"),
                f"{np.mean(list(by_cell(results, name, 'ap').values())):.3f}",
                f"{np.mean(world):+.3f}" if world else "",
                str(len(own)),
                f"{np.median([result['milliseconds_95'] for result in own]):.0f}",
                f"{np.mean([result['seconds'] for result in own]):.0f}",
                ROWS[row.peer].title if row.peer else "",
                difference(found) if row.peer else "",
            ]
        )
    return _table(head, lines)


def _foreground(results: Results, rows: Sequence[str]) -> str:
    head = ["", "its own", "corrupted", "absent", "true (not usable)"]
    kinds = ("ap50", "ap50_corrupted", "ap50_absent", "ap50_true")
    return _table(head, [[ROWS[r].title, *(_mean(results, r, kind) for kind in kinds)] for r in rows])


def _aims(results: Results) -> str:
    """The aims beside what was measured; only those whose rows are there."""

    def of(row: str, figure: str = "ap50") -> float | None:
        values = list(by_cell(results, row, figure).values())
        return float(np.mean(values)) if values else None

    def minus(row: str, other: str, figure: str = "ap50", of_other: str = "") -> float | None:
        found = differences(results, row, other, figure, of_other)
        return float(np.mean(found)) if found else None

    def over(row: str, figure: str, other: str, of_other: str) -> float | None:
        top, below = of(row, figure), of(other, of_other)
        return top / below if top is not None and below else None

    def most(limit: float) -> Callable[[float], bool]:
        return lambda value: value <= limit

    def least(limit: float) -> Callable[[float], bool]:
        return lambda value: value >= limit

    recoloured = "recoloured over as taught"
    rows: list[tuple[str, str, float | None, Callable[[float], bool]]] = [
        ("AP50, RGB-D", "0.80", of("rgbd"), least(0.80)),
        ("... above the shipped RGB-D model", "+0.10", minus("rgbd", "shipped_rgbd"), least(0.10)),
        ("RGB above the shipped RGB model", "+0.20", minus("rgb", "shipped_rgb"), least(0.20)),
        ("GLMask above the shipped RGB model", "+0.20", minus("glm", "shipped_rgb"), least(0.20)),
        *(
            (
                f"{recoloured}, {ROWS[row].title}",
                "0.90",
                over(row, "recoloured_ap50", row, "ap50"),
                least(0.9),
            )
            for row in ("rgb", "rgbd", "glm")
        ),
        (
            "its own M below the true",
            "0.05 at most",
            minus("glm", "glm", "ap50_true", "ap50"),
            most(0.05),
        ),
        ("corrupted M below `gl`", "0.03 at most", minus("gl", "glm", "ap50", "ap50_corrupted"), most(0.03)),
        ("tote world, RGB-D", "-0.010", minus("rgbd", "shipped_rgbd", "world_ap"), least(-0.01)),
        ("tote world, RGB", "-0.010", minus("rgb", "shipped_rgb", "world_ap"), least(-0.01)),
        ("time, GLMask over RGB", "1.15 at most", over("glm", TIME, "rgb", TIME), most(1.15)),
        ("memory in GiB", "3 at most", max((r["peak_gib"] for r in results), default=None), most(3.0)),
    ]
    lines = [
        [title, aim, f"{value:.3f}", "reached" if reached(value) else "missed"]
        for title, aim, value, reached in rows
        if value is not None
    ]
    return _table(["", "aim", "measured", ""], lines)


def _ties(results: Results) -> str:
    """The controls that cannot be told from what they control."""
    tied = [
        f"{row.title} (against {ROWS[row.peer].title})"
        for name, row in ROWS.items()
        if row.group in ("controls", "adaptation") and verdict(differences(results, name, row.peer)) == "tie"
    ]
    if not tied:
        return ""
    return (
        "Controls that tie, so that what they lack or add is not shown to matter: " + "; ".join(tied) + ".\n"
    )


def _mean(results: Results, row: str, figure: str) -> str:
    values = list(by_cell(results, row, figure).values())
    if not values:
        return ""
    bounds = interval(values)
    return f"{np.mean(values):.3f}" + (f" [{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "")


def difference(found: Sequence[float]) -> str:
    """A difference with its interval and whether it is one."""
    if not found:
        return "not measured"
    bounds = interval(found)
    text = f"{np.mean(found):+.3f}"
    return f"{text} [{bounds[0]:+.3f}, {bounds[1]:+.3f}], {verdict(found)}" if bounds else f"{text}, one cell"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
