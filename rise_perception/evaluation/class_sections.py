"""Report sections about classes and about the score threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rise_perception.core.regions import ImagePair
from rise_perception.evaluation.classes import class_scores, confusion, region_name, sweep
from rise_perception.evaluation.report import Section, Table


def class_table(pairs: Sequence[ImagePair]) -> dict[str, dict[str, Any]]:
    """Figures of each class of the truth: ``ap``, ``ap50``, ``items``; empty where the truth names one.

    A model that knows objects only finds nothing of any class: its figures are those of the objects alone.
    """
    counts: dict[str, int] = {}
    for pair in pairs:
        for region in pair.truth:
            counts[region_name(region)] = counts.get(region_name(region), 0) + 1
    predicted = {region_name(region) for pair in pairs for region in pair.predicted}
    if len(counts) < 2 or not predicted & counts.keys():
        return {}
    scores = class_scores(pairs)
    return {
        name: {"ap": scores[name].ap or 0.0, "ap50": scores[name].ap50 or 0.0, "items": count}
        for name, count in sorted(counts.items())
    }


def class_section(pairs: Sequence[ImagePair], table: dict[str, dict[str, Any]]) -> Section:
    """AP of each class, and which class is taken for which."""
    rows = [
        (name, str(row["items"]), f"{row['ap']:.3f}", f"{row['ap50']:.3f}") for name, row in table.items()
    ]
    text = (
        "A prediction counts only for objects of its own class. In the second table a row is a true class, "
        "a column what it was taken for; masks alone decide which prediction belongs to which object."
    )
    tables = [Table(("class", "items", "AP", "AP50"), rows), confusion_table(pairs)]
    return Section("Classes", text, tables)


def confusion_table(pairs: Sequence[ImagePair], threshold: float = 0.0) -> Table:
    """Which class is taken for which, at a score threshold."""
    found = confusion(pairs, threshold)
    rows = zip(found.names, found.counts.tolist(), strict=True)
    return Table(("true \\ predicted", *found.names), [(name, *map(str, row)) for name, row in rows])


def sweep_section(pairs: Sequence[ImagePair], chosen: float | None = None) -> Section:
    """What score thresholds do; ``chosen`` is marked."""
    rows = []
    for threshold, counts, ap50 in sweep(pairs):
        mark = " *" if chosen is not None and abs(threshold - chosen) < 1e-6 else ""
        score = "none" if ap50 is None else f"{ap50:.3f}"
        cells = (counts.found, counts.false, counts.merged)
        rows.append((f"{threshold:g}{mark}", *map(str, cells), score))
    text = (
        "What other score thresholds would do (`--score` of `rise predict`, `score_threshold` of the node); "
        "predictions below the threshold with which they were made are not there."
    )
    return Section("Threshold", text, [Table(("threshold", "found", "false", "merged", "AP50"), rows)])
