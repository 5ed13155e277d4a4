"""Plots of an evaluation, of latencies, of the learning benchmark and of live learning, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

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
        fraction = np.arange(1, values.size + 1) / values.size
        axes[0].step(values, fraction, where="post", lw=2, color=color, label=name)
    # The slowest percent (start-up) would squeeze everything else to the left.
    high = max((float(np.percentile(values, 99)) for values in stages.values()), default=1.0) * 1.05
    axes[0].set(xlabel="milliseconds", ylabel="fraction of frames", xlim=(0, high), ylim=(0, 1.02))
    axes[0].set_title("Frames that took at most so long")
    if stages:
        axes[0].legend(loc="lower right", frameon=False)
    return _png(figure)


class Bar(NamedTuple):
    """One bar: what it is called, and its value with each seed; none draws no bar."""

    title: str
    values: list[float]


def learning_plot(curves: Mapping[str, Mapping[float, list[float]]], bars: Mapping[str, list[Bar]]) -> bytes:
    """PNG with AP50 against the fraction of labels, and a panel of AP bars for each ablation.

    Lines and bars are means over the seeds, bands and whiskers the sample standard deviation, dots the seeds.

    Args:
        curves: method -> fraction of labels -> AP50 with each seed.
        bars: title of the panel -> its bars.
    """
    figure, axes = _figure(1 + len(bars))
    fractions = sorted({fraction for points in curves.values() for fraction in points})
    for color, (name, points) in zip(COLORS, curves.items(), strict=False):
        if not points:
            continue
        x = np.array(sorted(points))
        mean, spread = np.array([_mean_and_spread(points[fraction]) for fraction in x]).T
        axes[0].plot(x, mean, color=color, lw=2, label=name)
        axes[0].fill_between(x, mean - spread, mean + spread, color=color, alpha=0.18, lw=0)
        for fraction in x:
            axes[0].plot(
                [fraction] * len(points[fraction]), points[fraction], "o", color=color, ms=4, alpha=0.7
            )
    axes[0].set(xscale="log", xlabel="fraction of labelled images", ylabel="object AP50", title="Few labels")
    axes[0].set_xticks(fractions, [f"{fraction:.0%}" for fraction in fractions])
    axes[0].minorticks_off()
    axes[0].set_ylim(bottom=0)
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(loc="lower right", frameon=False)
    for axis, (title, panel) in zip(axes[1:], bars.items(), strict=True):
        for place, bar in enumerate(panel):
            if bar.values:
                mean, spread = _mean_and_spread(bar.values)
                color = COLORS[1] if place == len(panel) - 1 else COLORS[0]
                axis.bar(place, mean, yerr=spread, color=color, width=0.7, capsize=3, alpha=0.75)
                axis.plot([place] * len(bar.values), bar.values, "o", color="black", ms=3, alpha=0.6)
        axis.set_xticks(range(len(panel)), [bar.title for bar in panel])
        axis.set(ylabel="object AP", title=title, xlim=(-0.6, len(panel) - 0.4))
        axis.set_ylim(bottom=0)
    return _png(figure)


class Curve(NamedTuple):
    """Figures over the number of grasps; ``steps``: each holds until the next."""

    grasps: Sequence[float]
    values: Sequence[float]
    steps: bool = False


def grasps_plot(panels: Mapping[str, Mapping[str, Curve]]) -> bytes:
    """PNG with figures over the number of grasps.

    Args:
        panels: title of the panel -> name of the curve -> its figures.
    """
    figure, axes = _figure(len(panels))
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for color, (name, curve) in zip(COLORS, curves.items(), strict=False):
            style = "steps-post" if curve.steps else "default"
            axis.plot(curve.grasps, curve.values, color=color, lw=2, label=name, drawstyle=style)
        axis.set(xlabel="grasps", title=title)
        axis.set_ylim(bottom=0)
        axis.legend(loc="best", frameon=False)
    return _png(figure)


class Points(NamedTuple):
    """Points of a curve: (fraction of the training, value)."""

    points: Sequence[tuple[float, float]]


def fraction_plot(curves: Mapping[str, Points], start: float) -> bytes:
    """PNG with AP50 over the fraction of the training, from where each curve starts.

    Args:
        curves: name -> its points.
        start: AP50 before.
    """
    figure, axes = _figure(1)
    for color, (name, curve) in zip(COLORS, curves.items(), strict=False):
        x, y = np.array(curve.points).T
        axes[0].plot(100 * x, y, "o-", color=color, lw=2, ms=4, label=name)
    axes[0].axhline(start, color="grey", lw=1, ls="--", label="before")
    axes[0].set(xlabel="% of the round", ylabel="AP50, unseen pictures", xlim=(0, 102), ylim=(0, 1.02))
    axes[0].legend(loc="lower right", frameon=False)
    return _png(figure)


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


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
