"""`rise fuzz`: mutated messages, calls, cards and episodes against the nodes, for as long as one likes."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path

from rise_perception.core.errors import ConfigError, MissingDependencyError

SUMMARY = "mutated messages, services, model cards and episodes against the real nodes"
EXAMPLES = """\
examples:
  rise fuzz                       two minutes
  rise fuzz --minutes 60          before a release
  rise fuzz --seed 1234 --cases 4 the cases that a fault names, again

A fifth of the time goes to the code that reads files and messages, in this process; the rest to the nodes,
each in a process of its own: segmentation, interaction (twice: plain and compressed images) and learner.
Everything that is sent begins valid and is then damaged, by a seed. After every few cases a good image must
be answered within --limit seconds, every node must live and say so, and none may have gained more than 50 MB.
The exit status is 2 when something else happened; what it says names the seed.
"""
FILES_FRACTION = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--minutes", type=float, default=2.0, metavar="M", help="how long (default: 2)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the first case (default: 0)")
    parser.add_argument(
        "--cases", type=int, metavar="N", help="at most so many of each part (default: no limit)"
    )
    parser.add_argument(
        "--limit", type=float, default=1.0, metavar="S", help="seconds for a good image (default: 1)"
    )
    parser.add_argument(
        "--model",
        default="rise_small_rgb",
        metavar="M",
        help="that serves, without depth (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Fuzz files, then the graph; print figures and faults."""
    if not (args.minutes > 0 and args.limit > 0) or (args.cases is not None and args.cases < 1):
        raise ConfigError(
            f"--minutes is {args.minutes}, --limit {args.limit}, --cases {args.cases}; all must be above 0"
        )
    for package in ("rclpy", "rise_msgs"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(f"fuzzing needs the package {package!r}: `make venv` installs it")
    import numpy as np

    from rise_perception.core import resources
    from rise_perception.data.source import FrameSource
    from rise_perception.inference.segmenter import find_model
    from rise_perception.nodes.fuzz_files import fuzz_files
    from rise_perception.nodes.fuzz_graph import fuzz_graph

    model = find_model(args.model)
    seconds = 60 * args.minutes

    def until(end: float, number: int) -> bool:
        return time.monotonic() < end and (args.cases is None or number < args.cases)

    with tempfile.TemporaryDirectory() as name:
        files, graph = Path(name, "files"), Path(name, "graph")
        files.mkdir()
        graph.mkdir()
        end = time.monotonic() + FILES_FRACTION * seconds
        count, faults = fuzz_files(files, model, args.seed, lambda number: until(end, number))
        print(f"files     {count} cases, {len(faults)} faults")
        frame, _ = next(FrameSource(resources.find("models") / "demo_pick").frames())
        begun: list[float] = []

        def more(number: int) -> bool:
            begun.append(time.monotonic())
            return until(begun[0] + (1 - FILES_FRACTION) * seconds, number)

        result = fuzz_graph(graph, model, frame, args.seed, more, args.limit)
    kinds = ", ".join(f"{kind} {number}" for kind, number in sorted(result.cases.items()))
    print(f"nodes     {sum(result.cases.values())} cases, {len(result.faults)} faults: {kinds}")
    if result.latencies:
        median, slowest = np.percentile(result.latencies, [50, 100])
        print(f"good      {len(result.latencies)} images, median {median:.0f} ms, slowest {slowest:.0f} ms")
    for node, (first, last) in result.memory.items():
        print(f"memory    {node} {first:.0f} MB, in the end {last:.0f} MB")
    for fault in faults:
        print(f"\nfault     {fault.target}, seed {fault.seed}:\n{fault.what}")
    for text in result.faults:
        print(f"\nfault     {text}")
    return 2 if faults or result.faults else 0
