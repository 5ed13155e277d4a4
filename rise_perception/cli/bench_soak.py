"""`rise bench soak`: the whole node under a camera that never pauses."""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_perception.core.errors import ConfigError

SUMMARY = "the whole node over minutes: latency from image to label map, and memory"
EXAMPLES = """\
examples:
  rise bench soak
  rise bench soak --minutes 1 --runtime openvino --out out/soak

It sends the frames of the shipped recording at 30 Hz and counts the label maps that come back. The newest
image wins, so a slow machine answers fewer of them; latency and memory must not grow. The report shows the
distribution of the latencies. The exit status is 2 when latency grew by half or memory by more than 20 MB.
"""
MAX_LATENCY_GROWTH = 1.5
MAX_MEMORY_GROWTH = 20.0  # MB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M", help="how long (default: 10)")
    parser.add_argument(
        "--rate", type=float, default=30.0, metavar="HZ", help="images a second (default: 30)"
    )
    parser.add_argument("--model", default="auto", metavar="M", help="model folder or name (default: auto)")
    parser.add_argument("--runtime", default="torch", metavar="R", help="of the node (default: torch)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write report.html and soak.json there")


def run(args: argparse.Namespace) -> int:
    """Run, print, write; 2 when something grew."""
    import numpy as np

    from rise_perception.core import resources
    from rise_perception.core.files import write_json
    from rise_perception.data.source import FrameSource
    from rise_perception.evaluation.report import latency_section, write_report
    from rise_perception.nodes.soak import soak

    if not (args.minutes > 0 and args.rate > 0):
        raise ConfigError(f"--minutes is {args.minutes} and --rate {args.rate}; both must be above 0")
    source = FrameSource(resources.find("models") / "demo_pick")
    frames = [frame for frame, _ in source.frames()]
    result = soak({"model": args.model, "runtime": args.runtime}, frames, args.rate, args.minutes * 60)
    median, p95, slowest = np.percentile(result.latencies, [50, 95, 100])
    latency, memory = result.latency_growth(), result.memory_growth()
    answered = len(result.latencies)
    text = (
        f"{answered} of {result.sent} images answered in {args.minutes:g} minutes "
        f"({answered / result.times[-1]:.1f} a second at {args.rate:g} Hz input); latency median "
        f"{median:.0f} ms, 95 % {p95:.0f} ms, slowest {slowest:.0f} ms; last quarter {latency:.2f} times the "
        f"second; memory {np.median(result.memory):.0f} MB, growth {memory:+.1f} MB"
    )
    print(text)
    if args.out:
        section = latency_section({"image to label map": result.latencies.tolist()}, text)
        write_report(
            args.out / "report.html", "Soak test of the segmentation node", args.command_line, [section]
        )
        figures = {
            "benchmark": "soak",
            "minutes": args.minutes,
            "rate": args.rate,
            "sent": result.sent,
            "answered": answered,
            "median_ms": float(median),
            "p95_ms": float(p95),
            "latency_growth": latency,
            "memory_mb": float(np.median(result.memory)),
            "memory_growth_mb": memory,
        }
        write_json(args.out / "soak.json", figures)
    return 2 if latency > MAX_LATENCY_GROWTH or memory > MAX_MEMORY_GROWTH else 0
