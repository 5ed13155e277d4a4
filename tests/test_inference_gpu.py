"""What GPU runtimes are told, and, where there is a GPU, what they have to bear."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

onnxruntime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed; pip install onnxruntime"
)

from rise_perception.inference.engines.backends import onnxruntime as backend  # noqa: E402
from rise_perception.inference.engines.backends.torch import TorchRunner  # noqa: E402
from rise_perception.inference.engines.runner import EngineError  # noqa: E402
from rise_perception.inference.engines.spec import ExportSpec  # noqa: E402
from rise_perception.network.checkpoint import load_model  # noqa: E402


def providers_of(device: str, precision: str, beside: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ONNX Runtime is asked for."""
    asked: list[Any] = []

    def session(graph: bytes, settings: object, providers: list[Any]) -> Any:
        asked.extend(providers)
        raise RuntimeError("enough")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: backend.PROVIDERS["tensorrt"])
    with pytest.raises(EngineError, match="enough"):
        backend.OnnxRuntime(device).load(b"graph", precision, beside)
    return asked


@pytest.mark.parametrize(("precision", "half"), [("fp16", True), ("fp32", False)])
def test_onnx_runtime_keeps_tensorrt_s_engines_and_timings(
    precision: str, half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = tmp_path / "cache/engine-1"
    (first, options), *others = providers_of("tensorrt", precision, beside, monkeypatch)
    assert first == "TensorrtExecutionProvider"
    assert others == ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert options == {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(beside),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(beside.parent),
        "trt_fp16_enable": half,
    }
    assert beside.is_dir()


def test_other_providers_keep_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert providers_of("cuda", "fp16", tmp_path / "beside", monkeypatch) == backend.PROVIDERS["cuda"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs an NVIDIA GPU")
def test_a_cuda_graph_is_captured_while_another_thread_serves(tiny_model: Path) -> None:
    network, _ = load_model(tiny_model)
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            torch.cuda.empty_cache()
            torch.ones(1000, 1000, device="cuda").sum().item()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for _ in range(5):
            TorchRunner(network, ExportSpec((96, 128), (96, 128)), "torch-cudagraph", "cuda")
    finally:
        over.set()
        thread.join()
