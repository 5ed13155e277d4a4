"""Plots of an evaluation and of latencies, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rise_perception.evaluation.coco import RECALL_POINTS
from rise_perception.evaluation.metrics import Metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#1b6ca8", "#e07a2f", "#3a8f5c", "#8a4fa8", "#c2415b")


def metrics_plot(metrics: Metrics) -> bytes:
    """PNG with the precision-recall curves of the objects and the histogram of each item's best IoU."""
    curves = metrics.coco.precision if metrics.coco else {}
    figure, axes = _figure(2 if curves else 1)
    if curves:
        for color, (threshold, precision) in zip(COLORS, curves.items(), strict=False):
            area = float(precision.mean())
            axes[0].plot(
                RECALL_POINTS, precision, color=color, lw=2, label=f"IoU {threshold:g}: AP {area:.3f}"
            )
        axes[0].set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="Objects")
        axes[0].legend(loc="lower left", frameon=False)
    axes[-1].hist(metrics.ious, bins=20, range=(0, 1), color=COLORS[0], edgecolor="white")
    axes[-1].set(
        xlabel="best IoU", ylabel="labelled items", xlim=(0, 1), title="Best IoU of each labelled item"
    )
    if metrics.ious.size:
        mean = float(metrics.ious.mean())
        axes[-1].axvline(mean, color=COLORS[1], lw=2, label=f"mean {mean:.3f}")
        axes[-1].legend(loc="upper left", frameon=False)
    return _png(figure)


def latency_plot(milliseconds: Mapping[str, Sequence[float]]) -> bytes:
    """PNG with the cumulative distribution of each stage: name -> milliseconds of each frame.

    Cumulative, because in a histogram the bars of the short stages would hide the long ones.
    """
    figure, axes = _figure(1)
    stages = {
        name: np.sort(np.asarray(values, np.float64)) for name, values in milliseconds.items() if len(values)
    }
    for color, (name, values) in zip(COLORS, stages.items(), strict=False):
        share = np.arange(1, values.size + 1) / values.size
        axes[0].step(values, share, where="post", lw=2, color=color, label=name)
    # The slowest percent (start-up) would squeeze everything else to the left.
    high = max((float(np.percentile(values, 99)) for values in stages.values()), default=1.0) * 1.05
    axes[0].set(xlabel="milliseconds", ylabel="share of frames", xlim=(0, high), ylim=(0, 1.02))
    axes[0].set_title("Frames that took at most so long")
    if stages:
        axes[0].legend(loc="lower right", frameon=False)
    return _png(figure)


def _figure(columns: int) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    figure = Figure(figsize=(5.2 * columns, 3.4), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25)
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
