"""The action ~/build_engine: builds an engine in the background while the present runtime goes on serving."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from rise_msgs.action import BuildEngine

from rise_perception.core.errors import RiseError
from rise_perception.inference.engines.background_build import Outcome
from rise_perception.inference.segmenter import Segmenter
from rise_perception.nodes.spin import pause

if TYPE_CHECKING:
    from rise_perception.inference.served_model import ServedModel, Size

PRECISIONS = {
    BuildEngine.Goal.FP32: "fp32",
    BuildEngine.Goal.FP16: "fp16",
    BuildEngine.Goal.BF16: "bf16",
}
FEEDBACK_PERIOD = 0.5  # seconds


class EngineAction:
    """Serves the action; runs in the node's executor, and the work in a process of its own.

    Args:
        node: whose action it is.
        serving: the segmenter, None while there is none, and the size of the camera's images, None before
            the first.
    """

    def __init__(self, node: Node, serving: Callable[[], tuple[Segmenter | None, Size | None]]) -> None:
        self._node, self._serving = node, serving
        self._busy = False
        self._server = ActionServer(
            node,
            BuildEngine,
            "~/build_engine",
            self._execute,
            goal_callback=self._on_goal,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
        )

    def destroy(self) -> None:
        """Removes the action."""
        self._server.destroy()

    def _on_goal(self, goal: Any) -> GoalResponse:
        return GoalResponse.REJECT if self._busy else GoalResponse.ACCEPT

    async def _execute(self, handle: Any) -> Any:
        self._busy = True
        result = BuildEngine.Result(mask_iou_parity=math.nan)
        try:
            outcome = await self._build(handle)
        except RiseError as error:
            outcome = Outcome(error=str(error))
        finally:
            self._busy = False
        result.success = not outcome.error
        result.message = outcome.error or f"{outcome.runtime} in {outcome.precision}"
        result.engine, result.from_cache = outcome.engine, outcome.from_cache
        result.mask_iou_parity = outcome.mask_iou
        if result.success:  # also when it was cancelled too late
            handle.succeed()
        elif handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return result

    async def _build(self, handle: Any) -> Outcome:
        goal = handle.request
        model, size = self._model(goal)
        build = model.build(size, goal.runtime, PRECISIONS[goal.precision], goal.activate)
        while build.outcome is None:
            if handle.is_cancel_requested:
                stopped = build.stop()
                return Outcome(error="cancelled; what served goes on") if stopped.error else stopped
            feedback = BuildEngine.Feedback(stage=build.stage, progress=build.fraction)
            feedback.seconds_elapsed = build.seconds
            handle.publish_feedback(feedback)
            await pause(self._node, FEEDBACK_PERIOD)
        return build.outcome

    def _model(self, goal: Any) -> tuple[ServedModel, Size]:
        """The model that is meant, and the size of its images."""
        segmenter, size = self._serving()
        if segmenter is None:
            raise RiseError("no model is loaded; configure the node first")
        # Engines are built from a network in torch, which a node that serves an exported file never loads.
        from rise_perception.inference.engines.build import RUNTIMES
        from rise_perception.inference.served_model import ServedModel

        if goal.runtime not in RUNTIMES:
            raise RiseError(f"runtime is {goal.runtime!r}; it must be one of {', '.join(RUNTIMES)}")
        if goal.precision not in PRECISIONS:
            raise RiseError(f"precision is {goal.precision}; it must be one of {sorted(PRECISIONS)}")
        wanted = goal.version or segmenter.last_model or segmenter.models[0].card.version
        for model in segmenter.models:
            if model.card.version == wanted:
                if not isinstance(model, ServedModel):
                    raise RiseError(f"{wanted} is an exported file; engines are built from a model's folder")
                if model.is_building:
                    raise RiseError(f"an engine of {wanted} is being built already; try again afterwards")
                return model, size or model.card.network.image_size
        raise RiseError(f"version {wanted!r} does not serve; {segmenter.version} does")
