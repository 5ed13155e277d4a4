"""The trainer: it learns, a killed run goes on as if nothing had been, and bad states are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import shake, tiny_config
from tiny_data import Recorder, configure, write_data
from torch import nn

from rise_perception.core.errors import DataError, ModelError
from rise_perception.network.checkpoint import load_model
from rise_perception.network.rise import RiseNetwork
from rise_perception.training import trainer as trainer_module
from rise_perception.training.config import OptimisationConfig, SequenceConfig, TrainConfig
from rise_perception.training.criterion import PARTS
from rise_perception.training.loader import training_loader
from rise_perception.training.pseudo_labels import SelfSupervisionConfig
from rise_perception.training.scenes import Scenes
from rise_perception.training.train_state import MovingAverage
from rise_perception.training.trainer import (
    CHECKPOINT,
    HISTORY,
    TENSORBOARD,
    Trainer,
    make_optimiser,
    rate_factor,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of two coloured rectangles each, as a COCO data set."""
    return write_data(tmp_path_factory.mktemp("data"), [0, 1])


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two further images, for which no label is read."""
    return write_data(tmp_path_factory.mktemp("more"), [2, 3])


def semi(data: Path, more: Path, out: Path, teacher: str = "student", **changes: Any) -> TrainConfig:
    """Everything on: pasting, pseudo-labels from the start, augmentation, dropout."""
    sections = {
        "self_supervision": SelfSupervisionConfig(
            "threshold", (0.0, 0.0), teacher=teacher, mask_threshold=(0.45, 0.45)
        ),
        "sequences": SequenceConfig(objects=3, bank=4),
    }
    images = {"unlabelled": (str(more),), "augmentation": 1.0, "scale": (0.8, 1.3), "rotation": 8.0}
    images |= changes.pop("images", {})
    network = {"dropout": 0.1} | changes.pop("network", {})
    return configure(data, out, network, images, sections, **({"average": 0.9} | changes))


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "dies_at"), [("student", 5), ("average", 4)])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    data: Path, more: Path, tmp_path: Path, teacher: str, dies_at: int
) -> None:
    """With unlabelled images, pasting and a bank that moves on, whoever the teacher is."""

    def trainer(name: str) -> Recorder:
        # With the data in another process, nothing but the step itself seeds the dropout.
        return Recorder(semi(data, more, tmp_path / name, teacher, images={"workers": 1}), "t")

    whole = trainer("whole")
    whole.run()
    killed = trainer("killed")
    killed.dies_at = dies_at
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == [CHECKPOINT, HISTORY, TENSORBOARD]
    resumed = trainer("killed")
    assert resumed.iteration == 3
    resumed.run()
    assert sorted(resumed.steps) == [3, 4, 5]
    assert any(losses["unlabelled"] > 0 for losses in resumed.steps.values())
    for iteration, losses in resumed.steps.items():
        for name, value in losses.items():
            assert value == pytest.approx(whole.steps[iteration][name], rel=1e-3, abs=1e-6), (iteration, name)
    first, second = (load_model(tmp_path / name)[0].state_dict() for name in ("whole", "killed"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=1e-3)
    lines = [json.loads(line) for line in (tmp_path / "killed" / HISTORY).read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [3, 6]
    assert all(np.isfinite(list(line.values())).all() for line in lines)


def test_tensorboard_holds_each_loss_once_also_after_a_kill(
    data: Path, more: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer_module, "LOG_EVERY", 1)
    killed = Recorder(semi(data, more, tmp_path), "t")
    killed.dies_at = 5
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    resumed = Recorder(semi(data, more, tmp_path), "t")
    resumed.run()
    log = EventAccumulator(str(tmp_path / TENSORBOARD))
    log.Reload()
    names = {f"loss/{n}" for n in ("classes", "boxes", "masks", "unlabelled", "embeddings", "total")}
    names |= {"optimisation/rate", "optimisation/norm", "seconds/step", "seconds/waiting_for_data"}
    names |= {"pseudo_labels/per_image", "pseudo_labels/class_threshold", "pseudo_labels/weight", *PARTS}
    assert set(log.Tags()["scalars"]) == names
    for name in names:
        assert [e.step for e in log.Scalars(name)] == [1, 2, 3, 4, 5, 6], name
    steps = killed.steps | resumed.steps
    for event in log.Scalars("loss/total"):
        assert event.value == pytest.approx(steps[event.step - 1]["total"], rel=1e-5)


def gradients_of(config: TrainConfig) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Losses and gradients of the first batch."""
    trainer = Trainer(config, "t")
    shake(trainer.network, 0.02)
    torch.manual_seed(0)
    losses, _ = trainer.losses(next(iter(training_loader(Scenes(config), 0))))
    losses["total"].backward()
    assert all(t.dtype == torch.float32 for t in losses.values())
    return losses, {n: p.grad for n, p in trainer.network.named_parameters() if p.grad is not None}


def test_bf16_is_close_to_fp32_and_reaches_the_same_weights(data: Path, more: Path, tmp_path: Path) -> None:
    """Also where the student itself predicts the pseudo-labels, without gradient, just before."""
    results = {}
    for precision in ("fp32", "bf16"):
        config = semi(data, more, tmp_path / precision, network={"dropout": 0.0}, precision=precision)
        results[precision] = gradients_of(config)
    (losses, gradients), (half_losses, half_gradients) = results["fp32"], results["bf16"]
    assert losses["unlabelled"] > 0
    for name in ("classes", "boxes", "masks", "embeddings"):
        assert half_losses[name].item() == pytest.approx(losses[name].item(), rel=0.05, abs=0.02), name
    assert half_losses["total"] != losses["total"]  # it was not fp32
    assert half_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        if gradient.abs().sum() > 0:
            assert half_gradients[name].abs().sum() > 0, name
    one, other = (torch.cat([g.flatten() for g in part.values()]) for part in (gradients, half_gradients))
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.9
    assert Trainer(semi(data, more, tmp_path / "run", iterations=2, precision="bf16"), "t").run()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_stops_or_is_left_out(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], workers: int
) -> None:
    """The message is the error's own, whichever process met it."""
    broken = write_data(tmp_path / "data", [0, 1, 2])
    (tmp_path / "data/images/1.png").write_bytes(b"no picture")

    def trainer(what: str) -> Trainer:
        return Trainer(configure(broken, tmp_path / what, images={"broken": what, "workers": workers}), "t")

    with pytest.raises(DataError, match=r"1\.png") as error:
        trainer("stop").run()
    assert "Traceback" not in str(error.value)
    assert str(error.value).count("\n") == 0
    capfd.readouterr()
    trainer("skip").run()
    lines = [line for line in capfd.readouterr().err.splitlines() if "left out" in line]
    assert len(lines) == 1
    assert "1.png" in lines[0]


def test_a_finished_run_writes_its_model_again_and_trains_no_more(data: Path, tmp_path: Path) -> None:
    first = Trainer(configure(data, tmp_path, iterations=3), "rise train x.yaml", revision="abc").run()
    again = Recorder(configure(data, tmp_path, iterations=3), "rise train x.yaml", revision="abc")
    assert again.run() == first
    assert not hasattr(again, "steps")
    _, card = load_model(tmp_path)
    assert (card.name, card.command, card.git_revision) == ("tiny", "rise train x.yaml", "abc")
    for part in (str(data), "3 iterations of 2 views", "seed 0"):
        assert part in card.data


@pytest.mark.slow
def test_it_overfits_two_images(data: Path, tmp_path: Path) -> None:
    """Classes, boxes and masks are learned within 60 steps, though each shows them moved a little."""
    alone = {"sequences": SequenceConfig(objects=0)}
    trainer = Recorder(configure(data, tmp_path, sections=alone, iterations=60, learning_rate=3e-3), "t")
    trainer.run()
    steps = list(trainer.steps.values())
    assert np.isfinite([list(losses.values()) for losses in steps]).all()
    for name, fraction in (("total", 0.5), ("boxes", 0.6), ("masks", 0.5)):
        assert np.mean([losses[name] for losses in steps[-5:]]) < fraction * steps[0][name], name


def test_depth_reaches_the_network(data: Path, tmp_path: Path) -> None:
    trainer = Recorder(configure(data, tmp_path, {"input": "rgbd"}, iterations=1), "t")
    before = trainer.network.backbone.body.conv1.weight.detach().clone()
    trainer.run()
    change = (trainer.network.backbone.body.conv1.weight - before).abs().sum((0, 2, 3))
    assert (change > 0).all()


def test_seeds_decide_everything(data: Path, tmp_path: Path) -> None:
    losses = []
    for index, seed in enumerate((1, 1, 2)):
        trainer = Recorder(configure(data, tmp_path / str(index), iterations=2, seed=seed), "t")
        trainer.run()
        losses.append([trainer.steps[i]["total"] for i in range(2)])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_the_run(data: Path, tmp_path: Path, where: str) -> None:
    config = configure(data, tmp_path)
    Trainer(
        dataclasses.replace(config, optimisation=dataclasses.replace(config.optimisation, iterations=3)), "t"
    ).run()
    saved = (tmp_path / CHECKPOINT).read_bytes()
    trainer = Trainer(config, "t")
    bias = trainer.network.class_heads[-1].bias
    if where == "loss":
        nn.init.constant_(bias, float("inf"))
    else:
        bias.register_hook(lambda gradient: gradient * float("nan"))
    weights = {n: t.clone() for n, t in trainer.network.named_parameters()}
    with pytest.raises(ModelError, match=r"iteration 3; lower optimisation\.learning_rate \(0\.001\)"):
        trainer.run()
    assert all(torch.equal(t, weights[n]) for n, t in trainer.network.named_parameters())
    assert (tmp_path / CHECKPOINT).read_bytes() == saved


def test_checkpoints_that_do_not_fit_or_are_damaged(data: Path, tmp_path: Path) -> None:
    Trainer(configure(data, tmp_path, iterations=3), "t").run()
    with pytest.raises(ModelError, match=f"{CHECKPOINT} does not fit"):
        Trainer(configure(data, tmp_path, {"decoder_layers": 1}), "t")
    content = (tmp_path / CHECKPOINT).read_bytes()
    for broken in (content[: len(content) // 2], b"", b"\x80\x04pickled"):
        (tmp_path / CHECKPOINT).write_bytes(broken)
        with pytest.raises(ModelError, match=CHECKPOINT):
            Trainer(configure(data, tmp_path), "t")


def test_init_starts_from_another_model_and_a_checkpoint_wins(data: Path, tmp_path: Path) -> None:
    Trainer(configure(data, tmp_path / "first", iterations=3), "t").run()
    config = dataclasses.replace(
        configure(data, tmp_path / "second", average=0.5), init=str(tmp_path / "first")
    )
    second = Trainer(config, "t")
    source = load_model(tmp_path / "first")[0].state_dict()
    assert all(torch.equal(t, source[n]) for n, t in second.network.state_dict().items())
    assert second.average is not None
    assert all(torch.equal(t, source[n]) for n, t in second.average.state.items())
    assert str(tmp_path / "first") in second.run().data
    resumed = Trainer(dataclasses.replace(config, init=str(tmp_path / "gone")), "t")
    assert resumed.iteration == 6
    with pytest.raises(ModelError, match="gone"):
        Trainer(dataclasses.replace(config, init=str(tmp_path / "gone"), out=str(tmp_path / "third")), "t")


def test_a_missing_data_set_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.json"):
        Trainer(configure(tmp_path / "no.json", tmp_path / "out"), "t").run()
    assert not (tmp_path / "out").exists()


def test_a_missing_validation_set_is_named_before_the_training(data: Path, tmp_path: Path) -> None:
    config = configure(data, tmp_path / "out")
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, validation=str(tmp_path / "val.json"))
    )
    with pytest.raises(DataError, match=r"val\.json"):
        Trainer(config, "t").run()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_workers_change_nothing(data: Path, tmp_path: Path) -> None:
    losses = []
    for workers in (0, 2):
        config = configure(data, tmp_path / str(workers), iterations=3)
        config = dataclasses.replace(
            config, data=dataclasses.replace(config.data, augmentation=1.0, workers=workers)
        )
        trainer = Recorder(config, "t")
        trainer.run()
        losses.append([s["total"] for s in trainer.steps.values()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_learning_rates_and_decay_of_each_group() -> None:
    network = RiseNetwork(tiny_config())
    config = OptimisationConfig(learning_rate=1e-2, backbone_factor=0.1, weight_decay=0.3)
    groups = make_optimiser(network, config).param_groups
    of = {id(p): g for g in groups for p in g["params"]}
    assert len(of) == len(list(network.parameters()))
    for name, parameter in network.named_parameters():
        group = of[id(parameter)]
        assert group["base_lr"] == pytest.approx(1e-3 if name.startswith("backbone.") else 1e-2)
        assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0)


def test_the_schedule() -> None:
    paper = OptimisationConfig()
    assert rate_factor(0, paper) == 1.0
    assert rate_factor(7_999, paper) == 1.0
    assert rate_factor(8_000, paper) == pytest.approx(0.1)
    own = OptimisationConfig(iterations=100, warmup=10, drop_at=2.0, decay_from=0.5)
    assert [rate_factor(i, own) for i in (0, 4, 9, 50, 75)] == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5])
    assert 0 < rate_factor(99, own) < 0.03


def test_the_moving_average_forgets_the_start_first() -> None:
    network = nn.Linear(1, 1)
    nn.init.constant_(network.weight, 0.0)
    average = MovingAverage(network, 0.99)
    nn.init.constant_(network.weight, 1.0)
    expected = 0.0
    for iteration in range(300):
        average.update(network, iteration)
        expected += (1 - expected) * (1 - min(0.99, (1 + iteration) / (10 + iteration)))
        if iteration == 0:
            assert expected == pytest.approx(0.9)
    assert average.state["weight"].item() == pytest.approx(expected)
    assert average.state["weight"].item() > 0.99
