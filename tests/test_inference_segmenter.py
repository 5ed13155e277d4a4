"""The segmenter: any image in, instances in its own pixels out; depth decides between the pair of models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import shake, tiny_config

from rise_perception.core.errors import ConfigError, ImageError, ModelError
from rise_perception.inference import segmenter as module
from rise_perception.inference.device import choose_device
from rise_perception.inference.segmenter import AUTO_COLOUR, AUTO_DEPTH, Segmenter, find_model
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import save_model
from rise_perception.network.rise import RiseNetwork

Scene = tuple[np.ndarray, np.ndarray]


def save_lively(folder: Path, kind: str) -> Path:
    """A model with random weights that finds something everywhere, and more where there is more to see."""
    torch.manual_seed(0)
    network = RiseNetwork(tiny_config(input=kind, classes=("object",), containers=(), mask_stride=4))
    shake(network, 0.05)
    with torch.no_grad():
        network.mask_head.controller.layers[-1].bias[-1] = 2.0  # the last of the masks' own biases
        network.contrastive.layers[-1].weight.mul_(10)
    save_model(folder, network, ModelCard(folder.name, network.config, score_threshold=0.0))
    return folder


@pytest.fixture(scope="module")
def colour_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lively(tmp_path_factory.mktemp("models") / "rgb", "rgb")


@pytest.fixture(scope="module")
def depth_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lively(tmp_path_factory.mktemp("models") / "rgbd", "rgbd")


@pytest.fixture
def shipped(tmp_path: Path, colour_model: Path, depth_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder with tiny models in place of the shipped pair."""
    for source, name in ((colour_model, AUTO_COLOUR), (depth_model, AUTO_DEPTH)):
        shutil.copytree(source, tmp_path / name)
    monkeypatch.setattr(module, "find", lambda _: tmp_path)
    return tmp_path


def test_instances_in_the_images_own_pixels(colour_model: Path, scene: Scene) -> None:
    segmenter = Segmenter.load(colour_model, "cpu")
    found = segmenter(scene[0])
    assert len(found) > 0
    assert found.label_map.shape == (120, 160)
    assert found.class_names == segmenter.class_names
    assert found.embeddings.shape == (len(found), 8)
    assert found.ids.tolist() == found.labels.tolist()
    assert (found.boxes[:, 2] <= 160).all()
    assert (found.boxes[:, 3] <= 120).all()
    assert set(segmenter.last_timing) == {"preprocess", "network", "postprocess"}
    assert all(ms >= 0 for ms in segmenter.last_timing.values())
    assert segmenter.last_model == segmenter.version
    again = segmenter(scene[0])
    assert np.array_equal(again.label_map, found.label_map)


@pytest.mark.parametrize("size", [(1, 1), (37, 5), (1, 300), (97, 128), (300, 100)])
def test_any_size(colour_model: Path, depth_model: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    assert Segmenter.load(colour_model, "cpu")(image).label_map.shape == size
    depth = np.full(size, 1.5, np.float32)
    assert Segmenter.load(depth_model, "cpu")(image, depth).label_map.shape == size


def test_8k(colour_model: Path) -> None:
    image = np.zeros((4320, 7680, 3), np.uint8)
    image[1000:2000, 3000:5000] = (200, 30, 30)
    found = Segmenter.load(colour_model, "cpu")(image)
    assert found.label_map.shape == (4320, 7680)
    assert len(found) > 0


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((3, 8, 8), np.uint8),
        None,
        "image.png",
    ],
)
def test_other_layouts_are_refused_by_name(colour_model: Path, image: object) -> None:
    with pytest.raises(ImageError, match="image"):
        Segmenter.load(colour_model, "cpu")(image)  # type: ignore[arg-type]


def test_depth_of_another_layout_is_refused(depth_model: Path, scene: Scene) -> None:
    segmenter = Segmenter.load(depth_model, "cpu")
    image, depth = scene
    for wrong in (depth[:-1], depth.astype(np.float64), (depth * 1000).astype(np.uint16), depth[..., None]):
        with pytest.raises(ImageError, match="depth is"):
            segmenter(image, wrong)


def test_images_that_are_not_contiguous(colour_model: Path, scene: Scene) -> None:
    segmenter = Segmenter.load(colour_model, "cpu")
    wide = np.repeat(scene[0], 2, axis=1)
    assert np.array_equal(segmenter(wide[:, ::2]).label_map, segmenter(scene[0]).label_map)
    read_only = scene[0].copy()
    read_only.setflags(write=False)
    assert np.array_equal(segmenter(read_only).label_map, segmenter(scene[0]).label_map)


def test_the_pair_takes_depth_where_there_is_any(shipped: Path, scene: Scene) -> None:
    segmenter = Segmenter.load("auto", "cpu")
    image, depth = scene
    assert segmenter.uses_depth
    assert not segmenter.needs_depth
    colour = Segmenter.load(AUTO_COLOUR, "cpu")
    both = Segmenter.load(AUTO_DEPTH, "cpu")
    assert segmenter.version == f"{both.version}+{colour.version}"
    with_depth = segmenter(image, depth)
    assert segmenter.last_model == both.version
    assert np.array_equal(with_depth.label_map, both(image, depth).label_map)
    expected = colour(image)
    assert len(expected) > 0
    assert not np.array_equal(expected.label_map, with_depth.label_map)
    for dead in (
        None,
        np.zeros_like(depth),
        np.full_like(depth, np.nan),
        np.full_like(depth, np.inf),
        -depth,
    ):
        found = segmenter(image, dead)
        assert segmenter.last_model == colour.version
        assert np.array_equal(found.label_map, expected.label_map)
    almost = np.zeros_like(depth)
    almost[:2] = 1.0  # 1.7 % valid: a failing sensor
    segmenter(image, almost)
    assert segmenter.last_model == colour.version


def test_holes_in_the_depth_do_not_reach_the_result(depth_model: Path, scene: Scene) -> None:
    segmenter = Segmenter.load(depth_model, "cpu")
    image, depth = scene
    results = []
    for hole in (0.0, np.nan, np.inf, -1.0):
        holed = depth.copy()
        holed[20:40, 30:50] = hole
        results.append(segmenter(image, holed).label_map)
    assert results[0].any()
    assert all(np.array_equal(results[0], r) for r in results[1:])


def test_depth_changes_the_result(depth_model: Path, scene: Scene) -> None:
    segmenter = Segmenter.load(depth_model, "cpu")
    image, depth = scene
    found, flat = segmenter(image, depth), segmenter(image, np.ones_like(depth))
    assert len(found) > 0
    assert not np.array_equal(flat.scores, found.scores)
    # Metres or feet, near or far: the same scene.
    scaled = segmenter(image, depth * np.float32(3.28))
    assert np.mean(scaled.label_map == found.label_map) > 0.99
    np.testing.assert_allclose(scaled.scores, found.scores, atol=1e-3)


def test_a_depth_model_alone_says_what_it_lacks(depth_model: Path, scene: Scene) -> None:
    segmenter = Segmenter.load(depth_model, "cpu")
    assert segmenter.needs_depth
    for depth in (None, np.zeros_like(scene[1])):
        with pytest.raises(ModelError, match=r"rgbd.*sees depth and this image has none"):
            segmenter(scene[0], depth)


def test_a_colour_model_ignores_depth(colour_model: Path, scene: Scene) -> None:
    segmenter = Segmenter.load(colour_model, "cpu")
    assert not segmenter.uses_depth
    assert np.array_equal(segmenter(*scene).label_map, segmenter(scene[0]).label_map)


def test_the_threshold_is_the_cards_unless_given(colour_model: Path, scene: Scene) -> None:
    found = Segmenter.load(colour_model, "cpu")(scene[0])
    assert len(Segmenter.load(colour_model, "cpu", score_threshold=1.0)(scene[0])) == 0
    middle = float(np.median(found.scores))
    some = Segmenter.load(colour_model, "cpu", score_threshold=middle)(scene[0])
    assert 0 < len(some) <= len(found)
    assert (some.scores >= middle).all()


def test_models_by_path_by_name_and_not_at_all(shipped: Path, colour_model: Path) -> None:
    assert find_model(colour_model) == colour_model
    assert find_model(str(colour_model)) == colour_model
    assert find_model(AUTO_COLOUR) == shipped / AUTO_COLOUR
    with pytest.raises(ModelError, match=f"'rise_huge'.*shipped are .*{AUTO_COLOUR}"):
        Segmenter.load("rise_huge")
    # A model that answers sentences lies among them: it is no segmenter, and says so.
    other = shipped / "answers"
    other.mkdir()
    (other / "card.json").write_text(json.dumps({"name": "answers", "referring": {}}))
    with pytest.raises(ModelError, match="no shipped model") as caught:
        find_model("rise_huge")
    assert "answers" not in str(caught.value)
    for name in ("answers", other):
        with pytest.raises(ModelError, match="answers sentences and segments nothing"):
            find_model(name)
    shutil.rmtree(shipped / AUTO_DEPTH)
    with pytest.raises(ModelError, match=AUTO_DEPTH):
        Segmenter.load("auto", "cpu")


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ConfigError, match="'abacus'"):
        choose_device("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"'cuda'.*--device cpu"):
            choose_device("cuda")
