"""Lifecycle node: frames of a camera in, label map and instances out.

Callbacks enqueue; one worker thread segments the newest frame and publishes; everything else runs in
a single-threaded executor. The model is loaded by configure, the camera is subscribed to while the node
is active and somebody listens to an output.
"""

from __future__ import annotations

import sys
import threading
import traceback
from functools import partial
from pathlib import Path

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rise_msgs.srv import SetTarget

from rise_perception.core.errors import RiseError
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.inference.malloc_tuning import keep_freed_memory
from rise_perception.inference.pairing import Pair
from rise_perception.inference.segmenter import Segmenter
from rise_perception.inference.tracker import Tracker
from rise_perception.nodes.diagnostics import ERROR, OK, WARN, Condition, Diagnostics
from rise_perception.nodes.engine_action import EngineAction
from rise_perception.nodes.foreground_service import ForegroundService
from rise_perception.nodes.frames import FrameReader
from rise_perception.nodes.heartbeat import Heartbeat
from rise_perception.nodes.inputs import CameraInputs
from rise_perception.nodes.lifecycle import managers, reported
from rise_perception.nodes.model_service import ModelService
from rise_perception.nodes.outputs import Outputs, Result
from rise_perception.nodes.parameters import Parameters
from rise_perception.nodes.places import Places
from rise_perception.nodes.referral import ReferralServer, ReferralSettings
from rise_perception.nodes.segment_service import SegmentService
from rise_perception.nodes.segmentation_parameters import TABLE
from rise_perception.nodes.services import answering
from rise_perception.nodes.serving_status import (
    InputRate,
    camera_values,
    engine_condition,
    latency_condition,
)
from rise_perception.nodes.spin import run_with_worker
from rise_perception.nodes.transforms import Transforms

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
WORKER = "segmentation worker"
LISTEN_PERIOD = 0.2  # seconds between looks at who listens
LAST_FRAME = 3.0  # seconds that the frame in work gets when the process ends
MANAGER_PERIOD = 1.0  # seconds in which a lifecycle manager is looked for before the node starts by itself


class SegmentationNode(LifecycleNode):
    """See the module; the parameters are in segmentation_parameters.py and docs/parameters.md."""

    def __init__(self) -> None:
        super().__init__("segmentation_node")
        self.parameters = Parameters(self, TABLE, in_use=lambda: self._segmenter is not None)
        self._given = self.parameters.read()
        self._segmenter: Segmenter | None = None
        self._tracker = Tracker()
        self._inputs: CameraInputs | None = None
        self._outputs: Outputs | None = None
        self._worker: threading.Thread | None = None
        self._busy = threading.Lock()
        self._active = False
        self._database_version, self._counted = 0, ""
        self._announced: tuple[str, float] | None = None
        self._target: int | None = None
        self._known_ids: list[int] = []
        self._image_size: tuple[int, int] | None = None
        self._failure = ""
        self._rate = InputRate()
        self._heartbeat = Heartbeat(self)
        self._transforms = Transforms(self)
        self._places = Places(self._transforms)
        self._diagnostics = Diagnostics(self, self._conditions)
        self._service = self.create_service(SetTarget, "~/set_target", self._on_set_target)
        self._versions = ModelService(
            self, lambda: self._given.model_store, lambda: self._segmenter, self._on_swapped
        )
        self._segment = SegmentService(self, self._why_no_frame)
        self._foreground = ForegroundService(self, self._why_no_frame)
        self._referral = ReferralServer(self, lambda: self._active, self._diagnostics.error)
        self._engines = EngineAction(self, lambda: (self._segmenter, self._image_size))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._listen_timer = self.create_timer(LISTEN_PERIOD, self._follow, clock=steady)

    # -- lifecycle ---------------------------------------------------------------------------------

    @reported
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Reads the parameters, loads the model and warms it up, creates publishers and worker thread."""
        given = self._given = self.parameters.read()
        self.get_logger().info(f"loading model {given.model!r} on device {given.device!r}")
        self._segmenter = segmenter = Segmenter.load(
            given.model,
            given.device,
            given.score_threshold or None,
            given.runtime,
            given.precision,
            given.engine_dir or None,
            given.calibration,
        )
        for left_out in self._versions.damaged():
            self._diagnostics.error(f"left out of the model store: {left_out}")
        if problem := self._versions.begin(segmenter):
            self._diagnostics.error(f"{given.model!r} serves instead of the last version: {problem}")
        segmenter.warm_up()
        self._failure = ""
        self._referral.load(ReferralSettings(given.refer_model, given.refer_catalogue, given.device))
        self._foreground.configure(given.reference, given.foreground)
        self._tracker.reset()
        self._outputs = Outputs(self, self._diagnostics.error)
        patience = partial(self.parameters.__getitem__, "depth_patience_s")
        self._inputs = CameraInputs(self, given, patience, self._diagnostics.error)
        parts = self._inputs, segmenter, self._outputs
        self._worker = threading.Thread(target=self._work, args=parts, name=WORKER, daemon=True)
        self._worker.start()
        self._diagnostics.watch(self._worker)
        return super().on_configure(state)

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts to publish; the camera is subscribed to as soon as somebody listens."""
        result = super().on_activate(state)
        assert self._segmenter is not None
        assert self._inputs is not None
        self._announced = None
        self._announce()
        self._active = True
        self._heartbeat.start()
        self.get_logger().info(f"serving {self._segmenter.version}; camera {self._inputs.color_topic}")
        return result

    def _announce(self) -> None:
        """Publishes the facts about the active model, when they have changed."""
        assert self._outputs is not None
        assert self._segmenter is not None
        self._segmenter.score_threshold = self.parameters["score_threshold"]
        facts = self._segmenter.version, self._segmenter.score_threshold
        if facts != self._announced:
            self._announced = facts
            self._count(self._segmenter)
            self._outputs.announce(facts[0], self._segmenter.class_names, facts[1], self._database_version)

    def _count(self, segmenter: Segmenter) -> None:
        """The number of the active model: the model store's where it is of it, otherwise one more."""
        folder = Path(self._given.model_store).expanduser()
        current = ModelStore(folder).current() if self._given.model_store and folder.is_dir() else None
        if current is not None and current.version in [model.card.version for model in segmenter.models]:
            self._database_version = current.database_version
        elif segmenter.version != self._counted:
            self._database_version += 1
        self._counted = segmenter.version

    @reported
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes from the camera and lets the frame in work finish."""
        self._active = False
        self._heartbeat.stop()
        if self._inputs is not None:
            self._inputs.close()
        with self._busy:
            return super().on_deactivate(state)

    @reported
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Releases model, publishers and worker."""
        self._release()
        return SUCCESS

    @reported
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same as cleanup, from any state."""
        self._release()
        return SUCCESS

    def transition_failed(self, text: str) -> None:
        """Says what kept a transition from success; a failed configure leaves nothing behind."""
        if not self._active:
            self._failure = text
        self._diagnostics.error(text)
        if self._worker is None:
            self._release()

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Goes back to unconfigured, so that a manager can try again."""
        self._failure = self._failure or "a lifecycle transition failed; see the log"
        self._release()
        return SUCCESS

    def start_unmanaged(self) -> None:
        """Configures and activates the node, soon, unless a lifecycle manager is there to do it."""
        steady = Clock(clock_type=ClockType.STEADY_TIME)

        def start() -> None:
            timer.cancel()
            if found := managers(self):
                self.get_logger().info(f"left to the lifecycle manager {', '.join(found)}")
            elif self._segmenter is None and self.trigger_configure() == SUCCESS:
                self.trigger_activate()

        timer = self.create_timer(MANAGER_PERIOD, start, clock=steady)

    def report_error(self, text: str) -> None:
        """Says in the diagnostics that something went wrong."""
        self._diagnostics.error(text)

    def _release(self) -> None:
        self._active = False
        self._heartbeat.stop()
        self._diagnostics.watch()
        if self._inputs is not None:
            self._inputs.close()
            self._inputs.stop()
        if self._worker is not None:
            self._worker.join()
        if self._segmenter is not None:
            self._segmenter.close()
        if self._outputs is not None:
            self._outputs.destroy()
        self._inputs = self._outputs = self._worker = self._segmenter = None

    # -- worker thread -----------------------------------------------------------------------------

    def _work(self, inputs: CameraInputs, segmenter: Segmenter, outputs: Outputs) -> None:
        """Segments frames until the inputs are stopped; no frame can end it."""
        reader = FrameReader(inputs, self._transforms, self._diagnostics.error)
        while (pair := inputs.next()) is not None:
            with self._busy:
                if not self._active:
                    continue
                try:
                    self._process(pair, reader, segmenter, outputs)
                except RiseError as error:
                    self._diagnostics.error(str(error))
                except Exception as error:  # a node on a robot keeps serving; the trace goes to the log
                    if not self.context.ok():  # interrupted: publishers went while the frame was in work
                        return
                    self.get_logger().error(traceback.format_exc())
                    self._diagnostics.error(f"internal error, frame skipped: {error!r}")

    def _process(self, pair: Pair, reader: FrameReader, segmenter: Segmenter, outputs: Outputs) -> None:
        frame = reader.read(pair)
        self._image_size = frame.image.shape[0], frame.image.shape[1]
        segmenter.score_threshold = self.parameters["score_threshold"]
        segmenter.min_relief_mm = self.parameters["min_relief_mm"]
        self._places.set(self.parameters["workspace"], self.parameters["target_frame"])
        instances, outside = self._places.restrict(frame, segmenter(frame.image, frame.depth))
        instances = self._foreground.scene.restrict(frame, instances, outside)
        instances = self._tracker.update(instances, frame.stamp)
        self._known_ids = instances.ids.tolist()
        result = Result(
            header=pair.color.header,
            frame=frame,
            info=reader.info if frame.camera is not None else None,
            instances=instances,
            model_version=segmenter.last_model,
            arrival=pair.arrival,
            outside=outside,
            target_frame=self._places.target_frame,
            target_from_camera=self._places.target_from_camera(frame),
        )
        label_map = outputs.publish_label_map(result)
        if (found := self._referral.take_target()) is not None:
            self._target = found
        latency = outputs.publish_instances(result, label_map, self._target)
        self._segment.offer(result)
        self._referral.offer(result)
        self._foreground.offer(frame, pair.arrival)
        if outputs.wanted("foreground"):
            outputs.publish_foreground(result, self._foreground.scene.picture(segmenter, frame, outside))
        self._diagnostics.frame(latency, (self.get_clock().now().nanoseconds - pair.stamp) / 1e9)

    # -- executor ----------------------------------------------------------------------------------

    def _follow(self) -> None:
        """Subscribes while somebody listens; takes over what was changed while the node runs."""
        if not self._active or self._inputs is None or self._outputs is None:
            return
        if self._inputs.has_depth_info or self._places.needs_transforms:
            self._transforms.listen()
        self._announce()
        self._foreground.scene.mode = self.parameters["foreground"]
        waiting = self._segment.waits or self._referral.waits or self._foreground.waits
        wanted = self._outputs.wanted() or waiting
        if wanted and not self._inputs.is_open:
            self._inputs.open()
        elif not wanted and self._inputs.is_open:
            self._inputs.close()
            self._segment.forget()
            self._referral.forget()

    def _why_no_frame(self) -> str:
        return "" if self._active else "the node is not active"

    @answering
    def _on_set_target(self, request: SetTarget.Request, response: SetTarget.Response) -> SetTarget.Response:
        if request.id == -1:
            self._target = None
            response.success, response.message = True, "no target: the mask is empty"
        elif request.id in self._known_ids:
            self._target = int(request.id)
            response.success, response.message = True, f"target is instance {request.id}"
        else:
            known = ", ".join(map(str, self._known_ids)) or "none"
            response.message = f"no instance with id {request.id} in the last frame; there are: {known}"
        return response

    def _on_swapped(self) -> None:
        """Another version serves: says so to who keeps count."""
        if self._active:
            self._announce()

    def _conditions(self) -> list[Condition]:
        """What the diagnostics say besides frames and errors."""
        if self._segmenter is None or self._inputs is None or self._outputs is None:
            if self._failure:
                return [(ERROR, f"not configured: {self._failure}", {})]
            return [(WARN, "not configured", {})]
        values = {
            "serving model": self._segmenter.last_model or self._segmenter.version,
            "database version": str(self._database_version),
            "vision_msgs": "present" if self._outputs.has_vision_msgs else "not installed: no detections",
            **camera_values(self._inputs, self._rate),
        }
        found: list[Condition] = [
            (OK, "", values),
            engine_condition(self._segmenter, self._given.runtime, self._given.precision),
        ]
        if not self._active:
            return [*found, (WARN, "inactive", {})]
        if not self._inputs.is_open:
            return [*found, (OK, "idle: nobody listens", {})]
        latency = latency_condition(self._diagnostics.latency_median(), self.parameters["latency_budget_ms"])
        places = [*self._places.conditions(), self._foreground.condition()]
        return [*found, *self._inputs.conditions(), *places, latency]

    def destroy_node(self) -> None:
        """Stops the worker before the node goes; a frame that takes long does not hold up the end."""
        self._engines.destroy()
        if self._inputs is not None:
            self._inputs.stop()
        if self._worker is not None:
            self._worker.join(LAST_FRAME)
            if self._worker.is_alive():
                return
        self._release()
        super().destroy_node()


def create() -> SegmentationNode:
    """The node, which starts by itself when ``autostart`` says so."""
    node = SegmentationNode()
    if node.parameters["autostart"]:
        node.start_unmanaged()
    return node


def main(args: list[str] | None = None) -> int:
    """Serves until it is interrupted."""
    keep_freed_memory(one_arena=True)  # a version that is tried takes what a frame has left
    return run_with_worker(WORKER, create, args)


if __name__ == "__main__":
    sys.exit(main())
