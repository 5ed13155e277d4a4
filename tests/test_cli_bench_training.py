"""`rise bench training`: its rows, its mistakes, and one real measurement in the smallest configuration."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import tiny_config
from tiny_data import configure, write_data

from benchmarks import bench_training
from benchmarks import training_step as cost
from benchmarks.training_step import OURS, PEER, StepCost, StepJob, make_batch, measure_steps
from rise_perception.core.errors import RiseError


def tiny_job(**changes: Any) -> StepJob:
    # The peer's backbone is timm's whole ResNet-18.
    network = tiny_config(backbone_args={}, frozen_norm=True, levels=4, **changes)
    return StepJob(network, batch=2, objects=3, device="cpu")


def test_rows_divide_by_the_peer() -> None:
    rows = bench_training.step_rows(
        {OURS: StepCost([100.0, 300.0, 110.0], 500.0), PEER: StepCost([200.0, 220.0, 250.0], 1000.0)}
    )
    assert [row["model"] for row in rows] == ["rise", "transformers Deformable DETR"]
    assert [row["median_ms"] for row in rows] == [110.0, 220.0]
    assert [row["ratio"] for row in rows] == [0.5, 1.0]
    assert [row["peak_ratio"] for row in rows] == [0.5, 1.0]
    assert rows[0]["p95_ms"] == pytest.approx(281.0)


def test_both_sides_get_the_same_objects_in_both_views() -> None:
    job = tiny_job()
    images, (first, second) = make_batch(job)
    assert images.shape == (2, 3, 64, 96)
    assert len(first) == 3
    assert first.masks.any((1, 2)).all()
    assert torch.equal(first.ids, second.ids)
    again, targets = make_batch(job)
    assert torch.equal(images, again)
    assert torch.equal(targets[0].boxes, first.boxes)


@pytest.mark.slow
def test_a_measurement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rise: Any) -> None:
    """The real command, with the network swapped for a tiny one."""
    monkeypatch.setattr("rise_perception.network.config.NetworkConfig", lambda **_: tiny_job().network)
    status, out, err = rise("bench", "training", "--repeats", "2", "--json", tmp_path / "t.json")
    assert status == 0, err
    content = json.loads((tmp_path / "t.json").read_text())
    assert (content["width"], content["height"], content["batch"]) == (96, 64, 2)
    for row in content["rows"]:
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert (
            row["peak_mb"] > 10
        )  # the gradients and the optimiser's state of 11 M parameters alone are more
        assert f"{row['model']} " in out
    assert content["rows"][1]["ratio"] == 1.0


@pytest.mark.slow
def test_a_side_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    close = cost._Worker.close
    monkeypatch.setattr(cost._Worker, "close", lambda self: (started.append(self), close(self)))
    with pytest.raises(RiseError, match=r"training step of rise .* timm"):
        measure_steps(tiny_job(backbone="resnet1"), 1)
    assert [worker.process.returncode is not None for worker in started] == [True, True]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--repeats", "0"], "--repeats is 0"),
        (["--batch", "3"], "--batch is 3; it must be even"),
        (["--size", "640"], "--size is '640'; it must be WIDTHxHEIGHT"),
        (["--size", "641x480"], "image_size"),
        (["--device", "warp"], "device 'warp'"),
    ],
)
def test_mistakes_in_the_arguments(rise: Any, arguments: list[str], words: str) -> None:
    status, _, err = rise("bench", "training", *arguments)
    assert status == 2
    assert words in err


def test_the_parts_of_a_training_run(rise: Any, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    config = configure(data, tmp_path / "out", images={"unlabelled": (str(data),), "workers": 1})
    text = {"name": "tiny", "out": config.out}
    for section in ("data", "network", "optimisation"):
        text[section] = json.loads(json.dumps(dataclasses.asdict(getattr(config, section))))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(text))
    file = tmp_path / "t.json"
    status, out, err = rise(
        "bench", "training", "--config", tmp_path / "tiny.yaml", "--repeats", "2", "--json", file
    )
    assert status == 0, err
    content = json.loads(file.read_text())
    assert content["images"] == 4  # two views each of a labelled and of an unlabelled image
    step, loader, sequences = content["rows"]
    for row in (step, loader, sequences):
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert row["images_per_second"] > 0
        assert row["name"] in out
    assert step["share"] == 1.0
    rate = step["images_per_second"] / sequences["images_per_second"]
    assert sequences["share"] == pytest.approx(rate)
    assert not (tmp_path / "out").exists()
