"""`rise scenes`: make data of the tote world: still scenes, pick sequences, bags, cells to teach."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rise_perception.core.errors import ConfigError

SUMMARY = "make training data of simulated totes, shelf bins and tables"
EXAMPLES = """\
examples:
  rise scenes stills data/tote --train 3000 --val 300 --test 400 --workers 4
  rise scenes stills data/tote2 --world 2 --train 3000 --val 300 --test 400
  rise scenes stills data/refer --train 1200 --val 160 --test 260 --sentences 12
  rise scenes sequence data/picks --picks 7 --seed 3
  rise scenes bag picks_bag --picks 7 --kind bin
  rise scenes cell data/cell --annotated 10 --empty 8 --test 60 --recoloured
  rise teach data/cell/annotated.json --empty data/cell/empty
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    forms = parser.add_subparsers(dest="form", required=True, metavar="{stills,sequence,bag,cell}")
    stills = forms.add_parser("stills", help="settled scenes from several views, as COCO JSON and images")
    stills.add_argument("out", type=Path, metavar="OUT", help="folder; an unfinished data set is continued")
    stills.add_argument("--train", type=int, default=1000, help="training images (default %(default)s)")
    stills.add_argument("--val", type=int, default=100, help="validation images (default %(default)s)")
    stills.add_argument("--test", type=int, default=200, help="test images (default %(default)s)")
    stills.add_argument("--views", type=int, default=4, help="pictures of each scene (default %(default)s)")
    stills.add_argument(
        "--world",
        type=int,
        default=1,
        choices=(1, 2),
        help="version of the world: 1 stays as it is, 2 is nearer to real pictures (default %(default)s)",
    )
    stills.add_argument("--workers", type=int, default=2, help="processes (default %(default)s)")
    stills.add_argument(
        "--sentences",
        type=int,
        metavar="N",
        help="write so many sentences about each image, for `rise refer`, into SPLIT.sentences.jsonl",
    )
    sequence = forms.add_parser("sequence", help="items picked one after another, as COCO JSON and images")
    sequence.add_argument("out", type=Path, metavar="OUT", help="new folder")
    bag = forms.add_parser("bag", help="items picked one after another, as a ROS 2 bag (MCAP)")
    bag.add_argument("out", type=Path, metavar="OUT", help="new rosbag2 folder")
    for form in (sequence, bag):
        form.add_argument("--picks", type=int, default=7, help="grasps, 1 to 20 (default %(default)s)")
        form.add_argument("--kind", default="tote", help="tote, bin or table (default %(default)s)")
        form.add_argument(
            "--split", default="test", help="whose items: train, val or test (default %(default)s)"
        )
    cell = forms.add_parser("cell", help="pictures to teach one cell, and to test what it has learned")
    cell.add_argument("out", type=Path, metavar="OUT", help="new folder")
    cell.add_argument("--annotated", type=int, default=10, help="annotated pictures (default %(default)s)")
    cell.add_argument("--empty", type=int, default=8, help="of the empty tote (default %(default)s)")
    cell.add_argument("--test", type=int, default=60, help="of other fillings (default %(default)s)")
    cell.add_argument(
        "--recoloured",
        action="store_true",
        help="the test pictures once more, the goods in other colours under another lamp",
    )
    for form in (stills, sequence, bag, cell):
        form.add_argument("--size", default="320x240", metavar="WxH", help="pixels (default %(default)s)")
        form.add_argument(
            "--seed", type=int, default=0, help="another seed, other scenes (default %(default)s)"
        )


def run(args: argparse.Namespace) -> int:
    """Make the data and say what and where."""
    width, height = _size(args.size)
    if args.form == "stills":
        from rise_perception.simulation.dataset import Settings, write_dataset
        from rise_perception.simulation.sentences import check_amount, write_sentences

        settings = Settings(args.train, args.val, args.test, width, height, args.views, args.seed, args.world)
        if args.sentences is not None:
            check_amount(args.sentences)
        counts = write_dataset(args.out, settings, args.workers)
        for split, count in counts.items():
            if args.sentences is not None and count:
                write_sentences(args.out, split, args.sentences, args.seed)
        print(f"{args.out}: " + ", ".join(f"{count} {split}" for split, count in counts.items()) + " images")
        return 0
    if args.form == "cell":
        from rise_perception.simulation.cell import CellSettings
        from rise_perception.simulation.cell_pictures import PictureSettings, write_cell_pictures

        cell = CellSettings(args.seed, width=width, height=height)
        pictures = PictureSettings(args.annotated, args.empty, args.test, args.recoloured, cell)
        made = write_cell_pictures(args.out, pictures)
        print(f"{args.out}: " + ", ".join(f"{count} {part}" for part, count in made.items()) + " pictures")
        return 0
    from rise_perception.simulation.recording import write_bag, write_sequence
    from rise_perception.simulation.sequence import SequenceSettings

    picking = SequenceSettings(args.picks, args.seed, args.split, args.kind, width, height)
    frames, picks = (write_sequence if args.form == "sequence" else write_bag)(args.out, picking)
    print(f"{args.out}: {frames} frames, {picks} grasps")
    return 0


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if found is None:
        raise ConfigError(f"--size is {text!r}; give WIDTHxHEIGHT in pixels, for example 320x240")
    return int(found[1]), int(found[2])
