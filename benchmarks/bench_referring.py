"""`rise bench referring`: few masks and many sentences, and what chooses the pseudo-labels for the others."""

from __future__ import annotations

import argparse
import itertools
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rise_perception.core.errors import ConfigError

SUMMARY = "sentences with few masks: selectors of pseudo-labels side by side"
EXAMPLES = """\
examples:
  rise scenes stills data/refer --train 300 --val 4 --test 160 --views 2 --seed 17 --sentences 12
  rise bench referring out/referring --data data/refer
  rise bench referring out/referring --data data/refer --selectors supervised cascade policy --labelled 0.05

A kill costs the row that was under way. Selectors: supervised (no pseudo-labels), grammar (the prior answers,
no head), random, threshold, cascade, soft, regressor, exact (the exact gradient of the expected worth in
place of the policy's drawn actions) and policy. At --labelled 1 there are supervised and grammar alone.
--prior also takes random, an item by lot, as a control.
"""
SELECTORS = (
    "supervised", "grammar", "random", "threshold", "cascade", "soft", "regressor", "exact", "policy",
)  # fmt: skip
#: Figures of the printed table.
SHOWN = ("precision", "recall", "accuracy", "top1", "t_acc", "n_acc", "several_acc", "miou")
#: What is compared with what, on the same labelled images and with the same first weights.
COMPARED = (
    ("policy", "supervised"), ("policy", "cascade"), ("policy", "regressor"), ("policy", "exact"),
    ("policy", "random"), ("cascade", "supervised"), ("soft", "supervised"), ("supervised", "grammar"),
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument("out", type=Path, metavar="OUT", help="folder; what is finished in it is kept")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="of `rise scenes stills --sentences`"
    )
    parser.add_argument(
        "--selectors", nargs="+", choices=SELECTORS, default=list(SELECTORS), metavar="S",
        help="(default: all) " + ", ".join(SELECTORS),
    )  # fmt: skip
    parser.add_argument(
        "--labelled", nargs="+", type=float, default=[0.01, 0.05, 1.0], metavar="SHARE",
        help="of the images whose masks are known (default: 0.01 0.05 1)",
    )  # fmt: skip
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="(default: 0 1 2)"
    )
    parser.add_argument(
        "--prior", default="grammar", metavar="P", help="grammar (default), none, file:F or random"
    )
    parser.add_argument("--model", default="auto", metavar="M", help="segmenter (default %(default)s)")
    parser.add_argument("--steps", type=int, default=100, metavar="N", help="of a head (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Measure row by row, and write after each what is known by then."""
    from benchmarks.referring import CHOICELESS, Plan, ReferringBenchmark

    if not all(0 < fraction <= 1 for fraction in args.labelled):
        raise ConfigError(f"--labelled {args.labelled}: fractions above 0 and at most 1 are needed")
    if args.steps < 1 or min(args.seeds) < 0:
        raise ConfigError(f"--steps {args.steps} and --seeds {args.seeds}: at least 1, and at least 0")
    bench = ReferringBenchmark(Plan(args.out, args.data, args.model, args.prior, args.steps))
    rows = []
    for seed, fraction, selector in itertools.product(args.seeds, args.labelled, args.selectors):
        if fraction < 1 or selector in CHOICELESS:
            rows.append(bench.row(selector, fraction, seed))
            _say(rows[-1])
            _write(args, rows)
    return 0


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds by prior, fraction and selector, then paired differences with their 95 % intervals."""
    import numpy as np

    from benchmarks.learning_statistics import interval, verdict

    found: list[dict[str, Any]] = []
    groups = dict.fromkeys((r["prior"], r["labelled"]) for r in rows)
    for prior, fraction in groups:
        by_selector: dict[str, dict[int, dict[str, Any]]] = {}
        for row in rows:
            if (row["prior"], row["labelled"]) == (prior, fraction):
                by_selector.setdefault(row["selector"], {})[row["seed"]] = row
        where = {"prior": prior, "labelled": fraction}
        for selector, by_seed in by_selector.items():
            known = {n: [r[n] for r in by_seed.values() if r[n] is not None] for n in SHOWN}
            means = {n: round(float(np.mean(v)), 4) if v else None for n, v in known.items()}
            found.append({**where, "selector": selector, "seeds": len(by_seed), **means})
        for one, other in COMPARED:
            upper, lower = by_selector.get(one, {}), by_selector.get(other, {})
            for figure in ("accuracy", "top1"):
                gains = [upper[s][figure] - lower[s][figure] for s in upper if s in lower]
                if not gains:
                    continue
                bounds = interval(gains)
                found.append(
                    {
                        **where,
                        "difference": f"{one} - {other}",
                        "figure": figure,
                        "mean": round(float(np.mean(gains)), 4),
                        "interval": [round(b, 4) for b in bounds] if bounds else None,
                        "verdict": verdict(gains),
                    }
                )
    return found


def _say(row: dict[str, Any]) -> None:
    figures = " ".join(f"{name} {row[name]:.3f}" for name in SHOWN if row[name] is not None)
    print(f"{row['selector']:<10} {row['labelled']:>5g} seed {row['seed']}: {figures}", flush=True)


def _write(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> None:
    from rise_perception.core.files import write_json

    content = {
        "benchmark": "referring",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "command": args.command_line,
        "rows": rows,
        "summary": summarise(rows),
    }
    write_json(args.out / "results.json", content)
