"""What live learning brought: accuracy, grasp success and latency over the grasps, with and without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rise_perception.core.errors import RiseError
from rise_perception.evaluation.coco import coco_scores
from rise_perception.evaluation.plots import Curve, grasps_plot
from rise_perception.evaluation.report import Picture, Section, Table
from rise_perception.inference.segmenter import find_model
from rise_perception.training.validation import predicted_pairs

#: Grasps over which success is averaged, and latencies are taken together.
WINDOW, BLOCK = 20, 10
AIM_CELL, AIM_ANCHORS, AIM_LATENCY = 0.05, -0.01, 1.15


@dataclass(frozen=True)
class Accuracy:
    """Scores of a model: on the cell's held-out totes, and on anchors that nothing was decided by."""

    cell_ap: float
    cell_ap50: float
    anchor_ap: float
    anchor_ap50: float


@dataclass(frozen=True)
class Arm:
    """One run of the cell.

    Attributes:
        name: what it is called.
        picks: the cell node's records.
        latencies: (time in ns, milliseconds) of each frame.
        learning: milliseconds of the frames while the learner worked.
        serving: version that serves in the end.
    """

    name: str
    picks: list[dict[str, Any]]
    latencies: list[tuple[int, float]]
    learning: list[float]
    serving: str

    def success(self, last: int = 0) -> float:
        """Fraction of the grasps, of the ``last`` ones if not 0, that held one item."""
        picks = self.picks[-last:]
        return sum(bool(pick["success"]) for pick in picks) / len(picks)

    def versions(self) -> list[str]:
        """Versions that served, in order."""
        return list(dict.fromkeys([*(pick["model_version"] for pick in self.picks), self.serving]))


def accuracy(model: str | Path, cell: Path, anchors: Path, device: str = "cpu") -> Accuracy:
    """Measure a model.

    Args:
        model: folder or name.
        cell, anchors: COCO annotation files.
        device: where it runs.

    Raises:
        RiseError: a file labels no object.
    """
    scores = [coco_scores(predicted_pairs(find_model(model), path, device)) for path in (cell, anchors)]
    for path, score in zip((cell, anchors), scores, strict=True):
        if score.ap is None or score.ap50 is None:
            raise RiseError(f"{path} labels no object")
    flat = [float(value) for score in scores for value in (score.ap or 0.0, score.ap50 or 0.0)]
    return Accuracy(*flat)


def figures(arms: Sequence[Arm], measured: Mapping[str, Accuracy]) -> dict[str, Any]:
    """All figures, as JSON; the first arm learns nothing, the last one does."""
    rows: list[dict[str, Any]] = []
    for arm in arms:
        milliseconds = [value for _, value in arm.latencies]
        rows.append(
            {
                "name": arm.name,
                "grasps": len(arm.picks),
                "success": arm.success(),
                "success_last": arm.success(max(1, len(arm.picks) // 4)),
                "versions": arm.versions(),
                "first": vars(measured[arm.versions()[0]]),
                "last": vars(measured[arm.serving]),
                "latency_median_ms": float(np.median(milliseconds)),
                "latency_p95_ms": float(np.percentile(milliseconds, 95)),
                "latency_p95_while_learning_ms": float(np.percentile(arm.learning, 95))
                if arm.learning
                else None,
            }
        )
    off, on = rows[0], rows[-1]
    learning = on["latency_p95_while_learning_ms"]
    return {
        "benchmark": "live",
        "arms": rows,
        "cell_ap50_gain": on["last"]["cell_ap50"] - on["first"]["cell_ap50"],
        "anchor_ap_change": on["last"]["anchor_ap"] - on["first"]["anchor_ap"],
        "success_gain": on["success_last"] - off["success_last"],
        "latency_ratio": learning / off["latency_p95_ms"] if learning else None,
    }


def summary_section(result: Mapping[str, Any]) -> Section:
    """The figures of all arms beside each other, and the aims."""

    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    head = ("", *(row["name"] for row in result["arms"]))
    wanted = [
        ("novel objects: AP50 in the end", lambda row: percent(row["last"]["cell_ap50"])),
        ("novel objects: AP50 at first", lambda row: percent(row["first"]["cell_ap50"])),
        ("novel objects: AP in the end", lambda row: percent(row["last"]["cell_ap"])),
        ("anchors: AP in the end", lambda row: percent(row["last"]["anchor_ap"])),
        ("anchors: AP at first", lambda row: percent(row["first"]["anchor_ap"])),
        ("grasps that held one item, %", lambda row: percent(row["success"])),
        ("the same, last quarter, %", lambda row: percent(row["success_last"])),
        ("latency, median, ms", lambda row: f"{row['latency_median_ms']:.0f}"),
        ("latency, 95 %, ms", lambda row: f"{row['latency_p95_ms']:.0f}"),
        (
            "latency while learning, 95 %, ms",
            lambda row: (
                f"{row['latency_p95_while_learning_ms']:.0f}" if row["latency_p95_while_learning_ms"] else "-"
            ),
        ),
        ("versions that served", lambda row: str(len(row["versions"]))),
    ]
    rows = [(title, *(show(row) for row in result["arms"])) for title, show in wanted]
    ratio = result["latency_ratio"]
    text = (
        f"AP50 on the novel objects {100 * result['cell_ap50_gain']:+.1f} (aim: at least "
        f"{100 * AIM_CELL:+.0f}), AP on the anchors {100 * result['anchor_ap_change']:+.1f} (aim: no less "
        f"than {100 * AIM_ANCHORS:+.0f}), grasps that succeed in the last quarter "
        f"{100 * result['success_gain']:+.0f} points beside the cell that does not learn"
    )
    if ratio:
        text += f", latency at 95 % while it learns {ratio:.2f} times (aim: at most {AIM_LATENCY})"
    return Section("What learning brought", text + ".", [Table(head, rows)])


def plot_section(arms: Sequence[Arm], measured: Mapping[str, Accuracy]) -> Section:
    """Accuracy, success and latency over the grasps."""
    panels: dict[str, dict[str, Curve]] = {
        "AP50 of the active version": {},
        f"success over {WINDOW} grasps": {},
        "latency, 95 %, ms": {},
    }
    titles = list(panels)
    for arm in arms:
        serving = [*(pick["model_version"] for pick in arm.picks), arm.serving]
        count = list(range(len(serving)))
        cell = [measured[version].cell_ap50 for version in serving]
        anchors = [measured[version].anchor_ap50 for version in serving]
        panels[titles[0]][f"novel objects, {arm.name}"] = Curve(count, cell, True)
        panels[titles[0]][f"anchors, {arm.name}"] = Curve(count, anchors, True)
        success = np.array([float(pick["success"]) for pick in arm.picks])
        means = [float(success[max(0, k - WINDOW) : k].mean()) for k in range(1, len(success) + 1)]
        panels[titles[1]][arm.name] = Curve(list(range(1, len(success) + 1)), means)
        panels[titles[2]][arm.name] = _latency(arm)
    return Section("Over the grasps", "", pictures=[Picture(grasps_plot(panels))])


def _latency(arm: Arm) -> Curve:
    """The 95th percentile of each ``BLOCK`` of grasps."""
    ends = [pick["stamp"] for pick in arm.picks]
    stamps = np.array([stamp for stamp, _ in arm.latencies])
    values = np.array([value for _, value in arm.latencies])
    places, found = [], []
    for last in range(BLOCK, len(ends) + 1, BLOCK):
        begin = ends[last - BLOCK - 1] if last > BLOCK else 0
        inside = (stamps > begin) & (stamps <= ends[last - 1])
        if inside.any():
            places.append(last)
            found.append(float(np.percentile(values[inside], 95)))
    return Curve(places, found)
