"""Grasps that were recorded: of a bag with events, and of pictures taken one after each grasp."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rise_perception.core.errors import BagError, DataError, RiseError
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.data import ros_images
from rise_perception.data.bag_recovery import storage_files
from rise_perception.data.bags import DEPTH_TOPIC, INFO_TOPIC, NO_TOPIC, BagReader
from rise_perception.data.images import SUFFIXES
from rise_perception.data.ros_instances import to_instances
from rise_perception.data.source import FrameSource
from rise_perception.grasp_learning.capture.episode import Calibration, Episode, Grasp, Observation
from rise_perception.grasp_learning.capture.episode_io import EPISODE
from rise_perception.grasp_learning.capture.grasp_tracker import Attempts, CaptureSettings
from rise_perception.inference.segmenter import Segmenter

EVENT, INSTANCES = "rise_msgs/msg/GraspEvent", "rise_msgs/msg/InstanceArray"
#: Nanoseconds between two pictures, which have no time of their own: about what a grasp takes.
PICTURE_PERIOD = 20 * 10**9


class PictureGrasps:
    """Pictures in the order of their names, each taken after the grasp that followed the one before.

    What was grasped, and with what outcome, is not known.

    Attributes:
        count: pictures.
        has_depth: False.
        left_out: sentences about what gave no episode.

    Raises:
        DataError: there are fewer than two.
    """

    has_depth = False

    def __init__(self, folder: Path) -> None:
        self._source = FrameSource(folder)
        self.count = self._source.count
        self.left_out: list[str] = []
        if self.count < 2:
            raise DataError(f"{folder} holds one picture; a grasp needs one before and one after it")

    def episodes(self, step: Callable[[], object]) -> Iterator[Episode]:
        """Every grasp without predictions; ``step`` is called after each picture.

        Raises:
            RiseError: after the last one, when a picture could not be read.
        """
        last: Frame | None = None
        session = ""
        for number, (taken, _) in enumerate(self._source.frames()):
            frame = replace(taken, stamp=(1 + number) * PICTURE_PERIOD)
            session = session or session_of(frame)
            if last is not None and last.image.shape != frame.image.shape:
                self.left_out.append(f"{self._source.name(taken)}: its size is not that of the one before")
            elif last is not None:
                grasp = Grasp(f"{number - 1:04d}-{number:04d}", stamp=frame.stamp)
                yield Episode(Observation(last), Observation(frame), grasp, session=session)
            last = frame
            step()


class BagGrasps:
    """The grasps of a bag: what the interaction node makes of frames, events and predictions, the same code.

    Gripper readings are not read from a bag: events announce the grasps.

    Attributes:
        count: colour images.
        has_depth: whether frames come with depth.
        left_out: sentences about what gave no episode, complete when all were taken.

    Args:
        path: the bag. Grasp events, and predictions where there are any, are found by their type.
        color, depth, info: topics, as in :meth:`.BagReader.frames`.
        robot: topic of images that are not 0 where the camera sees the robot; None: an arm shows by its
            motion.

    Raises:
        BagError: no bag, no such topic, or no grasp event in it.
    """

    def __init__(
        self,
        path: Path,
        color: str | None = None,
        depth: str | None = None,
        info: str | None = None,
        robot: str | None = None,
    ) -> None:
        self.path, self._camera, self._robot = path, (color, depth, info), robot
        self.left_out: list[str] = []
        with BagReader(path) as bag:
            bag.frames(*self._camera)  # raises where a topic is missing
            self.count = bag.counts[bag.color_topic(color)]
            usual = any(topic.startswith(DEPTH_TOPIC) for topic in bag.topics)
            if robot is not None and robot not in bag.topics:
                raise BagError(f"{path}: no topic {robot!r}; it has {', '.join(sorted(bag.topics))}")
            self.has_depth = depth != NO_TOPIC and (usual or depth is not None)
            self._events = [topic for topic, kind in bag.topics.items() if kind == EVENT]
            self._instances = [topic for topic, kind in bag.topics.items() if kind == INSTANCES]
            if not any(bag.counts[topic] for topic in self._events):
                raise BagError(
                    f"{path}: no {EVENT} in this bag, so that nothing says when there was a grasp; record "
                    "the topic of the events too (/grasp_events), or give pictures, one after each grasp"
                )

    def episodes(self, step: Callable[[], object]) -> Iterator[Episode]:
        """Every grasp; ``step`` is called after each frame.

        Raises:
            BagError: after the last one, when the bag is damaged or frames had to be left out.
        """
        attempts = Attempts(CaptureSettings(masks=self._robot is not None))
        session = ""
        with BagReader(self.path) as bag, BagReader(self.path) as beside:
            calibration = self._calibration(beside)
            events = iter(sorted(self._said(bag), key=lambda pair: pair[0]))
            event = next(events, None)
            predictions = self._predicted(beside)
            found = next(predictions, None)
            masks = self._masks(beside)
            mask = next(masks, None)
            problem: BagError | None = None
            try:
                for frame, _ in bag.frames(*self._camera):
                    session = session or session_of(frame)
                    while event is not None and event[0] < frame.stamp:
                        self._announce(attempts, *event)
                        event = next(events, None)
                    attempts.frame(frame, calibration if frame.camera else None)
                    while found is not None and found[0] <= frame.stamp:
                        attempts.predictions(*found)
                        found = next(predictions, None)
                    while mask is not None and mask[0] <= frame.stamp:
                        attempts.robot_mask(*mask)
                        mask = next(masks, None)
                    yield from (replace(e, session=session) for e in attempts.take_finished())
                    step()
            except BagError as error:  # damage, after the last frame that is whole
                problem = error
            for late in ([mask] if mask else []) + list(masks):
                attempts.robot_mask(*late)
            for rest in ([event] if event else []) + list(events):
                self._announce(attempts, *rest)
            attempts.finish()
            yield from (replace(e, session=session) for e in attempts.take_finished())
        self.left_out += [f"{n} grasps: {why}" for why, n in sorted(attempts.discarded.items())]
        if problem is not None:
            raise problem

    def _calibration(self, bag: BagReader) -> Calibration | None:
        """That of the camera, which one recording does not change."""
        topic = self._camera[2] or INFO_TOPIC
        try:
            found = next(bag.messages(topic), None) if topic in bag.topics else None
            return None if found is None else Calibration.of(found[1])
        except RiseError as error:
            self.left_out.append(f"calibration ignored: {error}")
            return None

    def _said(self, bag: BagReader) -> Iterator[tuple[int, Any]]:
        """Stamps and events; an event without a stamp has that of the recording."""
        for topic in self._events:
            try:
                for log, message in bag.messages(topic):
                    yield _stamp(message) or log, message
            except BagError:  # the frames say so, too
                continue

    def _announce(self, attempts: Attempts, stamp: int, message: Any) -> None:
        try:
            attempts.event(
                message.grasp_id,
                message.phase,
                message.target_id,
                message.outcome,
                stamp,
                # Bags are older than sentences.
                getattr(message, "expression", ""),
                getattr(message, "referred", 0),
            )
        except DataError as error:
            self.left_out.append(f"event refused: {error}")

    def _predicted(self, bag: BagReader) -> Iterator[tuple[int, Instances, str]]:
        for topic in self._instances[:1]:
            try:
                for _, message in bag.messages(topic):
                    try:
                        yield _stamp(message), to_instances(message), message.model_version
                    except (RiseError, ValueError) as error:
                        self.left_out.append(f"instances ignored: {error}")
            except BagError:
                return

    def _masks(self, bag: BagReader) -> Iterator[tuple[int, np.ndarray]]:
        """Stamps and masks (H, W) bool of the robot."""
        if self._robot is None:
            return
        try:
            for _, message in bag.messages(self._robot):
                try:
                    yield _stamp(message), ros_images.to_mask(message)
                except RiseError as error:
                    self.left_out.append(f"robot mask ignored: {error}")
        except BagError:
            return


class Predictor:
    """Gives episodes without predictions those of a model; the frame of two neighbours is segmented once."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter
        self._last: tuple[np.ndarray, Instances, str] | None = None

    def complete(self, episode: Episode) -> Episode:
        """The episode with predictions; one that has some stays as it is.

        The id that was aimed at is dropped, for it is none of the new predictions.

        Raises:
            ModelError: the model needs depth and there is none.
        """
        if episode.before.instances is not None:
            return episode
        before, after = (self._predicted(side) for side in (episode.before, episode.after))
        return replace(episode, before=before, after=after, grasp=replace(episode.grasp, target_id=-1))

    def _predicted(self, side: Observation) -> Observation:
        image = side.frame.image
        if self._last is None or self._last[0] is not image:
            found = self._segmenter(image, side.frame.depth)
            self._last = image, found, self._segmenter.last_model
        _, instances, version = self._last
        return replace(side, instances=instances, model_version=version)


def is_bag(path: Path) -> bool:
    """True for a rosbag2 folder or a file of one."""
    return bool(storage_files(path))


def is_store(path: Path) -> bool:
    """True for a folder that holds an episode."""
    return next(path.glob(f"*/{EPISODE}"), None) is not None


def has_pictures(path: Path) -> bool:
    """True for a folder with a picture in it."""
    return path.is_dir() and any(p.suffix.lower() in SUFFIXES for p in path.iterdir())


def session_of(frame: Frame) -> str:
    """A name for the recording that begins with this frame, wherever it lies."""
    return hashlib.sha256(frame.image.tobytes()).hexdigest()[:8]


def _stamp(message: Any) -> int:
    """Nanoseconds."""
    return int(message.header.stamp.sec * 10**9 + message.header.stamp.nanosec)
