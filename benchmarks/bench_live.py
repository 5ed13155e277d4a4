"""`rise bench live`: what learning from its own grasps brings a simulated cell, against doing without."""

from __future__ import annotations

import argparse
import itertools
import json
import platform
from pathlib import Path
from typing import Any

from rise_perception.core.errors import ConfigError, DataError, require

SUMMARY = "live learning: grasp success over picks, off, with a geometric filter, and learning"
EXAMPLES = """\
examples:
  rise bench live out/live --cells 6 --seeds 2 --picks 150 --json live.json
  rise bench live out/live --cells 2 --seeds 1 --picks 60 --arms off learning
  rise bench live out/live --peer earlier.json --json live.json

It picks in one process and in simulated time, without ROS. All arms see the same totes in the same order; a
kill costs the run that was under way. --peer takes the rows of the arm "learning" from the JSON of another
version of this package, on the same cells, and shows them as the arm "learning before".
"""
ARMS = ("off", "geometric", "learning")
PEER = "learning before"
#: Cells are numbered from here on: others were looked at while the learner was written.
FIRST_CELL = 9001


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder; what is finished in it is kept")
    parser.add_argument("--cells", type=int, default=6, metavar="N", help="(default %(default)s)")
    parser.add_argument(
        "--first-cell", type=int, default=FIRST_CELL, metavar="S", help="its seed (default %(default)s)"
    )
    parser.add_argument(
        "--seeds", type=int, default=2, metavar="N", help="streams of totes of a cell (default %(default)s)"
    )
    parser.add_argument(
        "--picks", type=int, default=150, metavar="N", help="grasps of a run (default %(default)s)"
    )
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM", help=", ".join(ARMS)
    )
    parser.add_argument("--model", default="rise_small_rgbd", metavar="M", help="(default %(default)s)")
    parser.add_argument(
        "--totes", type=int, default=8, metavar="N", help="held-out totes for AP (default %(default)s)"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="of the learner's configuration, such as update.iterations=30",
    )
    parser.add_argument("--peer", type=Path, metavar="F", help="JSON of another version of this package")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to this file")


def run(args: argparse.Namespace) -> int:
    """Pick, measure, print, write JSON after every run."""
    from tqdm import tqdm

    from benchmarks.live import Plan, run_arm

    for name in ("cells", "seeds", "picks", "totes"):
        require(getattr(args, name) >= 1, f"--{name}", getattr(args, name), "at least 1")
    settings = tuple(_setting(text) for text in args.set)
    plan = Plan(args.out, args.model, args.picks, totes=args.totes, learner=settings)
    rows = _peer(args.peer) if args.peer else []
    cells = range(args.first_cell, args.first_cell + args.cells)
    for cell, seed, arm in itertools.product(cells, range(args.seeds), args.arms):
        with tqdm(total=args.picks, desc=f"{arm}, cell {cell}, totes {seed}", unit="grasp") as bar:
            rows.append(run_arm(plan, arm, cell, seed, lambda pick, bar=bar: bar.update()))  # type: ignore[misc]
        _publish(args, rows)
    return 0


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        raise ConfigError(
            f"--set {text}: expected NAME=VALUE with a number, such as update.iterations=30"
        ) from None


def _peer(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return [{**row, "arm": PEER} for row in rows if row["arm"] == "learning"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no results of `rise bench live` ({error!r})") from None


def _publish(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    from benchmarks.live import SUMMARISED, first_difference, summarise
    from rise_perception.core.files import write_json

    summary = summarise(rows)
    print(f"\n{'':<24}" + "".join(f"{name[:22]:>26}" for name in SUMMARISED))
    for arm, figures in summary.items():
        print(f"{arm:<24}" + "".join(f"{_text(figures[name]):>26}" for name in SUMMARISED), flush=True)
    if not args.json:
        return
    by_run = {(row["arm"], row["cell"], row["seed"]): row for row in rows}
    differs = {
        f"{arm} - {other}, cell {cell}, totes {seed}": first_difference(row, by_run[other, cell, seed])
        for (arm, cell, seed), row in by_run.items()
        for other in ("off",)
        if arm != other and (other, cell, seed) in by_run
    }
    content = {
        "benchmark": "live",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "command": args.command_line,
        "rows": [{k: v for k, v in row.items() if k != "outcomes"} for row in rows],
        "summary": summary,
        "first_grasp_that_differs": differs,
    }
    write_json(args.json, content)


def _text(value: tuple[float, float | None, float | None]) -> str:
    mean, lower, upper = value
    return f"{mean:.3f}" if lower is None else f"{mean:.3f} [{lower:.3f}, {upper:.3f}]"
