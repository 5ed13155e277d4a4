"""Mask R-CNN behind the protocol: its contract, its masks against a plain reference, and that it learns."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import box_targets, mask_targets, shake, tiny_config
from tiny_data import Recorder, configure, write_data
from torch import Tensor

from rise_perception.core.errors import ModelError
from rise_perception.evaluation.coco import coco_scores
from rise_perception.inference.segmenter import Segmenter
from rise_perception.network.build import build_network
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.network.config import NetworkConfig
from rise_perception.network.convert import initialise
from rise_perception.network.mask_rcnn import OUTSIDE, MaskRcnnNetwork, paste_masks
from rise_perception.training.association import association_loss
from rise_perception.training.config import SequenceConfig
from rise_perception.training.criterion import LossConfig, match, supervised_loss
from rise_perception.training.pseudo_labels import SelfSupervisionConfig
from rise_perception.training.trainer import Trainer
from rise_perception.training.validation import predicted_pairs


def config(**changes: Any) -> NetworkConfig:
    return tiny_config(**({"architecture": "mask_rcnn"} | changes))


def network(seed: int = 0, **changes: Any) -> MaskRcnnNetwork:
    torch.manual_seed(seed)
    made = build_network(config(**changes))
    assert isinstance(made, MaskRcnnNetwork)
    shake(made, 0.02)
    return made


def images(count: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, 64, 96, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("levels", [1, 3, 4])
def test_shapes_and_ranges_of_the_outputs(stride: int, levels: int) -> None:
    made = network(mask_stride=stride, levels=levels, input="rgbd").eval()
    with torch.no_grad():
        outputs = made(images(channels=6))
    assert outputs.logits.shape == (2, 10, 2)
    assert outputs.boxes.shape == (2, 10, 4)
    assert outputs.embeddings is not None
    assert outputs.embeddings.shape == (2, 10, 8)
    (anchors,) = outputs.auxiliary
    strides = [s for s in (4, 8, 16, 32, 64) if stride <= s < 8 * 2**levels]
    assert anchors.logits.shape == (2, 3 * sum(math.ceil(64 / s) * math.ceil(96 / s) for s in strides), 2)
    assert anchors.masks is None
    for stage in (anchors, outputs):
        assert stage.boxes.shape == (*stage.logits.shape[:2], 4)
        corners = torch.cat([stage.boxes[..., :2] - stage.boxes[..., 2:] / 2, stage.boxes[..., 2:]], -1)
        assert (corners >= -1e-6).all()
        assert (stage.boxes[..., :2] + stage.boxes[..., 2:] / 2 <= 1 + 1e-6).all()
    assert outputs.masks is not None
    assert outputs.masks(torch.tensor([0, 1, 1]), torch.tensor([3, 2, 0])).shape == (3, 16, 24)
    none = torch.zeros(0, dtype=torch.int64)
    assert outputs.masks(none, none).shape == (0, 16, 24)


def test_anchors_sit_on_the_centres_of_their_cells() -> None:
    made = network(levels=2).eval()
    for parameter in made.proposals.bbox_pred.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        boxes = made(images(1)).auxiliary[0].boxes[0] * torch.tensor([96.0, 64, 96, 64])
    # Row 3, column 4 of the first level, which is 12 wide; three anchors of 32 x 32 pixels' area per cell.
    for ratio, box in zip((0.5, 1.0, 2.0), boxes[3 * (3 * 12 + 4) :][:3].tolist(), strict=True):
        assert box == pytest.approx([36, 28, 32 / ratio**0.5, 32 * ratio**0.5], abs=1.0)


def paste_plainly(mask: Tensor, box: list[float], size: tuple[int, int]) -> Tensor:
    """Cell by cell: outside the box nothing, inside the bilinear mean of the four nearest mask cells."""
    drawn = torch.full(size, OUTSIDE)
    m = len(mask)
    for row in range(size[0]):
        for column in range(size[1]):
            x = ((column + 0.5) / size[1] - (box[0] - box[2] / 2)) / box[2]
            y = ((row + 0.5) / size[0] - (box[1] - box[3] / 2)) / box[3]
            if 0 <= x <= 1 and 0 <= y <= 1:
                u, v = min(max(x * m - 0.5, 0), m - 1), min(max(y * m - 0.5, 0), m - 1)
                left, top = min(int(u), m - 2), min(int(v), m - 2)
                a, b = u - left, v - top
                drawn[row, column] = (1 - b) * ((1 - a) * mask[top, left] + a * mask[top, left + 1]) + b * (
                    (1 - a) * mask[top + 1, left] + a * mask[top + 1, left + 1]
                )
    return drawn


def test_masks_are_pasted_where_their_boxes_are() -> None:
    masks = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(0))
    boxes = [[0.4, 0.6, 0.5, 0.3], [0.1, 0.2, 0.2, 0.4], [0.7, 0.45, 0.6, 0.7], [0.5, 0.5, 0.0, 0.0]]
    drawn = paste_masks(masks, torch.tensor(boxes), (16, 24))
    for mask, box, got in zip(masks[:3], boxes[:3], drawn[:3], strict=True):
        expected = paste_plainly(mask, box, (16, 24))
        assert (expected > OUTSIDE).sum() > 20
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0.0)
    assert (drawn[3] == OUTSIDE).all()  # an empty box


def test_pasting_a_mask_passes_its_gradient() -> None:
    masks = torch.zeros(1, 4, 4, requires_grad=True)
    paste_masks(masks, torch.tensor([[0.25, 0.5, 0.5, 1.0]]), (8, 16))[:, :4, :4].sum().backward()
    assert masks.grad is not None
    assert (masks.grad[0, :2, :2] > 0).all()
    assert (masks.grad[0, 3] == 0).all()


def test_masks_are_drawn_for_the_queries_that_were_asked_for() -> None:
    made = network().eval()
    with torch.no_grad():
        outputs = made(images(3))
        assert outputs.masks is not None
        batch, query = torch.tensor([0, 0, 2]), torch.tensor([4, 1, 4])
        together = outputs.masks(batch, query)
        alone = [outputs.masks(batch[i : i + 1], query[i : i + 1])[0] for i in range(3)]
        some = outputs.of_images(torch.tensor([0, 2]))
        assert some.masks is not None
        torch.testing.assert_close(some.masks(torch.tensor([0, 0, 1]), query), together)
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(alone[0], alone[2])
    inside = torch.stack(alone) > OUTSIDE
    cells = outputs.boxes[batch, query, 2:].prod(-1) * 16 * 24
    assert (inside.sum((1, 2)) - cells).abs().max() < 20  # about the box's area


def test_one_image_alone_equals_the_same_in_a_batch_and_again() -> None:
    made = network().eval()
    with torch.no_grad():
        both, again, alone = made(images()), made(images()), made(images()[1:])
    assert torch.equal(both.logits, again.logits)
    torch.testing.assert_close(both.logits[1:], alone.logits, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both.boxes[1:], alone.boxes, atol=1e-5, rtol=1e-4)


def test_padding_is_neither_seen_nor_proposed() -> None:
    made = network(queries=60).eval()
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, 40:] = True
    padding[1, :, 72:] = True
    other = images().masked_fill(padding[:, None], 5.0)
    with torch.no_grad():
        outputs, changed = made(images(), padding), made(other, padding)
        whole, none = made(images()), made(images(), torch.zeros_like(padding))
    assert torch.equal(outputs.logits, changed.logits)
    for stage in (*outputs.auxiliary, outputs):
        found = stage.logits[1].max(-1).values > -1e3
        assert found.any()
        assert stage is outputs or not found.all()
        far = (stage.boxes[1][..., :2] + stage.boxes[1][..., 2:] / 2)[found]
        assert (far <= torch.tensor([72 / 96, 40 / 64]) + 1e-6).all()
    assert torch.equal(whole.logits, none.logits)


def test_without_any_region_the_queries_are_empty_and_finite() -> None:
    """Everything is padding: no anchor is left, and the losses stay finite."""
    made = network().train()
    outputs = made(images(), torch.ones(2, 64, 96, dtype=torch.bool))
    assert (outputs.logits < -1e3).all()
    assert (outputs.boxes[..., 2:] == 0).all()
    losses = supervised_loss(
        outputs, [mask_targets(torch.zeros(0, 16, 24, dtype=torch.bool))] * 2, LossConfig()
    )
    losses["total"].backward()
    assert torch.isfinite(losses["total"])
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in made.parameters())


def targets() -> list[Any]:
    objects = box_targets([[0.3, 0.4, 0.3, 0.4], [0.7, 0.6, 0.4, 0.5]], [0, 1])
    wide = torch.nn.functional.interpolate(objects.masks[:, None].float(), (16, 24))[:, 0] > 0.5
    return [type(objects)(objects.classes, objects.boxes, wide, objects.ids)] * 2


@pytest.mark.parametrize("matching", ["optimal_transport", "hungarian"])
def test_gradients_reach_every_parameter(matching: str) -> None:
    made = network(mask_stride=4, queries=40).train()
    outputs = made(images())
    losses = supervised_loss(outputs, targets(), LossConfig(matching=matching))
    assert losses["masks"] > 0
    assert outputs.embeddings is not None
    matches = match(outputs, targets(), LossConfig(matching))
    (losses["total"] + association_loss(outputs.embeddings, matches, targets())).backward()
    without = [n for n, p in made.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_card_weights_and_segmenter(tmp_path: Path) -> None:
    made = network(classes=("object",), containers=())
    save_model(tmp_path / "m", made, ModelCard("m", made.config, 0.0))
    loaded, card = load_model(tmp_path / "m")
    assert card.network.architecture == "mask_rcnn"
    with torch.no_grad():
        assert torch.equal(loaded(images()).logits, made.eval()(images()).logits)
    segmenter = Segmenter.load(tmp_path / "m", "cpu")
    instances = segmenter(np.random.default_rng(0).integers(0, 255, (50, 90, 3), np.uint8))
    assert instances.label_map.shape == (50, 90)


def test_starts_from_weights_of_its_own_architecture(tmp_path: Path) -> None:
    made = network()
    save_model(tmp_path / "m", made, ModelCard("m", made.config))
    more = network(1, classes=("a", "b", "c"), containers=())
    assert initialise(more, tmp_path / "m") == ["classes", "proposals"]
    assert torch.equal(more.box_features.fc6.weight, made.box_features.fc6.weight)
    with pytest.raises(ModelError, match="architecture mask_rcnn and network"):
        initialise(build_network(tiny_config()), tmp_path / "m")


SMALL = {"architecture": "mask_rcnn", "levels": 2, "queries": 20, "feedforward": 64}


@pytest.mark.slow
def test_it_learns_through_the_same_trainer_as_any_network(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    sections = {"sequences": SequenceConfig(objects=0)}
    steps = {"batch": 4, "learning_rate": 2e-3, "drop_at": 1.0, "decay_from": 0.5, "save_every": 60}

    def metrics(iterations: int) -> dict[str, float]:
        out, validation = tmp_path / str(iterations), {"validation": str(data)}
        config = configure(data, out, SMALL, validation, sections, iterations=iterations, **steps)
        Trainer(config, "rise train").run()
        found = coco_scores(predicted_pairs(out, data))
        return {"ap": found.ap, "ap50": found.ap50}

    assert metrics(1)["ap50"] < 0.1
    learned = metrics(60)
    assert learned["ap50"] > 0.6
    assert learned["ap"] > 0.3


def test_it_takes_all_of_the_method(tmp_path: Path) -> None:
    """Pasted objects, unlabelled images, pseudo-labels: every loss is there, and its gradient finite."""
    data = write_data(tmp_path / "data")
    # So low a threshold that the random start already gives pseudo-labels.
    eager = {"self_supervision": SelfSupervisionConfig(class_threshold=(0.005, 0.005))}
    config = configure(data, tmp_path / "out", SMALL, {"unlabelled": (str(data),)}, eager, iterations=2)
    trainer = Recorder(config, "rise train")
    trainer.run()
    steps = list(trainer.steps.values())
    for name in ("classes", "boxes", "masks", "embeddings", "unlabelled"):
        assert max(losses[name] for losses in steps) > 0, name
    assert all(math.isfinite(losses["optimisation/norm"]) for losses in steps)
