"""`rise bench models`: models side by side on simulated and real labelled sets."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

SUMMARY = "the accuracy of models on labelled sets: found, false, merged, AP, borders, calibration"
EXAMPLES = """\
examples:
  rise bench models rise_small_rgb runs/rise_small_rgb --set data/tote_b/test.json
  rise bench models rise_small_rgb --set ../shared/data/ycb_table --set ../shared/data/apc_shelf
  rise bench models rise_small_rgbd --set ../shared/data/ycb_table:0.0001

A set is a COCO file, or a folder of pictures with label images (X-color.png and X-label.png); :SCALE is the
metres per unit of its depth maps, which models that see depth need. Counts are at each model's own threshold.
Found: IoU of at least 0.5. Merged: a mask over most of several items. False: any other mask; where only some
items are labelled, masks of the others are among them.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder, or name of a shipped one")
    parser.add_argument(
        "--set", action="append", required=True, dest="sets", metavar="PATH[:SCALE]", help="labelled set"
    )
    parser.add_argument("--threshold", type=float, help="instead of each model's own")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, ...")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures here, too")


def run(args: argparse.Namespace) -> int:
    """Measure every model on every set and print a table."""
    from rise_perception.core.errors import ConfigError, DataError
    from rise_perception.core.files import write_json
    from rise_perception.evaluation.comparison import markdown
    from rise_perception.inference.device import choose_device
    from rise_perception.inference.segmenter import find_model
    from rise_perception.training.assessment import EvaluationSet, assess

    sets = []
    for text in args.sets:
        path, _, scale = text.rpartition(":") if ":" in text else (text, "", "0")
        try:
            sets.append(EvaluationSet(path, depth_scale=float(scale)))
        except ValueError:
            raise ConfigError(f"--set is {text!r}; after the colon comes the depth scale in metres") from None
    models = [find_model(name) for name in args.models]
    rows, device = [], choose_device(args.device)
    for data in sets:
        for model in models:
            try:
                rows.append(assess(model, data, device, args.threshold))
            except DataError as error:
                print(f"rise: warning: {model} is not measured on {data.title}: {error}", file=sys.stderr)
    print(markdown(rows))
    if args.json:
        write_json(args.json, [r.to_json() for r in rows])
    return 0 if rows else 1
