"""`rise live-demo`: a simulated cell with novel objects in new light, picked with learning off and on."""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path
from typing import Any

from rise_perception.core.errors import MissingDependencyError, RiseError, require

SUMMARY = "watch it learn: a simulated robot picks novel objects over ROS 2, with learning off and on"
EXAMPLES = """\
examples:
  rise live-demo                       100 grasps without and 100 with learning, about half an hour
  rise live-demo --picks 30            a first look
  rise live-demo --seed 3 --period 10  another cell, a slower robot

A cell has a camera, a tote under one hard coloured lamp, and objects that the shipped model has never seen. A
simple robot lowers a suction cup onto the middle of the best mask; it holds an item when the cup lies on one
item alone. Camera, segmentation, interaction and learner nodes are processes of their own, as on a robot.
The report shows AP on totes that nobody picked from, grasp success and latency over the grasps.
"""
#: Labelled images of the tote world: replayed, for the gate, and for the report alone.
ANCHORS = (160, 100, 100)
#: Number of the first tote that is never picked from.
FIRST_HELDOUT = 100_000
ANCHOR_SEED = 11


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--picks", type=int, default=100, metavar="N", help="grasps of each run (default: 100)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, another cell")
    parser.add_argument(
        "--period", type=float, default=8.0, metavar="S", help="seconds of a grasp (default %(default)s)"
    )
    parser.add_argument(
        "--model", default="rise_small_rgbd", metavar="M", help="that it begins with (default %(default)s)"
    )
    parser.add_argument("--device", default="cpu", metavar="D", help="cpu (default), cuda, cuda:1")
    parser.add_argument(
        "--iterations", type=int, metavar="N", help="steps of an update (default: the learner's)"
    )
    parser.add_argument(
        "--totes", type=int, default=12, metavar="N", help="held-out totes for the AP (default %(default)s)"
    )
    parser.add_argument(
        "--anchors",
        type=Path,
        metavar="DIR",
        help="labelled tote world with train, val and test (default: rendered)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write (default: out/live/DATE-TIME)"
    )


def run(args: argparse.Namespace) -> int:
    """Render, run both cells, measure, write the report."""
    for package in ("rclpy", "rise_msgs", "mujoco"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"the live demo needs the package {package!r}: `make venv` installs it"
            )
    for name, least in (("picks", 1), ("totes", 1), ("period", 0), ("seed", 0)):
        require(getattr(args, name) >= least, f"--{name}", getattr(args, name), f"at least {least}")
    from rise_perception.inference.segmenter import find_model

    find_model(args.model)
    out = args.out or Path("out/live") / time.strftime("%Y%m%d-%H%M%S")
    if (out / "off").exists() or (out / "on").exists():
        raise RiseError(f"{out} holds a run already; name another folder with --out")
    anchors, cell = _data(args, out)
    arms = _arms(args, out, anchors)
    _report(args, out, arms, cell, anchors / "test.json")
    print(f"report    {out / 'report.html'}\nfigures   {out / 'live.json'}")
    return 0


def _data(args: argparse.Namespace, out: Path) -> tuple[Path, Path]:
    """Folder of the anchors, and the annotations of the cell's held-out totes; rendered where missing."""
    from rise_perception.simulation.cell import CellSettings
    from rise_perception.simulation.dataset import Settings, write_dataset
    from rise_perception.simulation.recording import write_cell

    anchors = args.anchors
    if anchors is None:
        anchors = out / "anchors"
        write_dataset(anchors, Settings(*ANCHORS, seed=ANCHOR_SEED), workers=2)
    for name in ("train.json", "val.json", "test.json"):
        if not (anchors / name).is_file():
            raise RiseError(f"{anchors / name} does not exist; `rise scenes stills` makes such a folder")
    cell = out / "heldout"
    if not (cell / "cell.json").is_file():
        write_cell(cell, CellSettings(args.seed), args.totes, FIRST_HELDOUT)
    return anchors, cell / "cell.json"


def _arms(args: argparse.Namespace, out: Path, anchors: Path) -> list[Any]:
    """Both runs, the one without learning first."""
    from rise_perception.cli.live_report import Arm
    from rise_perception.grasp_learning.update.model_store import ModelStore
    from rise_perception.nodes.live import MODELS, run_live

    cell = {"seed": args.seed, "picks": args.picks}
    learner: dict[str, Any] = {
        "model": args.model,
        "device": args.device,
        "anchors": str((anchors / "train.json").resolve()),
        "heldout_anchors": str((anchors / "val.json").resolve()),
        "max_versions": 1000,  # the report measures each one that has served
    }
    if args.iterations:
        learner["iterations"] = args.iterations
    arms = []
    for name, parameters in (("off", None), ("on", learner)):
        # Who does not learn needs no time for it.
        robot = cell | {"period": args.period if parameters else 0.0}
        live = run_live(out / name, args.model, args.device, robot, parameters, f"learning {name}")
        if parameters is None:
            serving = live.picks[-1]["model_version"]
        else:
            serving = ModelStore(live.folder / MODELS).serving().version
        arms.append(Arm(f"learning {name}", live.picks, live.latencies, live.while_learning(), serving))
    return arms


def _report(args: argparse.Namespace, out: Path, arms: list[Any], cell: Path, anchors: Path) -> None:
    """Measure every version that served, and write figures and page."""
    from rise_perception.cli.live_report import accuracy, figures, plot_section, summary_section
    from rise_perception.core.files import write_json
    from rise_perception.evaluation.report import write_report
    from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
    from rise_perception.grasp_learning.update.model_store import ModelStore
    from rise_perception.grasp_learning.update.page import labels_section, updates_section, versions_section
    from rise_perception.nodes.live import EPISODES, MODELS

    models = ModelStore(out / "on" / MODELS)
    folders = {model.version: model.folder for model in models.versions()}
    versions = dict.fromkeys(version for arm in arms for version in arm.versions())
    measured = {version: accuracy(folders[version], cell, anchors, args.device) for version in versions}
    result = figures(arms, measured)
    write_json(out / "live.json", result)
    summary = summary_section(result)
    print(summary.text)
    sections = [summary, plot_section(arms, measured), updates_section(models), versions_section(models)]
    sections.append(labels_section(EpisodeStore(out / "on" / EPISODES)))
    write_report(out / "report.html", "rise live-demo", args.command_line, sections, model=arms[-1].serving)
