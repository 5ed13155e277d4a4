"""What a model had learned elsewhere stays learned where it is rehearsed, and only there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config

from rise_perception.data.coco import LabelledImage
from rise_perception.network.build import build_network
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.synthesis.cut_out import cut_outs
from rise_perception.teaching.config import Recipe, TeachConfig
from rise_perception.teaching.rounds import round_config
from rise_perception.teaching.scenes import Material, TeachScenes
from rise_perception.teaching.trainer import TeachTrainer
from rise_perception.training.batches import collate
from rise_perception.training.scenes import Key

RED, BLUE = (220, 40, 40), (40, 60, 200)
#: The loss on the world of before may grow by this factor, and not more.
MOST_FORGOTTEN = 1.5
FIRST_STEPS, TAUGHT_STEPS, REHEARSED = 60, 25, 0.4


def pictures(
    ground: tuple[int, int, int],
    item: tuple[int, int, int],
    furniture: tuple[int, int, int],
    count: int,
    seed: int,
) -> tuple[LabelledImage, ...]:
    """Pictures (64, 96, 3) of two items and two blocks of another colour that are none."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        noise = rng.integers(-8, 9, (64, 96, 3))
        image = (np.array(ground) + noise).clip(0, 255).astype(np.uint8)
        masks = np.zeros((2, 64, 96), bool)
        for index, slot in enumerate(rng.permutation(6)[:4]):
            y, x = 6 + 28 * (slot // 3) + rng.integers(8), 6 + 30 * (slot % 3) + rng.integers(8)
            image[y : y + 18, x : x + 20] = item if index < 2 else furniture
            if index < 2:
                masks[index, y : y + 18, x : x + 20] = True
        kinds = np.zeros(2, np.int64)
        found.append(LabelledImage(f"{seed}/{number}", image, None, masks, kinds, np.arange(2)))
    return tuple(found)


#: Red items beside blue furniture, and a cell that is the other way round.
BEFORE = pictures((60, 60, 60), RED, BLUE, 12, 0)
CELL = pictures((150, 140, 90), BLUE, RED, 4, 1)


def recipe(rehearsal: float) -> Recipe:
    return Recipe(
        learning_rate=3e-3,
        batch=2,
        average=0.8,
        real=1 - rehearsal,
        rehearsal=rehearsal,
        objects=0,
        augmentation=0.0,
        precision="fp32",
    )


def train(
    start: Path, out: Path, steps: int, shown: tuple[LabelledImage, ...], rehearsal: float
) -> tuple[Path, float]:
    """The trained model, and its loss on four pictures of the world of before."""
    config = round_config(
        TeachConfig(Path("goods"), out, recipe=recipe(rehearsal)),
        load_model(start)[1].network,
        start,
        out,
        steps,
        "fp32",
    )

    def scenes(teaching: tuple[LabelledImage, ...], how: Recipe) -> TeachScenes:
        cuts = tuple(cut for picture in teaching for cut in cut_outs(picture, frozenset()))
        return TeachScenes(config, Material(teaching, cuts, (), BEFORE), how, [])

    trainer = TeachTrainer(config, "cpu", 1e9, 0.0)
    trainer.train(scenes(shown, recipe(rehearsal)), [], lambda fraction: None)
    trainer.write_model()
    seen = scenes(BEFORE[:4], recipe(0.0))
    with torch.no_grad():
        trainer.network.eval()
        torch.manual_seed(0)
        losses, _ = trainer.losses(collate([seen[Key(k, True, k)] for k in range(4)]))
    return out, float(losses["total"])


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """What the world of before has taught."""
    folder = tmp_path_factory.mktemp("before")
    torch.manual_seed(0)
    config = tiny_config(classes=("object",), containers=(), query_selection="dense", mask_stride=4)
    save_model(folder / "start", build_network(config), ModelCard(name="start", network=config))
    return train(folder / "start", folder / "out", FIRST_STEPS, BEFORE, 0.0)


def test_the_world_of_before_is_forgotten_without_rehearsal_and_not_with_it(tmp_path, learned):
    model, before = learned
    _, forgotten = train(model, tmp_path / "without", TAUGHT_STEPS, CELL, 0.0)
    _, kept = train(model, tmp_path / "with", TAUGHT_STEPS, CELL, REHEARSED)
    assert forgotten > MOST_FORGOTTEN * before
    assert kept < MOST_FORGOTTEN * before
