"""Mask head, position encoding, depth features and the contract of the whole network."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import shake, tiny_config
from torch import Tensor

from rise_perception.core.errors import ConfigError
from rise_perception.network.backbone import Backbone
from rise_perception.network.inputs import MEAN, depth_features, make_input
from rise_perception.network.mask_head import COORDINATE_UNIT, DynamicMaskHead
from rise_perception.network.position import sine_encoding, whole_encoding
from rise_perception.network.rise import RiseNetwork
from rise_perception.network.transformer import encoder_reference, inverse_sigmoid


def masks_by_convolution(
    head: DynamicMaskHead, query: Tensor, centre: Tensor, features: Tensor, size: tuple[int, int]
) -> Tensor:
    """Query by query: stack the relative coordinates on the features, then three 1x1 convolutions."""
    channels, h, w = features.shape
    masks = []
    for q, c in zip(query, centre, strict=True):
        numbers = head.controller(q).tolist()
        relative = torch.zeros(2, h, w)
        for row in range(h):
            for column in range(w):
                relative[0, row, column] = (column + 0.5) * size[1] / w - c[0] * size[1]
                relative[1, row, column] = (row + 0.5) * size[0] / h - c[1] * size[0]
        x = torch.cat([features, relative / COORDINATE_UNIT])[None]
        for out, inp in ((channels, channels + 2), (channels, channels), (1, channels)):
            weight = torch.tensor(numbers[: out * inp]).view(out, inp, 1, 1)
            bias = torch.tensor(numbers[out * inp : out * inp + out])
            numbers = numbers[out * inp + out :]
            x = F.conv2d(x, weight, bias)
            x = x if out == 1 else F.relu(x)
        assert not numbers
        masks.append(x[0, 0])
    return torch.stack(masks)


def test_mask_head_equals_per_query_convolutions() -> None:
    torch.manual_seed(0)
    head = DynamicMaskHead(tiny_config())
    assert head.parameters_per_query == 169  # the paper's number
    shake(head, 0.2)
    query, centre, features = torch.randn(5, 32), torch.rand(5, 2), torch.randn(8, 6, 9)
    with torch.no_grad():
        got = head(query, centre, features, (48, 72))
        expected = masks_by_convolution(head, query, centre, features, (48, 72))
    assert expected.std() > 0.1
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
    assert head(query[:0], centre[:0], features, (48, 72)).shape == (0, 6, 9)


def test_masks_are_drawn_for_the_queries_that_were_asked_for() -> None:
    torch.manual_seed(0)
    network = RiseNetwork(tiny_config()).eval()
    shake(network)
    with torch.no_grad():
        outputs = network(torch.randn(3, 3, 64, 96))
        batch, query = torch.tensor([0, 0, 2]), torch.tensor([4, 1, 4])
        together = outputs.masks(batch, query)
        alone = [outputs.masks(batch[i : i + 1], query[i : i + 1])[0] for i in range(3)]
    torch.testing.assert_close(together, torch.stack(alone))
    assert not torch.allclose(alone[0], alone[2])


@pytest.mark.parametrize("selection", ["learned", "dense"])
@pytest.mark.parametrize("stride", [4, 8])
def test_shapes_and_ranges_of_the_outputs(selection: str, stride: int) -> None:
    torch.manual_seed(0)
    config = tiny_config(query_selection=selection, mask_stride=stride)
    network = RiseNetwork(config).eval()
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, 40:] = True
    with torch.no_grad():
        outputs = network(torch.randn(2, 3, 64, 96), padding)
    assert outputs.logits.shape == (2, 10, 2)
    assert outputs.boxes.shape == (2, 10, 4)
    assert outputs.embeddings is not None
    assert outputs.embeddings.shape == (2, 10, 8)
    assert len(outputs.auxiliary) == (1 if selection == "learned" else 2)
    for stage in [*outputs.auxiliary, outputs]:
        assert ((stage.boxes >= 0) & (stage.boxes <= 1)).all()
        assert stage.masks(torch.tensor([0, 1]), torch.tensor([3, 2])).shape == (2, 16, 24)
    # Nothing is looked for where the image is padding.
    assert (outputs.boxes[1, :, 1] <= 40 / 64).all()
    if selection == "dense":
        assert outputs.auxiliary[0].logits.shape == (2, 8 * 12 + 4 * 6 + 2 * 3, 2)


def test_one_image_alone_equals_the_same_in_a_batch() -> None:
    torch.manual_seed(0)
    for selection in ("learned", "dense"):
        network = RiseNetwork(tiny_config(query_selection=selection)).eval()
        shake(network)
        images = torch.randn(2, 3, 64, 96)
        with torch.no_grad():
            both, alone = network(images), network(images[1:])
        torch.testing.assert_close(both.logits[1:], alone.logits, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(both.boxes[1:], alone.boxes, atol=1e-5, rtol=1e-4)


def test_no_padding_is_the_same_as_none() -> None:
    torch.manual_seed(0)
    network = RiseNetwork(tiny_config(query_selection="dense")).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        without, empty = network(images), network(images, torch.zeros(1, 64, 96, dtype=torch.bool))
    torch.testing.assert_close(without.boxes, empty.boxes)


def test_frozen_norms_do_not_learn_and_fresh_ones_do() -> None:
    images = torch.randn(2, 3, 64, 96) + 1.0
    for frozen in (True, False):
        network = RiseNetwork(tiny_config(frozen_norm=frozen)).train()
        before = network.state_dict()["backbone.body.bn1.running_mean"].clone()
        network(images)
        assert torch.equal(network.state_dict()["backbone.body.bn1.running_mean"], before) == frozen
        trained = {n for n, _ in network.named_parameters() if n.startswith("backbone.body.bn1")}
        assert bool(trained) != frozen


def test_a_swin_backbone_takes_the_configured_image_size() -> None:
    arguments = {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 3, 4]}
    backbone = Backbone(tiny_config(backbone="swin_tiny_patch4_window7_224", backbone_args=arguments))
    maps = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(1, 48, 8, 12), (1, 96, 4, 6), (1, 192, 2, 3)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "resnet1"}, ["resnet1", "timm"]),
        ({"backbone_args": {"bananas": 1}}, ["bananas"]),
        ({"backbone_args": {"channels": 3}}, ["backbone_args"]),
        ({"backbone": "vit_tiny_patch16_224", "backbone_args": {}}, ["strides", "missing"]),
    ],
)
def test_a_backbone_that_does_not_work_is_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        RiseNetwork(tiny_config(**changes))
    assert all(word in str(error.value) for word in words)


def test_sine_encoding_places_cells_within_the_valid_region() -> None:
    full = torch.ones(1, 6, 8, dtype=torch.bool)
    encoding = sine_encoding(full, 16)
    assert encoding.shape == (1, 6, 8, 16)
    # First half y, second half x.
    assert torch.equal(encoding[0, :, 0, :8], encoding[0, :, 7, :8])
    assert torch.equal(encoding[0, 0, :, 8:], encoding[0, 5, :, 8:])
    # The first channel of each half turns once over the region, from half a cell in.
    torch.testing.assert_close(encoding[0, 0, 0, 8], torch.tensor(math.sin(2 * math.pi * 0.5 / 8)))
    torch.testing.assert_close(encoding[0, 3, 0, 1], torch.tensor(math.cos(2 * math.pi * 3.5 / 6)))
    # A padded region is encoded as if it were the whole.
    part = torch.zeros(1, 9, 11, dtype=torch.bool)
    part[:, :6, :8] = True
    torch.testing.assert_close(sine_encoding(part, 16)[:, :6, :8], encoding)


def test_encoder_reference_points_at_each_token_on_its_own_level() -> None:
    shapes = [(4, 6), (2, 3)]
    ratios = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.5, 0.75], [2 / 3, 1.0]]])
    points = encoder_reference(shapes, ratios)
    assert points.shape == (2, 30, 2, 2)
    torch.testing.assert_close(points[0, 7, 0], torch.tensor([1.5 / 6, 1.5 / 4]))  # row 1, column 1
    torch.testing.assert_close(points[1, 7, 0], torch.tensor([1.5 / 6, 1.5 / 4]))
    # On the coarser level the same place is scaled to that level's valid fraction.
    torch.testing.assert_close(points[1, 7, 1], torch.tensor([1.5 / 6 / 0.5 * 2 / 3, 1.5 / 4 / 0.75]))


def test_inverse_sigmoid_inverts_and_stays_finite() -> None:
    x = torch.tensor([0.0, 1e-9, 0.2, 0.5, 0.999, 1.0])
    y = inverse_sigmoid(x)
    assert y.isfinite().all()
    torch.testing.assert_close(y.sigmoid()[2:5], x[2:5])


# ---- input representation ----


def test_rgb_is_normalised_and_rgbd_needs_depth() -> None:
    image = np.full((5, 7, 3), (124, 116, 104), np.uint8)
    out = make_input(image, None, "rgb")
    assert out.shape == (3, 5, 7)
    assert out.dtype == np.float32
    np.testing.assert_allclose(
        out[:, 0, 0], (np.array([124, 116, 104]) / 255 - MEAN) / [0.229, 0.224, 0.225], atol=1e-5
    )
    with pytest.raises(ConfigError, match="needs a depth map"):
        make_input(image, None, "rgbd")
    with pytest.raises(ConfigError, match="unknown"):
        make_input(image, None, "thermal")


def scene_depth() -> np.ndarray:
    rng = np.random.default_rng(0)
    depth = (1.0 + 0.2 * rng.random((40, 60))).astype(np.float32)
    depth[10:20, 10:25] -= 0.15
    return depth


def test_depth_features_see_no_unit_and_no_distance() -> None:
    depth = scene_depth()
    for factor in (0.001, 0.5, 1000.0):
        for got, expected in zip(
            depth_features(depth * np.float32(factor)), depth_features(depth), strict=True
        ):
            np.testing.assert_allclose(got, expected, atol=2e-4)
    relative, high_pass, valid = depth_features(depth)
    assert abs(np.median(relative)) < 1e-6
    assert relative[12:18, 12:22].mean() < relative[25:, 30:].mean() - 0.3  # nearer is smaller
    assert high_pass[11:19, 11:24].mean() < 0
    assert (valid == 1).all()
    assert all(f.dtype == np.float32 for f in (relative, high_pass, valid))


@pytest.mark.parametrize("nothing", [0.0, np.nan, np.inf, -np.inf, -1.0])
def test_holes_are_zero_and_pull_nothing(nothing: float) -> None:
    depth = scene_depth()
    holed = depth.copy()
    holed[5:9, 40:50] = nothing
    features = depth_features(holed)
    assert all(np.isfinite(f).all() for f in features)
    assert all((f[5:9, 40:50] == 0).all() for f in features)
    # Away from the hole everything stays as it is without one, but for the median.
    np.testing.assert_allclose(features[1][20:, :30], depth_features(depth)[1][20:, :30], atol=0.05)


def test_depth_without_any_measurement_is_all_zero() -> None:
    for value in (0.0, np.nan):
        assert all((f == 0).all() for f in depth_features(np.full((4, 6), value, np.float32)))


def test_the_kept_encoding_is_the_computed_one_and_survives_a_trace_and_a_prediction() -> None:
    size, cpu = (7, 9), torch.device("cpu")  # a size that no other test uses

    class Encode(torch.nn.Module):
        def forward(self, level: torch.Tensor) -> torch.Tensor:
            return level + whole_encoding(size, 16, level.device)

    level = torch.zeros(1, *size, 16)
    computed = sine_encoding(torch.ones(1, *size, dtype=torch.bool), 16)
    exported = torch.export.export(Encode(), (level,))
    torch.testing.assert_close(exported.module()(level), computed, rtol=0, atol=0)
    with torch.inference_mode():
        first = whole_encoding(size, 16, cpu)
    assert torch.equal(first, computed)
    assert whole_encoding(size, 16, cpu) is first
    weight = torch.ones((), requires_grad=True)
    (weight * whole_encoding(size, 16, cpu)).sum().backward()  # no tensor of the inference mode
    assert weight.grad is not None
