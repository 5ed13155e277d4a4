"""Several processes give the gradients of one with the joined batch; a killed process resumes exactly."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import shake
from tiny_data import configure, write_data

from rise_perception.training.config import SequenceConfig, TrainConfig
from rise_perception.training.loader import training_loader
from rise_perception.training.pseudo_labels import SelfSupervisionConfig
from rise_perception.training.scenes import Scenes
from rise_perception.training.trainer import HISTORY, Trainer


def joined(data: Path, out: Path, threshold: float) -> TrainConfig:
    """Two labelled and two unlabelled scenes a step; frozen norms, which do not depend on the batch."""
    sections = {
        "self_supervision": SelfSupervisionConfig(
            "threshold", (threshold, threshold), mask_threshold=(0.4, 0.4)
        ),
        "sequences": SequenceConfig(objects=2, bank=4),
    }
    return configure(
        data,
        out,
        {"frozen_norm": True},
        {"unlabelled": (str(data),)},
        sections,
        batch=4,
        unlabelled_batch=4,
        iterations=1,
        clip=1e6,
    )


def one_step(config: TrainConfig) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Losses and averaged gradients of the first step."""
    trainer = Trainer(config, "t")
    torch.manual_seed(7)
    shake(trainer.network, 0.05)
    losses = trainer.step(next(iter(training_loader(Scenes(config), 0))))
    return losses, {n: p.grad for n, p in trainer.network.named_parameters() if p.grad is not None}


def in_process(rank: int, port: int, data: Path, folder: Path, thresholds: list[float]) -> None:
    """What each process runs; as torchrun would start it."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    for index, threshold in enumerate(thresholds):
        losses, gradients = one_step(joined(data, folder / "out", threshold))
        torch.save({"losses": losses, "gradients": gradients}, folder / f"{index}_{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path: Path) -> None:
    """With pseudo-labels in both processes, in one of them only, and in none."""
    data = write_data(tmp_path / "data")
    trainer = Trainer(joined(data, tmp_path / "one", 0.0), "t")
    torch.manual_seed(7)
    shake(trainer.network, 0.05)
    batch = next(iter(training_loader(Scenes(trainer.config), 0)))
    trainer.network.eval()
    with torch.no_grad():
        best = trainer.network(batch.before, batch.before_padding).logits.sigmoid().amax((1, 2))
    assert best[0] != best[1]
    thresholds = [0.0, best.mean().item(), 1.0]
    expected = [one_step(joined(data, tmp_path / "one", threshold)) for threshold in thresholds]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(in_process, (port, data, tmp_path, thresholds), nprocs=2)
    for index, (losses, gradients) in enumerate(expected):
        assert (losses["unlabelled"] > 0) == (index < 2)
        parts = [torch.load(tmp_path / f"{index}_{rank}.pt", weights_only=True) for rank in (0, 1)]
        if index == 1:
            counts = sorted(part["losses"]["pseudo_labels/per_image"] for part in parts)
            assert counts[0] == 0 < counts[1]
        for part in parts:
            for name in ("classes", "boxes", "masks", "unlabelled", "embeddings", "total"):
                assert part["losses"][name] == pytest.approx(losses[name], rel=1e-4, abs=1e-6), (index, name)
            for name, gradient in gradients.items():
                got = part["gradients"][name]
                scale = gradient.abs().max().item()
                torch.testing.assert_close(got, gradient, rtol=1e-3, atol=1e-4 * scale + 1e-7)


@pytest.mark.slow
def test_kill_minus_nine_at_random_times(rise: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    """`rise train` is killed three times, wherever it is; then the weights are those of a run in peace."""
    data = write_data(tmp_path / "data")
    config = configure(data, tmp_path / "killed", {"dropout": 0.1}, {"unlabelled": (str(data),)})
    trusting = SelfSupervisionConfig("threshold", (0.0, 0.0), mask_threshold=(0.45, 0.45))
    steps = dataclasses.replace(
        config.optimisation, iterations=60, save_every=4, average=0.9, learning_rate=1e-4
    )
    config = dataclasses.replace(config, self_supervision=trusting, optimisation=steps)
    content: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    for name in ("killed", "whole"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content | {"out": str(tmp_path / name)}))

    def arguments(name: str) -> list[str]:
        return ["train", str(tmp_path / f"{name}.yaml"), "--device", "cpu"]

    def start(name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "rise_perception.cli.main", *arguments(name)]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def history(name: str) -> dict[int, dict[str, float]]:
        file = tmp_path / name / HISTORY
        lines = file.read_text().splitlines() if file.exists() else []
        return {entry["iteration"]: entry for entry in map(json.loads, lines)}

    generator = random.Random(0)
    for kill in range(3):
        running, saved = start("killed"), len(history("killed"))
        while len(history("killed")) < saved + 1 and running.poll() is None:
            time.sleep(0.02)
        time.sleep(generator.uniform(0.0, 0.6))
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL, f"kill {kill} came too late"
    assert rise(*arguments("killed"))[0] == 0
    assert rise(*arguments("whole"))[0] == 0
    killed, whole = (
        torch.cat([t.flatten().float() for t in read(tmp_path / name).values()])
        for name in ("killed", "whole")
    )
    torch.testing.assert_close(killed, whole, rtol=1e-3, atol=1e-4)


def read(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
