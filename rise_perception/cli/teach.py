"""`rise teach`: from a handful of annotated pictures to a model of this cell."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "from a handful of annotated pictures to a model of this cell"
EXAMPLES = """\
examples:
  rise teach goods.json --out models/goods
  rise teach goods/ --out models/goods --empty empty/ --region region.png --minutes 60
  rise teach --episodes ~/.rise_perception/episodes --out models/goods
  rise predict new/ --model models/goods --out result

GOODS is the COCO file that a labelling tool exports (pictures are found beside it), or a folder of pictures
with label maps of the same name: NAME-label.png beside NAME.png, or labels/NAME.png; 0 = background, 255 =
unknown. Outline every item of a picture. 1 to 200 pictures; depth, NAME-depth.png or depth/NAME.png, is found
by itself. With --episodes the grasps of a robot annotate, and the emptied tote is the background. The command
says how long it will take; when it was stopped, the same command goes on. At the end OUT holds the model,
with a score threshold for this cell, and OUT/report.html says what it is worth.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "source", type=Path, nargs="?", metavar="GOODS", help="COCO JSON file, or folder with label maps"
    )
    parser.add_argument(
        "--episodes", type=Path, metavar="STORE", help="instead of GOODS: the episodes of one cell's robot"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the model (default: models/NAME of GOODS)")
    parser.add_argument("--empty", type=Path, metavar="DIR", help="pictures of the place without items")
    parser.add_argument(
        "--unlabelled", type=Path, metavar="DIR", help="further pictures, or a bag: taught without labels"
    )
    parser.add_argument("--region", type=Path, metavar="PNG", help="white where items lie; only that counts")
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="time for the training on this machine (default: 30)"
    )
    parser.add_argument(
        "--from", dest="start", default="", metavar="M", help="model to start from (default: a shipped one)"
    )
    parser.add_argument(
        "--input", default="", metavar="R",
        help="what the network sees: rgb, rgbd, glm, ... (default: as the model it starts from)",
    )  # fmt: skip
    parser.add_argument("--no-depth", action="store_true", help="leave depth out, though it is there")
    parser.add_argument(
        "--depth-scale", type=float, metavar="METRES_PER_UNIT",
        help="what 1 means in a depth image, in metres (default: 0.001 for integers, 1 for floats)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of split, order and augmentation")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")


def run(args: argparse.Namespace) -> int:
    """Teach, write the page, and say what came of it."""
    from rise_perception.core.errors import ConfigError
    from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
    from rise_perception.inference.device import choose_device
    from rise_perception.teaching.config import TeachConfig
    from rise_perception.teaching.episodes import annotate_from_grasps
    from rise_perception.teaching.folder import WORK, locked, refuse_foreign
    from rise_perception.teaching.page import summary, write_page
    from rise_perception.teaching.teach import teach

    given = args.source or args.episodes
    if given is None or (args.source and args.episodes):
        raise ConfigError(f"GOODS is {args.source} and --episodes is {args.episodes}; give one of the two")
    out = args.out or Path("models") / given.resolve().stem
    source, empty = args.source, args.empty
    if args.episodes:
        refuse_foreign(out)
        with locked(out), EpisodeStore(args.episodes) as store:
            made = annotate_from_grasps(store, out / WORK / "episodes")
        found = f"{made.items} items in {made.pictures} pictures"
        why = f"; {made.silent} show none for certain (`rise episodes` says why)" if made.silent else ""
        print(f"{made.grasps} grasps annotate {found}{why}", flush=True)
        source, empty = made.annotations, empty or made.empty
    config = TeachConfig(
        source=source,
        out=out,
        start=args.start,
        input=args.input,
        empty=empty,
        unlabelled=args.unlabelled,
        region=args.region,
        minutes=args.minutes,
        with_depth=not args.no_depth,
        depth_scale=args.depth_scale,
        seed=args.seed,
        device=choose_device(args.device),
        command=args.command_line,
    )
    taught = teach(config, lambda text: print(text, flush=True))
    write_page(out / "report.html", taught, args.command_line)
    print(summary(taught))
    print(f"model {taught.card.version}: {out}; what it is worth: {out / 'report.html'}")
    return 0
