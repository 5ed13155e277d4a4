"""`rise learn`: the learner without a robot, on bags, stores of episodes and pictures."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rise_perception.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rise_perception.evaluation.report import Section
    from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
    from rise_perception.grasp_learning.update.learner import OnlineLearner, Update
    from rise_perception.grasp_learning.update.model_store import ModelStore
    from rise_perception.grasp_learning.update.offline_training import Source, Taken
    from rise_perception.grasp_learning.update.update import Progress

SUMMARY = "learn from grasps offline: recorded bags, episode stores of robots, pictures"
EXAMPLES = """\
examples:
  rise learn robot_1 robot_2 --models models --anchors tote/train.json --heldout-anchors tote/val.json
  rise learn bags/* --models models --anchors tote/train.json --heldout-anchors tote/val.json --out out/learn
  rise learn pictures --models models --anchors tote/train.json --heldout-anchors tote/val.json --minutes 30

A SOURCE is a rosbag2 recording with rise_msgs/GraspEvent messages, a store of the interaction node, or a
folder of pictures, each of which shows the scene after the grasp that followed the one before. Each grasp is
stored once, however often it comes; where there are no predictions, the version that serves makes them. Then
updates follow until no episode is new. Candidates serve if they pass the gate of the learner node.

Rerun the same command to resume; it does nothing when there is nothing new. Point
the segmentation node's model_store at the folder of models, or give the serving version to `rise predict`.
"""
#: Away from the robot nobody else needs the machine.
HERE = {"device": "auto", "threads": 0}
#: Of the node alone: here an update begins when it is asked for.
NOT_HERE = ("min_new",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments; those of the learner are the learner node's parameters."""
    from rise_perception.grasp_learning.update.parameters import PARAMETERS

    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="SOURCE", help="bag, episode store, or folder of pictures"
    )
    parser.add_argument(
        "--models", required=True, type=Path, metavar="DIR", help="folder of the versions; made when missing"
    )
    parser.add_argument(
        "--anchors", nargs="+", default=[], metavar="JSON", help="labelled images that are replayed"
    )
    parser.add_argument(
        "--heldout-anchors",
        default="",
        metavar="JSON",
        help="COCO JSON of other labelled images, on which nothing may be lost",
    )
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="where episodes are gathered (default: OUT/episodes)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/learn"),
        metavar="DIR",
        help="for the page (default %(default)s)",
    )
    parser.add_argument(
        "--model",
        default="auto",
        metavar="M",
        help="what an empty folder of versions begins with (default: auto, by whether there is depth)",
    )
    parser.add_argument(
        "--minutes", type=float, default=math.inf, metavar="M", help="begin no update after this time"
    )
    for kind in ("color", "depth", "info"):
        parser.add_argument(
            f"--{kind}", metavar="TOPIC", help=f"{kind} topic of bags (default: the usual one)"
        )
    parser.add_argument(
        "--robot-mask",
        metavar="TOPIC",
        help="images in bags that are not 0 where the camera sees the robot (default: none)",
    )
    group = parser.add_argument_group("learner", "as in config/learner_node.yaml")
    for name, (default, sentence, _) in PARAMETERS.items():
        if name not in NOT_HERE:
            value = HERE.get(name, default)
            text = f"{sentence[0].lower()}{sentence[1:].rstrip('.')} (default: {value})"
            option = f"--{name.replace('_', '-')}"
            group.add_argument(option, type=type(default), default=value, metavar="V", help=text)


def run(args: argparse.Namespace) -> int:
    """Take in, learn, tell; 2 when something was left out or could not be learned."""
    from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
    from rise_perception.grasp_learning.capture.recordings import Predictor
    from rise_perception.grasp_learning.update.learner import OnlineLearner
    from rise_perception.grasp_learning.update.model_store import ModelStore
    from rise_perception.grasp_learning.update.offline_training import has_depth, open_source
    from rise_perception.inference.segmenter import AUTO_COLOUR, AUTO_DEPTH, Segmenter, find_model

    config = _config(args)
    topics = (args.color, args.depth, args.info, args.robot_mask)
    sources = [open_source(path, *topics) for path in dict.fromkeys(args.sources)]
    models = ModelStore(args.models, write=True)
    try:
        usual = AUTO_DEPTH if all(map(has_depth, sources)) else AUTO_COLOUR
        base = models.begin(find_model(usual if args.model == "auto" else args.model))
        room = args.store or args.out / "episodes"
        with EpisodeStore(room, write=True, max_bytes=1 << 60) as store:  # the disk is the bound
            learner = OnlineLearner(config, models, store)
            segmenter = Segmenter.load(base.folder, config.device)
            taken = [
                _take_in(path, source, store, Predictor(segmenter), segmenter.needs_depth)
                for path, source in zip(dict.fromkeys(args.sources), sources, strict=True)
            ]
            for verdict, count in sorted(_verdicts(store).items()):
                print(f"{count:6} {verdict}")
            updates, trouble = _learn(learner, args.minutes * 60)
            lines = _summary(learner, base.version, updates, trouble)
            for what, value in lines:
                print(f"{what}: {value}")
            rows = [
                (str(path), str(t.new), str(t.known), t.problem or "; ".join(t.left_out) or "-")
                for path, t in zip(dict.fromkeys(args.sources), taken, strict=True)
            ]
            page = _write_page(args, store, models, rows, lines)
            print(f"{page} shows what the grasps taught")
            return 2 if trouble or any(t.problem for t in taken) else 0
    finally:
        models.close()


def _config(args: argparse.Namespace) -> Any:
    from rise_perception.grasp_learning.update.parameters import PARAMETERS, learner_config
    from rise_perception.inference.device import choose_device

    given = {name: getattr(args, name, default) for name, (default, _, _) in PARAMETERS.items()}
    for name, value in given.items():
        limits = PARAMETERS[name][2]
        if limits and value != HERE.get(name) and not limits[0] <= value <= limits[1]:
            option = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{option} is {value}; it must lie between {limits[0]} and {limits[1]}")
    if not args.minutes > 0:
        raise ConfigError(f"--minutes is {args.minutes}; it must be above 0")
    given["device"] = choose_device(given["device"])
    return learner_config(tuple(args.anchors), args.heldout_anchors, given)


def _take_in(path: Path, source: Source, store: EpisodeStore, predictor: Any, needs_depth: bool) -> Taken:
    from tqdm import tqdm

    from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
    from rise_perception.grasp_learning.update.offline_training import Taken, has_depth, ingest

    if needs_depth and not has_depth(source):
        taken = Taken(
            problem="it has no depth, which the model needs; begin with an RGB model in other --models"
        )
    else:
        stored = isinstance(source, EpisodeStore)
        total = len(source.entries()) if isinstance(source, EpisodeStore) else source.count
        with tqdm(
            total=total, desc=path.name, unit="grasp" if stored else "frame", dynamic_ncols=True
        ) as bar:
            taken = ingest(source, store, predictor, bar.update)
    print(f"{path}: {taken.new} new grasps, {taken.known} known")
    for sentence in [*taken.left_out, *([taken.problem] if taken.problem else [])]:
        print(f"  left out: {sentence}")
    return taken


def _learn(learner: OnlineLearner, seconds: float) -> tuple[list[Update], str]:
    """The updates, and why there are no more if that is not for lack of new episodes."""
    from tqdm import tqdm

    from rise_perception.grasp_learning.update.offline_training import learn_all

    updates: list[Update] = []
    bar: tqdm[Any] | None = None

    def report(progress: Progress) -> None:
        nonlocal bar
        if progress.stage == "loading":
            bar = tqdm(desc=f"update {len(updates) + 1}", unit="step", dynamic_ncols=True)
        assert bar is not None
        bar.total = progress.iterations or None
        bar.update(progress.iteration - bar.n)
        if math.isfinite(progress.loss):
            bar.set_postfix(loss=f"{progress.loss:.3f}")
        if progress.stage == "validating":
            bar.close()

    try:
        for update in learn_all(learner, seconds, report):
            updates.append(update)
            print(f"update {len(updates)}: {learner.memory.last_verdict}")
    except DataError as error:
        return updates, str(error)
    finally:
        if bar is not None:
            bar.close()
    left = learner.survey().new
    return updates, f"time is over, and {left} episodes are new; run it again" if left else ""


def _verdicts(store: EpisodeStore) -> Counter[str]:
    return Counter(entry.verdict.value for entry in store.entries())


def _summary(
    learner: OnlineLearner, before: str, updates: list[Update], trouble: str
) -> list[tuple[str, str]]:
    """What happened, as names and values."""
    survey, serving = learner.survey(), learner.models.serving().version
    promoted = [u for u in updates if u.promoted]
    lines = [
        ("episodes", f"{survey.total}, of which {survey.usable} teach and {survey.new} are new"),
        ("updates", f"{len(updates)}, of which {len(promoted)} serve or served"),
        ("serving", f"{serving}" + (" (as before)" if serving == before else f" (was {before})")),
    ]
    measured = [u for u in updates if u.serving is not None and u.candidate is not None]
    if measured:
        first = measured[0].serving
        last = next((u.candidate for u in reversed(measured) if u.promoted), first)
        assert first is not None
        assert last is not None
        lines += [
            ("held-out anchors, AP", f"{first.anchor_ap:.3f} -> {last.anchor_ap:.3f}"),
            (
                "held-out grasps, quality",
                f"{first.heldout_mean:.3f} -> {last.heldout_mean:.3f} ({len(last.heldout)} items)",
            ),
        ]
    elif not trouble:
        lines.append(("learned", "nothing, for no episode is new"))
    return [*lines, ("not learned", trouble)] if trouble else lines


def _write_page(
    args: argparse.Namespace,
    store: EpisodeStore,
    models: ModelStore,
    rows: list[tuple[str, str, str, str]],
    lines: list[tuple[str, str]],
) -> Path:
    from rise_perception.evaluation.report import Section, Table, write_report
    from rise_perception.grasp_learning.update.page import labels_section, updates_section, versions_section

    sections: list[Section] = [
        Section("Result", "", [Table(("", ""), lines)]),
        Section("Sources", "", [Table(("source", "new grasps", "known", "left out"), rows)]),
        labels_section(store),
        updates_section(models),
        versions_section(models),
    ]
    page = args.out / "index.html"
    write_report(page, "Learning from grasps", args.command_line, sections, models.serving().version)
    return Path(page)
