"""INT8 in OpenVINO: convolutions only, as good as half precision, and an engine for each calibration."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import cv2
import numpy as np
import pytest

for _package in ("onnx", "onnxruntime", "openvino", "nncf"):
    pytest.importorskip(
        _package, reason=f"{_package} is not installed; pip install 'rise_perception[deploy,int8]'"
    )

from rise_perception.core.errors import ConfigError, RiseError  # noqa: E402
from rise_perception.inference.engines.backends.nncf import quantise  # noqa: E402
from rise_perception.inference.engines.build import Built, build_engine, find_engine  # noqa: E402
from rise_perception.inference.engines.cache import EngineCache  # noqa: E402
from rise_perception.inference.engines.feeds import feeds_of, stored_frames  # noqa: E402
from rise_perception.inference.engines.onnx_export import export_graph  # noqa: E402
from rise_perception.inference.engines.parity import HALF  # noqa: E402
from rise_perception.inference.engines.runner import RuntimeUnavailableError  # noqa: E402
from rise_perception.inference.engines.spec import ExportSpec  # noqa: E402
from rise_perception.inference.segmenter import Segmenter, find_model  # noqa: E402
from rise_perception.network.checkpoint import load_model  # noqa: E402

SIZE = (240, 320)


def build(model: str, cache: Path, calibration: str = "", runtime: str = "openvino") -> Built:
    network, card = load_model(find_model(model))
    spec = ExportSpec(card.network.image_size, SIZE, precision="int8", calibration=calibration)
    return build_engine(network, card, spec, runtime, EngineCache(cache))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    for index, frame in enumerate(stored_frames(SIZE, 5)):
        cv2.imwrite(str(folder / f"{index}.png"), cv2.flip(frame.image[:, :, ::-1], 1))
    return folder


@pytest.mark.slow
def test_a_shipped_model_agrees_with_torch_and_is_served(cache: Path, pictures: Path) -> None:
    built = build("rise_small_rgb", cache)
    assert built.parity.problems(HALF) == []
    assert built.parity.instances > 10
    assert build("rise_small_rgb", cache).from_cache

    other = build("rise_small_rgb", cache, str(pictures))
    assert not other.from_cache
    assert other.path != built.path
    assert other.parity.problems(HALF) == []
    card = load_model(find_model("rise_small_rgb"))[1]
    assert find_engine(card, other.spec, "openvino", EngineCache(cache)).precision == "int8"

    frame = stored_frames(SIZE, 2)[1]
    expected = Segmenter.load("rise_small_rgb", "cpu")(frame.image)
    segmenter = Segmenter.load("rise_small_rgb", "cpu", None, "openvino", "int8", cache, pictures)
    segmenter(frame.image)
    segmenter.wait_for_engines()
    found = segmenter(frame.image)
    assert segmenter.last_runtime == "openvino int8"
    assert abs(len(found) - len(expected)) <= 1
    assert np.mean((found.label_map > 0) == (expected.label_map > 0)) > 0.97


@pytest.mark.slow
def test_only_convolutions_are_quantised(tiny_model: Path) -> None:
    import openvino

    network, card = load_model(tiny_model)
    spec = ExportSpec((96, 128), (96, 128))
    content = export_graph(network, card, spec).content
    model = openvino.Core().read_model(io.BytesIO(content))
    quantised = quantise(model, feeds_of(spec, "rgb", stored_frames(spec.image, 2)))
    readers = [
        reader.get_node().get_type_name()
        for operation in quantised.get_ops()
        if operation.get_type_name() == "FakeQuantize"
        for reader in operation.output(0).get_target_inputs()
    ]
    assert len(readers) > 10
    # A map is quantised where it is made, once for all who read it.
    assert "Convolution" in readers
    assert not {"MatMul", "Softmax", "MVN", "GridSample", "Sigmoid"} & set(readers)


def test_what_cannot_be_done_is_said(
    tmp_path: Path, tiny_model: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeUnavailableError, match="'onnxruntime' has no precision 'int8'"):
        build(str(tiny_model), tmp_path, runtime="onnxruntime")
    with pytest.raises(RuntimeUnavailableError, match="'torch-compiled' has no precision 'int8'"):
        build(str(tiny_model), tmp_path, runtime="torch-compiled")
    network, card = load_model(tiny_model)
    with pytest.raises(ConfigError, match="cannot be in int8"):
        export_graph(network, card, ExportSpec((96, 128), SIZE, precision="int8"))
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else found(name))
    with pytest.raises(RuntimeUnavailableError, match=r"rise_perception\[int8\]"):
        build(str(tiny_model), tmp_path)


@pytest.mark.slow
def test_calibration_that_does_not_fit_is_named(
    tmp_path: Path, tiny_depth_model: Path, pictures: Path
) -> None:
    with pytest.raises(ConfigError, match=f"calibration '{pictures}' has images without depth"):
        build(str(tiny_depth_model), tmp_path, str(pictures))
    with pytest.raises(RiseError, match="nowhere"):
        build(str(tiny_depth_model), tmp_path, str(tmp_path / "nowhere"))
