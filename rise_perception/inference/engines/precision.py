"""Half precision in an ONNX graph: convolutions and matrix products in FP16 or BF16, the rest in FP32."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np

from rise_perception.core.errors import MissingDependencyError

#: What is worth computing in half precision.
HEAVY = {"Conv", "MatMul", "Gemm"}
#: What may pass half precision on without losing any more of it.
NEUTRAL = {
    "Relu",
    "Add",
    "MaxPool",
    "Reshape",
    "Transpose",
    "Concat",
    "Split",
    "Slice",
    "Squeeze",
    "Unsqueeze",
}
#: Parts of the network that decide where boxes and samples lie: half a percent is pixels there.
KEPT_SCOPES = ("box_heads", "dense_box", "box_position", "reference_points")
_SCOPES = "pkg.torch.onnx.name_scopes"


def onnx_package() -> Any:
    """The package onnx.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnx
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise MissingDependencyError(
            "ONNX files need the package 'onnx': pip install 'rise_perception[deploy]'"
        ) from error
    return onnx


def to_half(model: Any, precision: str, emulate: bool = False) -> Any:
    """A graph in half precision, made from one in FP32.

    Inputs and outputs stay FP32. Norms, softmax, sampling, reference points, box refinement and all that
    is computed from constants alone stay FP32 too.

    Args:
        model: onnx.ModelProto with names of scopes in the nodes' metadata, as torch.onnx writes them.
        precision: ``fp16`` or ``bf16``.
        emulate: round to half precision everything that would be in it, and compute in FP32: the same
            numbers as on hardware that accumulates in FP32, for runtimes without such kernels.
    """
    return _HalfWriter(model, precision, emulate).write()


class _HalfWriter:
    """Walks the nodes in order and keeps, for every value, in which precision it can be had."""

    def __init__(self, model: Any, precision: str, emulate: bool) -> None:
        self._onnx = onnx_package()
        types = self._onnx.TensorProto
        self._model = self._onnx.ModelProto()
        self._model.CopyFrom(model)
        self._type = types.FLOAT16 if precision == "fp16" else types.BFLOAT16
        self._emulate = emulate
        graph = self._model.graph
        self._constants = {i.name: i for i in graph.initializer if i.data_type == types.FLOAT}
        # Values that no input reaches; what is computed from them stays exact.
        self._fixed = {i.name for i in graph.initializer} | {""}
        self._floats = self._float_values(model)
        self._down: dict[str, str] = {}  # FP32 name -> name of the same in half precision
        self._native: dict[str, str] = {}  # FP32 name -> half name, of values that are made in half precision
        self._up: set[str] = set()  # of those, the ones that exist in FP32, too
        self._nodes: list[Any] = []

    def _float_values(self, model: Any) -> set[str]:
        inferred = self._onnx.shape_inference.infer_shapes(model).graph
        infos = [*inferred.value_info, *inferred.input, *inferred.output]
        floats = {v.name for v in infos if v.type.tensor_type.elem_type == self._onnx.TensorProto.FLOAT}
        return floats | set(self._constants)

    def write(self) -> Any:
        """The graph in half precision."""
        graph = self._model.graph
        for node in list(graph.node):
            fixed = all(name in self._fixed for name in node.input)
            if fixed:
                self._fixed.update(node.output)
            if not fixed and ((node.op_type in HEAVY and not _kept(node)) or self._passes_on(node)):
                self._in_half(node)
            else:
                for name in node.input:
                    self._raise(name)
                self._nodes.append(node)
        for output in graph.output:
            self._raise(output.name)
        del graph.node[:]
        graph.node.extend(self._nodes)
        del graph.value_info[:]
        used = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        kept = [i for i in graph.initializer if i.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return self._model

    def _passes_on(self, node: Any) -> bool:
        if node.op_type not in NEUTRAL:
            return False
        floats = [name for name in node.input if name in self._floats]
        made_in_half = [name in self._native for name in floats]
        return any(made_in_half) and all(
            half or name in self._constants for half, name in zip(made_in_half, floats, strict=True)
        )

    def _in_half(self, node: Any) -> None:
        inputs = [self._lower(name) if name in self._floats else name for name in node.input]
        del node.input[:]
        node.input.extend(inputs)
        for index, name in enumerate(node.output):
            self._native[name] = node.output[index] = f"{name}_half"
        self._nodes.append(node)
        if self._emulate:
            for index, name in enumerate(node.output):
                node.output[index] = f"{name}_exact"
                self._round(f"{name}_exact", name)

    def _lower(self, name: str) -> str:
        """The name of a float value in half precision."""
        if name in self._native:
            return self._native[name]
        if name not in self._down:
            self._down[name] = half = f"{name}_low"
            if name in self._constants:
                self._constant(name, half)
            elif self._emulate:
                self._round(name, half)
            else:
                self._cast(name, half, self._type)
        return self._down[name]

    def _raise(self, name: str) -> None:
        """Sees to it that a value exists in FP32."""
        if name in self._native and name not in self._up:
            self._up.add(name)
            self._cast(self._native[name], name, self._onnx.TensorProto.FLOAT)

    def _constant(self, name: str, half: str) -> None:
        values = self._onnx.numpy_helper.to_array(self._constants[name])
        dtype = np.dtype(self._onnx.helper.tensor_dtype_to_np_dtype(self._type))
        rounded = values.astype(dtype)
        if self._emulate:
            rounded = rounded.astype(np.float32)
        self._model.graph.initializer.append(self._onnx.numpy_helper.from_array(rounded, half))

    def _round(self, name: str, rounded: str) -> None:
        self._cast(name, f"{rounded}_bits", self._type)
        self._cast(f"{rounded}_bits", rounded, self._onnx.TensorProto.FLOAT)

    def _cast(self, source: str, target: str, kind: int) -> None:
        self._nodes.append(
            self._onnx.helper.make_node("Cast", [source], [target], name=f"to_{target}", to=kind)
        )


def _kept(node: Any) -> bool:
    """True for nodes of :data:`KEPT_SCOPES`."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes = ast.literal_eval(entry.value)
            return any(part in KEPT_SCOPES for scope in scopes for part in scope.split("."))
    return False
