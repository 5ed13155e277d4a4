"""OpenVINO computes in the precision that was asked for, however the processor would rather do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

for _package in ("onnx", "openvino"):
    pytest.importorskip(
        _package, reason=f"{_package} is not installed; pip install 'rise_perception[deploy]'"
    )

from rise_perception.inference.engines.backends import openvino as backend  # noqa: E402
from rise_perception.inference.engines.backends.openvino import OpenVino, core, settings  # noqa: E402
from rise_perception.inference.engines.runner import RuntimeUnavailableError  # noqa: E402
from rise_perception.inference.engines.spec import OUTPUTS  # noqa: E402

WIDTH = 64


def graph() -> bytes:
    """An ONNX file with an exported network's outputs, each the product of the input and a random matrix."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(rng.standard_normal((WIDTH, WIDTH)).astype(np.float32), f"{name}_weight")
        for name in OUTPUTS
    ]
    nodes = [helper.make_node("MatMul", ["image", f"{name}_weight"], [name]) for name in OUTPUTS]
    shape = [1, WIDTH]
    made = helper.make_model(
        helper.make_graph(
            nodes,
            "products",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in OUTPUTS],
            weights,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    return made.SerializeToString()


class Recorded:
    """The real core; remembers what it was told and made."""

    def __init__(self) -> None:
        self.told: dict[str, dict[str, Any]] = {}
        self.made: dict[str, Any] = {}

    def compile_model(self, model: Any, device: str, config: dict[str, Any]) -> Any:
        self.told["build"], self.made["build"] = config, core().compile_model(model, device, config)
        return self.made["build"]

    def import_model(self, content: Any, device: str, config: dict[str, Any]) -> Any:
        self.told["load"], self.made["load"] = config, core().import_model(content, device, config)
        return self.made["load"]

    def __getattr__(self, name: str) -> Any:
        return getattr(core(), name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_engine_is_loaded_with_the_settings_that_it_was_built_with(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded, runtime = Recorded(), OpenVino()
    monkeypatch.setattr(backend, "core", lambda: recorded)
    try:
        engine = runtime.build(graph(), precision, lambda stage, fraction: None)
    except RuntimeUnavailableError as error:
        pytest.skip(str(error))
    runner = runtime.load(engine, precision, tmp_path)
    assert recorded.told["load"] == recorded.told["build"] == settings(precision)
    for name in settings(precision):
        asked, got = (recorded.made[step].get_property(name) for step in ("build", "load"))
        assert got == asked, f"{name} is {got} after load, {asked} after build"

    image = np.random.default_rng(1).standard_normal((1, WIDTH)).astype(np.float32)
    weights = np.random.default_rng(0).standard_normal((len(OUTPUTS), WIDTH, WIDTH)).astype(np.float32)
    outputs = runner({"image": image})
    error = max(np.abs(got - image @ weight).max() for got, weight in zip(outputs, weights, strict=True))
    # 8 bits of mantissa are off by about 0.02 here, 24 bits by about 1e-6
    assert (error < 1e-4) == (precision == "fp32"), error


def test_an_engine_is_bound_to_what_the_processor_can_compute_in(monkeypatch: pytest.MonkeyPatch) -> None:
    here = OpenVino().identity()
    assert "FP32" in here["capabilities"].split()

    class Lesser(Recorded):
        def get_property(self, device: str, name: str) -> Any:
            return ["FP32"] if name == "OPTIMIZATION_CAPABILITIES" else core().get_property(device, name)

    monkeypatch.setattr(backend, "core", Lesser)
    assert OpenVino().identity() == {**here, "capabilities": "FP32"} != here
