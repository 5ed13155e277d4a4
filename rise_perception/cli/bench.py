"""`rise bench`: measurements on this machine, each in a module of its own, ``bench_<name>``.

What a user measures on a robot is part of the package; research benchmarks live in ``benchmarks/`` of the
checkout and are offered only there.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

from rise_perception.core import resources

#: Benchmarks by name; the module of each has SUMMARY, EXAMPLES, add_arguments and run.
PACKAGED = ("node", "runtime", "soak", "models")
RESEARCH = ("learning", "training", "grasp-labels", "live", "gate", "referring", "refer-grasps", "teach")
BENCHMARKS = (*PACKAGED, *RESEARCH)

SUMMARY = f"measure on this machine: {', '.join(BENCHMARKS)}"
EXAMPLES = """\
examples:
  rise bench node
  rise bench training
  rise bench training --help
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmarks that are there, each with its own arguments."""
    names = BENCHMARKS if resources.checkout() else PACKAGED
    forms = parser.add_subparsers(dest="benchmark", required=True, metavar=f"{{{','.join(names)}}}")
    for name in names:
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
    module = f"bench_{name.replace('-', '_')}"
    if name in PACKAGED:
        return importlib.import_module(f"rise_perception.cli.{module}")
    root = str(resources.checkout())
    if root not in sys.path:
        sys.path.append(root)
    return importlib.import_module(f"benchmarks.{module}")
