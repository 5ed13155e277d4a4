"""The page that a training leaves: its curves, its figures, and what the model sees on the first images."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rise_perception.core.errors import DataError
from rise_perception.evaluation.comparison import HEAD, Row
from rise_perception.evaluation.overlay import draw_overlay
from rise_perception.evaluation.report import Picture, Section, Table, write_report
from rise_perception.inference.segmenter import Segmenter
from rise_perception.network.card import read_card
from rise_perception.training.config import TrainConfig
from rise_perception.training.trainer import HISTORY

PAGE = "report.html"
#: Pictures of each set on the page.
PICTURES = 3
#: Curves of the history: what is drawn under which title.
CURVES = {
    "losses": ("classes", "boxes", "masks"),
    "validation AP50": ("validation/ap50",),
    "images a second": ("images/second",),
}


def write_page(
    out: Path, config: TrainConfig, command: str, rows: Sequence[Row], skipped: Mapping[str, str]
) -> None:
    """Write :data:`PAGE` into ``out``.

    Args:
        out: folder of the model and its history.
        config: of the training.
        command: the command line.
        rows: measurements.
        skipped: set -> why it was not measured.
    """
    card = read_card(out)
    facts = [
        ("data", card.data),
        ("checksum of the data", card.data_checksum),
        ("score threshold", f"{card.score_threshold:.2f}"),
        *((f"skipped: {name}", reason) for name, reason in skipped.items()),
    ]
    sections = [
        Section("Training", "", [Table(("", ""), facts)], [Picture(curves(history(out)))]),
        Section("Accuracy", "", [Table(HEAD, [r.cells() for r in rows])] if rows else []),
        *_overlays(out, config),
    ]
    write_report(out / PAGE, card.name, command, sections, card.version)


def history(out: Path) -> list[dict[str, Any]]:
    """The entries of a training's history; a step that was done twice counts once, as it was done last."""
    path = out / HISTORY
    entries = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return list({entry["iteration"]: entry for entry in entries}.values())


def curves(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """PNG with one panel for each of :data:`CURVES` over the iterations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3), layout="constrained")
    for axis, (title, names) in zip(np.ravel(figure.subplots(1, len(CURVES))), CURVES.items(), strict=True):
        for name in names:
            points = [(e["iteration"], e[name]) for e in entries if name in e]
            if points:
                axis.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else "", label=name)
        axis.set(title=title, xlabel="iteration")
        if len(names) > 1 and entries:
            axis.legend()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    return stream.getvalue()


def _overlays(out: Path, config: TrainConfig) -> list[Section]:
    segmenter, sections = Segmenter.load(out, "cpu"), []
    for data in config.evaluation:
        try:
            images = data.open(out, config.data.cache)
        except DataError:
            continue  # the table of facts says why
        pictures = []
        for index in np.linspace(0, len(images) - 1, min(PICTURES, len(images))).astype(int):
            sample = images[int(index)]
            found = segmenter(sample.image, sample.depth)
            pictures.append(Picture.of(draw_overlay(sample.image, found, scores=True), sample.name))
        sections.append(Section(data.title, "", (), pictures, PICTURES))
    return sections
