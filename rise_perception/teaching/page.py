"""The page at the end: what the model is worth, before and after, in figures and pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from rise_perception.core.regions import Region, paint
from rise_perception.data.coco import LabelledImage
from rise_perception.evaluation.class_sections import confusion_table, sweep_section
from rise_perception.evaluation.classes import above, region_name
from rise_perception.evaluation.overlay import draw_label_map
from rise_perception.evaluation.panels import side_by_side
from rise_perception.evaluation.plots import Points, fraction_plot
from rise_perception.evaluation.report import Picture, Section, Table, write_report
from rise_perception.teaching.evaluation import Verdict
from rise_perception.teaching.teach import Taught

#: Pictures on the page, and the width of each panel in pixels.
PICTURES, PANEL = 8, 400


def summary(taught: Taught) -> str:
    """Two lines for the console."""
    before, after = taught.before, taught.after
    verdict = "" if taught.better else "\nnot better than the start, which is kept, with a threshold for here"
    return (
        f"AP50 {before.ap50:.3f} -> {after.ap50:.3f} ({after.ap50_at_threshold:.3f} at the threshold "
        f"{after.threshold:g}), AP {before.ap:.3f} -> {after.ap:.3f}; found {before.counts.found} -> "
        f"{after.counts.found} of {after.counts.items}, false {before.counts.false} -> {after.counts.false}, "
        f"merged {before.counts.merged} -> {after.counts.merged}{verdict}"
    )


def write_page(path: Path, taught: Taught, command: str) -> None:
    """Write the page atomically."""
    sections = [
        _figures(taught),
        _pictures(taught),
        sweep_section(taught.after.pairs, taught.after.threshold),
    ]
    if len(taught.annotated.classes) > 1:
        sections.insert(1, _classes(taught))
    write_report(path, f"Taught: {taught.card.name}", command, sections, taught.card.version)


def _figures(taught: Taught) -> Section:
    before, after = taught.before, taught.after
    rows = [
        (title, *values)
        for title, values in (
            ("AP50 of the items", _pair(before.ap50, after.ap50)),
            ("AP50 at the threshold", _pair(before.ap50_at_threshold, after.ap50_at_threshold)),
            ("AP", _pair(before.ap, after.ap)),
            ("score threshold", (f"{before.threshold:g}", f"{after.threshold:g}")),
            (f"found, of {after.counts.items}", (str(before.counts.found), str(after.counts.found))),
            ("false", (str(before.counts.false), str(after.counts.false))),
            ("merged", (str(before.counts.merged), str(after.counts.merged))),
        )
    ]
    text = f"Evaluated on {len(after.pairs)} pictures: {taught.how_evaluated}."
    if not taught.better:
        text += " The taught model is not better: the folder holds the start, with the threshold of 'before'."
    if taught.notes:
        text += " Notes: " + "; ".join(taught.notes) + "."
    curves = {name: Points(points) for name, points in taught.curves.items()}
    pictures = [Picture(fraction_plot(curves, taught.before.ap50))] if curves else []
    return Section("What it is worth", text, [Table(("", "before", "after"), rows)], pictures)


def _pair(before: float, after: float) -> tuple[str, str]:
    return f"{before:.3f}", f"{after:.3f}"


def _classes(taught: Taught) -> Section:
    rows = [
        (name, f"{taught.before.classes.get(name, 0.0):.3f}", f"{value:.3f}")
        for name, value in taught.after.classes.items()
    ]
    table = confusion_table(taught.after.pairs, taught.after.threshold)
    text = (
        "AP50 of each class: a prediction counts only for items of its own class. Confusion: by masks alone."
    )
    return Section("Classes", text, [Table(("class", "before", "after"), rows), table])


def _pictures(taught: Taught) -> Section:
    shown = []
    step = max(1, len(taught.held_out) // PICTURES)
    for index in range(0, len(taught.held_out), step)[:PICTURES]:
        sample = taught.held_out[index][0]
        truth = _drawn(sample, taught.after.pairs[index].truth)
        before = _side(sample, taught.before, index)
        after = _side(sample, taught.after, index)
        row = side_by_side((truth, before, after), ("truth", "before", "after"))
        shown.append(Picture.of(row, f"{sample.name}: truth, before, after"))
    return Section("Before and after", "At the threshold that is best for each.", pictures=shown)


def _side(sample: LabelledImage, found: Verdict, index: int) -> np.ndarray:
    return _drawn(sample, above([found.pairs[index]], found.threshold)[0].predicted)


def _drawn(sample: LabelledImage, regions: list[Region]) -> np.ndarray:
    height, width = sample.image.shape[:2]
    regions = [r for r in regions if r.is_object]
    label_map = paint([r.rle for r in regions], height, width)
    names = [region_name(r) for r in regions]
    several = len(set(names)) > 1
    drawn = draw_label_map(sample.image, label_map, names if several else None)
    size = (PANEL, max(1, round(height * PANEL / width)))
    how = cv2.INTER_AREA if width > PANEL else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(drawn, size, interpolation=how))
