"""`rise bench gate`: poison of every kind against the default gate."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

from rise_perception.core.errors import ConfigError, require

SUMMARY = "the gate: labels made wrong in every way, judges included, and what is promoted all the same"
EXAMPLES = """\
examples:
  rise bench gate out/gate --json gate.json
  rise bench gate out/gate --rounds 2 --kinds dilated "score inflation"
  rise bench gate out/gate --picks 60 --rounds 2 --totes 4 --anchors 64 40 1 --iterations 40

It picks the grasps once, then lets a learner with the default gate learn from them in rounds with labels that
are all wrong in the same way. AP is that on totes of the cell with true labels. The same command resumes; a
kill costs the kind that was under way.
"""
#: A promotion may cost so much AP on true totes.
AIM = -0.003


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder; what is finished in it is kept")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="(default: all)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default %(default)s)")
    parser.add_argument("--cell", type=int, default=9101, metavar="S", help="its seed (default %(default)s)")
    parser.add_argument(
        "--picks", type=int, default=150, metavar="N", help="grasps of all rounds (default %(default)s)"
    )
    parser.add_argument("--model", default="rise_small_rgbd", metavar="M", help="(default %(default)s)")
    parser.add_argument(
        "--totes", type=int, default=8, metavar="N", help="totes for the true AP (default %(default)s)"
    )
    parser.add_argument(
        "--anchors",
        nargs=3,
        type=int,
        default=(160, 80, 80),
        metavar="N",
        help="labelled images that are replayed, for the gate, and for none (default: 160 80 80)",
    )
    parser.add_argument("--iterations", type=int, metavar="N", help="of an update (default: the learner's)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to this file")


def run(args: argparse.Namespace) -> int:
    """Poison, learn, measure, print, write JSON after every round."""
    from benchmarks.gate import ALL_KINDS, run_kind, summarise
    from benchmarks.live import Plan
    from rise_perception.core.files import write_json

    kinds = args.kinds or list(ALL_KINDS)
    if unknown := sorted(set(kinds) - set(ALL_KINDS)):
        raise ConfigError(f"--kinds names {unknown[0]!r}; there are: {', '.join(ALL_KINDS)}")
    anchors = tuple(args.anchors)
    if min(anchors) < 1:
        raise ConfigError(f"--anchors is {anchors}; each number must be at least 1")
    for name in ("rounds", "picks", "totes"):
        require(getattr(args, name) >= 1, f"--{name}", getattr(args, name), "at least 1")
    settings = (("update.iterations", args.iterations),) if args.iterations else ()
    plan = Plan(args.out, args.model, args.picks, totes=args.totes, anchors=anchors, learner=settings)
    rows = []
    for kind in kinds:
        for row in run_kind(plan, kind, args.cell, args.rounds):
            rows.append(row)
            change = row["true_ap_after"] - row["true_ap_before"]
            said = "promoted" if row["promoted"] else "refused"
            print(
                f"{kind:<16} round {row['round']}: {said}, true AP {change:+.3f}; {row['reason']}", flush=True
            )
            if args.json:
                content = {
                    "benchmark": "gate",
                    "machine": f"{platform.machine()}, Python {platform.python_version()}",
                    "command": args.command_line,
                    "summary": summarise(rows),
                    "rows": rows,
                }
                write_json(args.json, content)
    for name, figures in summarise(rows).items():
        print(
            f"{name}: {figures['updates']} updates, {figures['measured']} candidates measured, "
            f"{figures['promoted']} promoted; the worst changed true AP by {figures['worst']:+.3f}"
        )
    print(f"aim: no promotion on poison that changes true AP by less than {AIM}")
    return 0
