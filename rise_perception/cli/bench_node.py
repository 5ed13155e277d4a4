"""`rise bench node`: what the node costs on this machine."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rise_perception.core.errors import ConfigError, require

if TYPE_CHECKING:
    from rise_perception.core.frame import Frame

SUMMARY = "the node: milliseconds of each part from image message to label map"
EXAMPLES = """\
examples:
  rise bench node
  rise bench node --frames 300 --json node.json
  rise bench node --size 720x1280
  rise bench node --model models/mine --rgb

It plays a frame of the shipped bag, scaled to --size, through the node's own code while a recorder listens in
another process. The aims: from image message to label map, all but the network below 7 ms at 480x640 and
12 ms at 720x1280 (median, two quiet cores).
"""
#: Milliseconds, by height and width.
AIMS = {(480, 640): 7.0, (720, 1280): 12.0}
TO_LABEL_MAP = "image to label map, without the network"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument("--model", default="auto", metavar="M", help="model folder or name (default: auto)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, ...")
    parser.add_argument(
        "--frames", type=int, default=100, metavar="N", help="frames to measure (default: 100)"
    )
    parser.add_argument("--size", default="480x640", metavar="HxW", help="images (default: 480x640)")
    parser.add_argument("--rgb", action="store_true", help="leave depth out")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to this file")


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write JSON."""
    from rise_perception.cli.export import parse_size
    from rise_perception.core.files import write_json
    from rise_perception.inference.segmenter import Segmenter
    from rise_perception.nodes.benchmark import measure_node

    require(args.frames >= 1, "--frames", args.frames, "at least 1")
    size = parse_size("--size", args.size)
    if min(size) < 32:
        raise ConfigError(f"--size is {args.size}; at least 32x32 is needed")
    frame = _frame(size, with_depth=not args.rgb)
    segmenter = Segmenter.load(args.model, args.device)
    spent, instances = measure_node(segmenter, frame, args.frames)
    parts = ("receive", "decode", "preprocess", "postprocess", "track", "label map")
    total = np.sum([spent[part] for part in parts], axis=0)
    spent[TO_LABEL_MAP] = total.tolist()
    spent["... and to the instances"] = (total + spent["instances"]).tolist()
    spent["... and to the overlay"] = (total + spent["instances"] + spent["overlay"]).tolist()
    rows = [
        {"name": name, "median_ms": float(np.median(ms)), "p95_ms": float(np.quantile(ms, 0.95))}
        for name, ms in spent.items()
    ]
    content = {
        "benchmark": "node",
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "model": segmenter.last_model,
        "width": size[1],
        "height": size[0],
        "depth": frame.depth is not None,
        "frames": args.frames,
        "instances": instances,
        "aim_ms": AIMS.get(size),
        "rows": rows,
    }
    print(f"{size[1]}x{size[0]}, {instances} instances, model {segmenter.last_model}, {args.frames} frames")
    print(f"{'part':<42}{'median ms':>10}{'95 %':>10}")
    for row in rows:
        print(f"{row['name']:<42}{row['median_ms']:>10.2f}{row['p95_ms']:>10.2f}")
    if aim := AIMS.get(size):
        print(f"aim: {TO_LABEL_MAP!r} below {aim:.0f} ms (median)")
    if args.json:
        write_json(args.json, content)
    return 0


def _frame(size: tuple[int, int], with_depth: bool) -> Frame:
    """The first frame of the shipped bag, scaled to the benchmark's size."""
    import cv2

    from rise_perception.core import resources
    from rise_perception.core.frame import CameraIntrinsics, Frame
    from rise_perception.data.source import FrameSource

    height, width = size
    frame, _ = next(FrameSource(resources.find("models") / "demo_pick").frames())
    image = cv2.resize(frame.image, (width, height), interpolation=cv2.INTER_LINEAR)
    if not with_depth or frame.depth is None or frame.camera is None:
        return Frame(image)
    fx, fy = width / frame.camera.width, height / frame.camera.height
    camera = CameraIntrinsics(
        width, height, frame.camera.fx * fx, frame.camera.fy * fy, frame.camera.cx * fx, frame.camera.cy * fy
    )
    return Frame(image, cv2.resize(frame.depth, (width, height), interpolation=cv2.INTER_NEAREST), camera)
