"""Keeps an episode of every grasp: the frames before and after it, what was predicted, what the robot says.

Callbacks enqueue; one thread measures frames, a second one analyses episodes and writes them. Grasps are
announced by GraspEvent messages, by the CaptureGraspFrame service, or seen on a gripper topic. Nothing that
goes wrong here, a full disk included, reaches the segmentation node.
"""

from __future__ import annotations

import itertools
import queue
import sys
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from builtin_interfaces.msg import Time
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.task import Future
from rise_msgs.msg import GraspEvent, InstanceArray
from rise_msgs.srv import CaptureGraspFrame
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32

from rise_perception.core.errors import DataError, RiseError
from rise_perception.data import ros_images
from rise_perception.data.ros_instances import to_instances
from rise_perception.grasp_learning.capture.episode import Calibration, Episode, Phase
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore, StoreFullError
from rise_perception.grasp_learning.capture.grasp_tracker import Attempts, CaptureSettings, Gripper
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.inference.malloc_tuning import keep_freed_memory
from rise_perception.inference.pairing import Pair
from rise_perception.nodes import qos
from rise_perception.nodes.diagnostics import ERROR, OK, WARN, Condition, Diagnostics
from rise_perception.nodes.frames import FrameReader
from rise_perception.nodes.inputs import CameraInputs, stamp_of
from rise_perception.nodes.interaction_parameters import TABLE
from rise_perception.nodes.parameters import Parameters
from rise_perception.nodes.services import answering
from rise_perception.nodes.spin import run
from rise_perception.nodes.transforms import Transforms

TICK = 0.05  # seconds between looks at what the service waits for
WAITING_EPISODES = 8  # finished and not yet analysed; a robot does not grasp faster
LONGEST_TIMEOUT = 60.0  # seconds
UNSTAMPED = 3  # images in a row with one stamp, from which on the camera does not stamp them
MAX_RESULTS = 100  # of grasps that nobody asked about
_Answer = tuple[bool, str, str, int]  # success, message, episode id, stamp of the frame


class InteractionNode(Node):
    """See the module; the parameters are in interaction_parameters.py and docs/parameters.md."""

    def __init__(self) -> None:
        super().__init__("interaction_node")
        self.parameters = Parameters(self, TABLE)
        p = self._given = self.parameters.read()
        self._store = EpisodeStore(
            Path(p.episode_store).expanduser(), True, p.max_store_mb << 20, p.min_free_mb << 20
        )
        self._attempts = Attempts(
            CaptureSettings(
                window=p.capture_window_s,
                approach=p.approach_s,
                timeout=p.settle_timeout_s,
                grasp_timeout_s=p.grasp_timeout_s,
                history=p.history_s,
                masks=bool(p.robot_mask_topic),
            )
        )
        self._lock = threading.Lock()  # guards _attempts
        self._verdicts: Counter[str] = Counter()
        self._refused = 0
        self._results: dict[str, _Answer] = {}  # of the last grasps, for service calls
        self._waiting: dict[str, tuple[int, float, Future]] = {}
        self._full = ""
        self._episodes: queue.Queue[Episode | None] = queue.Queue(WAITING_EPISODES)
        self._stored, self._store_bytes = len(self._store.entries()), self._store.size()
        self._diagnostics = Diagnostics(self, self._conditions, ("interaction", "capturing"))
        report = self._diagnostics.error
        self._inputs = CameraInputs(self, p, lambda: self.parameters["depth_patience_s"], report)
        self._transforms = Transforms(self)
        self._reader = FrameReader(self._inputs, self._transforms, report)
        self._inputs.open()
        self._listen(InstanceArray, p.instances_topic, self._on_instances, qos.output())
        self._listen(Image, p.robot_mask_topic, self._on_mask, qos.camera_input())
        self._listen(GraspEvent, p.event_topic, self._on_event, qos.events())
        self._gripper = Gripper(p.gripper_threshold, p.gripper_hysteresis, p.gripper_closed_below)
        self._gripper_grasps = itertools.count()
        self._held = ""
        kind, callback = (JointState, self._on_joints) if p.gripper_joint else (Float32, self._on_gripper)
        self._listen(kind, p.gripper_topic, callback, qos.events())
        if p.capture_service:
            # A call that waits holds its callback group, so that it needs one beside everything else's.
            group = ReentrantCallbackGroup()
            self.create_service(CaptureGraspFrame, "~/capture", self._on_capture, callback_group=group)
        self.create_timer(TICK, self._answer, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._threads = [
            threading.Thread(target=self._measure, name="frames", daemon=True),
            threading.Thread(target=self._analyse, name="episodes", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._diagnostics.watch(*self._threads)
        self.get_logger().info(f"episodes go to {self._store.root}, which holds {self._stored}")

    def report_error(self, text: str) -> None:
        """Says in the diagnostics that something went wrong."""
        self._diagnostics.error(text)

    def _listen(self, kind: type, topic: str, callback: Any, profile: QoSProfile) -> None:
        if topic:
            name = self.resolve_topic_name(topic)
            options = qos.subscription_options(name, self._diagnostics.error)
            self.create_subscription(kind, name, callback, profile, **options)

    @property
    def _capturing(self) -> bool:
        return bool(self.parameters["capturing"])

    # -- executor: what the robot says -------------------------------------------------------------

    def _on_event(self, message: GraspEvent) -> None:
        if self._capturing:
            stamp = stamp_of(message.header)
            said = message.expression, message.referred
            self._announce(message.grasp_id, message.phase, message.target_id, message.outcome, stamp, *said)

    def _announce(
        self,
        grasp_id: str,
        phase: int,
        target_id: int,
        outcome: int,
        stamp: int,
        expression: str = "",
        referred: int = 0,
    ) -> str:
        """Passes an event on; an event that makes no sense is counted, reported and forgotten."""
        try:
            with self._lock:
                said = self._attempts.event(
                    grasp_id, phase, target_id, outcome, stamp or self._now(), expression, referred
                )
        except DataError as error:
            self._refused += 1
            self._diagnostics.error(f"event refused: {error}")
            return str(error)
        if phase == Phase.BEFORE:
            self._results.pop(grasp_id, None)  # of an earlier try
        self.get_logger().debug(said)
        return ""

    def _now(self) -> int:
        """The camera's time: of the newest frame."""
        return self._attempts.buffer.newest or 0

    def _on_gripper(self, message: Float32) -> None:
        self._read_gripper(message.data, 0)

    def _on_joints(self, message: JointState) -> None:
        joint = self._given.gripper_joint
        if joint in message.name[: len(message.position)]:
            self._read_gripper(message.position[list(message.name).index(joint)], stamp_of(message.header))

    def _read_gripper(self, reading: float, stamp: int) -> None:
        turned = self._gripper.update(reading)
        if turned is None or not self._capturing:
            return
        try:
            with self._lock:
                stamp = stamp or self._now()
                if turned:
                    self._held = f"gripper-{stamp}-{next(self._gripper_grasps)}"
                    self._attempts.gripper_closed(self._held, stamp)
                elif self._held:
                    self._attempts.gripper_opened(self._held, stamp)
                    self._held = ""
        except DataError as error:
            self._refused += 1
            self._diagnostics.error(f"gripper ignored: {error}")

    @answering
    async def _on_capture(
        self, request: CaptureGraspFrame.Request, response: CaptureGraspFrame.Response
    ) -> CaptureGraspFrame.Response:
        """Takes one side of an episode; answers when the frame is there, or will not come."""
        grasp_id, phase, timeout = request.grasp_id, request.phase, request.timeout_s
        if phase not in (Phase.BEFORE, Phase.AFTER):
            response.message = f"phase {phase} is neither BEFORE (0) nor AFTER (3)"
        elif not 0 <= timeout <= LONGEST_TIMEOUT:
            response.message = f"timeout_s is {timeout}; expected 0 (the default) to {LONGEST_TIMEOUT:.0f}"
        elif not self._capturing:
            response.message = "capturing is switched off (parameter 'capturing')"
        elif grasp_id in self._waiting:
            response.message = f"another call waits for grasp {grasp_id!r}"
        else:
            stamp = request.stamp.sec * 10**9 + request.stamp.nanosec
            response.message = self._announce(grasp_id, phase, -1, 0, stamp)
        if not response.message:
            deadline = time.monotonic() + (
                timeout or self._given.settle_timeout_s + 2 * self._given.capture_window_s
            )
            future: Future = Future()
            self._waiting[grasp_id] = (phase, deadline, future)
            try:
                answer: _Answer = await future
            finally:
                del self._waiting[grasp_id]
            response.success, response.message, response.episode_id, taken = answer
            response.stamp = Time(sec=taken // 10**9, nanosec=taken % 10**9)
        return response

    def _answer(self) -> None:
        """Answers the service calls whose grasp has got somewhere; they wait in the executor's thread."""
        for grasp_id, (phase, deadline, future) in list(self._waiting.items()):
            if not future.done() and (answer := self._progress(grasp_id, phase, deadline)) is not None:
                future.set_result(answer)

    def _progress(self, grasp_id: str, phase: int, deadline: float) -> _Answer | None:
        """What became of one side of a grasp; None while that is open."""
        with self._lock:
            sample = self._attempts.settle_before(grasp_id) if phase == Phase.BEFORE else None
            if sample is not None:
                return True, f"took the frame of {sample.stamp} ns", "", sample.stamp
            if grasp_id in self._results:
                return self._results.pop(grasp_id)
            if grasp_id in self._attempts.reasons:
                return False, self._attempts.reasons[grasp_id], "", 0
            if time.monotonic() < deadline or grasp_id not in self._attempts.under_way:
                return None  # one that is not under way any more is being analysed
            self._attempts.discard(grasp_id, "no settled frame in time")
        return False, "no settled frame in time", "", 0

    # -- executor: what the camera's side says -----------------------------------------------------

    def _on_instances(self, message: InstanceArray) -> None:
        try:
            instances = to_instances(message)
        except (RiseError, ValueError) as error:
            self._diagnostics.error(f"instances ignored: {error}")
            return
        with self._lock:
            self._attempts.predictions(stamp_of(message.header), instances, message.model_version)

    def _on_mask(self, message: Image) -> None:
        try:
            mask = ros_images.to_mask(message)
        except RiseError as error:
            self._diagnostics.error(f"robot mask ignored: {error}")
            return
        with self._lock:
            self._attempts.robot_mask(stamp_of(message.header), mask)

    # -- thread: frames ----------------------------------------------------------------------------

    def _measure(self) -> None:
        """Looks at every frame that the camera sends; no frame can end it."""
        while (pair := self._inputs.next()) is not None:
            try:
                self._take(pair)
            except RiseError as error:
                self._diagnostics.error(str(error))
            except Exception as error:  # a node on a robot goes on; the trace goes to the log
                self.get_logger().error(traceback.format_exc())
                self._diagnostics.error(f"internal error, frame skipped: {error!r}")

    def _take(self, pair: Pair) -> None:
        frame, calibration = self._reader.read(pair), None
        if frame.camera is not None:
            try:
                calibration = Calibration.of(self._inputs.info)
            except DataError as error:
                self._diagnostics.error(f"calibration ignored: {error}")
        with self._lock:
            self._attempts.frame(frame, calibration)
            finished = self._attempts.take_finished()
        self._diagnostics.frame(
            time.monotonic() - pair.arrival, (self.get_clock().now().nanoseconds - pair.stamp) / 1e9
        )
        for episode in finished:
            try:
                self._episodes.put_nowait(episode)
            except queue.Full:
                self._verdicts["not analysed: too many at a time"] += 1
                self._failed(episode, "an episode was dropped: the analysis does not keep up")

    def _failed(self, episode: Episode, reason: str) -> None:
        self._conclude(episode, False, reason)
        self._diagnostics.error(reason)

    def _conclude(self, episode: Episode, success: bool, text: str, episode_id: str = "") -> None:
        """Keeps what became of an episode, for whoever asks by service."""
        self._results[episode.grasp.grasp_id] = success, text, episode_id, episode.after.frame.stamp
        while len(self._results) > MAX_RESULTS:
            self._results.pop(next(iter(self._results)))

    # -- thread: episodes --------------------------------------------------------------------------

    def _analyse(self) -> None:
        """Analyses and stores what is finished; ends with None."""
        while (episode := self._episodes.get()) is not None:
            try:
                self._store.check_disk()  # capturing pauses, and costs nothing, while there is no room
                labels = label_episode(episode)
                entry = self._store.add(episode, labels)
                text = f"{labels.verdict.value}: {labels.reason}"
                self._conclude(episode, True, text, entry.id)
                self._verdicts[f"{labels.verdict.value}: {labels.cause.value}"] += 1
                self._stored, self._store_bytes = len(self._store.entries()), self._store.size()
                self._full = ""
                self.get_logger().info(f"grasp {episode.grasp.grasp_id!r}: {text}")
            except StoreFullError as error:
                self._full = str(error)
                self._failed(episode, str(error))
            except RiseError as error:
                self._failed(episode, str(error))
            except Exception as error:
                self.get_logger().error(traceback.format_exc())
                self._failed(episode, f"internal error, episode dropped: {error!r}")

    def _conditions(self) -> list[Condition]:
        """What the diagnostics say besides frames and errors."""
        with self._lock:
            under_way, discarded = len(self._attempts.under_way), dict(self._attempts.discarded)
            repeated = self._attempts.buffer.repeated
        values = {
            "episodes in the store": str(self._stored),
            "store (MiB)": f"{self._store_bytes / (1 << 20):.1f}",
            "grasps under way": str(under_way),
            "events refused": str(self._refused),
            **{verdict: str(count) for verdict, count in sorted(self._verdicts.items())},
            **{f"not captured: {reason}": str(count) for reason, count in sorted(discarded.items())},
        }
        found: list[Condition] = [(OK, "", values)]
        if not self._capturing:
            found.append((WARN, "capturing is switched off", {}))
        if repeated >= UNSTAMPED:
            text = (
                f"{repeated} images in a row have one stamp, so that no grasp can be captured: see the driver"
            )
            found.append((ERROR, text, {}))
        if self._full:
            found.append((ERROR, f"not capturing: {self._full}", {}))
        if self._inputs.has_depth_info:
            self._transforms.listen()
        return [*found, *self._inputs.conditions()]

    def destroy_node(self) -> None:
        """Lets the episode in work finish, then closes the store."""
        self._diagnostics.watch()
        self._inputs.stop()
        if self._threads[1].is_alive():
            self._episodes.put(None)
        for thread in self._threads:
            thread.join(10)
        self._store.close()
        super().destroy_node()


def main(args: list[str] | None = None) -> int:
    """Captures until it is interrupted."""
    keep_freed_memory()
    return run(InteractionNode, args)


if __name__ == "__main__":
    sys.exit(main())
