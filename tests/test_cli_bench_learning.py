"""`rise bench learning`: pieces are done once, survive kills, and end in tables of what was measured."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.learning_page import missing_pieces, page
from benchmarks.learning_plan import (
    ABLATION_LABELS,
    MAIN,
    METHODS,
    PARTS,
    SELECTORS,
    Piece,
    plan,
)
from rise_perception.core.regions import encode_mask
from rise_perception.core.resources import find
from rise_perception.data.images import write_image

NETWORK = {
    "backbone": "resnet18",
    "backbone_args": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
    "frozen_norm": False,
    "image_size": [32, 48],
    "classes": ["object"],
    "containers": [],
    "levels": 2,
    "width": 32,
    "heads": 2,
    "points": 1,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "feedforward": 16,
    "queries": 6,
    "embedding": 8,
    "query_selection": "dense",
}
FACTS = {"images": "made up", "iterations": 5, "batch": 2, "unlabelled": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of eight training and two test images with two squares each."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 2)):
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 1, "name": "object"}],
        }
        for index in range(count):
            image = np.full((32, 48, 3), 80, np.uint8)
            for left in (2, 26):
                mask = np.zeros((32, 48), bool)
                top = int(rng.integers(0, 16))
                mask[top : top + 14, left : left + 16] = True
                image[mask] = (220, 60, left * 5)
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]),
                        "image_id": index,
                        "category_id": 1,
                        "segmentation": encode_mask(mask),
                    }
                )
            write_image(folder / f"images/{split}{index}.png", image)
            content["images"].append({"id": index, "file_name": f"{split}{index}.png"})
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def write_configs(folder: Path, iterations: int = 2, save_every: int = 1) -> Path:
    """The shipped configurations of the methods, on a base with a tiny network."""
    folder.mkdir(exist_ok=True)
    for method in METHODS:
        (folder / f"{method}.yaml").write_text((find("config") / f"bench/{method}.yaml").read_text())
    base = {
        "name": "base",
        "out": "nowhere",
        "data": {"train": ["nowhere.json"], "unlabelled": ["nowhere.json"], "workers": 0},
        "network": NETWORK,
        "optimisation": {
            "iterations": iterations,
            "batch": 2,
            "unlabelled_batch": 2,
            "save_every": save_every,
            "threads": 1,
        },
    }
    (folder / "learning.yaml").write_text(yaml.safe_dump(base))
    return folder


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    return write_configs(tmp_path / "configs")


ONE = ("--labels", "0.1", "--seeds", "0")
ABLATION = ("--labels", f"{ABLATION_LABELS:g}", "--seeds", "0")


def results(out: Path) -> dict[str, float]:
    """Time of each piece's result."""
    return {path.parent.name: path.stat().st_mtime for path in out.glob("runs/*/result.json")}


@pytest.mark.slow
def test_pieces_are_done_in_order_and_only_once(rise, data, configs, tmp_path):
    out, docs = tmp_path / "out", tmp_path / "docs"
    command = (
        "bench",
        "learning",
        out,
        "--data",
        data,
        "--configs",
        configs,
        "--device",
        "cpu",
        "--docs",
        docs,
    )
    status, text, err = rise(*command, "--methods", "supervised", "rise", "--labels", "0.1", "--pieces", 3)
    assert status == 0, err
    assert "3 of 42 pieces are finished" in text
    first = ["supervised_0.1_seed0", "rise_0.1_seed0", "supervised_0.1_seed1"]
    assert sorted(results(out), key=results(out).get) == first
    before = results(out)
    content = json.loads((docs / "learning.json").read_text())
    assert content == json.loads((out / "learning.json").read_text())
    assert [(row["method"], row["labels"], row["seed"]) for row in content["rows"]] == [
        ("supervised", 0.1, 0),
        ("rise", 0.1, 0),
        ("supervised", 0.1, 1),
    ]
    for row in content["rows"]:
        assert 0 <= row["ap"] <= row["ap50"] <= 1
        assert row["iterations"] == 2
        assert row["seconds"] > 0
        assert "torch" in row["machine"]
        assert row["config"] == f"configs/{row['method']}.yaml"
    assert len(content["missing"]) == 39
    assert (docs / "learning.png").read_bytes().startswith(b"\x89PNG")
    assert "39 of 42 pieces are missing" in (docs / "learning.md").read_text()
    assert rise(*command, "--methods", "supervised", "rise", *ONE)[0] == 0
    assert results(out) == before


@pytest.mark.slow
def test_a_broken_result_is_made_again_without_training(rise, data, configs, tmp_path):
    command = (
        "bench",
        "learning",
        tmp_path,
        "--data",
        data,
        "--configs",
        configs,
        "--methods",
        "supervised",
        *ONE,
    )
    assert rise(*command)[0] == 0
    folder = tmp_path / "runs/supervised_0.1_seed0"
    row = json.loads((folder / "result.json").read_text())
    model = (folder / "checkpoint.safetensors").stat().st_mtime_ns
    for broken in (
        '{"method": "superv',
        "[]",
        "{}",
        json.dumps(row | {"ap": None}),
        json.dumps(row | {"seed": 1}),
    ):
        (folder / "result.json").write_text(broken)
        status, text, _ = rise(*command)
        assert (status, "1 of 42" in text) == (0, True), broken
        again = json.loads((folder / "result.json").read_text())
        assert (again["ap"], again["ap50"]) == (row["ap"], row["ap50"])
    assert (folder / "checkpoint.safetensors").stat().st_mtime_ns == model


def test_what_was_begun_otherwise_is_refused(rise, data, configs, tmp_path):
    command = ("bench", "learning", tmp_path, "--data", data, "--configs", configs, "--methods", "rise", *ONE)
    assert rise(*command)[0] == 0
    (configs / "rise.yaml").write_text("extends: learning.yaml\nloss: {mask_weight: 3}\n")
    status, _, err = rise(*command)
    assert (status, "loss.mask_weight" in err, "rise_0.1_seed0" in err) == (2, True, True)
    (configs / "rise.yaml").write_text("extends: learning.yaml\noptimisation: {threads: 2}\n")
    assert rise(*command)[0] == 0


def test_a_piece_that_fails_is_named_and_the_others_are_done(rise, data, configs, tmp_path):
    (configs / "none.yaml").write_text("extends: learning.yaml\noptimisation: {learning_rate: 1e30}\n")
    command = ("bench", "learning", tmp_path, "--data", data, "--configs", configs)
    status, text, err = rise(*command, "--methods", "none", "ps", *ABLATION)
    assert (status, "1 of 42" in text) == (2, True)
    assert "none_0.01_seed0 failed" in err
    assert list(results(tmp_path)) == ["ps_0.01_seed0"]


def test_arguments_that_name_no_piece_and_data_that_are_not_there(rise, data, configs, tmp_path):
    command = ("bench", "learning", tmp_path / "out", "--configs", configs, "--data")
    status, _, err = rise(*command, data, "--methods", "none", "--labels", "0.1")
    assert (status, "no piece" in err) == (2, True)
    assert rise(*command, data, "--methods", "rice")[0] == 2
    assert rise(*command, data, "--pieces", "-1")[0] == 2
    status, _, err = rise(*command, tmp_path / "nowhere", *ONE)
    assert (status, "nowhere" in err, "train.json" in err) == (2, True, True)


def start(*arguments: object) -> subprocess.Popen[str]:
    code = "import sys; from rise_perception.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def steps(folder: Path) -> list[int]:
    """The iterations at which a run was saved, in the order of the file."""
    history = folder / "history.jsonl"
    return (
        [json.loads(line)["iteration"] for line in history.read_text().splitlines()]
        if history.exists()
        else []
    )


@pytest.mark.slow
def test_a_killed_piece_goes_on_where_it_was(rise, data, tmp_path):
    configs = write_configs(tmp_path / "configs", iterations=40)
    out = tmp_path / "out"
    command = ("bench", "learning", out, "--data", data, "--configs", configs, "--methods", "rise", *ONE)
    folder = out / "runs/rise_0.1_seed0"
    process = start(*command)
    while len(steps(folder)) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(steps(folder))
    assert done < 40
    assert not (folder / "result.json").exists()
    assert rise(*command)[0] == 0
    # A kill between the checkpoint and its line of history loses that line.
    assert steps(folder) in (list(range(1, 41)), [n for n in range(1, 41) if n != done + 1])
    assert json.loads((folder / "result.json").read_text())["seconds"] > 0


@pytest.mark.slow
def test_two_processes_share_the_pieces(data, tmp_path):
    configs = write_configs(tmp_path / "configs", iterations=8, save_every=4)
    out = tmp_path / "out"
    command = (
        "bench",
        "learning",
        out,
        "--data",
        data,
        "--configs",
        configs,
        "--methods",
        "supervised",
        "rise",
    )
    processes = [start(*command, "--labels", "0.1") for _ in range(2)]
    announced = []
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
        announced.append(err.count(" of 6: "))
    assert sum(announced) == 6
    assert min(announced) > 0
    assert len(results(out)) == 6
    assert all(steps(out / "runs" / name) == [4, 8] for name in results(out))
    assert len(json.loads((out / "learning.json").read_text())["rows"]) == 6


def test_the_plan_has_each_piece_once_and_the_main_table_first():
    pieces = plan()
    assert len(pieces) == len(set(pieces)) == len({piece.name for piece in pieces}) == 42
    assert [piece.seed for piece in pieces] == [0] * 6 + [1] * 6 + [2] * 6 + [0] * 8 + [1] * 8 + [2] * 8
    assert {piece.method for piece in pieces[:18]} == set(MAIN)
    for method in (*PARTS, *SELECTORS):
        assert all(Piece(method, ABLATION_LABELS, seed) in pieces for seed in (0, 1, 2))


def row(method: str, labels: float, seed: int, ap50: float) -> dict[str, Any]:
    return {
        "method": method, "labels": labels, "seed": seed, "ap": ap50 / 2, "ap50": ap50, "ap75": ap50 / 4,
        "iterations": 5, "machine": "a calculator", "date": "2026-11-21",
    }  # fmt: skip


def test_tables_have_means_spreads_and_what_is_missing():
    rows = [row("supervised", 0.01, 0, 0.2), row("supervised", 0.01, 1, 0.4), row("rise", 0.01, 1, 0.5)]
    rows += [row("quantile", ABLATION_LABELS, 2, 0.8)]
    text = page(rows, FACTS)
    assert "| 1% | supervised | 0.150 ± 0.071 | 0.300 ± 0.141 | 0.075 ± 0.035 | 2 |" in text
    assert "| 1% | rise | 0.250 | 0.500 | 0.125 | 1 |" in text
    # Against the same seed, not against the mean.
    assert "| 1% | difference, same seed | +0.050 | +0.100 | +0.025 | 1 |" in text
    assert "| 10% | rise | missing | missing | missing | 0 |" in text
    assert "| quantile | `quantile` | 0.400 | 0.800 | 0.200 | 1 |" in text
    assert "38 of 42 pieces are missing" in text
    assert "a calculator" in text
    assert Piece("rise", 0.01, 0) in missing_pieces(rows)
    assert Piece("rise", 0.01, 1) not in missing_pieces(rows)
    whole = [row(p.method, p.labels, p.seed, 0.5) for p in plan()]
    assert "missing" not in page(whole, FACTS)
