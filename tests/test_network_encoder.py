"""The hybrid encoder: the same tokens out, padding without effect, every level heard, nothing left idle."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import mask_targets, shake, tiny_config
from torch import Tensor

from rise_perception.core.errors import ModelError
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.network.convert import initialise
from rise_perception.network.encoder import HybridEncoder
from rise_perception.network.rise import RiseNetwork
from rise_perception.training.criterion import LossConfig, supervised_loss

SHAPES = [(8, 12), (4, 6), (2, 3)]
SIZES = [h * w for h, w in SHAPES]


def encoder(**changes: object) -> HybridEncoder:
    torch.manual_seed(0)
    made = HybridEncoder(tiny_config(encoder="hybrid", **changes)).eval()
    shake(made)
    return made


def tokens(count: int = sum(SIZES)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, count, 32, generator=generator), torch.randn(2, count, 32, generator=generator)


def encode(made: HybridEncoder, memory: Tensor, position: Tensor, padding: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return made(memory, position, torch.ones(2, len(SHAPES), 2), SHAPES, padding)


def test_each_level_hears_of_all_others() -> None:
    memory, position = tokens()
    made = encoder()
    before = encode(made, memory, position)
    assert before.shape == memory.shape
    starts = [0, SIZES[0], sum(SIZES[:2]), sum(SIZES)]
    for source in range(3):
        changed = memory.clone()
        changed[:, starts[source] : starts[source + 1]] += 1.0
        moved = (encode(made, changed, position) - before).abs()
        for level in range(3):
            assert moved[:, starts[level] : starts[level + 1]].max() > 1e-3, (source, level)
    # Position matters where tokens attend to each other, and only there.
    assert not torch.allclose(encode(made, memory, position * 2), before)
    elsewhere = position.clone()
    elsewhere[:, : starts[2]] += 1.0
    torch.testing.assert_close(encode(made, memory, elsewhere), before)


def test_what_lies_in_the_padding_changes_nothing() -> None:
    memory, position = tokens()
    padded = []
    for h, w in SHAPES:
        level = torch.zeros(2, h, w, dtype=torch.bool)
        level[1, h // 2 :] = True
        level[1, :, w - w // 3 :] = True
        padded.append(level.flatten(1))
    padding = torch.cat(padded, 1)
    made = encoder()
    before = encode(made, memory, position, padding)
    noise = torch.where(padding[..., None], torch.randn_like(memory) * 9, memory)
    torch.testing.assert_close(encode(made, noise, position, padding), before)
    assert not torch.allclose(encode(made, noise, position), encode(made, memory, position))
    torch.testing.assert_close(before[:1], encode(made, memory, position)[:1])  # nothing is padded there


@pytest.mark.parametrize("size", [(64, 96), (104, 72), (40, 200), (72, 64)])
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_levels_of_any_size_fit(size: tuple[int, int], levels: int) -> None:
    network = RiseNetwork(tiny_config(encoder="hybrid", levels=levels, image_size=size)).eval()
    with torch.no_grad():
        outputs = network(torch.randn(1, 3, *size))
        assert torch.isfinite(outputs.boxes).all()
        masks = outputs.masks(torch.tensor([0]), torch.tensor([1]))
    assert masks.shape == (1, -(-size[0] // 4), -(-size[1] // 4))


def test_a_backbone_that_rounds_down_fits() -> None:
    """ConvNeXt's levels of a 104 pixels high image are 13, 6 and 3 high; a convolution would say 13, 7, 4."""
    arguments = {"dims": [16, 16, 16, 16], "depths": [1, 1, 1, 1]}
    network = RiseNetwork(tiny_config(encoder="hybrid", backbone="convnext_tiny", backbone_args=arguments))
    images = torch.randn(1, 3, 104, 104)
    assert [m.shape[-1] for m in network.backbone(images)] == [13, 6, 3]
    assert torch.isfinite(network(images).logits).all()


@pytest.mark.parametrize("selection", ["learned", "dense"])
def test_the_loss_reaches_every_parameter(selection: str) -> None:
    torch.manual_seed(0)
    changes = {"encoder": "hybrid", "encoder_layers": 2, "query_selection": selection, "mask_stride": 4}
    network = RiseNetwork(tiny_config(**changes))
    shake(network)
    outputs = network.train()(torch.randn(2, 3, 64, 96))
    masks = torch.zeros(2, 16, 24, dtype=torch.bool)
    masks[0, 2:7, 3:9] = masks[1, 8:14, 12:20] = True
    targets = [mask_targets(masks)] * 2
    (supervised_loss(outputs, targets, LossConfig())["total"] + outputs.embeddings.sum()).backward()
    idle = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert idle == []


def test_it_is_part_of_the_model_on_disk(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = RiseNetwork(tiny_config(encoder="hybrid")).eval()
    shake(network)
    save_model(tmp_path / "hybrid", network, ModelCard("hybrid", network.config))
    again, card = load_model(tmp_path / "hybrid")
    assert card.network.encoder == "hybrid"
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(again(images).boxes, network(images).boxes)
    with pytest.raises(ModelError, match=r"has encoder hybrid and network\.encoder is deformable"):
        initialise(RiseNetwork(tiny_config()), tmp_path / "hybrid")
