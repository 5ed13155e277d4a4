"""Lifecycle node: frames of a camera in, label map and instances out.

Callbacks only stash; one worker thread segments the newest frame and publishes; everything else runs in
a single-threaded executor. The model is loaded by configure, the camera is subscribed to while the node
is active and somebody listens to an output.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from pathlib import Path

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rise_msgs.srv import SetTarget

from rise_perception.core.errors import RiseError
from rise_perception.core.frame import check_depth
from rise_perception.data import ros_images
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.inference.malloc_tuning import keep_freed_memory
from rise_perception.inference.pairing import Pair
from rise_perception.inference.segmenter import Segmenter
from rise_perception.inference.tracker import Tracker
from rise_perception.nodes.diagnostics import ERROR, OK, WARN, Condition, Diagnostics
from rise_perception.nodes.engine_action import EngineAction
from rise_perception.nodes.inputs import CameraInputs, intrinsics
from rise_perception.nodes.model_service import ModelService
from rise_perception.nodes.outputs import Outputs, Result
from rise_perception.nodes.parameters import declare
from rise_perception.nodes.referral import ReferralServer, declare_referral
from rise_perception.nodes.spin import run_with_worker

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
WORKER = "segmentation worker"
LISTEN_PERIOD = 0.2  # seconds between looks at who listens
LAST_FRAME = 3.0  # seconds that the frame in work gets when the process ends
SILENCE = 2.0  # seconds without an image after which the camera counts as gone


class SegmentationNode(LifecycleNode):
    """See the module; topics and parameters are listed in the README."""

    def __init__(self) -> None:
        super().__init__("segmentation_node")
        self._model = declare(
            self,
            "model",
            "auto",
            "Model folder, name of a shipped model, or 'auto': RGB-D while depth comes in, RGB otherwise.",
        )
        self._model_dir = declare(
            self,
            "model_store",
            "",
            "Folder of the learner's versions, the only place ~/reload_model takes models from; empty: none.",
        )
        self._device = declare(self, "device", "auto", "Where the network runs: auto, cpu, cuda, cuda:1, ...")
        self._threshold = declare(
            self,
            "score_threshold",
            0.0,
            "Instances that score below are dropped; 0 takes the model's own threshold.",
            between=(0.0, 1.0),
        )
        self._runtime = declare(
            self,
            "runtime",
            "torch",
            "What runs the network: torch, auto (the fastest here), onnxruntime, openvino, tensorrt, ...; "
            "torch serves until its engine is built.",
        )
        self._precision = declare(
            self, "precision", "fp32", "Precision of the engine: fp32, fp16, bf16 or, in openvino, int8."
        )
        self._calibration = declare(
            self,
            "calibration",
            "",
            "Recording or pictures that int8 is calibrated on; empty: the shipped one.",
        )
        self._engine_dir = declare(
            self, "engine_dir", "", "Folder of the engine cache; empty: ~/.cache/rise_perception/engines."
        )
        self.autostart = declare(
            self, "autostart", True, "Configure and activate at start, without a manager."
        )
        self._color_topic = declare(
            self,
            "color_topic",
            "/camera/color/image_raw",
            "Colour image; a CompressedImage when the name ends in /compressed.",
        )
        self._depth_topic = declare(
            self,
            "depth_topic",
            "/camera/depth/image_raw",
            "Depth registered to the colour image (16UC1 mm or 32FC1 m), or /compressedDepth; empty: none.",
        )
        self._info_topic = declare(
            self, "info_topic", "/camera/color/camera_info", "CameraInfo of the colour image, for 3D outputs."
        )
        self._tolerance = declare(
            self,
            "sync_tolerance",
            0.02,
            "Seconds by which the stamps of colour and depth of one frame may differ.",
            between=(0.0, 0.5),
        )
        self._referring = declare_referral(self, self._device)
        declare(
            self,
            "latency_budget_ms",
            200.0,
            "Diagnostics warn when the median latency from image to masks exceeds this.",
            between=(1.0, 10000.0),
            read_only=False,
        )
        self._segmenter: Segmenter | None = None
        self._tracker = Tracker()
        self._inputs: CameraInputs | None = None
        self._outputs: Outputs | None = None
        self._worker: threading.Thread | None = None
        self._busy = threading.Lock()
        self._active = False
        self._database_version, self._counted = 0, ""
        self._target: int | None = None
        self._known_ids: list[int] = []
        self._image_size: tuple[int, int] | None = None
        self._failure = ""
        self._rate_mark = (time.monotonic(), 0)
        self._diagnostics = Diagnostics(self, self._conditions)
        self._service = self.create_service(SetTarget, "~/set_target", self._on_set_target)
        self._versions = ModelService(self, self._model_dir, lambda: self._segmenter, self._on_swapped)
        self._referral = ReferralServer(self, lambda: self._active, self._diagnostics.error)
        self._engines = EngineAction(self, lambda: (self._segmenter, self._image_size))
        self._opened = time.monotonic()
        self._listen_timer = self.create_timer(LISTEN_PERIOD, self._follow_listeners)

    # -- lifecycle ---------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Loads and warms up the model, creates the publishers and the worker thread."""
        self.get_logger().info(f"loading model {self._model!r} on device {self._device!r}")
        try:
            segmenter = Segmenter.load(
                self._model,
                self._device,
                self._threshold or None,
                self._runtime,
                self._precision,
                self._engine_dir or None,
                self._calibration,
            )
            if problem := self._versions.begin(segmenter):
                self._diagnostics.error(f"{self._model!r} serves instead of the last version: {problem}")
            segmenter.warm_up()
        except RiseError as error:
            self._failure = str(error)
            self._diagnostics.error(f"cannot be configured: {error}")
            return FAILURE
        self._failure = ""
        self._segmenter = segmenter
        self._referral.load(self._referring)
        self._tracker.reset()
        report = self._diagnostics.error
        self._outputs = Outputs(self, report)
        self._inputs = CameraInputs(
            self, self._color_topic, self._depth_topic, self._info_topic, self._tolerance, report
        )
        self._worker = threading.Thread(target=self._work, args=(self._inputs,), name=WORKER, daemon=True)
        self._worker.start()
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts to publish; the camera is subscribed to as soon as somebody listens."""
        result = super().on_activate(state)
        self._announce()
        assert self._segmenter is not None
        self._active = True
        self.get_logger().info(f"serving {self._segmenter.version}; camera {self._color_topic}")
        return result

    def _announce(self) -> None:
        assert self._outputs is not None
        assert self._segmenter is not None
        self._count(self._segmenter)
        self._outputs.announce(
            self._segmenter.version, self._segmenter.class_names, self._threshold, self._database_version
        )

    def _count(self, segmenter: Segmenter) -> None:
        """The number of what serves: the model store's where its version serves, otherwise one more."""
        folder = Path(self._model_dir).expanduser()
        current = ModelStore(folder).current() if self._model_dir and folder.is_dir() else None
        if current is not None and current.version in [model.card.version for model in segmenter.models]:
            self._database_version = current.database_version
        elif segmenter.version != self._counted:
            self._database_version += 1
        self._counted = segmenter.version

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribes from the camera and lets the frame in work finish."""
        self._active = False
        if self._inputs is not None:
            self._inputs.close()
        with self._busy:
            return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Releases model, publishers and worker."""
        self._release()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """The same as cleanup, from any state."""
        self._release()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised: goes back to unconfigured, so that a manager can try again."""
        self._failure = "a lifecycle transition failed; see the log"
        self._release()
        return SUCCESS

    def _release(self) -> None:
        self._active = False
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

    def _work(self, inputs: CameraInputs) -> None:
        """Segments frames until the inputs are stopped; no frame can end it."""
        while (pair := inputs.next()) is not None:
            with self._busy:
                if not self._active:
                    continue
                try:
                    self._process(pair, inputs)
                except RiseError as error:
                    self._diagnostics.error(str(error))
                except Exception as error:  # a node on a robot keeps serving; the trace goes to the log
                    self.get_logger().error(traceback.format_exc())
                    self._diagnostics.error(f"internal error, frame skipped: {error!r}")

    def _process(self, pair: Pair, inputs: CameraInputs) -> None:
        assert self._segmenter is not None
        assert self._outputs is not None
        header = pair.color.header
        image = ros_images.to_rgb8(pair.color)
        self._image_size = image.shape[0], image.shape[1]
        depth = self._depth(pair, image)
        instances = self._tracker.update(self._segmenter(image, depth), pair.stamp)
        self._known_ids = instances.ids.tolist()
        info = inputs.info(image.shape[1], image.shape[0])
        version = self._segmenter.last_model
        result = Result(header, image, depth, info, intrinsics(info), instances, version, pair.arrival)
        label_map = self._outputs.publish_label_map(result)
        if (found := self._referral.take_target()) is not None:
            self._target = found
        latency = self._outputs.publish_instances(result, label_map, self._target)
        self._referral.offer(result)
        self._diagnostics.frame(latency, (self.get_clock().now().nanoseconds - pair.stamp) / 1e9)

    def _depth(self, pair: Pair, image: np.ndarray) -> np.ndarray | None:
        """Depth of a pair; a bad one is reported and costs the frame its depth, not the frame."""
        if pair.depth is None:
            return None
        try:
            depth = ros_images.to_depth(pair.depth)
            check_depth(depth, image)
        except RiseError as error:
            self._diagnostics.error(f"depth ignored: {error}")
            return None
        return depth

    # -- executor ----------------------------------------------------------------------------------

    def _follow_listeners(self) -> None:
        """Subscribes to the camera when the first listener comes, unsubscribes when the last has gone."""
        if not self._active or self._inputs is None or self._outputs is None:
            return
        wanted = self._outputs.wanted() or self._referral.waits
        if wanted and not self._inputs.is_open:
            self._opened = time.monotonic()
            self._inputs.open()
        elif not wanted and self._inputs.is_open:
            self._inputs.close()

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
        inputs, now = self._inputs, time.monotonic()
        (before, count), self._rate_mark = self._rate_mark, (now, inputs.arrivals)
        values = {
            "serving model": self._segmenter.last_model or self._segmenter.version,
            "database version": str(self._database_version),
            "input rate (Hz)": f"{max(0, inputs.arrivals - count) / max(now - before, 1e-3):.1f}",
            "superseded frames": str(inputs.pairing.superseded),
            "late messages": str(inputs.pairing.late),
            "clock jumps": str(inputs.pairing.jumps),
            "vision_msgs": "present" if self._outputs.has_vision_msgs else "not installed: no detections",
        }
        budget = self.get_parameter("latency_budget_ms").value
        latency = self._diagnostics.latency_median()
        values["latency budget (ms)"] = f"{budget:.0f}"
        found: list[Condition] = [(OK, "", values), *self._engine_conditions(self._segmenter)]
        if not self._active:
            return [*found, (WARN, "inactive", {})]
        if not inputs.is_open:
            return [*found, (OK, "idle: nobody listens", {})]
        silent = now - (inputs.last_color_arrival or self._opened)
        if silent > SILENCE:
            publishers = self.count_publishers(inputs.color_topic)
            text = f"no image on {inputs.color_topic} for {silent:.0f} s ({publishers} publishers)"
            found.append((ERROR, text, {}))
        elif inputs.depth_topic and not inputs.depth_is_alive():
            publishers = self.count_publishers(inputs.depth_topic)
            text = f"no depth on {inputs.depth_topic} ({publishers} publishers): serving without depth"
            found.append((WARN, text, {}))
        if latency is not None and latency * 1e3 > budget:
            found.append((WARN, f"latency {latency * 1e3:.0f} ms exceeds the budget of {budget:.0f} ms", {}))
        return found

    def _engine_conditions(self, segmenter: Segmenter) -> list[Condition]:
        """Which runtime serves, whether its engine matches, and why another one had to step in."""
        models = segmenter.models
        model = next((m for m in models if m.card.version == segmenter.last_model), models[0])
        values = {
            "runtime": model.serving,
            "runtime asked for": f"{self._runtime} {self._precision}",
            "engine": model.engine or "none",
            "fallback": model.fallback or "none",
        }
        if not model.fallback or model.is_building:
            return [(OK, f"torch serves while {model.fallback}" if model.fallback else "", values)]
        return [(WARN, f"torch serves instead of an engine: {model.fallback}", values)]

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
    """The node, active when ``autostart`` says so and its model could be loaded."""
    node = SegmentationNode()
    if node.autostart and node.trigger_configure() == SUCCESS:
        node.trigger_activate()
    return node


def main(args: list[str] | None = None) -> int:
    """Serves until it is interrupted."""
    keep_freed_memory()
    return run_with_worker(WORKER, create, args)


if __name__ == "__main__":
    sys.exit(main())
