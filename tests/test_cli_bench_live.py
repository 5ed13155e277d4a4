"""The benchmark of live learning: pairing, intervals, poison; the picking itself is the cell's."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grasping import episode, label_map, picture

from benchmarks.gate import CLEAN
from benchmarks.gate import summarise as summarise_gate
from benchmarks.grasp_trials import from_label_map
from benchmarks.live import Plan, first_difference, run_arm, summarise
from benchmarks.live_cell import count_false
from benchmarks.poison import KINDS, poisoned
from rise_perception.cli.bench import RESEARCH
from rise_perception.grasp_learning.labelling.label_episode import label_episode


def row(arm: str, cell: int, seed: int, success: float, **more: Any) -> dict[str, Any]:
    names = ("success_last_third", "empty", "double", "false_masks", "false_masks_last_third")
    figures = dict.fromkeys((*names, "left_per_tote", "anchors_delta", "ap50_before", "ap50_after"), 0.0)
    return {"arm": arm, "cell": cell, "seed": seed, "success": success, **figures, **more}


def test_intervals_are_of_cells_and_of_paired_differences() -> None:
    rows = []
    for cell, base in enumerate((0.5, 0.7, 0.9)):
        for seed in (0, 1):
            rows.append(row("off", cell, seed, base))
            rows.append(row("learning", cell, seed, base + 0.05 + 0.01 * seed, ap50_after=0.1))
    rows.append(row("off", 9, 0, 0.0))  # a cell that the other arm has not picked from yet
    summary = summarise(rows)
    mean, lower, upper = summary["learning - off"]["success"]
    assert mean == pytest.approx(0.055)
    assert (lower, upper) == pytest.approx((0.055, 0.055))  # every cell won the same
    assert summary["learning"]["success"][2] - summary["learning"]["success"][1] > 0.2
    assert summary["learning - off"]["ap50_gain"][0] == pytest.approx(0.1)
    alone = summarise(rows[:2])["off"]["success"]
    assert alone == (0.5, None, None)


def test_the_first_grasp_that_differs_is_found() -> None:
    picks = [{"number": n, "tote": 0, "outcome": 1, "masks": 5} for n in range(4)]
    other = [dict(p) for p in picks]
    assert first_difference({"outcomes": picks}, {"outcomes": other}) == 4
    other[2]["outcome"] = 2
    assert first_difference({"outcomes": picks}, {"outcomes": other}) == 2


def test_a_finished_run_is_read_and_not_picked_again(tmp_path: Path) -> None:
    path = tmp_path / "runs/off-1-0-5/row.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"arm": "off", "picks": 5}))
    assert run_arm(Plan(tmp_path, picks=5), "off", 1, 0, lambda pick: None) == {"arm": "off", "picks": 5}


def test_a_false_mask_lies_on_no_item() -> None:
    predicted = label_map(1, 2, 3)
    predicted[5:20, 100:150] = 9
    assert count_false(from_label_map(predicted), label_map(1, 2, 3)) == 1
    assert count_false(from_label_map(predicted), label_map(1, 2)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_poison_but_none_makes_labels_wrong(kind: str) -> None:
    labels = label_episode(episode(picture(1, 2, 3), picture(2, 3, seed=1)))
    neighbours = np.stack([label_map(1, 2, 3) == k for k in (1, 2, 3)])
    near = np.stack([np.roll(neighbours[0], 42, 1)])
    bad = poisoned(labels, kind, [neighbours[2]], near, 0)
    (right,), (wrong,) = labels.masks, bad.masks
    overlap = (right & wrong).sum() / (right | wrong).sum()
    assert (overlap == 1) == (kind == "none")
    assert overlap < 0.85 or kind == "none"
    assert dataclasses.replace(bad, masks=labels.masks) == labels or kind != "none"


def test_poison_and_clean_updates_are_counted_apart() -> None:
    def update(kind: str, promoted: bool, measured: bool, change: float) -> dict[str, Any]:
        return {
            "kind": kind,
            "promoted": promoted,
            "measured": measured,
            "true_ap_before": 0.5,
            "true_ap_after": 0.5 + change,
        }

    rows = [
        update(CLEAN, True, True, 0.03),
        update(CLEAN, False, True, 0.0),
        update(CLEAN, False, False, 0.0),
        update("dilated", False, False, 0.0),
        update("swapped", True, True, -0.02),
        update("score inflation", True, True, 0.01),
    ]
    summary = summarise_gate(rows)
    assert summary["clean"] == {
        "updates": 3,
        "measured": 2,
        "promoted": 1,
        "worst": pytest.approx(0.03),
        "refused_share": 0.5,
    }
    assert summary["poisoned"] == {"updates": 3, "measured": 2, "promoted": 2, "worst": pytest.approx(-0.02)}
    assert summarise_gate(rows[3:])["clean"]["refused_share"] is None


def test_the_benchmarks_are_offered_with_words() -> None:
    for name in ("live", "gate"):
        assert name in RESEARCH
        module = importlib.import_module(f"benchmarks.bench_{name}")
        assert module.SUMMARY
        assert "--json" in module.EXAMPLES
