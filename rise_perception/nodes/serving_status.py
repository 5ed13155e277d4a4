"""What the segmentation node's diagnostics say of the model, the engine and the camera."""

from __future__ import annotations

import time

from rise_perception.inference.segmenter import Segmenter
from rise_perception.nodes.diagnostics import OK, WARN, Condition
from rise_perception.nodes.inputs import CameraInputs


class InputRate:
    """Frames a second, between two looks."""

    def __init__(self) -> None:
        self._mark = (time.monotonic(), 0)

    def look(self, arrivals: int) -> float:
        """Hz since the last look, of a counter that may begin anew."""
        now = time.monotonic()
        (before, count), self._mark = self._mark, (now, arrivals)
        return max(0, arrivals - count) / max(now - before, 1e-3)


def camera_values(inputs: CameraInputs, rate: InputRate) -> dict[str, str]:
    """Counts of the camera's frames."""
    return {
        "input rate (Hz)": f"{rate.look(inputs.arrivals):.1f}",
        "superseded frames": str(inputs.pairing.superseded),
        "late messages": str(inputs.pairing.late),
        "clock jumps": str(inputs.pairing.jumps),
    }


def engine_condition(segmenter: Segmenter, runtime: str, precision: str) -> Condition:
    """Which runtime serves, whether its engine matches, and why another one had to step in."""
    models = segmenter.models
    model = next((m for m in models if m.card.version == segmenter.last_model), models[0])
    values = {
        "runtime": model.serving,
        "runtime asked for": f"{runtime} {precision}",
        "engine": model.engine or "none",
        "fallback": model.fallback or "none",
    }
    if not model.fallback or model.is_building:
        return OK, f"torch serves while {model.fallback}" if model.fallback else "", values
    return WARN, f"torch serves instead of an engine: {model.fallback}", values


def latency_condition(median: float | None, budget: float) -> Condition:
    """Whether the median latency (seconds, None without frames) keeps to the budget (milliseconds)."""
    values = {"latency budget (ms)": f"{budget:.0f}"}
    if median is None or median * 1e3 <= budget:
        return OK, "", values
    return WARN, f"latency {median * 1e3:.0f} ms exceeds the budget of {budget:.0f} ms", values
