"""Input representations: what the backbone sees, where weights start, and the same in the exported graph."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import shake, tiny_config

from rise_perception.core.errors import ConfigError
from rise_perception.network.build import build_network
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import save_model
from rise_perception.network.config import INPUT_CHANNELS, REPRESENTATIONS, NetworkConfig
from rise_perception.network.convert import initialise
from rise_perception.network.inputs import make_input
from rise_perception.network.representation import (
    GREY_MEAN,
    GREY_STD,
    MAX_FOREGROUND_PARAMETERS,
    ForegroundNetwork,
    InputRepresentation,
    adapt_first_weights,
)

NEW = [name for name in REPRESENTATIONS if name not in ("rgb", "rgbd")]


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)


@pytest.mark.parametrize("name", NEW)
def test_the_backbone_sees_what_the_table_says(name):
    config = tiny_config(input=name)
    represent = InputRepresentation(config)
    seen = represent(torch.randn(2, INPUT_CHANNELS[name], 64, 96))
    assert seen.shape == (2, len(REPRESENTATIONS[name]), 64, 96)
    assert config.sees_depth == name.endswith("d")
    assert config.sees_foreground == ("m" in name)


def test_grey_and_lightness_are_those_of_opencv():
    image = picture()
    seen = InputRepresentation(tiny_config(input="gl"))(torch.from_numpy(make_input(image, None, "gl"))[None])
    grey, lightness = (seen[0] * GREY_STD + GREY_MEAN).numpy()
    floats = image.astype(np.float32) / 255
    assert np.abs(grey - cv2.cvtColor(floats, cv2.COLOR_RGB2GRAY)).max() < 1e-3
    assert np.abs(lightness - cv2.cvtColor(floats, cv2.COLOR_RGB2LAB)[..., 0] / 100).max() < 2e-3


def test_a_foreground_network_is_small_and_frozen():
    for channels in (3, 6):
        count = sum(p.numel() for p in ForegroundNetwork(channels).parameters())
        assert count <= MAX_FOREGROUND_PARAMETERS
    network = build_network(tiny_config(input="rgbm"))
    frozen = [n for n, p in network.named_parameters() if not p.requires_grad]
    assert frozen
    assert all("represent.foreground" in n for n in frozen)


def test_what_is_given_takes_the_place_of_m():
    represent = InputRepresentation(tiny_config(input="rgbm"))
    images = torch.randn(1, 3, 64, 96)
    own = represent(images)
    represent.given = torch.full((1, 1, 64, 96), 0.25)
    assert torch.equal(represent(images)[:, 3:], represent.given)
    represent.given = None
    assert torch.equal(represent(images), own)
    assert 0 <= own[:, 3].min() <= own[:, 3].max() <= 1


@pytest.mark.parametrize(
    ("source", "target"), [("rgb", "rgbm"), ("rgb", "rgbd"), ("gl", "glm"), ("rgbd", "rgbd")]
)
def test_a_network_that_sees_more_starts_with_the_function_of_its_source(tmp_path: Path, source, target):
    torch.manual_seed(0)
    kind = {"classes": ("object",), "containers": (), "query_selection": "dense", "mask_stride": 4}
    old = build_network(tiny_config(input=source, **kind)).eval()
    shake(old)
    save_model(tmp_path, old, ModelCard("start", old.config))
    new = build_network(tiny_config(input=target, **kind))
    initialise(new, tmp_path)
    image, depth = picture(), np.full((64, 96), 0.9, np.float32)
    with torch.no_grad():
        before = old(torch.from_numpy(make_input(image, depth, source))[None])
        after = new.eval()(torch.from_numpy(make_input(image, depth, target))[None])
    assert torch.allclose(before.logits, after.logits, atol=1e-5)
    assert torch.allclose(before.boxes, after.boxes, atol=1e-5)


def test_a_shipped_model_starts_one_that_sees_m():
    from rise_perception.core.resources import find
    from rise_perception.network.checkpoint import load_model

    old, card = load_model(find("models") / "rise_small_rgb")
    changed = {**card.network.__dict__, "input": "rgbm"}
    new = build_network(NetworkConfig(**changed))
    assert initialise(new, find("models") / "rise_small_rgb") == []
    image = torch.from_numpy(make_input(cv2.resize(picture(), (320, 240)), None, "rgb"))[None]
    with torch.no_grad():
        assert torch.allclose(old(image).logits, new.eval()(image).logits, atol=1e-4)


@pytest.mark.parametrize("target", ["g", "l", "gl", "glm"])
def test_of_a_grey_picture_grey_weights_see_what_rgb_weights_saw(target):
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    grey = np.repeat(np.random.default_rng(1).integers(0, 256, (32, 32, 1), np.uint8), 3, 2)
    images = torch.from_numpy(make_input(grey, None, "rgb")).double()[None]
    value = torch.from_numpy(grey[..., 0].astype(np.float64))[None, None] / 255
    seen = torch.zeros(1, len(REPRESENTATIONS[target]), 32, 32, dtype=torch.float64)
    seen[:, 0] = ((value - GREY_MEAN) / GREY_STD)[:, 0]
    before = torch.nn.functional.conv2d(images, weight)
    after = torch.nn.functional.conv2d(seen, adapt_first_weights(weight, "rgb", target))
    # Their means differ a little from channel to channel: a constant for each output, which a norm takes out.
    rest = before - after
    assert (rest - rest.mean((0, 2, 3), keepdim=True)).abs().max() < 1e-5


def test_an_unknown_representation_is_named():
    with pytest.raises(ConfigError, match="'xyz'"):
        tiny_config(input="xyz")


@pytest.mark.slow
@pytest.mark.parametrize("name", NEW)
def test_the_exported_graph_of_each_representation_agrees_with_torch(tmp_path: Path, name):
    pytest.importorskip("onnx", reason="onnx is not installed; pip install 'rise_perception[deploy]'")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; pip install onnxruntime")
    from rise_perception.inference.engines.feeds import stored_frames
    from rise_perception.inference.engines.onnx_export import export_onnx
    from rise_perception.inference.engines.spec import ExportSpec

    torch.manual_seed(0)
    network = build_network(tiny_config(input=name, query_selection="dense", mask_stride=4)).eval()
    shake(network)
    card = ModelCard("tiny", network.config, score_threshold=0.0, checksum="0123456789abcdef" * 4)
    spec = ExportSpec((64, 96), (100, 110), 7, "fp32", "inside")
    parity = export_onnx(network, card, spec, tmp_path / "tiny.onnx", stored_frames(spec.image, 2))
    assert parity.mask_iou >= 0.99
