"""`rise demo`: camera, segmentation node and recorder as processes over ROS 2, then pictures and a report."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rise_perception.core.errors import MissingDependencyError, RiseError

if TYPE_CHECKING:
    from rise_perception.data.source import FrameSource
    from rise_perception.evaluation.report import Section
    from rise_perception.nodes.node_process import NodeProcess
    from rise_perception.referring.referrer import Referrer

SUMMARY = "segment a recorded scene through the real ROS 2 graph and write a report"
EXAMPLES = """\
examples:
  rise demo                                  the pick sequence that comes with the package
  rise demo my_bag/ --out out/my_bag         a rosbag2 recording (sqlite3 or MCAP)
  rise demo photos/ --model models/mine      a folder of pictures
  rise demo --sentence "the leftmost box"    and the item that a sentence means, frame by frame

It starts a camera node, the segmentation node and a recorder, each a process of its own, and writes
into a new folder: result/ (label maps and instances, MCAP), overlays/ (pictures), report.html.
Every frame is waited for, so that nothing is lost on a slow machine.
"""
SHIPPED = "demo_pick"
PICTURES_IN_REPORT = 12
START_TIMEOUT = 180.0  # seconds until the first frame: importing torch and loading a model on a busy machine
FRAME_TIMEOUT = 60.0  # seconds for each further frame
SEGMENTATION = "/segmentation_node"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "input", nargs="?", type=Path, help="bag or folder of pictures (default: the shipped bag)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder to write (default: out/demo/DATE-TIME)"
    )
    parser.add_argument("--model", default="auto", metavar="M", help="model folder or name (default: auto)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, ...")
    parser.add_argument(
        "--sentence", metavar="WORDS", help='show in the report what these mean, such as "the red box"'
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; 2 when a part of the input was damaged."""
    from rise_perception.core import resources
    from rise_perception.data.source import FrameSource
    from rise_perception.inference.segmenter import find_model

    for package in ("rclpy", "rise_msgs"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(
                f"the demo runs ROS 2 nodes and the package {package!r} is missing: `make venv` installs it, "
                "or source a ROS 2 workspace that has it"
            )
    if args.model != "auto":
        find_model(args.model)
    source = FrameSource(args.input or resources.find("models") / SHIPPED)
    out = args.out or Path("out/demo") / time.strftime("%Y%m%d-%H%M%S")
    if out.exists() and any(out.iterdir()):
        raise RiseError(f"{out} exists and is not empty; name another folder with --out")
    (out / "log").mkdir(parents=True, exist_ok=True)
    _record(source, out, args)
    problem = _write_pictures_and_report(source, out, args)
    print(f"bag       {out / 'result'}\noverlays  {out / 'overlays'}\nreport    {out / 'report.html'}")
    if problem:
        print(f"rise: error: {problem}", file=sys.stderr)
    return 2 if problem else 0


def _record(source: FrameSource, out: Path, args: argparse.Namespace) -> None:
    """Runs the three nodes until the recorder has every frame."""
    from rise_perception.nodes.node_process import NodeProcess, environment, free_domain

    domain = int(os.environ["ROS_DOMAIN_ID"]) if os.environ.get("ROS_DOMAIN_ID") else free_domain()
    env = environment(domain, out / "log" / "ros")
    print(
        f"playing {source.path} ({source.count} frames); watch it with ROS_DOMAIN_ID={domain} rviz2",
        flush=True,
    )
    # The camera offers reliable images: with a reliable subscription not even a busy machine loses one.
    reliable = {
        f"qos_overrides.{topic}.subscription.reliability": "reliable"
        for topic in ("/image", "/depth", "/camera_info")
    }
    nodes: list[NodeProcess] = []
    try:
        for name, parameters, log in (
            ("segmentation_node", {"model": args.model, "device": args.device, **reliable}, True),
            ("recorder_node", {"output": str(out / "result"), "total_topic": "/camera_node/total"}, False),
            (
                "camera_node",
                {"input": str(source.path), "acknowledge_topic": "/recorder_node/recorded", "rate": 100.0},
                True,
            ),
        ):
            nodes.append(NodeProcess(name, parameters, env, out / "log" / f"{name}.log" if log else None))
        _wait(nodes, START_TIMEOUT + FRAME_TIMEOUT * source.count)
    finally:
        for node in reversed(nodes):
            node.stop()


def _wait(nodes: list[NodeProcess], limit: float) -> None:
    """Waits for the recorder; raises as soon as a node that is still needed has gone."""
    segmentation, recorder, camera = nodes
    end = time.monotonic() + limit
    while recorder.wait(0.2) is None:
        camera_failed = camera.poll() not in (None, 0)
        if camera_failed and recorder.wait(10) is not None:  # the input was damaged; the rest is recorded
            break
        gone = next((node for node in (segmentation, camera) if node.poll() not in (None, 0)), None)
        refused = "cannot be configured" in segmentation.log_tail()
        if gone or refused or time.monotonic() > end:
            node = gone or segmentation
            raise RiseError(
                f"{node.name} {'ended early' if gone else 'does not serve'}; its log {node.log} ends with:\n"
                + node.log_tail()
            )
    if recorder.poll() != 0:
        raise RiseError(f"the recorder ended with status {recorder.poll()}; see above")


def _write_pictures_and_report(source: FrameSource, out: Path, args: argparse.Namespace) -> str:
    """Overlays and report from the recorded bag; returns what was wrong with the input, or ''."""
    from tqdm import tqdm

    from rise_perception.core.regions import ImagePair, regions_of, regions_of_map
    from rise_perception.data.bags import BagReader
    from rise_perception.data.images import write_image
    from rise_perception.data.ros_instances import to_instances
    from rise_perception.evaluation.overlay import draw_overlay
    from rise_perception.evaluation.report import Picture, Section, latency_section, write_report
    from rise_perception.referring.pictures import draw_referral

    with BagReader(out / "result") as bag:
        recorded = dict(bag.messages(f"{SEGMENTATION}/instances"))
    chosen = {round(i * (source.count - 1) / (PICTURES_IN_REPORT - 1)) for i in range(PICTURES_IN_REPORT)}
    pictures, pairs, latencies, images, versions = [], [], [], {}, set()
    answers: list[Picture] = []
    referrer = _referrer(args) if args.sentence is not None else None
    problem = ""
    progress = tqdm(source.frames(), desc="pictures", total=source.count, unit="frame")
    try:
        for index, (frame, truth) in enumerate(progress):
            if (message := recorded.get(frame.stamp)) is None:
                problem = f"frame {source.name(frame)} was not segmented; see {out / 'log'}"
                continue
            instances = to_instances(message)
            latencies.append(float(message.latency_ms))
            versions.add(message.model_version)
            name = source.name(frame)
            overlay = draw_overlay(frame.image, instances)
            write_image(out / "overlays" / f"{name}.png", overlay)
            if index in chosen:
                pictures.append(Picture.of(overlay, f"{name}: {len(instances)} instances"))
                if referrer is not None:
                    answer = referrer.answer(
                        referrer.look(frame.image, frame.depth, instances, name), args.sentence
                    )
                    drawn = draw_referral(frame.image, instances, answer, args.sentence)
                    answers.append(Picture.of(drawn, f"{name}: {answer.detail}"))
            if truth is not None:
                regions, truths = regions_of(instances), regions_of_map(truth)
                pairs.append(ImagePair(name, truth.shape[0], truth.shape[1], regions, truths))
                images[name] = frame.image
    except RiseError as error:  # the input is damaged; everything before was done
        problem = str(error)
    note = "From the arrival of the image message in the node to the publishing of the instances."
    seen = Section("What the node saw", "The colour follows the persistent id.", pictures=pictures, columns=3)
    sections = [seen]
    if answers:
        assert referrer is not None
        told = (
            f"What {args.sentence!r} means, as {referrer.version} answers. Green: found; orange: candidates."
        )
        sections.append(Section("The sentence", told, pictures=answers, columns=3))
    if pairs:
        sections.append(_accuracy(pairs, images))
    sections.append(latency_section({"image to instances": latencies}, note))
    write_report(
        out / "report.html",
        f"rise demo: {source.path.name}",
        args.command_line,
        sections,
        model=", ".join(sorted(versions)),
    )
    return problem


def _referrer(args: argparse.Namespace) -> Referrer:
    from rise_perception.inference.device import choose_device
    from rise_perception.referring.referrer import Referrer

    return Referrer.load("auto", choose_device(args.device))


def _accuracy(pairs: list[Any], images: dict[str, Any]) -> Section:
    """Metrics against the bag's truth, with the worst frames."""
    from rise_perception.evaluation.metrics import measure
    from rise_perception.evaluation.report import metrics_section
    from rise_perception.evaluation.worst_cases import WorstCases

    metrics = measure(pairs)
    worst = WorstCases(3)
    for pair in pairs:
        score = metrics.per_image[pair.name]["overlap_f"]
        if score is not None:
            worst.offer(score, _row(pair, images[pair.name], score))
    return metrics_section(metrics, worst.picture())


def _row(pair: Any, image: Any, score: float) -> Callable[[], Any]:
    from rise_perception.evaluation.worst_cases import draw_row

    return lambda: draw_row(f"{pair.name}: F {score:.2f}", image, pair.truth_map(), pair.predicted_map())
