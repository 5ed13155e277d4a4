"""`rise selftest` and `rise bench runtime` with a tiny model: what they print, write and refuse."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from rise_perception.cli import bench_runtime
from rise_perception.inference.engines import benchmark, selftest
from rise_perception.inference.engines.runner import EngineError
from rise_perception.inference.engines.spec import ExportSpec

for _package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(_package, reason=f"{_package} is not installed; pip install {_package}")

Rise = Callable[..., tuple[int, str, str]]


@pytest.mark.slow
def test_selftest_of_a_runtime(tiny_model: Path) -> None:
    """In a process of its own, as for a user."""
    command = [sys.executable, "-m", "rise_perception.cli.main", "selftest", "--runtime", "openvino"]
    done = subprocess.run(
        [*command, "--model", tiny_model, "--device", "cpu"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for text in (
        "compared with torch: mask IoU",
        "loaded from the cache",
        "truncated engine noticed",
        "changed weights taken over (a new engine was built)",
    ):
        assert text in done.stdout


@pytest.mark.parametrize(("device", "where"), [("cpu", "outside"), ("cuda", "inside")])
def test_selftest_checks_what_the_node_would_serve(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, where: str
) -> None:
    specs: list[ExportSpec] = []

    def build(network: object, card: object, spec: ExportSpec, *_: object, **__: object) -> None:
        specs.append(spec)
        raise EngineError("enough")

    monkeypatch.setattr(selftest, "build_engine", build)
    with pytest.raises(EngineError, match="enough"):
        next(selftest.checks(tiny_model, "tensorrt", "fp16", device, tmp_path))
    (spec,) = specs
    assert (spec.preprocessing, spec.precision) == (where, "fp16")
    assert spec.letterbox.content != spec.image  # scaled
    assert spec.letterbox.padding() is not None


def test_selftest_names_what_is_missing(rise) -> None:
    if not torch.cuda.is_available():
        status, _, err = rise("selftest", "--runtime", "tensorrt")
        assert status == 2
        assert "'tensorrt'" in err
    for name in ("abacus", "torch"):
        status, _, err = rise("selftest", "--runtime", name)
        assert status == 2
        assert f"{name!r}" in err


@pytest.mark.slow
def test_bench_runtime_writes_a_row_for_everything_it_measured(
    rise: Rise, tiny_model: Path, tiny_engines: Path, tmp_path: Path
) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed; pip install transformers")
    (tmp_path / "engines").mkdir()
    for graph in tiny_engines.glob("graph-*"):  # the export is in the self-test
        shutil.copy(graph, tmp_path / "engines")
    status, out, err = rise(
        *("bench", "runtime", "--model", tiny_model, "--size", "120x128", "--device", "cpu", "--frames", 2),
        *("--runtimes", "torch", "onnxruntime", "--engine-dir", tmp_path / "engines"),
        *("--json", tmp_path / "runtime.json"),
    )
    assert status == 0, err
    assert "onnxruntime fp32: build" in err
    written = json.loads((tmp_path / "runtime.json").read_text())
    rows = {(row["name"], row["runtime"]): row for row in written["rows"]}
    assert set(rows) == {
        ("transformers Deformable DETR", "torch"),
        ("torchvision Mask R-CNN", "torch"),
        ("rise_perception", "torch"),
        ("rise_perception", "onnxruntime"),
    }
    for (name, runtime), row in rows.items():
        assert {"model", "precision", "device"} <= set(row)
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert row["peak_mb"] > 50
        assert name in out
        assert runtime in out
        if name == "rise_perception":
            assert row["model"].startswith("tiny_rgb-")
            assert row["gflop"] == written["gflop"]
            assert 0 < row["peak_share"] < 1
    assert 0 < written["gflop"] < 1
    assert written["peak_gflops"] > 1
    assert "aim: 0.40" in out


@pytest.mark.slow
def test_bench_runtime_compares_the_encoders(
    rise: Rise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The peers, a process each, are measured above.
    monkeypatch.setattr(benchmark, "rows_for", lambda device: [(benchmark.OURS, "torch", "fp32")])
    status, out, err = rise(
        *("bench", "runtime", "--encoders", "deformable", "hybrid", "--size", "96x128", "--device", "cpu"),
        *("--frames", 1, "--json", tmp_path / "runtime.json"),
    )
    assert status == 0, err
    rows = json.loads((tmp_path / "runtime.json").read_text())["rows"]
    ours = {row["encoder"]: row for row in rows if row["name"] == "rise_perception"}
    assert set(ours) == {"deformable", "hybrid"}
    assert ours["hybrid"]["gflop"] < ours["deformable"]["gflop"]
    assert ours["hybrid"]["model"].startswith("rise_r50_hybrid_random-")
    assert "rise_perception, hybrid encoder" in out


def test_only_fp32_is_measured_by_the_peak_in_fp32(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"name": "ours", "runtime": "openvino", "precision": precision, "median_ms": 100.0}
        | {"p95_ms": 110.0, "peak_mb": 200.0}
        for precision in ("fp32", "int8")
    ]
    for row in rows:
        row |= bench_runtime._work(row, 20.0, 400.0)
    assert [row["gflop"] for row in rows] == [20.0, 20.0]
    assert [row.get("peak_share") for row in rows] == [0.5, None]
    bench_runtime._print(rows, 400.0, (96, 128), "cpu")
    full, half = capsys.readouterr().out.splitlines()[2:]
    assert full.endswith("20.0      50%")
    assert half.endswith("20.0")


def test_bench_runtime_refuses_nonsense(rise) -> None:
    for arguments, text in (
        (("--frames", 0), "--frames is 0"),
        (("--size", "640"), "--size is '640'"),
        (("--model", "no_such"), "no_such"),
        (("--model", "rise_small_rgb", "--encoders", "hybrid"), "--encoders is ['hybrid']"),
    ):
        status, _, err = rise("bench", "runtime", *arguments)
        assert (status, text in err) == (2, True), err
