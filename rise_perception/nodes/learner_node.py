"""Learns from the episodes on disk, in a process of its own; a version that passes the gate is handed on.

One thread trains and measures; the executor answers services and tells how far it is. Nothing that goes wrong
here reaches the segmentation node, which is asked to change its weights and may refuse.
"""

from __future__ import annotations

import math
import queue
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import torch
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rise_msgs.action import FineTune
from rise_msgs.msg import LearnerStatus
from rise_msgs.srv import ListModels, ReloadModel, RollbackModel, SnapshotModel
from std_srvs.srv import SetBool, Trigger

from rise_perception.core.errors import RiseError
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.update.learner import OnlineLearner, TooFewEpisodesError, Update
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.grasp_learning.update.serving_versions import TAKEN_BACK
from rise_perception.grasp_learning.update.update import Progress, Stopped
from rise_perception.inference.malloc_tuning import keep_freed_memory
from rise_perception.inference.segmenter import find_model
from rise_perception.nodes import qos
from rise_perception.nodes.diagnostics import ERROR, OK, WARN, Condition, Diagnostics
from rise_perception.nodes.learner_messages import fine_tune_result, learner_status, model_info
from rise_perception.nodes.learner_parameters import TABLE, learner_config
from rise_perception.nodes.parameters import Parameters
from rise_perception.nodes.services import answering
from rise_perception.nodes.spin import lower_priority, pause, run_with_worker

WORKER = "learner"
WAITING = "waiting for episodes"
LOOK_PERIOD = 2.0  # seconds between looks at the episodes
TELL_PERIOD = 0.5  # seconds between reports
LAST_STEP = 5.0  # seconds that the step in work gets when the process ends
ASK_AGAIN = 3.0  # seconds after which a segmentation node that refused is asked again
LOST = 900.0  # seconds after which an answer does not come any more; an engine may be built before
MAX_ITERATIONS, MAX_IDS = 1_000_000, 100_000


@dataclass
class Job:
    """An update: which episodes, how long, whether it may serve, whether somebody asked for it.

    ``outcome`` is its end, or why there was none.
    """

    ids: list[str] = field(default_factory=list)
    iterations: int = 0
    promote: bool = True
    asked: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    outcome: Update | str | None = None


class LearnerNode(Node):
    """See the module; the parameters are in learner_parameters.py and docs/parameters.md."""

    def __init__(self) -> None:
        super().__init__("learner_node")
        p = self._given = Parameters(self, TABLE).read()
        lower_priority(p.nice)
        config = learner_config(p)
        self._models = ModelStore(Path(p.model_store).expanduser(), True, p.max_versions)
        self._models.begin(find_model(p.model))
        episodes = Path(p.episode_store).expanduser()
        episodes.mkdir(parents=True, exist_ok=True)  # the interaction node may come later
        self._learner = OnlineLearner(config, self._models, EpisodeStore(episodes))
        self._state, self._detail = LearnerStatus.IDLE, WAITING
        self._progress = Progress("idle")
        self._last: Update | None = None
        self._tried = -1  # episodes in the store when an update could not begin
        self._job: Job | None = None
        self._jobs: queue.Queue[Job | None] = queue.Queue(1)
        self._said = ""
        self._survey = self._learner.survey()
        self._serving = self._models.current()
        self._diagnostics = Diagnostics(self, self._conditions, ("learner", "learning"))
        self._status = self.create_publisher(LearnerStatus, "~/status", qos.latched())
        self.create_service(ListModels, "~/list_models", self._on_list)
        self.create_service(RollbackModel, "~/rollback_model", self._on_rollback)
        self.create_service(SnapshotModel, "~/snapshot_model", self._on_snapshot)
        self.create_service(SetBool, "~/set_paused", self._on_pause)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self._action = ActionServer(
            self,
            FineTune,
            "~/fine_tune",
            self._fine_tune,
            goal_callback=lambda _: GoalResponse.ACCEPT,  # a refused goal could not say why
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )
        name = p.segmentation_node.rstrip("/")
        self._reload = self.create_client(ReloadModel, f"{name}/reload_model") if name else None
        self._asked, self._ask_at, self._refused = "", 0.0, False
        self._answer = "is not there" if name else "is told nothing"
        self.create_timer(TELL_PERIOD, self._tell, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._ended = threading.Event()
        self._worker = threading.Thread(target=self._work, name=WORKER, daemon=True)
        self._worker.start()
        self._diagnostics.watch(self._worker)
        for left_out in filter(None, [self._learner.forgotten, *self._models.damaged()]):
            self._diagnostics.error(f"left out: {left_out}")
        self.get_logger().info(f"serving {self._models.serving().version}; episodes come from {episodes}")

    # -- worker thread -----------------------------------------------------------------------------

    def _work(self) -> None:
        """Updates when one is asked for or due, until the node ends; no update can end it."""
        torch.set_num_threads(self._given.threads)
        cv2.setNumThreads(1)
        while not self._ended.is_set():
            try:
                job = self._jobs.get(timeout=LOOK_PERIOD)
            except queue.Empty:
                job = self._due()
            if job is not None and not self._ended.is_set():
                self._job = job
                job.outcome = self._update(job)
                self._job = None

    def _due(self) -> Job | None:
        try:
            self._survey = self._learner.survey()
            self._learner.learn_outcomes()
            if self._learner.watch() is not None:
                verdict = self._learner.memory.last_verdict
                taken_back = verdict.startswith(TAKEN_BACK)
                (self._diagnostics.error if taken_back else self.get_logger().info)(verdict)
            if self._survey.total != self._tried:
                if not (waits := self._learner.waiting()):
                    return Job()
                if self._state == LearnerStatus.IDLE and not self._learner.memory.paused:
                    self._detail = f"{WAITING}: {waits}"
        except (RiseError, OSError) as error:
            self._diagnostics.error(f"cannot look at the episodes: {error}")
        except Exception as error:
            self.get_logger().error(traceback.format_exc())
            self._diagnostics.error(f"internal error, no look at the episodes: {error!r}")
        return None

    def _update(self, job: Job) -> Update | str:
        """Runs an update; gives its end, or why there is none."""
        self._state = LearnerStatus.LEARNING
        try:
            update = self._learner.update(job.ids, job.iterations, job.promote, self._report, job.stop)
        except Stopped:
            self._rest(LearnerStatus.IDLE, "the update was stopped")
            return "the update was stopped; nothing of it stays"
        except TooFewEpisodesError as error:
            return self._failed(job, str(error), LearnerStatus.IDLE)
        except (RiseError, OSError) as error:
            return self._failed(job, str(error))
        except Exception as error:  # a learner on a robot goes on; the trace goes to the log
            self.get_logger().error(traceback.format_exc())
            return self._failed(job, f"internal error, update dropped: {error!r}")
        self._last = update
        self.get_logger().info(self._learner.memory.last_verdict)
        self._rest(LearnerStatus.IDLE, WAITING)
        return update

    def _failed(self, job: Job, reason: str, state: int = LearnerStatus.ERROR) -> str:
        """An update that was asked for fails for whoever asked; one that was due, for all to see."""
        if job.asked or state == LearnerStatus.ERROR:
            self._diagnostics.error(reason)
        if job.asked:
            self._rest(LearnerStatus.IDLE, WAITING)
        else:
            self._rest(state, reason)
            self._tried = self._survey.total  # until another episode comes, it would end the same way
        return reason

    def _rest(self, state: int, detail: str) -> None:
        try:
            self._survey = self._learner.survey()
        except (RiseError, OSError) as error:  # the folder is gone; the next look says so again
            self._diagnostics.error(f"cannot look at the episodes: {error}")
        self._state, self._detail, self._progress = state, detail, Progress("idle")

    def _report(self, progress: Progress) -> None:
        validating = progress.stage == "validating"
        self._state = LearnerStatus.VALIDATING if validating else LearnerStatus.LEARNING
        self._progress, self._detail = progress, progress.stage

    def report_error(self, text: str) -> None:
        """Says in the diagnostics that something went wrong."""
        self._diagnostics.error(text)

    # -- executor: services ------------------------------------------------------------------------

    @answering
    def _on_list(self, request: ListModels.Request, response: ListModels.Response) -> ListModels.Response:
        current = self._models.current()
        serving = "" if current is None else current.version
        response.models = [model_info(model, serving) for model in self._models.versions()]
        damaged = self._models.damaged()
        said = [f"{len(response.models)} versions", *(f"left out: {problem}" for problem in damaged)]
        response.success, response.message = True, "; ".join(said)
        for problem in damaged:
            self._diagnostics.error(f"left out: {problem}")
        return response

    @answering
    def _on_rollback(
        self, request: RollbackModel.Request, response: RollbackModel.Response
    ) -> RollbackModel.Response:
        try:
            response.version = self._learner.rollback(request.version).version
            response.success, response.message = True, f"{response.version} serves"
        except (RiseError, OSError) as error:
            response.message = str(error)
            response.version = self._current_version()
        self._tell()
        return response

    @answering
    def _on_snapshot(
        self, request: SnapshotModel.Request, response: SnapshotModel.Response
    ) -> SnapshotModel.Response:
        try:
            response.version = self._models.snapshot(request.note).version
            response.success, response.message = True, f"kept as {response.version}"
        except (RiseError, OSError) as error:
            response.message = str(error)
        return response

    @answering
    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        try:
            self._learner.pause(request.data)
            self._stop_update(request.data)
            response.success, response.message = True, "paused" if request.data else "resumed"
        except OSError as error:
            response.message = str(error)
        self._tell()
        return response

    @answering
    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            self._stop_update(True)
            response.message = f"{self._learner.reset().version} serves, as in the beginning"
            response.success = True
        except (RiseError, OSError) as error:
            response.message = str(error)
        self._tell()
        return response

    def _stop_update(self, stops: bool) -> None:
        job = self._job
        if stops and job is not None:
            job.stop.set()

    def _current_version(self) -> str:
        current = self._models.current()
        return "" if current is None else current.version

    # -- executor: the action ----------------------------------------------------------------------

    def _refusal(self, goal: Any) -> str:
        """Why nothing can come of a goal; empty if something can."""
        if goal.iterations > MAX_ITERATIONS:
            return f"iterations is {goal.iterations}; at most {MAX_ITERATIONS}, or 0 for the usual number"
        if len(goal.episode_ids) > MAX_IDS:
            return f"episode_ids names {len(goal.episode_ids)} episodes; at most {MAX_IDS}, or none for all"
        if self._job is not None or self._jobs.full():
            return "another update is under way; cancel it, or wait for its end"
        return ""

    async def _fine_tune(self, handle: Any) -> Any:
        goal = handle.request
        job = Job(list(goal.episode_ids), goal.iterations, goal.promote, asked=True)
        if refusal := self._refusal(goal):
            job.outcome = refusal
            self._diagnostics.error(f"update refused: {refusal}")
        else:
            self._jobs.put_nowait(job)
        while job.outcome is None and not self._ended.is_set():
            if handle.is_cancel_requested:
                job.stop.set()
            progress = self._progress
            handle.publish_feedback(
                FineTune.Feedback(
                    stage=progress.stage,
                    iteration=progress.iteration,
                    iterations=progress.iterations,
                    loss=progress.loss,
                    seconds_left=progress.seconds_left,
                )
            )
            await pause(self, TELL_PERIOD)
        outcome = "the node ends" if job.outcome is None else job.outcome
        if isinstance(outcome, Update):
            handle.succeed()
        elif handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return fine_tune_result(outcome)

    # -- executor: what is told --------------------------------------------------------------------

    def _tell(self) -> None:
        """Publishes the status when it changed, and has the segmentation node serve what is to serve."""
        self._serving = self._models.current()
        status = learner_status(
            self._state_now(), self._learner.memory, self._survey, self._serving, self._progress, self._last
        )
        if str(status) != self._said:  # not by ==: figures that are not a number equal nothing
            self._said = str(status)
            status.header.stamp = self.get_clock().now().to_msg()
            self._status.publish(status)
        if self._reload is not None:
            self._ask(self._reload, self._learner.version_to_serve(time.monotonic()))

    def _ask(self, service: Client, version: str) -> None:
        """Asks for a version until it serves; a segmentation node that was away is asked anew."""
        now = time.monotonic()
        if not service.service_is_ready():
            self._asked, self._answer, self._refused = "", "is not there", False
        elif version != self._asked or now >= self._ask_at:
            self._asked, self._ask_at = version, now + LOST
            asked = service.call_async(ReloadModel.Request(version=version))
            asked.add_done_callback(lambda future: self._on_told(version, future.result()))

    def _on_told(self, version: str, answer: ReloadModel.Response | None) -> None:
        if answer is None or version != self._asked:  # another one is to serve by now
            return
        self._refused = not answer.success
        if answer.success:
            self._ask_at, self._answer = math.inf, f"serves {version}"
        else:
            self._ask_at = time.monotonic() + ASK_AGAIN
            self._answer = f"does not serve {version} and is asked again: {answer.message}"

    def _state_now(self) -> tuple[int, str]:
        if self._learner.memory.paused and self._job is None:
            return LearnerStatus.PAUSED, "paused by request; episodes are still stored"
        if self._refused and self._state == LearnerStatus.IDLE:
            return self._state, f"{self._detail}; the segmentation node {self._answer}"
        return self._state, self._detail

    def _conditions(self) -> list[Condition]:
        """What the diagnostics say besides errors."""
        memory, progress, survey = self._learner.memory, self._progress, self._survey
        state, detail = self._state_now()
        values = {
            "serving version": self._current_version(),
            "database version": str(0 if self._serving is None else self._serving.database_version),
            "promoted": str(0 if self._serving is None else self._serving.promoted),
            "rejected": str(memory.rejected),
            "last verdict": memory.last_verdict or "none",
            "on trial": self._learner.trial_status() or "none",
            "episodes": f"{survey.total}, of which {survey.usable} teach and {survey.new} are new",
            "update": f"{progress.stage}, step {progress.iteration} of {progress.iterations}",
            "segmentation node": self._answer,
        }
        if state == LearnerStatus.ERROR:
            return [(ERROR, f"cannot learn: {detail}", values)]
        if state == LearnerStatus.PAUSED or self._refused:
            return [(WARN, detail, values)]
        return [(OK, detail, values)]

    def destroy_node(self) -> None:
        """Ends the update that runs; nothing of it stays."""
        self._ended.set()
        self._stop_update(True)
        self._worker.join(LAST_STEP)
        self._action.destroy()
        if not self._worker.is_alive():
            self._models.close()
        super().destroy_node()


def main(args: list[str] | None = None) -> int:
    """Learns until it is interrupted."""
    keep_freed_memory()
    return run_with_worker(WORKER, LearnerNode, args)


if __name__ == "__main__":
    sys.exit(main())
