"""A process that has made and freed OpenVINO engines outlives the signals that Python handles."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

for _package in ("onnx", "openvino"):
    pytest.importorskip(
        _package, reason=f"{_package} is not installed; pip install 'rise_perception[deploy]'"
    )

SCRIPT = """
import faulthandler, gc, os, signal, sys
from pathlib import Path
import numpy as np
from onnx import TensorProto, helper, numpy_helper
from rise_perception.inference.engines.spec import OUTPUTS
from rise_perception.inference.engines.backends.openvino import OpenVino

faulthandler.enable()  # as pytest does: its stack is the one that is replaced
signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
weight = numpy_helper.from_array(np.ones((2, 2, 3, 3), np.float32), "w")
nodes = [helper.make_node("Conv", ["x", "w"], ["y"])]
nodes += [helper.make_node("Relu", ["y"], [name]) for name in OUTPUTS]
values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, s, s])
          for n, s in [("x", 8), *((name, 6) for name in OUTPUTS)]]
graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
runtime, precision = OpenVino(), sys.argv[1]
feeds = {"x": np.ones((1, 2, 8, 8), np.float32)}
engine = runtime.build(model.SerializeToString(), precision, lambda stage, fraction: None, [feeds] * 3)
first, second = (runtime.load(engine, precision, Path("beside")) for _ in range(2))
assert first(feeds).masks.max() > 17
del first
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_engines_that_are_freed_in_any_order_leave_signals_working(precision: str) -> None:
    if precision == "int8" and importlib.util.find_spec("nncf") is None:
        pytest.skip("nncf is not installed; pip install 'rise_perception[int8]'")
    done = subprocess.run([sys.executable, "-c", SCRIPT, precision], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "handled\n"
