"""`rise bench training`: what a training step costs, against the transformers library's Deformable DETR."""

from __future__ import annotations

import argparse
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rise_perception.errors import ConfigError

if TYPE_CHECKING:
    from rise_perception.learning.cost import StepCost, StepJob

SUMMARY = "a training step: time and memory against the transformers library's Deformable DETR"
EXAMPLES = """\
examples:
  rise bench training
  rise bench training --size 320x240 --batch 4 --repeats 20 --json training.json
  OMP_NUM_THREADS=2 rise bench training

Both sides train the paper's configuration (ResNet-50, 6 + 6 layers, 300 queries, auxiliary losses) on the
same images and objects, each with its own loss; ours draws masks as well, theirs has boxes only. Each runs
in a process of its own, and they take steps in turn. The aim: ratios of at most 1.
"""
#: Objects in each image.
OBJECTS = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument("--size", default="640x480", metavar="WxH", help="of an image (default %(default)s)")
    parser.add_argument(
        "--batch", type=int, default=2, metavar="N", help="images, even (default %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=10, metavar="N", help="steps to measure (default %(default)s)"
    )
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu or cuda")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to this file")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write JSON."""
    from rise_perception.data.atomic import write_json
    from rise_perception.learning.cost import StepJob, measure_steps
    from rise_perception.network.config import NetworkConfig
    from rise_perception.runtime.device import choose_device

    if args.repeats < 1:
        raise ConfigError(f"--repeats is {args.repeats}; at least 1 is needed")
    if args.batch < 2 or args.batch % 2:
        raise ConfigError(f"--batch is {args.batch}; it must be even (two views of each image)")
    match = re.fullmatch(r"(\d+)x(\d+)", args.size)
    if match is None:
        raise ConfigError(f"--size is {args.size!r}; it must be WIDTHxHEIGHT, such as 640x480")
    network = NetworkConfig(image_size=(int(match[2]), int(match[1])))
    job = StepJob(network, args.batch, OBJECTS, choose_device(args.device))
    rows = step_rows(measure_steps(job, args.repeats))
    report(rows, job, args.repeats)
    if args.json:
        content = {
            "benchmark": "training",
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "device": job.device,
            "width": network.image_size[1],
            "height": network.image_size[0],
            "batch": job.batch,
            "objects": job.objects,
            "repeats": args.repeats,
            "rows": rows,
        }
        write_json(args.json, content)
    return 0


def step_rows(costs: dict[str, StepCost]) -> list[dict[str, Any]]:
    """A row for each side; ``ratio`` and ``peak_ratio`` divide its figures by the peer's."""
    import numpy as np

    from rise_perception.learning.cost import PEER

    peer = costs[PEER]
    return [
        {
            "name": "training step",
            "model": name,
            "median_ms": float(np.median(cost.milliseconds)),
            "p95_ms": float(np.quantile(cost.milliseconds, 0.95)),
            "peak_mb": cost.peak_mb,
            "ratio": float(np.median(cost.milliseconds) / np.median(peer.milliseconds)),
            "peak_ratio": cost.peak_mb / peer.peak_mb,
        }
        for name, cost in costs.items()
    ]


def report(rows: list[dict[str, Any]], job: StepJob, repeats: int) -> None:
    """Print the table."""
    height, width = job.network.image_size
    print(
        f"training step, {job.batch} images of {width}x{height} with {job.objects} objects each, "
        f"{job.device}, {repeats} steps"
    )
    print(f"{'model':<32}{'median ms':>11}{'95 %':>11}{'ratio':>8}{'peak MB':>10}{'ratio':>8}")
    for row in rows:
        print(
            f"{row['model']:<32}{row['median_ms']:>11.0f}{row['p95_ms']:>11.0f}{row['ratio']:>8.2f}"
            f"{row['peak_mb']:>10.0f}{row['peak_ratio']:>8.2f}"
        )
