"""Starting weights: the published Deformable DETR layout, two-stage models, our own, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_network_parity import TIMM, ours, theirs
from tiny import shake, tiny_config

from rise_perception.core.errors import ModelError
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import save_model
from rise_perception.network.config import NetworkConfig
from rise_perception.network.convert import initialise
from rise_perception.network.rise import RiseNetwork

SHAPE = {
    "backbone_args": {"channels": [64, 16, 24, 32], "layers": [1, 1, 1, 1]},
    "frozen_norm": True,
    "levels": 4,
    "points": 3,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "feedforward": 48,
    "queries": 7,
}


def network_like(**changes: Any) -> RiseNetwork:
    return RiseNetwork(tiny_config(**(SHAPE | changes)))


def refuse(network: RiseNetwork, source: Path, *words: str) -> None:
    """The source is refused with a message that has these words, and nothing is loaded."""
    before = {n: t.clone() for n, t in network.state_dict().items()}
    with pytest.raises(ModelError) as error:
        initialise(network, source)
    for word in words:
        assert word in str(error.value)
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    theirs().save_pretrained(tmp_path / "detr")
    return tmp_path / "detr"


def test_the_published_layout(tmp_path: Path) -> None:
    """SenseTime's files: timm's names, a head of its own per layer under two names, batch counters."""
    model = theirs(backbone_config=TIMM)
    model.save_pretrained(tmp_path / "new")
    state = load_file(tmp_path / "new/model.safetensors")
    for name in [n for n in state if ".bbox_embed." in n]:
        state[name.removeprefix("model.decoder.")] = state[name].clone()
    for layer in (1, 2):
        for kind in ("weight", "bias"):
            state[f"class_embed.{layer}.{kind}"] = state[f"class_embed.0.{kind}"] + layer
    state["model.backbone.conv_encoder.model.bn1.num_batches_tracked"] = torch.tensor(7)
    config = json.loads((tmp_path / "new/config.json").read_text())
    del config["backbone_config"]
    config |= {"backbone": "resnet18", "use_timm_backbone": True, "transformers_version": "4.22.0"}
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "old/model.safetensors")
    assert any(n.startswith("model.backbone.conv_encoder.model.layer4.") for n in state)
    assert "model.decoder.layers.0.self_attn.out_proj.weight" in state
    assert "model.decoder.layers.0.fc1.weight" in state
    new = ours(tmp_path / "new", backbone_args={}).state_dict()
    old = ours(tmp_path / "old", backbone_args={}).state_dict()
    for name in new:
        same = not name.startswith(("class_heads.", "contrastive.", "mask_")) or name.startswith(
            "class_heads.0."
        )
        assert not same or torch.equal(old[name], new[name]), name
    torch.testing.assert_close(old["class_heads.2.bias"], state["class_embed.0.bias"] + 2)


def test_other_classes_keep_the_class_head(checkpoint: Path) -> None:
    network = network_like(classes=("container", "object", "hand"))
    head = network.class_heads[0].weight.clone()
    assert "class_heads" in initialise(network, checkpoint)
    assert torch.equal(network.class_heads[0].weight, head)


def test_depth_channels_begin_without_effect(checkpoint: Path) -> None:
    colour, both = network_like().eval(), network_like(input="rgbd").eval()
    initialise(colour, checkpoint)
    initialise(both, checkpoint)
    images = torch.randn(1, 6, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(both(images).logits, colour(images[:, :3]).logits)
    assert both.backbone.body.conv1.weight.requires_grad


def test_two_stage_starts_dense_queries(tmp_path: Path) -> None:
    theirs(two_stage=True).save_pretrained(tmp_path)
    network = network_like(query_selection="dense")
    assert initialise(network, tmp_path) == ["box_position", "contrastive", "mask_features", "mask_head"]
    state = load_file(tmp_path / "model.safetensors")
    for ours_name, theirs_name in (
        ("dense_norm.0.weight", "model.enc_output.weight"),
        ("dense_norm.1.bias", "model.enc_output_norm.bias"),
        ("dense_box.layers.2.weight", "model.decoder.bbox_embed.3.layers.2.weight"),
        ("dense_class.weight", "model.decoder.class_embed.3.weight"),
        ("box_heads.2.layers.0.bias", "model.decoder.bbox_embed.2.layers.0.bias"),
    ):
        assert torch.equal(network.state_dict()[ours_name], state[theirs_name]), ours_name
    # With learned queries the rest still serves.
    learned = network_like()
    assert {"query_embed", "reference_points"} <= set(initialise(learned, tmp_path))
    assert torch.equal(learned.encoder[0].norm.weight, network.encoder[0].norm.weight)


def test_from_a_model_of_this_package(tmp_path: Path) -> None:
    source = RiseNetwork(tiny_config())
    shake(source)
    save_model(tmp_path, source, ModelCard("first", source.config))
    same = RiseNetwork(tiny_config())
    assert initialise(same, tmp_path) == []
    assert all(torch.equal(t, same.state_dict()[n]) for n, t in source.state_dict().items())
    wider = RiseNetwork(tiny_config(classes=("a", "b", "c"), containers=(), queries=11, input="rgbd"))
    assert initialise(wider, tmp_path) == ["class_heads", "query_embed"]
    assert torch.equal(wider.contrastive.layers[0].weight, source.contrastive.layers[0].weight)
    refuse(
        RiseNetwork(tiny_config(decoder_layers=1)),
        tmp_path,
        "decoder_layers 2",
        "network.decoder_layers is 1",
    )


def test_another_transformer_is_refused(checkpoint: Path) -> None:
    refuse(network_like(heads=2), checkpoint, "heads 4", "network.heads is 2")
    refuse(network_like(width=64), checkpoint, "width 32", "network.width is 64")
    refuse(network_like(levels=3), checkpoint, "levels 4", "network.levels is 3")


def test_another_backbone_is_refused(checkpoint: Path) -> None:
    refuse(
        network_like(backbone_args={"channels": [64, 16, 24, 48], "layers": [1, 1, 1, 1]}),
        checkpoint,
        "backbone.body.layer4",
    )
    refuse(
        network_like(backbone_args={"channels": [64, 16, 24, 32], "layers": [1, 1, 1, 2]}),
        checkpoint,
        "layer4.1",
        "absent",
    )


def test_a_pickle_is_refused_with_the_remedy(checkpoint: Path) -> None:
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    refuse(network_like(), checkpoint, "pytorch_model.bin", "never loaded", "save_pretrained")


def test_missing_and_damaged_files_are_named(checkpoint: Path, tmp_path: Path) -> None:
    network = network_like()
    refuse(network, tmp_path / "nowhere", "nowhere", "config.json")
    weights = checkpoint / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    refuse(network, checkpoint, "model.safetensors", "copy it again")
    weights.unlink()
    refuse(network, checkpoint, "model.safetensors")
    (checkpoint / "config.json").write_text("{")
    refuse(network, checkpoint, "config.json", "JSON")
    (checkpoint / "config.json").write_text("[]")
    refuse(network, checkpoint, "config.json", "JSON")


def test_a_checkpoint_without_some_weight_is_refused(checkpoint: Path) -> None:
    state = load_file(checkpoint / "model.safetensors")
    del state["model.encoder.layers.1.self_attn.value_proj.weight"]
    save_file(state, checkpoint / "model.safetensors")
    refuse(network_like(), checkpoint, "encoder.1.self_attn.value_proj.weight is absent")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "detr"}, ["model_type", "detr"]),
        ({"dilation": True}, ["dilation"]),
        ({"position_embedding_type": "learned"}, ["position_embedding_type", "learned"]),
        ({"num_feature_levels": 1}, ["one feature level"]),
        ({"d_model": None}, ["width None"]),
    ],
)
def test_what_cannot_be_converted_is_named(
    checkpoint: Path, change: dict[str, Any], words: list[str]
) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    refuse(network_like(), checkpoint, *words)


def test_the_weights_file_itself_can_be_named(checkpoint: Path) -> None:
    by_file, by_folder = network_like(), network_like()
    initialise(by_file, checkpoint / "model.safetensors")
    initialise(by_folder, checkpoint)
    assert torch.equal(by_file.level_embed, by_folder.level_embed)


def test_the_defaults_are_the_published_shape() -> None:
    """`network:` left empty in a training configuration takes SenseTime's checkpoints as they are."""
    config = NetworkConfig()
    shape = (config.backbone, config.levels, config.width, config.heads, config.points, config.feedforward)
    assert shape == ("resnet50", 4, 256, 8, 4, 1024)
    assert (config.encoder_layers, config.decoder_layers, config.queries) == (6, 6, 300)
