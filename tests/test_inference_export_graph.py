"""The exported graph: the same instances as torch, whatever is inside it; and no file where they differ."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import shake, tiny_config

pytest.importorskip("onnx", reason="onnx is not installed; pip install 'rise_perception[deploy]'")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed; pip install onnxruntime")

from rise_perception.core.errors import ConfigError, ModelError
from rise_perception.core.letterbox import Letterbox
from rise_perception.inference.engines import onnx_export as onnx_file
from rise_perception.inference.engines.export_module import ColourInput, ExportModule
from rise_perception.inference.engines.feeds import stored_frames
from rise_perception.inference.engines.folding import fold_norms
from rise_perception.inference.engines.onnx_export import export_graph, export_onnx, read_metadata
from rise_perception.inference.engines.parity import FULL, Parity, ParityError, compare
from rise_perception.inference.engines.precision import to_half
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.inference.postprocess import DecodedQueries
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import save_model
from rise_perception.network.inputs import make_input
from rise_perception.network.rise import RiseNetwork


def lively(**changes: object) -> tuple[RiseNetwork, ModelCard]:
    """A random network that draws masks of every size."""
    torch.manual_seed(0)
    network = RiseNetwork(tiny_config(**changes)).eval()
    shake(network, 0.05)
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("running_var"):
                buffer.copy_(torch.rand_like(buffer) + 0.5)
            elif name.endswith("running_mean"):
                buffer.copy_(torch.randn_like(buffer) * 0.2)
    return network, ModelCard("tiny", network.config, score_threshold=0.0, checksum="0123456789abcdef" * 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "preprocessing", "changes"),
    [
        ("fp32", "outside", {"frozen_norm": True, "query_selection": "learned"}),
        ("bf16", "inside", {"input": "rgbd", "query_selection": "learned"}),
        ("fp16", "outside", {"query_selection": "dense", "mask_stride": 4}),
        ("fp32", "inside", {"encoder": "hybrid", "query_selection": "dense", "mask_stride": 4}),
    ],
)
def test_onnx_runtime_agrees_with_torch(
    tmp_path: Path, precision: str, preprocessing: str, changes: dict[str, object]
) -> None:
    network, card = lively(**changes)
    # Images of another shape than the input's, so that there is padding, which is a constant of the graph.
    spec = ExportSpec((64, 96), (100, 110), 7, precision, preprocessing)
    stages: list[str] = []
    out = tmp_path / "tiny.onnx"
    parity = export_onnx(network, card, spec, out, stored_frames(spec.image, 2), stages.append)
    assert stages == ["export", "check", "write"]
    assert parity.instances >= 10
    assert parity.mask_iou >= (0.99 if precision == "fp32" else 0.97)

    told = read_metadata(out)
    assert told["version"] == "tiny-01234567"
    assert told["checksum"] == "0123456789abcdef" * 4
    assert told["classes"] == ["container", "object"]
    assert (told["size"], told["image"], told["topk"]) == ([64, 96], [100, 110], 7)
    assert (told["precision"], told["preprocessing"]) == (precision, preprocessing)
    assert len(told["mean"]) == len(told["deviation"]) == 3

    import onnx

    model = onnx.load(out)
    operators = {node.op_type for node in model.graph.node}
    assert "LayerNormalization" in operators
    assert "GridSample" in operators
    assert model.opset_import[0].version >= 17
    fixed = [d.dim_value for o in model.graph.output for d in o.type.tensor_type.shape.dim]
    assert all(fixed)  # no dynamic shape
    assert [o.type.tensor_type.shape.dim[0].dim_value for o in model.graph.output] == [7] * 5
    if preprocessing == "inside":  # TensorRT takes uint8 into a cast only
        assert [node.op_type for node in model.graph.node if "image" in node.input] == ["Cast"]
    if precision != "fp32":
        halves = {i.name for i in model.graph.initializer if i.data_type in (10, 16)}
        assert halves
        for node in model.graph.node:
            if node.op_type in (
                "LayerNormalization",
                "Softmax",
                "InstanceNormalization",
                "GridSample",
                "Log",
            ):
                assert not any("_half" in name or name in halves for name in node.input), node.name


@pytest.mark.slow
def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, card = lively()
    spec = ExportSpec((64, 96), (64, 96), 10)
    honest = onnx_file.ExportModule

    def spoilt(network: RiseNetwork, spec: ExportSpec) -> ExportModule:
        module = honest(network, spec)
        with torch.no_grad():
            module.network.mask_head.controller.layers[0].weight.mul_(-1.5)
        return module

    monkeypatch.setattr(onnx_file, "ExportModule", spoilt)
    with pytest.raises(ParityError, match="differs from torch in fp32"):
        export_onnx(network, card, spec, tmp_path / "tiny.onnx", stored_frames(spec.image, 2))
    assert list(tmp_path.iterdir()) == []


def test_folded_norms_change_nothing_and_are_gone() -> None:
    for frozen in (True, False):
        network, _ = lively(frozen_norm=frozen)
        images = torch.randn(1, 3, 64, 96)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        folded = fold_norms(network, images)
        with torch.inference_mode():
            torch.testing.assert_close(folded(images).logits, network(images).logits, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(folded(images).boxes, network(images).boxes, atol=1e-5, rtol=1e-4)
        assert not [m for m in folded.modules() if "BatchNorm" in type(m).__name__]
        assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize("image_size", [(64, 96), (100, 110), (30, 40), (480, 640), (64, 50)])
def test_the_letterbox_inside_is_the_one_outside(image_size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*image_size, 3), np.uint8)
    box = Letterbox(image_size, (64, 96))
    outside = make_input(box.fit(image), None, "rgb")
    inside = ColourInput(box)(torch.from_numpy(image))[0].numpy()
    level = 1 / 255 / 0.224
    assert inside.shape == outside.shape
    assert np.abs(inside - outside).max() < 1.05 * level  # a value at a half may round either way
    assert np.mean(np.abs(inside - outside) > 0.1 * level) < 0.15  # OpenCV enlarges in fixed point


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"precision": "int4"}, "precision"),
        ({"topk": 0}, "topk"),
        ({"topk": 4000}, "topk"),
        ({"size": (63, 96)}, "size"),
        ({"preprocessing": "above"}, "preprocessing"),
    ],
)
def test_impossible_exports_are_refused_by_name(changes: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigError, match=f"export {name} is"):
        ExportSpec(**({"size": (64, 96), "image": (64, 96)} | changes))  # type: ignore[arg-type]


def test_networks_without_a_static_graph_are_refused() -> None:
    with pytest.raises(ConfigError, match="Linear cannot be exported"):
        ExportModule(torch.nn.Linear(2, 2), ExportSpec((64, 96), (64, 96)))


def drawn(**changes: np.ndarray) -> DecodedQueries:
    rng = np.random.default_rng(0)
    values = {
        "probability": np.array([0.9, 0.5], np.float32),
        "classes": np.array([0, 1]),
        "boxes": np.array([[0.3, 0.3, 0.2, 0.2], [0.6, 0.6, 0.2, 0.2]], np.float32),
        "embeddings": rng.standard_normal((2, 4)).astype(np.float32),
        "masks": rng.standard_normal((2, 8, 8)).astype(np.float32),
    }
    return DecodedQueries(**(values | changes))


def test_parity_finds_instances_in_any_order_and_sees_every_difference() -> None:
    want = drawn()
    swapped = DecodedQueries(*(part[::-1] for part in want))
    assert compare([want], [swapped]).problems(FULL) == []
    for changes, problem in (
        ({"masks": -want.masks}, "found"),
        ({"masks": want.masks - 0.2}, "mask_iou"),
        ({"boxes": want.boxes + 0.02}, "boxes"),
        ({"probability": want.probability - 0.01}, "scores"),
        ({"classes": np.array([1, 0])}, "found"),
        ({"embeddings": want.embeddings + 0.3}, "embeddings"),
        ({"probability": want.probability * np.nan}, "found"),
    ):
        problems = compare([want], [drawn(**changes)]).problems(FULL)
        assert any(text.startswith(problem) for text in problems), (changes, problems)
    nothing = DecodedQueries(*(part[:0] for part in want))
    assert compare([want], [nothing]).problems(FULL)
    assert Parity(float("nan"), 1.0, 0.0, 0.0, 1.0, 3).problems(FULL) == ["mask_iou nan (least allowed 0.99)"]


@pytest.mark.slow
def test_what_is_checked_is_what_is_written_wherever_it_can_be_run() -> None:
    network, card = lively()
    for precision, written in (("fp32", True), ("fp16", True), ("bf16", False)):
        graph = export_graph(network, card, ExportSpec((64, 96), (64, 96), 7, precision))
        assert (graph.checked == graph.content) == written


def test_half_precision_rounds_as_it_says() -> None:
    """A product of two rounded matrices, and the norm after it untouched."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((16, 16)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["product"]),
        helper.make_node("Softmax", ["product"], ["y"], axis=-1),
    ]
    float_info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [4, 16]) for n in ("x", "y")]
    graph = helper.make_graph(
        nodes, "g", float_info[:1], float_info[1:], [numpy_helper.from_array(weight, "w")]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = rng.standard_normal((4, 16)).astype(np.float32)

    def rounded(values: np.ndarray) -> np.ndarray:
        return torch.from_numpy(values).bfloat16().float().numpy()

    product = rounded(rounded(x) @ rounded(weight))
    expected = np.exp(product) / np.exp(product).sum(-1, keepdims=True)
    emulated = to_half(model, "bf16", emulate=True)
    onnx.checker.check_model(emulated)
    session = onnxruntime.InferenceSession(emulated.SerializeToString())
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-5)
    real = to_half(model, "bf16")
    onnx.checker.check_model(real)
    assert [n.op_type for n in real.graph.node] == ["Cast", "MatMul", "Cast", "Softmax"]
    assert [i.data_type for i in real.graph.initializer] == [TensorProto.BFLOAT16]


@pytest.mark.slow
def test_the_command_says_what_is_wrong(rise, tmp_path: Path) -> None:
    network, card = lively()
    save_model(tmp_path / "tiny", network, card)
    out = tmp_path / "tiny.onnx"
    status, text, _ = rise("export", tmp_path / "tiny", "--out", out, "--topk", 5)
    assert status == 0
    assert "against torch: mask IoU" in text
    assert json.loads(json.dumps(read_metadata(out)))["topk"] == 5
    status, _, err = rise("export", tmp_path / "tiny", "--out", out, "--size", "64*96")
    assert (status, "--size is '64*96'" in err) == (2, True)
    status, _, err = rise("export", "no_such", "--out", out)
    assert (status, "no_such" in err) == (2, True)
    out.write_bytes(out.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"tiny\.onnx"):
        read_metadata(out)
