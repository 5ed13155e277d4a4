"""`rise bench`: measurements on this machine, each in a module of its own, ``bench_<name>``."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

#: Benchmarks by name; the module of each has SUMMARY, EXAMPLES, add_arguments and run.
BENCHMARKS = ("node", "runtime", "soak", "learning", "training", "interaction")

SUMMARY = f"measure on this machine: {', '.join(BENCHMARKS)}"
EXAMPLES = """\
examples:
  rise bench node
  rise bench training
  rise bench training --help
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmarks, each with its own arguments."""
    forms = parser.add_subparsers(dest="benchmark", required=True, metavar=f"{{{','.join(BENCHMARKS)}}}")
    for name in BENCHMARKS:
        module = _module(name)
        form = forms.add_parser(
            name,
            help=module.SUMMARY,
            description=f"measure {module.SUMMARY}",
            epilog=module.EXAMPLES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(form)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark that was chosen."""
    return _module(args.benchmark).run(args)


def _module(name: str) -> Any:
    return importlib.import_module(f"rise_perception.cli.bench_{name}")
