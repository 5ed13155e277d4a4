"""`rise replay`: a bag in; a bag of label maps and instances, and a report, out."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rise_perception.cli.predict import add_model_arguments, load_segmenter
from rise_perception.core.errors import BagError, RiseError

if TYPE_CHECKING:
    import numpy as np

    from rise_perception.core.frame import Frame
    from rise_perception.core.regions import ImagePair
    from rise_perception.data.bags import BagWriter
    from rise_perception.evaluation.report import Picture, Section

SUMMARY = "segment a recorded bag: label maps and instances into a new bag, metrics if there is truth"
EXAMPLES = """\
examples:
  rise replay recording --out result
  rise replay pick.mcap --truth /truth/label_map --out result
  rise replay recording --color /wrist/rgb/compressed --depth none --out result

Reads rosbag2 recordings (sqlite3, MCAP; raw and compressed images). Writes, with the frames' own stamps,
the bag OUT with /segmentation_node/label_map (mono16) and /segmentation_node/instances
(rise_msgs/InstanceArray), and beside it OUT.report.html and, with truth, OUT.metrics.json.
Without options it takes the usual topics /camera/color/image_raw, /camera/depth/image_raw (or
/camera/aligned_depth_to_color/image_raw) and /camera/color/camera_info, or the same below /camera/camera, raw
or compressed. A bag that was cut off is done up to the cut, and the exit
status is 2.
"""
LABEL_TOPIC = "/segmentation_node/label_map"
INSTANCES_TOPIC = "/segmentation_node/instances"
SAMPLES = 12  # overlays in the report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("bag", type=Path, metavar="BAG", help="rosbag2 folder, .mcap or .db3 file")
    parser.add_argument(
        "--out", required=True, type=Path, metavar="BAG2", help="bag to write; must not exist"
    )
    parser.add_argument("--truth", metavar="TOPIC", help="label maps that tell the true instances")
    parser.add_argument("--color", metavar="TOPIC", help="colour images, raw or compressed")
    parser.add_argument(
        "--depth", metavar="TOPIC", help="depth images, registered to colour; none = not used"
    )
    parser.add_argument("--info", metavar="TOPIC", help="camera info of the colour images")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Replay; 2 when the bag is damaged or a frame failed."""
    from tqdm import tqdm

    from rise_perception.data.bags import BagReader, BagWriter

    with BagReader(args.bag) as reader:
        total = reader.counts[reader.color_topic(args.color)]
        frames = reader.frames(args.color, args.depth, args.info, args.truth)
        depth = reader.depth_topic(args.depth)
        if depth is None and args.depth is None and (others := reader.depth_candidates()):
            print(
                f"rise: warning: depth is not used: {args.bag} has none of the usual topics; it has "
                f"{', '.join(others)}. Name one that is registered to colour: --depth {others[0]}",
                file=sys.stderr,
            )
        segmenter = load_segmenter(args, has_depth=depth is not None)
        problems: list[str] = []
        with BagWriter(args.out) as writer:
            replay = Replay(segmenter, writer, max(1, -(-total // SAMPLES)))
            with tqdm(total=total, unit="frame", dynamic_ncols=True) as progress:
                try:
                    for frame, truth in frames:
                        try:
                            replay.step(frame, truth)
                        except RiseError as error:
                            problems.append(f"frame at {frame.stamp / 1e9:.3f} s: {error}")
                        progress.update()
                except BagError as error:  # comes after the last intact frame
                    problems.append(str(error))
    if not replay.frames:
        problems.append(f"{args.bag}: no frame could be segmented")
    _finish(args, replay, problems)
    return 2 if problems else 0


class Replay:
    """Segments frames one after another, writes them, and gathers what the report shows."""

    def __init__(self, segmenter: Any, writer: BagWriter, sample_every: int) -> None:
        from rise_perception.evaluation.worst_cases import WorstCases
        from rise_perception.inference.tracker import Tracker

        self.segmenter, self.writer, self.sample_every = segmenter, writer, sample_every
        self.tracker = Tracker()
        self.frames = self.found = 0
        self.milliseconds: dict[str, list[float]] = {}
        self.pairs: list[ImagePair] = []
        self.worst = WorstCases()
        self.samples: list[Picture] = []
        self._clock = 0
        self._shift = 0

    def step(self, frame: Frame, truth: np.ndarray | None) -> None:
        """Segment one frame; ``truth`` is its (H, W) label map, or None."""
        from rise_perception.data.bag_messages import image_message, instance_array_message
        from rise_perception.data.images import implausible_depth
        from rise_perception.evaluation.overlay import draw_overlay
        from rise_perception.evaluation.report import Picture

        if self.frames == 0 and frame.depth is not None and (odd := implausible_depth(frame.depth)):
            print(f"rise: warning: {odd}; is the depth topic in the right unit?", file=sys.stderr)
        start = time.perf_counter()
        instances = self.segmenter(frame.image, frame.depth)
        instances = self.tracker.update(instances, frame.stamp)
        latency = (time.perf_counter() - start) * 1e3
        log = self._log_time(frame.stamp)
        label_map = image_message(instances.label_map, "mono16", frame.stamp, frame.frame_id)
        array = instance_array_message(instances, frame, self.segmenter.last_model, latency)
        self.writer.write(LABEL_TOPIC, "sensor_msgs/msg/Image", label_map, log)
        self.writer.write(INSTANCES_TOPIC, "rise_msgs/msg/InstanceArray", array, log)
        for stage, value in {**self.segmenter.last_timing, "total": latency}.items():
            self.milliseconds.setdefault(stage, []).append(value)
        if self.frames % self.sample_every == 0:
            caption = f"{frame.stamp / 1e9:.3f} s, {len(instances)} instances"
            self.samples.append(Picture.of(draw_overlay(frame.image, instances), caption))
        if truth is not None:
            self._compare(frame, instances, truth)
        self.frames += 1
        self.found += len(instances)

    def _compare(self, frame: Frame, instances: Any, truth: np.ndarray) -> None:
        from rise_perception.core.regions import ImagePair, regions_of, regions_of_map
        from rise_perception.evaluation.overlap import overlap_scores
        from rise_perception.evaluation.worst_cases import draw_row

        name = f"frame {self.frames} at {frame.stamp / 1e9:.3f} s"
        pair = ImagePair(name, truth.shape[0], truth.shape[1], regions_of(instances), regions_of_map(truth))
        self.pairs.append(pair)
        prediction = pair.predicted_map()
        score = overlap_scores(prediction, truth).overlap_f
        self.worst.offer(score, lambda: draw_row(f"{name}: F {score:.2f}", frame.image, truth, prediction))

    def _log_time(self, stamp: int) -> int:
        """Log times at the frames' pace that rise also when their clock jumps back (headers keep it)."""
        if stamp + self._shift <= self._clock:
            self._shift = self._clock + 1 - stamp
        self._clock = stamp + self._shift
        return self._clock


def _finish(args: argparse.Namespace, replay: Replay, problems: list[str]) -> None:
    """Print and write the metrics and the report."""
    import numpy as np

    from rise_perception.core.files import write_json
    from rise_perception.evaluation.metrics import measure
    from rise_perception.evaluation.report import Section, latency_section, metrics_section, write_report

    sections: list[Section] = []
    outputs = [str(args.out)]
    if replay.pairs:
        metrics = measure(replay.pairs)
        print(metrics.table())
        sections.append(metrics_section(metrics, replay.worst.picture()))
        outputs.append(f"{args.out}.metrics.json")
        write_json(
            outputs[-1], {"bag": str(args.bag), "model": replay.segmenter.version, **metrics.to_json()}
        )
    elif args.truth:
        problems.append(f"no frame has a label map on {args.truth} within the tolerance of its stamp")
    sections.append(Section("Frames", pictures=replay.samples, columns=3))
    sections.append(latency_section(replay.milliseconds))
    if problems:
        sections.insert(0, Section("Problems", "; ".join(problems)))
    outputs.append(f"{args.out}.report.html")
    write_report(
        outputs[-1], f"Replay of {args.bag.name}", args.command_line, sections, replay.segmenter.version
    )
    median = float(np.median(replay.milliseconds["total"])) if replay.frames else 0.0
    print(f"{replay.found} instances in {replay.frames} frames, median {median:.0f} ms a frame")
    print("wrote " + ", ".join(outputs))
    for problem in problems:
        print(f"rise: error: {problem}", file=sys.stderr)
