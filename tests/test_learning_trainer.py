"""The trainer: it learns, a killed run goes on as if nothing had been, and bad states are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from tiny import tiny_config
from torch import nn

from rise_perception.data.images import write_image
from rise_perception.errors import DataError, ModelError
from rise_perception.learning.batches import Batch
from rise_perception.learning.config import DataConfig, OptimisationConfig, TrainConfig
from rise_perception.learning.trainer import (
    CHECKPOINT,
    HISTORY,
    MovingAverage,
    Trainer,
    make_optimiser,
    rate_factor,
)
from rise_perception.network.checkpoint import load_model
from rise_perception.network.rise import RiseNetwork

RECTANGLES = [[(8, 10, 40, 30), (50, 20, 86, 56)], [(20, 6, 80, 24), (10, 34, 44, 60)]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of two coloured rectangles each, as a COCO data set."""
    folder = tmp_path_factory.mktemp("data")
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    for index, rectangles in enumerate(RECTANGLES):
        image = np.full((64, 96, 3), 90, np.uint8)
        depth = np.full((64, 96), 1000, np.uint16)
        for x0, y0, x1, y1 in rectangles:
            mask = np.zeros((64, 96), np.uint8, order="F")
            mask[y0:y1, x0:x1] = 1
            image[mask > 0] = (200, 40 + y0 * 3, x0)
            depth[mask > 0] = 800
            rle = coco_mask.encode(mask)
            content["annotations"].append(
                {
                    "image_id": index,
                    "category_id": 1,
                    "segmentation": {"size": [64, 96], "counts": rle["counts"].decode()},
                }
            )
        write_image(folder / f"images/{index}.png", image)
        write_image(folder / f"depth/{index}.png", depth)
        content["images"].append({"id": index, "file_name": f"{index}.png", "depth_file": f"{index}.png"})
    (folder / "train.json").write_text(json.dumps(content))
    return folder / "train.json"


def configure(
    data: Path, out: Path, network: dict[str, Any] | None = None, **optimisation: Any
) -> TrainConfig:
    shape: dict[str, Any] = {
        "classes": ("object",),
        "containers": (),
        "query_selection": "dense",
        "mask_stride": 4,
    }
    steps = {"iterations": 6, "batch": 2, "learning_rate": 1e-3, "backbone_factor": 1.0, "clip": 1.0}
    return TrainConfig(
        name="tiny",
        out=str(out),
        data=DataConfig((str(data),), augmentation=0.0, scale=(1.0, 1.0), rotation=0.0, workers=0),
        network=tiny_config(**(shape | (network or {}))),
        optimisation=OptimisationConfig(**(steps | {"save_every": 3, "threads": 1} | optimisation)),
    )


class Recorder(Trainer):
    """Notes the losses of every step; dies before step ``dies_at``."""

    dies_at = -1

    def step(self, batch: Batch) -> dict[str, float]:
        if self.iteration == self.dies_at:
            raise KeyboardInterrupt
        losses = super().step(batch)
        self.__dict__.setdefault("steps", {})[self.iteration] = losses
        return losses


def test_a_killed_run_goes_on_as_if_nothing_had_been(data: Path, tmp_path: Path) -> None:

    def trainer(name: str) -> Recorder:
        config = configure(data, tmp_path / name, {"dropout": 0.1}, average=0.9)
        # With the data in another process, nothing but the step itself seeds the dropout.
        return Recorder(dataclasses.replace(config, data=dataclasses.replace(config.data, workers=1)), "t")

    whole = trainer("whole")
    whole.run()
    killed = trainer("killed")
    killed.dies_at = 5
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    assert sorted(p.name for p in (tmp_path / "killed").iterdir()) == [CHECKPOINT, HISTORY]
    resumed = trainer("killed")
    assert resumed.iteration == 3
    resumed.run()
    assert sorted(resumed.steps) == [3, 4, 5]
    for iteration, losses in resumed.steps.items():
        for name, value in losses.items():
            assert value == pytest.approx(whole.steps[iteration][name], rel=1e-3, abs=1e-6), (iteration, name)
    first, second = (load_model(tmp_path / name)[0].state_dict() for name in ("whole", "killed"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=1e-3)
    lines = [json.loads(line) for line in (tmp_path / "killed" / HISTORY).read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [3, 6]
    assert all(np.isfinite(list(line.values())).all() for line in lines)


def test_a_finished_run_writes_its_model_again_and_trains_no_more(data: Path, tmp_path: Path) -> None:
    first = Trainer(configure(data, tmp_path, iterations=3), "rise train x.yaml", revision="abc").run()
    again = Recorder(configure(data, tmp_path, iterations=3), "rise train x.yaml", revision="abc")
    assert again.run() == first
    assert not hasattr(again, "steps")
    _, card = load_model(tmp_path)
    assert (card.name, card.command, card.git_revision) == ("tiny", "rise train x.yaml", "abc")
    for part in (str(data), "3 iterations of 2 images", "seed 0"):
        assert part in card.data


@pytest.mark.slow
def test_it_overfits_two_images(data: Path, tmp_path: Path) -> None:
    """Classes, boxes and masks of two images are learned within 50 steps."""
    trainer = Recorder(configure(data, tmp_path, iterations=50, learning_rate=3e-3), "t")
    trainer.run()
    steps = list(trainer.steps.values())
    assert np.isfinite([list(losses.values()) for losses in steps]).all()
    for name, share in (("total", 0.5), ("boxes", 0.6), ("masks", 0.25)):
        assert np.mean([losses[name] for losses in steps[-5:]]) < share * steps[0][name], name


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
