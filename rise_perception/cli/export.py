"""`rise export`: a model as an ONNX file."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from rise_perception.core.errors import ConfigError

SUMMARY = "write a model as an ONNX file, checked against torch"
EXAMPLES = """\
examples:
  rise export rise_small_rgb --out rgb.onnx
  rise export rise_small_rgbd --precision fp16 --out rgbd.onnx
  rise export models/mine --size 480x640 --image 720x1280 --preprocess inside --out mine.onnx

The graph has static shapes and is made for one size of camera image, whose letterbox is a constant in it.
It gives the K best instances, with masks at a quarter of the network's input. Before it is written it is
run in ONNX Runtime on frames of the shipped recording, or of --frames, and compared with torch; a graph
that differs by more than its precision allows (mask IoU below 0.99 in FP32, 0.97 in half precision) is not
written.
"""
FRAMES = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", help="model folder, or the name of a shipped model")
    parser.add_argument("--out", type=Path, required=True, metavar="F", help="the ONNX file to write")
    parser.add_argument(
        "--precision", default="fp32", choices=["fp32", "fp16", "bf16"], help="of convolutions and products"
    )
    parser.add_argument("--size", metavar="HxW", help="the network's input (default: the model's own)")
    parser.add_argument("--image", metavar="HxW", help="the camera's images (default: as the input)")
    parser.add_argument("--topk", type=int, default=100, metavar="N", help="instances (default: 100)")
    parser.add_argument(
        "--preprocess",
        default="outside",
        choices=["outside", "inside"],
        help="inside: the graph takes the camera's uint8 image (default: outside)",
    )
    parser.add_argument("--frames", type=Path, metavar="SRC", help="bag or folder of pictures to check on")


def run(args: argparse.Namespace) -> int:
    """Export, check, write."""
    from rise_perception.inference.engines.feeds import frames_of, stored_frames
    from rise_perception.inference.engines.onnx_export import export_onnx
    from rise_perception.inference.engines.spec import ExportSpec
    from rise_perception.inference.segmenter import find_model
    from rise_perception.network.checkpoint import load_model

    network, card = load_model(find_model(args.model))
    size = parse_size("--size", args.size) if args.size else card.network.image_size
    image = parse_size("--image", args.image) if args.image else size
    spec = ExportSpec(size, image, args.topk, args.precision, args.preprocess)
    frames = frames_of(args.frames, image, FRAMES) if args.frames else stored_frames(image, FRAMES)

    def report(stage: str) -> None:
        print(f"{stage} ...", file=sys.stderr, flush=True)

    parity = export_onnx(network, card, spec, args.out, frames, report)
    megabytes = args.out.stat().st_size / 1e6
    print(f"{args.out}: {card.version}, {args.precision}, {megabytes:.1f} MB\nagainst torch: {parity}")
    return 0


def parse_size(option: str, text: str) -> tuple[int, int]:
    """``480x640`` -> (480, 640): height, then width.

    Raises:
        ConfigError: text of another form.
    """
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    if match is None:
        raise ConfigError(f"{option} is {text!r}; give height x width, such as 480x640")
    return int(match[1]), int(match[2])
