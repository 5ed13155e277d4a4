"""`rise bench training`: what a training step costs, against the transformers library's Deformable DETR."""

from __future__ import annotations

import argparse
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rise_perception.core.errors import ConfigError, require

if TYPE_CHECKING:
    from benchmarks.training_run import RunCost
    from benchmarks.training_step import StepCost, StepJob

SUMMARY = "a training step: time and memory against the transformers library's Deformable DETR"
EXAMPLES = """\
examples:
  rise bench training
  rise bench training --size 320x240 --batch 4 --repeats 20 --json training.json
  OMP_NUM_THREADS=2 rise bench training
  rise bench training --config config/train/rise_small_rgbd.yaml

Both sides train the paper's configuration (ResNet-50, 6 + 6 layers, 300 queries, auxiliary losses) on the
same images and objects, each with its own loss; ours draws masks as well, theirs has boxes only. Each runs
in a process of its own, and they take steps in turn. The aim: ratios of at most 1.

With --config it measures that training run instead: its step, its loader, and the pseudo-sequences, which
should take less than 20 % of the step.
"""
#: Objects in each image: at least as many as draw masks, so that no trained network costs more memory.
OBJECTS = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument("--size", default="640x480", metavar="WxH", help="of an image (default %(default)s)")
    parser.add_argument(
        "--batch", type=int, default=2, metavar="N", help="images, even (default %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=10, metavar="N", help="steps to measure (default %(default)s)"
    )
    parser.add_argument("--config", metavar="YAML", help="measure the parts of this training run instead")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu or cuda")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to this file")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write JSON."""
    from rise_perception.core.files import write_json
    from rise_perception.inference.device import choose_device

    require(args.repeats >= 1, "--repeats", args.repeats, "at least 1")
    device = choose_device(args.device)
    content = _measure_run(args, device) if args.config else _measure_step(args, device)
    if args.json:
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        head = {"benchmark": "training", "machine": machine, "device": device, "repeats": args.repeats}
        write_json(args.json, head | content)
    return 0


def _measure_step(args: argparse.Namespace, device: str) -> dict[str, Any]:
    from benchmarks.training_step import StepJob, measure_steps
    from rise_perception.network.config import NetworkConfig

    if args.batch < 2 or args.batch % 2:
        raise ConfigError(f"--batch is {args.batch}; it must be even (two views of each image)")
    match = re.fullmatch(r"(\d+)x(\d+)", args.size)
    if match is None:
        raise ConfigError(f"--size is {args.size!r}; it must be WIDTHxHEIGHT, such as 640x480")
    network = NetworkConfig(image_size=(int(match[2]), int(match[1])))
    job = StepJob(network, args.batch, OBJECTS, device)
    rows = step_rows(measure_steps(job, args.repeats))
    report(rows, job, args.repeats)
    height, width = network.image_size
    return {"width": width, "height": height, "batch": job.batch, "objects": job.objects, "rows": rows}


def _measure_run(args: argparse.Namespace, device: str) -> dict[str, Any]:
    from benchmarks.training_run import measure_run
    from rise_perception.training.config import read_train_config

    config = read_train_config(args.config)
    cost = measure_run(config, device, args.repeats)
    workers = config.data.workers
    rows = run_rows(cost, config.name)
    print(f"{config.name}: {cost.images} images a step, {workers} workers, {device}, {args.repeats} steps")
    print(f"{'part':<44}{'median ms':>11}{'95 %':>11}{'images/s':>10}{'of step':>9}")
    for row in rows:
        print(
            f"{row['name']:<44}{row['median_ms']:>11.0f}{row['p95_ms']:>11.0f}"
            f"{row['images_per_second']:>10.1f}{row['share']:>9.0%}"
        )
    return {"config": args.config, "workers": workers, "images": cost.images, "rows": rows}


def run_rows(cost: RunCost, model: str) -> list[dict[str, Any]]:
    """A row for each part of a training step.

    ``images_per_second`` and ``share``, of the step's time, are of the means: batches come in bursts.
    """
    import numpy as np

    parts = {
        "step": cost.step,
        "next batch, with nothing else to do": cost.loader,
        "pseudo-sequences of a step, in one process": cost.sequences,
    }
    return [
        {
            "name": name,
            "model": model,
            "median_ms": float(np.median(ms)),
            "p95_ms": float(np.quantile(ms, 0.95)),
            "images_per_second": 1e3 * cost.images / float(np.mean(ms)),
            "share": float(np.mean(ms) / np.mean(cost.step)),
        }
        for name, ms in parts.items()
    ]


def step_rows(costs: dict[str, StepCost]) -> list[dict[str, Any]]:
    """A row for each side; ``ratio`` and ``peak_ratio`` divide its figures by the peer's."""
    import numpy as np

    from benchmarks.training_step import PEER

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
