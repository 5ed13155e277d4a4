"""What the learner says, as messages."""

from __future__ import annotations

import math

from builtin_interfaces.msg import Time
from rise_msgs.action import FineTune
from rise_msgs.msg import LearnerStatus, ModelInfo

from rise_perception.grasp_learning.update.learner import Survey, Update
from rise_perception.grasp_learning.update.memory import Memory
from rise_perception.grasp_learning.update.model_store import Current, StoredModel
from rise_perception.grasp_learning.update.update import Progress


def model_info(model: StoredModel, serving: str) -> ModelInfo:
    """One version of the store; ``serving`` is the version that serves."""
    ap = model.facts.get("anchor_ap")
    return ModelInfo(
        version=model.version,
        parent=str(model.facts.get("parent", "")),
        created=Time(sec=model.created // 10**9, nanosec=model.created % 10**9),
        uses_depth=model.card.network.sees_depth,
        serving=model.version == serving,
        anchor_ap=float(ap) if isinstance(ap, (int, float)) else math.nan,
        note=str(model.facts.get("note", "")),
    )


def learner_status(
    state: tuple[int, str],
    memory: Memory,
    survey: Survey,
    current: Current | None,
    progress: Progress,
    last: Update | None,
) -> LearnerStatus:
    """The status, without a stamp.

    Args:
        state: of LearnerStatus, and its reason.
        memory, survey, current: what there is.
        progress: of the update under way.
        last: update of this process; its figures stay until the next.
    """
    status = LearnerStatus(
        state=state[0],
        detail=state[1],
        candidate_version="" if last is None else last.version,
        rejected=memory.rejected,
        last_verdict=memory.last_verdict,
        episodes_total=survey.total,
        episodes_accepted=survey.usable,
        episodes_pending=survey.new,
        store_bytes=survey.size,
        iteration=progress.iteration,
        iterations_planned=progress.iterations,
        loss=progress.loss,
    )
    before, after, heldout_before, heldout_after = figures(last)
    status.anchor_ap_serving, status.anchor_ap_candidate = before, after
    status.heldout_quality_serving, status.heldout_quality_candidate = heldout_before, heldout_after
    if current is not None:
        status.serving_version = current.version
        status.database_version = current.database_version
        status.promoted = current.promoted
    return status


def fine_tune_result(outcome: Update | str) -> FineTune.Result:
    """The end of an update, or why there was none."""
    if isinstance(outcome, str):
        result, update = FineTune.Result(message=outcome), None
    else:
        update = outcome
        result = FineTune.Result(
            success=True,
            message=update.decision.reason,
            promoted=update.promoted,
            version=update.version,
        )
    before, after, heldout_before, heldout_after = figures(update)
    result.anchor_ap_before, result.anchor_ap_after = before, after
    result.heldout_quality_before, result.heldout_quality_after = heldout_before, heldout_after
    return result


def figures(update: Update | None) -> tuple[float, float, float, float]:
    """Anchors before and after, held-out interactions before and after; NaN where nothing was measured."""
    if update is None or update.serving is None or update.candidate is None:
        return math.nan, math.nan, math.nan, math.nan
    serving, candidate = update.serving, update.candidate
    return serving.anchor_ap, candidate.anchor_ap, serving.heldout_mean, candidate.heldout_mean
