"""`rise split`: draw the images of a data set that count as labelled."""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_perception.core.errors import DataError

SUMMARY = "divide a data set into labelled and unlabelled images, by seed"
EXAMPLES = """\
examples:
  rise split data/tote/train.json --labelled 0.01 --out data/tote/train_1.json
  rise split data/OCID --labelled 0.1 --seed 3 --out splits/ocid_10_seed3.json

A split names its data set relative to its own place, and lists the ids of its labelled and unlabelled images.
`rise train` takes it in the place of the data set, for labelled and for unlabelled images.
With the same seed, the labelled images of a smaller rate are among those of a larger one.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("data", type=Path, metavar="FILE", help="COCO JSON file, or OCID folder")
    parser.add_argument(
        "--labelled",
        required=True,
        type=float,
        metavar="RATE",
        help="fraction of the images that is labelled, above 0 and at most 1; at least one image is",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, another draw (default %(default)s)"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="SPLIT", help="JSON file to write")


def run(args: argparse.Namespace) -> int:
    """Write the split and say how many images are in each part."""
    from rise_perception.data.sources import open_images
    from rise_perception.data.splits import is_split, write_split

    if is_split(args.data):
        raise DataError(f"{args.data} is a split itself; give the data set that it was made of")
    keys = open_images(args.data).keys
    labelled, unlabelled = write_split(args.out, args.data, keys, args.labelled, args.seed)
    print(f"{args.out}: {labelled} labelled and {unlabelled} unlabelled images of {args.data}")
    return 0
