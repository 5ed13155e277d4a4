"""The benchmark of teaching: its plan, its statistics, its page, and one piece of each kind at toy size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import teach_runs
from benchmarks.bench_teach import SUMMARY
from benchmarks.teach_page import page
from benchmarks.teach_plan import ROWS, Piece, differences, is_needed, plan
from benchmarks.teach_runs import Task, at_size, foreground, teach_config
from rise_perception.cli.bench import RESEARCH
from rise_perception.inference.segmenter import find_model
from rise_perception.network.checkpoint import load_model
from rise_perception.network.config import REPRESENTATIONS


def result(row: str, cell: int, ap50: float, seed: int = 0, **more: float) -> dict[str, Any]:
    figures = {"ap": 0.8 * ap50, "recoloured_ap50": 0.9 * ap50, "world_ap": 0.5, "milliseconds_95": 20.0}
    fixed = {"steps": 5, "seconds": 1.0, "peak_gib": 1.0}
    return {"row": row, "cell": cell, "seed": seed, "ap50": ap50, **figures, **fixed, **more}


def test_the_plan_has_every_representation_and_each_row_a_peer_that_is_there():
    assert {row.input for row in ROWS.values() if row.group == "representations"} == set(REPRESENTATIONS)
    assert all(row.peer in ROWS or not row.peer for row in ROWS.values())
    assert {row.pictures for row in ROWS.values()} == {1, 3, 10, 30}
    pieces = plan(ROWS, (1, 2), 3)
    assert len(set(pieces)) == len(pieces)
    assert [p.seed for p in pieces] == sorted(p.seed for p in pieces)
    assert sum(p.row == "shipped_rgb" for p in pieces) == 2
    assert sum(p.row == "glm" for p in pieces) == 6


def test_what_clearly_loses_needs_one_seed(tmp_path: Path):
    results = [result("rgb", cell, 0.8) for cell in range(3)]
    results += [result("m", cell, 0.3 + 0.01 * cell) for cell in range(3)]
    results += [result("rgbm", cell, 0.79 + 0.02 * cell) for cell in range(3)]
    assert not is_needed(Piece("m", 0, 1), results)
    assert is_needed(Piece("rgbm", 0, 1), results)
    assert is_needed(Piece("m", 0, 0), results)
    for row in ROWS.values():
        config = teach_config(Task(tmp_path), row, 0, tmp_path, tmp_path)
        assert config.recipe.collage.fakes == row.recipe.get("fakes", 1.0)


def test_differences_are_paired_by_cell_and_seeds_are_no_cells():
    results = [result("rgb", 1, 0.5), result("rgb", 1, 0.7, seed=1), result("rgb", 2, 0.4)]
    results += [result("glm", 1, 0.7), result("glm", 2, 0.3), result("glm", 3, 0.9)]
    assert differences(results, "glm", "rgb") == pytest.approx([0.1, -0.1])


def test_the_page_says_what_ties_and_which_aims_are_missed():
    results = []
    for cell in range(3):
        results += [
            result("shipped_rgbd", cell, 0.6), result("rgbd", cell, 0.85 + 0.01 * cell),
            result("shipped_rgb", cell, 0.5), result("rgb", cell, 0.75),
            result("glm", cell, 0.7, ap50_true=0.9, ap50_corrupted=0.6, ap50_absent=0.1),
            result("no_fakes", cell, 0.69 + 0.01 * cell), result("no_corruption", cell, 0.2),
        ]  # fmt: skip
    text = page(results, "rise bench teach out")
    assert "GLMask without fakes (against GLMask: grey, L*, M)" in text.split("Controls that tie")[1]
    assert "neither spoiled" not in text.split("Controls that tie")[1]
    assert "| AP50, RGB-D | 0.80 | 0.860 | reached |" in text
    assert "| its own M below the true | 0.05 at most | 0.200 | missed |" in text
    assert "true (not usable)" in text
    assert "+0.250 [" in text


@pytest.mark.parametrize("kind", ["corrupted", "absent", "true"])
def test_m_at_the_test_is_what_its_kind_says(kind: str):
    truth = np.zeros((120, 160), bool)
    truth[30:70, 40:90] = truth[80:110, 100:150] = True
    found = foreground(truth, kind, 3)
    overlap = (found & truth).sum() / (found | truth).sum() if found.any() else 0.0
    assert (kind, overlap) == ("true", 1.0) or (kind, overlap) == ("absent", 0.0) or 0.4 < overlap <= 0.5


def test_the_peer_of_what_is_taught_sees_as_small_pictures(tmp_path: Path):
    own = load_model(find_model("rise_small_rgb"))[0]
    small = load_model(at_size(find_model("rise_small_rgb"), (48, 64), tmp_path / "small"))[0]
    assert (own.config.image_size, small.config.image_size) == ((240, 320), (48, 64))
    weights = small.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in own.state_dict().items())


@pytest.mark.slow
def test_pieces_are_taught_measured_and_read_again(tmp_path: Path, rise, monkeypatch):
    monkeypatch.setattr(teach_runs, "REHEARSED", 0)  # rendering them takes longer than all the rest
    assert "teach" in RESEARCH
    assert SUMMARY
    rows = ("shipped_rgb", "glm_1")
    asked = ("bench", "teach", tmp_path / "out", "--cells", 1, "--seeds", 1, "--steps", 1, "--test", 2)
    status, out, err = rise(*asked, "--rows", *rows, "--docs", tmp_path / "docs")
    assert status == 0, err
    found = json.loads((tmp_path / "docs/results/teach_cells.json").read_bytes())["rows"]
    assert [r["row"] for r in found] == list(rows)
    assert all(0 <= r[figure] <= 1 for r in found for figure in ("ap", "ap50", "recoloured_ap50", "world_ap"))
    assert all(0 <= found[1][f"ap50_{kind}"] <= 1 for kind in ("corrupted", "absent", "true"))
    assert "GLMask, 1 picture" in out
    assert not list((tmp_path / "out/runs").rglob("*.safetensors"))
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert rise(*asked, "--rows", *rows)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*") if p.is_file()} == written
