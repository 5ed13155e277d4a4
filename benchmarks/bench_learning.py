"""`rise bench learning`: what the parts of the method bring, from 1 % to all of the labels."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.learning import LearningBenchmark
    from benchmarks.learning_plan import Choice, Piece

FAILED = 2
SUMMARY = "learning: RISE against supervised training at few and many labels, the parts of RISE, and variants"
EXAMPLES = """\
examples:
  rise bench learning out/bench --docs docs/results                     (the main table, with depth)
  rise bench learning out/bench --input rgb --docs docs/results         (in colour alone)
  rise bench learning out/bench --tables parts filters models --docs docs/results
  rise bench learning out/bench --variants --docs docs/results          (all variants, one seed)
  rise bench learning out/bench --variants soft burn_in --seeds 0 1 2
  rise bench learning out/bench --tables shelf --shelf ../shared/data/apc_shelf --docs docs/results
  rise bench learning out/bench --methods supervised rise --labels 0.01 --seeds 0
  rise bench learning out/bench --pieces 0 --docs docs/results          (train nothing, write what is there)

It makes a data set of the tote world and trains piece by piece; rerun it to resume after a kill. To
share the work, start it several times on one folder: each process takes the next piece that is nobody's.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    from benchmarks.learning_plan import LABELS, METHODS, SHELF_LABELS, STEPS, TABLES, VARIANTS

    parser.add_argument("out", type=Path, metavar="OUT", help="folder; what is finished in it is kept")
    parser.add_argument(
        "--tables",
        nargs="+",
        choices=TABLES,
        metavar="T",
        help=f"of {', '.join(TABLES)} (default: main, or none beside --variants)",
    )
    parser.add_argument(
        "--variants",
        nargs="*",
        choices=tuple(VARIANTS),
        metavar="V",
        help=f"`rise` with one change, beside ps_ot and rise; all when none is named: {', '.join(VARIANTS)}",
    )
    parser.add_argument("--input", choices=tuple(STEPS), default="rgbd", help="rgbd (default) or rgb")
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help=f"of each training (default: {STEPS['rgbd']}, rgb {STEPS['rgb']})",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="use this data set of `rise scenes stills`")
    parser.add_argument("--shelf", type=Path, metavar="DIR", help="folder of apc_shelf, for the table shelf")
    parser.add_argument(
        "--configs", type=Path, metavar="FILE", help="use this table in place of config/bench/learning.yaml"
    )
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, ...")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, metavar="M", help="only these: " + ", ".join(METHODS)
    )
    fractions = (*LABELS, *SHELF_LABELS)
    parser.add_argument(
        "--labels", nargs="+", type=float, choices=fractions, metavar="RATE", help="only these fractions"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="S", help="default: 0 1 2; 0 for models and variants"
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

    for name, least in (("pieces", 0), ("steps", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ConfigError(f"--{name} is {value}; give a number from {least} on")
    bench = LearningBenchmark(
        args.out,
        args.data,
        args.configs or resources.find("config") / "bench" / "learning.yaml",
        choose_device(args.device),
        args.command_line,
        git_revision(),
        args.shelf,
    )
    chosen = [
        piece
        for piece in plan(_choice(args))
        if (args.methods is None or piece.method in args.methods)
        and (args.labels is None or piece.labels in args.labels)
    ]
    if not chosen:
        raise ConfigError(
            "no piece has these methods and labels; ablations, models and variants are at 1 % of the labels, "
            "and at 100 % there are supervised and rise alone"
        )
    folders = [args.out, *([args.docs] if args.docs else [])]
    _publish(bench, chosen, folders)
    for _ in itertools.islice(bench.work(chosen, args.workers), args.pieces):
        _publish(bench, chosen, folders)
    done = len(bench.rows(chosen))
    print(f"{done} of {len(chosen)} pieces are finished; see {folders[-1] / 'learning.md'}")
    return FAILED if bench.failed else 0


def _choice(args: argparse.Namespace) -> Choice:
    from benchmarks.learning_plan import VARIANTS, Choice

    variants = () if args.variants is None else tuple(args.variants) or tuple(VARIANTS)
    tables = tuple(args.tables) if args.tables else () if variants else ("main",)
    seeds = tuple(args.seeds) if args.seeds else None
    return Choice(tables, variants, args.input, args.steps, seeds)


def _publish(bench: LearningBenchmark, pieces: Sequence[Piece], folders: Sequence[Path]) -> None:
    from benchmarks.learning import claim
    from benchmarks.learning_page import write_results

    # One process at a time, so that the last to write has seen all results.
    with claim(bench.out / "results.lock", wait=True):
        write_results(bench.rows(pieces), folders)
