"""`rise bench teach`: what each part of teaching a cell brings, on simulated cells."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rise_perception.core.errors import require

SUMMARY = "teaching simulated cells: input representations, controls, number of pictures"
EXAMPLES = """\
examples:
  rise bench teach out/teach --docs docs
  rise bench teach out/teach --cells 1 --seeds 1 --rows shipped_rgb rgb glm --docs docs
  rise bench teach out/teach --json teach.json

Every row is taught in every cell, then with further seeds, unless it has clearly lost. What is finished in
OUT is kept, and a run that was killed goes on. --docs DIR writes DIR/results/teach_cells.md and .json.
"""
#: Cells are numbered from here on: others were looked at while teaching was written.
FIRST_CELL = 7001


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    from benchmarks.teach_plan import ROWS, SEEDS

    parser.add_argument("out", type=Path, metavar="OUT", help="folder; what is finished in it is kept")
    parser.add_argument("--cells", type=int, default=3, metavar="N", help="(default %(default)s)")
    parser.add_argument(
        "--first-cell", type=int, default=FIRST_CELL, metavar="S", help="(default %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="(default %(default)s)")
    parser.add_argument(
        "--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    parser.add_argument(
        "--steps", type=int, default=160, metavar="N", help="of a training (default %(default)s)"
    )
    parser.add_argument("--test", type=int, default=40, metavar="N", help="pictures (default %(default)s)")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="write page and rows below this folder")
    parser.add_argument("--json", type=Path, metavar="F", help="write the rows to this file")


def run(args: argparse.Namespace) -> int:
    """Teach, measure; page and rows are written after every piece."""
    from tqdm import tqdm

    from benchmarks.teach_page import page, write_results
    from benchmarks.teach_plan import is_needed, plan
    from benchmarks.teach_runs import Task, run_piece
    from rise_perception.core.files import write_json

    for name in ("cells", "seeds", "steps", "test"):
        require(getattr(args, name) >= 1, f"--{name}", getattr(args, name), "at least 1")
    task = Task(args.out, args.steps, args.test, args.test)
    cells = range(args.first_cell, args.first_cell + args.cells)
    results: list[dict[str, Any]] = []
    with tqdm(plan(args.rows, cells, args.seeds), unit="training", dynamic_ncols=True) as bar:
        for piece in bar:
            bar.set_description(piece.name)
            if not is_needed(piece, results):
                continue
            results.append(run_piece(task, piece))
            if args.docs:
                write_results(results, args.docs, args.command_line)
            if args.json:
                write_json(args.json, {"benchmark": "teach", "rows": results})
    print(page(results, args.command_line))
    return 0
