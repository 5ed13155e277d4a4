"""Makes the ONNX file of a model, and writes it only when ONNX Runtime agrees with torch."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rise_perception.core.errors import ConfigError, MissingDependencyError, ModelError
from rise_perception.core.files import write_bytes
from rise_perception.core.frame import Frame
from rise_perception.inference.engines.export_module import ExportModule
from rise_perception.inference.engines.feeds import feeds_of, stored_frames
from rise_perception.inference.engines.parity import Parity, ParityError, compare, limits_of, reference
from rise_perception.inference.engines.precision import onnx_package, to_half
from rise_perception.inference.engines.spec import METADATA, OUTPUTS, ExportSpec
from rise_perception.inference.exported_model import check_values
from rise_perception.inference.postprocess import DecodedQueries
from rise_perception.network.card import ModelCard
from rise_perception.network.inputs import MEAN, STD

#: LayerNorm is one operator from 17 on, MaxPool takes BF16 from 22 on; 20 is what every runtime reads.
OPSET = 20


@dataclass(frozen=True)
class Graph:
    """An exported network before it is written.

    Attributes:
        content: the ONNX file.
        checked: what ONNX Runtime runs on the CPU to check it: the content itself, or, as there are no
            kernels for it, of BF16 the same numbers in FP32 arithmetic (:func:`to_half`).
    """

    content: bytes
    checked: bytes


def export_graph(network: nn.Module, card: ModelCard, spec: ExportSpec) -> Graph:
    """Trace a network.

    Raises:
        ConfigError: the network has no static graph, or the precision is one of engines only.
        MissingDependencyError: onnx or onnxscript is not installed.
    """
    if spec.precision == "int8":
        raise ConfigError("a graph cannot be in int8, only an OpenVINO engine; export it in fp32")
    onnx = onnx_package()
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            "the export needs the package 'onnxscript': pip install 'rise_perception[deploy]'"
        ) from error
    module = ExportModule(network, spec).eval()
    example = module.example()
    with _quiet():
        program = torch.onnx.export(
            module,
            tuple(example.values()),
            dynamo=True,
            input_names=list(example),
            output_names=list(OUTPUTS),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    exact = model = program.model_proto
    if spec.precision != "fp32":
        model = to_half(exact, spec.precision)
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(metadata(card, spec, _check(network, card, spec)))
    for node in model.graph.node:
        del node.metadata_props[:]  # the exporter's notes name files of this machine
        node.doc_string = ""
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    if spec.precision == "bf16":
        return Graph(content, to_half(exact, "bf16", emulate=True).SerializeToString())
    return Graph(content, content)


def _check(network: nn.Module, card: ModelCard, spec: ExportSpec) -> dict[str, list[Any]]:
    """What torch finds on the stored frame that an exported file is checked on."""
    return check_values(reference(network, spec, stored_frames(spec.image, 1), card.score_threshold)[0])


def metadata(card: ModelCard, spec: ExportSpec, check: dict[str, list[Any]]) -> dict[str, Any]:
    """What the file says about itself, enough to serve alone."""
    return {
        "version": card.version,
        "name": card.name,
        "network": dataclasses.asdict(card.network),
        "checksum": card.checksum,
        "classes": list(card.network.classes),
        "containers": list(card.network.containers),
        "input": card.network.input,
        "score_threshold": card.score_threshold,
        "mean": [float(v) for v in MEAN],
        "deviation": [float(v) for v in STD],
        "size": list(spec.size),
        "image": list(spec.image),
        "topk": spec.topk,
        "precision": spec.precision,
        "preprocessing": spec.preprocessing,
        "check": check,
    }


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata of an exported file.

    Raises:
        ModelError: no such file, no ONNX file, or one that was not exported here.
    """
    onnx = onnx_package()
    try:
        model = onnx.load(str(path))
        return json.loads(next(p.value for p in model.metadata_props if p.key == METADATA))
    except Exception as error:  # what protobuf raises has no base that can be imported
        raise ModelError(f"{path} is no ONNX file of `rise export` ({error!r}); export it again") from error


def check_graph(
    graph: Graph,
    spec: ExportSpec,
    mode: str,
    frames: Sequence[Frame],
    expected: Sequence[DecodedQueries],
) -> Parity:
    """Run a graph in ONNX Runtime on the CPU and compare.

    Args:
        graph: the exported network.
        spec: of the graph.
        mode: the network's input, ``rgb`` or ``rgbd``.
        frames: images of ``spec.image``.
        expected: :func:`rise_perception.inference.engines.parity.reference` of the frames.

    Raises:
        ParityError: the results differ by more than the precision allows.
        MissingDependencyError: onnxruntime is not installed.
    """
    from rise_perception.inference.engines.backends.onnxruntime import OnnxRuntimeRunner

    runner = OnnxRuntimeRunner(graph.checked, spec.precision)
    parity = compare(expected, [runner(feeds) for feeds in feeds_of(spec, mode, frames)])
    if problems := parity.problems(limits_of(spec.precision)):
        raise ParityError(
            f"the exported graph differs from torch in {spec.precision}: {'; '.join(problems)}. "
            f"Measured: {parity}. Export with --precision fp32, or report this model"
        )
    return parity


def export_onnx(
    network: nn.Module,
    card: ModelCard,
    spec: ExportSpec,
    out: str | Path,
    frames: Sequence[Frame],
    report: Callable[[str], None] = lambda stage: None,
) -> Parity:
    """Export, check, write; a graph that fails the check is not written.

    Args:
        network: on the CPU, in FP32.
        card: of the network.
        spec: what the graph is made for.
        out: the file.
        frames: images of ``spec.image`` to check on.
        report: told each stage: ``export``, ``check``, ``write``.

    Raises:
        ParityError: see :func:`check_graph`.
    """
    report("export")
    graph = export_graph(network, card, spec)
    report("check")
    expected = reference(network, spec, frames, card.score_threshold)
    parity = check_graph(graph, spec, card.network.input, frames, expected)
    report("write")
    write_bytes(out, graph.content)
    return parity


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter's chatter, of which nothing concerns a user, goes nowhere."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
