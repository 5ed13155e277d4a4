"""`rise bench learning`: what the parts of the method bring, from 1 % to all of the labels."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.learning import LearningBenchmark

FAILED = 2
SUMMARY = "learning: RISE against supervised training at few and many labels, and the parts of RISE"
EXAMPLES = """\
examples:
  rise bench learning out/bench --docs docs
  rise bench learning out/bench --methods supervised rise --labels 0.01 0.1 --seeds 0
  rise bench learning out/bench --pieces 0 --docs docs     (train nothing, write tables of what is there)

It makes a data set of the tote world and trains piece by piece; the same command goes on after a kill. To
share the work, start it several times on one folder: each process takes the next piece that is nobody's.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    from benchmarks.learning_plan import LABELS, METHODS, SEEDS

    parser.add_argument("out", type=Path, metavar="OUT", help="folder; what is finished in it is kept")
    parser.add_argument("--data", type=Path, metavar="DIR", help="use this data set of `rise scenes stills`")
    parser.add_argument("--configs", type=Path, metavar="DIR", help="use these in place of config/bench")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, ...")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=METHODS, metavar="M", help=", ".join(METHODS)
    )
    parser.add_argument(
        "--labels",
        nargs="+",
        type=float,
        choices=LABELS,
        default=LABELS,
        metavar="RATE",
        help="of " + ", ".join(map(str, LABELS)),
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        choices=SEEDS,
        default=SEEDS,
        metavar="S",
        help="of " + ", ".join(map(str, SEEDS)),
    )
    parser.add_argument("--pieces", type=int, metavar="N", help="stop after so many pieces (default: all)")
    parser.add_argument("--workers", type=int, default=2, help="processes that render (default %(default)s)")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="write table, plot and JSON here as well")


def run(args: argparse.Namespace) -> int:
    """Work on the pieces, and write after each what is known by then; 2 when one failed."""
    from benchmarks.learning import LearningBenchmark
    from benchmarks.learning_plan import plan
    from rise_perception.cli.train import git_revision
    from rise_perception.core import resources
    from rise_perception.core.errors import ConfigError
    from rise_perception.inference.device import choose_device

    if args.pieces is not None and args.pieces < 0:
        raise ConfigError(f"--pieces is {args.pieces}; give a number from 0 on")
    bench = LearningBenchmark(
        args.out,
        args.data,
        args.configs or resources.find("config") / "bench",
        choose_device(args.device),
        args.command_line,
        git_revision(),
    )
    chosen = [
        piece
        for piece in plan()
        if piece.method in args.methods and piece.labels in args.labels and piece.seed in args.seeds
    ]
    if not chosen:
        raise ConfigError("no piece has these methods, labels and seeds; the ablations are at 10 % labels")
    folders = [args.out, *([args.docs] if args.docs else [])]
    _publish(bench, folders)
    for _ in itertools.islice(bench.work(chosen, args.workers), args.pieces):
        _publish(bench, folders)
    print(f"{len(bench.rows())} of {len(plan())} pieces are finished; see {folders[-1] / 'learning.md'}")
    return FAILED if bench.failed else 0


def _publish(bench: LearningBenchmark, folders: list[Path]) -> None:
    from benchmarks.learning import claim
    from benchmarks.learning_page import write_results

    # One process at a time, so that the last to write has seen all results.
    with claim(bench.out / "results.lock", wait=True):
        write_results(bench.rows(), bench.facts(), folders)
