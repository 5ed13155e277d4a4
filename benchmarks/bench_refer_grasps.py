"""`rise bench refer-grasps`: what a referring model learns from grasps that were right or wrong."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

from rise_perception.core.errors import ConfigError

SUMMARY = "sentences before and after grasps that say whether the item was the one that was meant"
EXAMPLES = """\
examples:
  rise scenes cell data/cell --annotated 10 --empty 0 --test 60 --seed 7101
  rise scenes stills data/rehearsal --train 60 --val 60 --test 1 --views 2 --seed 18 --sentences 12
  rise bench refer-grasps out/grasps --cell data/cell --rehearsal data/rehearsal

The goods of a cell are parts whose names no model was taught; an operator calls each kind by a word of the
vocabulary. Half of the test pictures judge, on the others and on the annotated ones is grasped.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder")
    parser.add_argument("--cell", type=Path, required=True, metavar="DIR", help="of `rise scenes cell`")
    parser.add_argument(
        "--rehearsal", type=Path, required=True, metavar="DIR", help="of `rise scenes stills --sentences`"
    )
    parser.add_argument("--grasps", type=int, default=100, metavar="N", help="(default %(default)s)")
    parser.add_argument(
        "--flipped", type=float, default=0.1, metavar="SHARE",
        help="of the grasps in the last row of which the robot is told the opposite (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--judges", type=int, default=30, metavar="N", help="pictures (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default %(default)s)")
    parser.add_argument(
        "--model", default="rise_refer_small", metavar="M", help="that begins (default %(default)s)"
    )
    parser.add_argument("--segmenter", default="auto", metavar="M", help="(default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to this file")


def run(args: argparse.Namespace) -> int:
    """Grasp, learn, measure, print."""
    from benchmarks.refer_grasps import Plan, run_cell
    from rise_perception.core.files import write_json

    if args.grasps < 3 or args.judges < 1:
        raise ConfigError(
            f"--grasps is {args.grasps} and --judges {args.judges}; at least 3 and 1 are needed"
        )
    if not 0 <= args.flipped <= 1:
        raise ConfigError(f"--flipped is {args.flipped}; give a share from 0 to 1")
    plan = Plan(
        args.out, args.cell, args.rehearsal, args.model, args.segmenter, args.grasps, args.flipped,
        args.judges, args.seed,
    )  # fmt: skip
    rows = []
    for row in run_cell(plan):
        rows.append(row)
        gain = "" if "gain" not in row else ", gain {:+.3f} [{:+.3f}, {:+.3f}]".format(*row["gain"])
        print(f"told {row['told']}: right item {row['accuracy']:.3f}{gain}", flush=True)
    if args.json:
        content = {
            "benchmark": "refer-grasps",
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "command": args.command_line,
            "rows": rows,
        }
        write_json(args.json, content)
    return 0
