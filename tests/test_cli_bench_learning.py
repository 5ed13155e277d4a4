"""`rise bench learning`: pieces are done once, survive kills, and end in tables of what was measured."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.learning import LearningBenchmark
from benchmarks.learning_page import page, read_rows, write_results
from benchmarks.learning_plan import (
    FEW,
    MAIN,
    PARTS,
    SELECTORS,
    SHELF_LABELS,
    VARIANTS,
    Choice,
    Piece,
    lengths,
    plan,
)
from benchmarks.learning_statistics import Group, interval, verdict
from benchmarks.shelf import write_part, write_shelf
from rise_perception.core.errors import DataError
from rise_perception.core.regions import encode_mask
from rise_perception.core.resources import find
from rise_perception.data.coco import CocoDataset
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


def write_configs(folder: Path, save_every: int = 1, **rows: Any) -> Path:
    """The shipped table of methods on a base with a tiny network; ``rows`` take the place of its own."""
    folder.mkdir(exist_ok=True)
    base = {
        "name": "base",
        "out": "nowhere",
        "data": {"train": ["nowhere.json"], "unlabelled": ["nowhere.json"], "workers": 0},
        "network": NETWORK,
        "self_supervision": {"threshold_every": 20},
        "optimisation": {
            "iterations": 100,
            "batch": 2,
            "unlabelled_batch": 2,
            "save_every": save_every,
            "threads": 1,
        },
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    table = yaml.safe_load((find("config") / "bench/learning.yaml").read_text())
    table["rows"] |= rows
    (folder / "learning.yaml").write_text(yaml.safe_dump(table))
    return folder / "learning.yaml"


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    return write_configs(tmp_path / "configs")


ONE = ("--labels", "0.1", "--seeds", "0", "--steps", "2")


def command(out: Path, data: Path, configs: Path, *more: object) -> tuple[object, ...]:
    return (
        "bench",
        "learning",
        out,
        "--data",
        data,
        "--configs",
        configs,
        "--device",
        "cpu",
        "--input",
        "rgb",
        *more,
    )


def results(out: Path) -> dict[str, float]:
    """Time of each piece's result."""
    return {path.parent.name: path.stat().st_mtime for path in out.glob("runs/*/result.json")}


@pytest.mark.slow
def test_pieces_are_done_in_order_and_only_once(rise, data, configs, tmp_path):
    out, docs = tmp_path / "out", tmp_path / "docs"
    words = command(out, data, configs, "--docs", docs, "--methods", "supervised", "rise")
    two = ("--labels", "0.1", "--seeds", 0, 1, "--steps", 2)
    status, text, err = rise(*words, *two, "--pieces", 4)
    assert status == 0, err
    assert "4 of 6 pieces are finished" in text
    first = ["supervised_0.1_seed0_1_rgb", "supervised_0.1_seed0_2_rgb", "rise_0.1_seed0_2_rgb"]
    first.append("supervised_0.1_seed1_1_rgb")
    assert sorted(results(out), key=results(out).get) == first
    before = results(out)
    content = json.loads((docs / "learning.json").read_text())
    assert content == json.loads((out / "learning.json").read_text())
    assert [Piece.of(row).name for row in content["rows"]] == first
    for row in content["rows"]:
        assert 0 <= row["ap"] <= row["ap50"] <= 1
        assert row["seconds"] > 0
        assert "torch" in row["machine"]
        assert row["config"] == f"learning.yaml:{row['method']}"
        assert (row["input"], row["architecture"], row["data"], row["split"]) == (
            "rgb",
            "rise",
            "tote",
            "scenes",
        )
    assert (docs / "learning.png").read_bytes().startswith(b"\x89PNG")
    assert "| 10% | rise | 2 |" in (docs / "learning.md").read_text()
    assert rise(*words, *ONE)[0] == 0
    assert results(out) == before


@pytest.mark.slow
def test_a_broken_result_is_made_again_without_training(rise, data, configs, tmp_path):
    words = command(tmp_path, data, configs, "--methods", "ps_ot", *ONE)
    assert rise(*words)[0] == 0
    folder = tmp_path / "runs/ps_ot_0.1_seed0_2_rgb"
    row = json.loads((folder / "result.json").read_text())
    model = (folder / "checkpoint.safetensors").stat().st_mtime_ns
    wrong = ({"ap": None}, {"seed": 1}, {"iterations": 3}, {"input": "rgbd"})
    for broken in ('{"method": "superv', "[]", "{}", *(json.dumps(row | change) for change in wrong)):
        (folder / "result.json").write_text(broken)
        status, text, _ = rise(*words)
        assert (status, "1 of 1" in text) == (0, True), broken
        again = json.loads((folder / "result.json").read_text())
        assert (again["ap"], again["ap50"]) == (row["ap"], row["ap50"])
    assert (folder / "checkpoint.safetensors").stat().st_mtime_ns == model


def test_what_was_begun_otherwise_is_refused(rise, data, configs, tmp_path):
    words = command(tmp_path, data, configs, "--methods", "rise", *ONE)
    assert rise(*words)[0] == 0
    write_configs(configs.parent, rise=[{"loss": {"mask_weight": 3}}])
    status, _, err = rise(*words)
    assert (status, "loss.mask_weight" in err, "rise_0.1_seed0_2_rgb" in err) == (2, True, True)
    write_configs(configs.parent, rise=[{"optimisation": {"threads": 2}}])
    assert rise(*words)[0] == 0


def test_a_piece_that_fails_is_named_and_the_others_are_done(rise, data, tmp_path):
    configs = write_configs(tmp_path / "configs", none=[{"optimisation": {"learning_rate": 1e30}}])
    few = ("--labels", FEW, "--seeds", 0, "--steps", 2)
    status, text, err = rise(*command(tmp_path, data, configs, "--methods", "none", "ps_ot", *few))
    assert (status, "1 of 2" in text) == (2, True)
    assert "none_0.01_seed0_2_rgb failed" in err
    assert list(results(tmp_path)) == ["ps_ot_0.01_seed0_2_rgb"]


def test_arguments_that_name_no_piece_and_data_that_are_not_there(rise, data, configs, tmp_path):
    words = command(tmp_path / "out", data, configs)
    status, _, err = rise(*words, "--methods", "m2b", "--labels", "0.1")
    assert (status, "no piece" in err) == (2, True)
    assert rise(*words, "--methods", "rice")[0] == 2
    assert rise(*words, "--pieces", "-1")[0] == 2
    assert rise(*words, "--steps", "0")[0] == 2
    status, _, err = rise(*command(tmp_path / "out", tmp_path / "nowhere", configs, *ONE))
    assert (status, "nowhere" in err, "train.json" in err) == (2, True, True)
    status, _, err = rise(*words, "--tables", "shelf", "--methods", "rise", "--steps", "2")
    assert (status, "--shelf" in err) == (2, True)


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
def test_a_killed_piece_goes_on_where_it_was(rise, data, configs, tmp_path):
    out = tmp_path / "out"
    few = ("--labels", "0.1", "--seeds", "0", "--steps", "40")
    words = command(out, data, configs, "--methods", "rise", *few)
    folder = out / "runs/rise_0.1_seed0_40_rgb"
    process = start(*words)
    while len(steps(folder)) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(steps(folder))
    assert done < 40
    assert not (folder / "result.json").exists()
    assert rise(*words)[0] == 0
    # A kill between the checkpoint and its line of history loses that line.
    assert steps(folder) in (list(range(1, 41)), [n for n in range(1, 41) if n != done + 1])
    assert json.loads((folder / "result.json").read_text())["seconds"] > 0


@pytest.mark.slow
def test_two_processes_share_the_pieces(data, tmp_path):
    configs = write_configs(tmp_path / "configs", save_every=4)
    out = tmp_path / "out"
    words = command(out, data, configs, "--methods", "ps_ot", "rise", "--labels", "0.1", "--steps", "8")
    processes = [start(*words) for _ in range(2)]
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


def test_a_piece_stretches_the_thresholds_and_takes_input_and_model(data, configs, tmp_path):
    bench = LearningBenchmark(tmp_path, data, configs, "cpu", "")
    config = bench.config(Piece("rise", 0.01, 3, 400, "rgbd", "mask_rcnn"))
    assert (config.optimisation.iterations, config.optimisation.seed) == (400, 3)
    assert config.self_supervision.threshold_every == 80  # 20 of 100 steps
    assert (config.network.input, config.network.architecture) == ("rgbd", "mask_rcnn")
    assert config.data.unlabelled == config.data.train
    assert bench.config(Piece("rise", 1.0, 3)).data.unlabelled == ()
    assert bench.config(Piece("ps_ot", 0.01, 3)).data.unlabelled == ()


# ---- the shelf ----


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Eight views of two items, one of which is cut off in the last."""
    folder = tmp_path / "frames"
    for number in range(8):
        labels = np.zeros((120, 160), np.uint8)
        labels[20:60, 10 + 8 * number : 50 + 8 * number] = 48
        labels[70:110, 40:90] = 114 if number < 7 else 0
        image = np.full((120, 160, 3), 60, np.uint8)
        image[labels == 48] = (200, 40, 40)
        image[labels == 114] = (40, 40, 200)
        write_image(folder / f"frame-{2 * number:06d}.color.png", image)
        write_image(folder / f"frame-{2 * number:06d}.segm.png", labels)
    return folder


def test_frames_of_the_shelf_become_a_data_set(frames: Path, tmp_path: Path) -> None:
    file = write_shelf(frames, tmp_path / "shelf", 80)
    data = CocoDataset(file, ("object",), False)
    assert len(data) == 8
    assert [len(data[k].masks) for k in range(8)] == [2] * 7 + [1]
    sample = data[1]
    assert sample.image.shape == (60, 80, 3)
    assert (sample.image[sample.masks[0]] == (200, 40, 40)).mean() > 0.9
    write_part(file, file.with_name("some.json"), [1, 7])
    some = CocoDataset(file.with_name("some.json"), ("object",), False)
    assert [len(some[k].masks) for k in range(len(some))] == [2, 1]
    with pytest.raises(DataError, match="--shelf"):
        write_shelf(tmp_path, tmp_path / "none", 80)


def test_real_frames_of_the_shelf(tmp_path: Path) -> None:
    shared = Path(os.environ.get("RISE_SHARED_DATA", Path(__file__).parents[2] / "shared/data")) / "apc_shelf"
    if not shared.is_dir():
        pytest.skip(f"the real images are not at {shared}; name their folder by RISE_SHARED_DATA")
    data = CocoDataset(write_shelf(shared, tmp_path, 160), ("object",), False)
    assert [len(data[k].masks) for k in range(len(data))] == [4] * 8


@pytest.mark.slow
def test_a_labelled_frame_of_the_shelf_is_no_test_image(rise, frames, configs, tmp_path):
    out = tmp_path / "out"
    words = ("bench", "learning", out, "--configs", configs, "--device", "cpu", "--shelf", frames)
    few = ("--tables", "shelf", "--methods", "rise", "--labels", "0.375", "--seeds", "0", "--steps", "2")
    status, text, err = rise(*words, *few)
    assert (status, "1 of 1" in text) == (0, True), err
    (row,) = read_rows(out / "learning.json")
    assert (row["data"], row["input"], row["labels"]) == ("shelf", "rgb", 0.375)
    split = json.loads((out / "splits/shelf_0.375_seed0.json").read_text())
    tested = json.loads((out / "shelf/test_0.375_seed0.json").read_text())["images"]
    assert len(split["labelled"]) == 3
    assert {image["id"] for image in tested} == set(split["unlabelled"])
    assert "| 0.375 | rise | 2 |" in (out / "learning.md").read_text()


# ---- the plan ----


def test_the_plan_has_each_piece_once_and_seed_by_seed() -> None:
    pieces = plan(Choice())
    assert len(pieces) == len(set(pieces)) == len({piece.name for piece in pieces}) == 48
    assert [piece.seed for piece in pieces] == [0] * 16 + [1] * 16 + [2] * 16
    assert {piece.method for piece in pieces} == set(MAIN)
    assert {piece.iterations for piece in pieces if piece.method != "supervised"} == {3000}
    assert {piece.iterations for piece in pieces if piece.method == "supervised"} == {600, 1500, 3000}
    assert {piece.method for piece in pieces if piece.labels == 1} == {"supervised", "rise"}
    colour = plan(Choice(input="rgb"))
    assert {(piece.iterations, piece.input) for piece in colour if piece.method == "rise"} == {(4000, "rgb")}
    both = plan(Choice(("main", "parts", "filters")))
    assert len(both) == len(set(both)) == 48 + 3 * (2 + 1 + 4)  # ps, L_u, M2B; four filters
    for method in (*PARTS, *SELECTORS):
        assert all(
            any((p.method, p.labels, p.seed) == (method, FEW, seed) for p in both) for seed in (0, 1, 2)
        )


def test_models_shelf_and_variants_have_pieces_of_their_own() -> None:
    models = plan(Choice(("models",)))
    assert {(p.architecture, p.seed, p.labels) for p in models} == {("mask_rcnn", 0, FEW)}
    shelf = plan(Choice(("shelf",), steps=100))
    assert {(p.data, p.input, p.labels) for p in shelf} == {
        ("shelf", "rgb", fraction) for fraction in SHELF_LABELS
    }
    assert {p.iterations for p in shelf} == {20, 50, 100}
    variants = plan(Choice((), ("soft", "m2b"), seeds=(0, 1)))
    assert [(p.method, p.seed) for p in variants] == [
        (method, seed) for seed in (0, 1) for method in ("ps_ot", "rise", "soft", "m2b")
    ]
    assert len(plan(Choice((), tuple(VARIANTS)))) == 2 + len(VARIANTS)
    assert lengths(2) == (1, 2)


# ---- the page ----


def row(
    method: str, labels: float, seed: int, ap50: float, iterations: int = 3000, **more: str
) -> dict[str, Any]:
    usual = {"input": "rgbd", "architecture": "rise", "data": "tote", "split": "scenes"}
    return {
        "method": method, "labels": labels, "seed": seed, "ap": ap50 / 2, "ap50": ap50, "ap75": ap50 / 4,
        "iterations": iterations, "machine": "a calculator", "date": "2026-11-21",
    } | usual | more  # fmt: skip


def test_the_peer_counts_with_its_best_length() -> None:
    rows = [row("supervised", 0.01, seed, 0.2 + 0.1 * seed) for seed in (0, 1)]
    rows += [row("supervised", 0.01, seed, 0.4, 1500) for seed in (0, 1)]
    rows += [row("supervised", 0.01, 0, 0.3, 600), row("rise", 0.01, 1, 0.5), row("rise", 0.01, 1, 0.9, 600)]
    group = Group.of(rows)
    assert group.length("supervised", 0.01) == 1500
    assert group.length("rise", 0.01) == group.steps == 3000
    assert group.values("supervised", 0.01, "ap50") == {0: 0.4, 1: 0.4}
    # Against the same seed, not against the mean.
    assert group.differences("rise", "supervised", 0.01, "ap50") == pytest.approx([0.1])
    text = page(rows)
    assert "| 1% | supervised | 1500 | 0.200 ± 0.000 | 0.400 ± 0.000 | 0.100 ± 0.000 | 2 |" in text
    assert (
        "| 1% | rise - supervised | +5.0 (one seed) | +10.0 (one seed) | +2.5 (one seed) | 1 | one seed |"
        in text
    )


def test_a_difference_with_zero_in_its_interval_is_a_tie() -> None:
    """Student's t: three values with standard deviation 1 are 1.96 x 1.27 = 2.48 off at most."""
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-3)
    assert interval([1.0]) is None
    assert [verdict(v) for v in ([1, 2, 3], [3, 4, 5], [-3, -4, -5], [1], [])] == [
        "tie",
        "ahead",
        "behind",
        "one seed",
        "not measured",
    ]
    rows = [row("ps_ot", FEW, seed, 0.4) for seed in range(3)]
    rows += [row("rise", FEW, seed, 0.44) for seed in range(3)]
    rows += [row("soft", FEW, seed, 0.4 + 0.02 * seed) for seed in range(3)]
    text = page(rows)
    (parts,) = (line for line in text.splitlines() if line.startswith("| `rise`"))
    assert parts.endswith("| 0.220 ± 0.000 | +2.0 [+2.0, +2.0] | +0.0 [+0.0, +0.0] | 3 | ahead |")
    (soft,) = (line for line in text.splitlines() if line.startswith("| `soft`"))
    assert soft.endswith("| +1.0 [-1.5, +3.5] | -1.0 [-3.5, +1.5] | 3 | tie |")


def test_what_is_not_measured_is_named_with_its_command() -> None:
    text = page([row("rise", 0.01, 0, 0.5)])
    for words in ("--input rgb", "--tables parts", "--variants", "--tables models", "--tables shelf"):
        assert f"Not measured yet: `rise bench learning OUT {words}" in text
    assert "a calculator" in text
    fractions = [row("rise", 0.01, 0, 0.6), row("rise", 1.0, 0, 0.7), row("supervised", 1.0, 0, 0.8)]
    assert "| 0.75 | not measured | of the best method" in page(fractions)


def test_results_that_are_there_stay_until_they_are_measured_again(tmp_path: Path) -> None:
    old = row("rise", 0.01, 0, 0.4, 600)
    for name in ("input", "architecture", "data", "split"):
        del old[name]  # as in results of before
    (tmp_path / "learning.json").write_text(json.dumps({"rows": [old]}))
    assert write_results([row("rise", 0.01, 0, 0.5, 600), row("rise", 0.01, 0, 0.6)], [tmp_path]) == 3
    assert write_results([row("rise", 0.01, 0, 0.7)], [tmp_path]) == 3
    rows = read_rows(tmp_path / "learning.json")
    assert [(r["split"], r["iterations"], r["ap50"]) for r in rows] == [
        ("views", 600, 0.4),
        ("scenes", 600, 0.5),
        ("scenes", 3000, 0.7),
    ]
    text = (tmp_path / "learning.md").read_text()
    assert "Earlier results: 600 steps" in text
    assert "| 1% | rise | 600 | 0.200 |" in text
    assert "| 1% | rise | 3000 | 0.350 |" in text
    assert "Earlier" not in page([row("rise", 0.01, 0, 0.5)])
