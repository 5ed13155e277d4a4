"""Our network against transformers' Deformable DETR: copied weights, same input, same outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import shake, tiny_config
from torch import Tensor
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig

from rise_perception.network.convert import initialise
from rise_perception.network.rise import RiseNetwork

TIMM = {"model_type": "timm_backbone", "backbone": "resnet18", "out_indices": [2, 3, 4]}
OWN = ResNetConfig(
    layer_type="basic",
    embedding_size=64,
    depths=[1, 1, 1, 1],
    hidden_sizes=[64, 16, 24, 32],
    out_features=["stage2", "stage3", "stage4"],
)


def theirs(**changes: Any) -> DeformableDetrForObjectDetection:
    torch.manual_seed(0)
    config = DeformableDetrConfig(
        **{
            "backbone_config": OWN,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 3,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_n_points": 3,
            "decoder_n_points": 3,
            "num_queries": 7,
            "num_labels": 2,
            "with_box_refine": True,
        }
        | changes
    )
    model = DeformableDetrForObjectDetection(config).eval()
    shake(model)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model


def ours(folder: Path, **changes: Any) -> RiseNetwork:
    values = {
        "backbone_args": {"channels": [64, 16, 24, 32], "layers": [1, 1, 1, 1]},
        "frozen_norm": True,
        "levels": 4,
        "points": 3,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "feedforward": 48,
        "queries": 7,
    }
    network = RiseNetwork(tiny_config(**(values | changes)))
    untouched = initialise(network, folder)
    assert untouched == ["contrastive", "mask_features", "mask_head"]
    return network.eval()


class Trace:
    """What a module returned, in the order of its calls."""

    def __init__(self, *modules: torch.nn.Module) -> None:
        self.outputs: list[Tensor] = []
        for module in modules:
            module.register_forward_hook(lambda _m, _i, output: self.outputs.append(output))


def padded_images() -> tuple[Tensor, Tensor]:
    """Images (2, 3, 64, 96), the second of which fills only a part, and its padding (True outside)."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 64, 96, generator=generator)
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, 45:] = True
    padding[1, :, 70:] = True
    return images.masked_fill(padding[:, None], 0.0), padding


def compare(model: DeformableDetrForObjectDetection, network: RiseNetwork, padding: Tensor | None) -> None:
    images, _ = padded_images()
    encoder, decoder = Trace(network.encoder[-1]), Trace(*network.decoder)
    with torch.no_grad():
        expected = model(images, pixel_mask=None if padding is None else (~padding).long())
        got = network(images, padding)
    close = {"atol": 1e-4, "rtol": 0.0}
    torch.testing.assert_close(encoder.outputs[0], expected.encoder_last_hidden_state, **close)
    torch.testing.assert_close(torch.stack(decoder.outputs, 1), expected.intermediate_hidden_states, **close)
    torch.testing.assert_close(got.logits, expected.logits, **close)
    # Their boxes are fractions of the valid region, ours of the whole input.
    fraction = torch.ones(2, 2)
    if padding is not None:
        valid = ~padding[:, ::8, ::8]  # stride of the finest level
        fraction = torch.stack([valid[:, 0].float().mean(-1), valid[:, :, 0].float().mean(-1)], -1)
        assert (fraction[1] < 1).all()
    stages = [*got.auxiliary, got]
    for stage, boxes in zip(stages, expected.intermediate_reference_points.unbind(1), strict=True):
        torch.testing.assert_close(stage.boxes / fraction.repeat(1, 2)[:, None], boxes, **close)
    torch.testing.assert_close(got.boxes / fraction.repeat(1, 2)[:, None], expected.pred_boxes, **close)
    assert expected.pred_boxes.std() > 0.01  # not all alike: the comparison can fail


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
def test_same_outputs_as_transformers(tmp_path: Path, padded: bool) -> None:
    model = theirs()
    model.save_pretrained(tmp_path)
    compare(model, ours(tmp_path), padded_images()[1] if padded else None)


def test_same_outputs_with_a_timm_backbone(tmp_path: Path) -> None:
    model = theirs(backbone_config=TIMM)
    model.save_pretrained(tmp_path)
    compare(model, ours(tmp_path, backbone_args={}), padded_images()[1])


def test_without_box_refinement_the_first_layer_is_theirs(tmp_path: Path) -> None:
    """Their one box head sees each query's own point; ours refines, so only the first layer can agree."""
    model = theirs(with_box_refine=False)
    model.save_pretrained(tmp_path)
    network = ours(tmp_path)
    images, padding = padded_images()
    encoder, decoder = Trace(network.encoder[-1]), Trace(*network.decoder)
    with torch.no_grad():
        expected = model(images, pixel_mask=(~padding).long())
        got = network(images, padding)
        reference = torch.special.logit(expected.init_reference_points)
        delta = model.bbox_embed[0](expected.intermediate_hidden_states[:, 0])
        delta[..., :2] += reference
    torch.testing.assert_close(encoder.outputs[0], expected.encoder_last_hidden_state, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        decoder.outputs[0], expected.intermediate_hidden_states[:, 0], atol=1e-4, rtol=0
    )
    torch.testing.assert_close(got.auxiliary[0].boxes[0], delta.sigmoid()[0], atol=1e-4, rtol=0)
    # The later layers start by keeping the first one's boxes.
    torch.testing.assert_close(got.boxes, got.auxiliary[0].boxes, atol=1e-5, rtol=0)
