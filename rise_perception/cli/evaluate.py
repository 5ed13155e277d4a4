"""`rise eval`: predictions against truth."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from rise_perception.core.regions import ImagePair
    from rise_perception.evaluation.metrics import Metrics

SUMMARY = "compare predictions with truth: COCO AP, overlap and boundary metrics, worst cases"
EXAMPLES = """\
examples:
  rise eval --pred result --truth data/tote/test.json
  rise eval --pred result --truth labels --json metrics.json
  rise eval --pred result --truth bin --partial
  rise eval --pred result --truth labels --ignore 255

PRED is what `rise predict` wrote. TRUTH is a COCO JSON file (or a folder that holds one), or a folder of
label images, one value an item, 0 = background: for the picture NAME one of NAME.label.png, NAME-label.png,
NAME_label.png (or labels, segm, mask in place of label), the same with a -color taken off NAME, or NAME.png.

AP: mean over IoU .50:.05:.95, at most 100 instances an image; objects alone, and with containers where the
truth has them. Overlap and boundary P/R/F and F@.75: as UCN and MSMFormer define them, mean over images.
Mean best IoU: for each labelled item the best IoU of any prediction; mean over items.
Where the truth names several classes: AP of each, a prediction counting only for its own, and which class is
taken for which; --agnostic leaves that out.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--pred", required=True, type=Path, metavar="DIR", help="what `rise predict` wrote")
    parser.add_argument("--truth", required=True, type=Path, metavar="DIR", help="label images, or COCO JSON")
    parser.add_argument("--json", type=Path, metavar="F", help="write the metrics here, too")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for pictures and report (default: PRED/evaluation)"
    )
    parser.add_argument(
        "--partial", action="store_true", help="only some items are labelled: give the mean best IoU alone"
    )
    parser.add_argument("--agnostic", action="store_true", help="leave classes out: an object is an object")
    parser.add_argument(
        "--ignore", type=int, metavar="V", help="value of label images where nothing is known, such as 255"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write plot, worst cases, JSON and report."""
    from rise_perception.core.files import write_bytes, write_json
    from rise_perception.data.images import write_image
    from rise_perception.evaluation.class_sections import class_section, class_table, sweep_section
    from rise_perception.evaluation.loading import load_pairs
    from rise_perception.evaluation.metrics import measure
    from rise_perception.evaluation.plots import metrics_plot
    from rise_perception.evaluation.report import metrics_section, write_report

    pairs, warnings = load_pairs(args.pred, args.truth, args.ignore)
    for warning in warnings:
        print(f"rise: warning: {warning}", file=sys.stderr)
    metrics = measure(pairs, args.partial)
    print(metrics.table())
    by_class = {} if args.agnostic or args.partial else class_table(pairs)
    for name, row in by_class.items():
        print(f"  {name}: AP {row['ap']:.3f}, AP50 {row['ap50']:.3f} ({row['items']} items)")
    out = args.out or args.pred / "evaluation"
    models = sorted({pair.model for pair in pairs if pair.model})
    content = {
        "predictions": str(args.pred),
        "truth": str(args.truth),
        "warnings": warnings,
        "models": models,
        "classes": by_class,
        **metrics.to_json(),
    }
    write_json(out / "metrics.json", content)
    if args.json:
        write_json(args.json, content)
    write_bytes(out / "plot.png", metrics_plot(metrics))
    worst = _worst_cases(pairs, metrics)
    if worst is not None:
        write_image(out / "worst.png", worst)
    sections = [metrics_section(metrics, worst)]
    if by_class:
        sections.append(class_section(pairs, by_class))
    if not args.partial:
        sections.append(sweep_section(pairs))
    title = f"Evaluation of {args.pred}"
    write_report(out / "report.html", title, args.command_line, sections, ", ".join(models))
    print(f"report, plot and worst cases: {out}")
    return 0


def _worst_cases(pairs: list[ImagePair], metrics: Metrics) -> np.ndarray | None:
    from rise_perception.data.images import read_image
    from rise_perception.evaluation.worst_cases import WorstCases, draw_row

    key, title = ("mean_best_iou", "mean best IoU") if metrics.partial else ("overlap_f", "F")
    worst = WorstCases()
    for pair in pairs:
        score = metrics.per_image[pair.name][key]
        if score is not None and pair.picture is not None:
            picture = pair.picture

            def row(pair: ImagePair = pair, picture: Path = picture, score: float = score) -> np.ndarray:
                label = f"{pair.name}: {title} {score:.2f}"
                return draw_row(label, read_image(picture), pair.truth_map(), pair.predicted_map())

            worst.offer(score, row)
    return worst.picture()
