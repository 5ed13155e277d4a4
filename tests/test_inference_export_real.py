"""A shipped model's graph on real images: as in torch, in full and in half precision."""

from __future__ import annotations

from pathlib import Path

import pytest

for _package in ("onnx", "onnxruntime"):
    pytest.importorskip(
        _package, reason=f"{_package} is not installed; pip install 'rise_perception[deploy]'"
    )

from rise_perception.inference.engines.feeds import frames_of  # noqa: E402
from rise_perception.inference.engines.onnx_export import export_onnx  # noqa: E402
from rise_perception.inference.engines.spec import ExportSpec  # noqa: E402
from rise_perception.inference.segmenter import find_model  # noqa: E402
from rise_perception.network.checkpoint import load_model  # noqa: E402


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99), ("fp16", 0.97)])
def test_the_graph_agrees_with_torch_on_real_images(
    shared_data: Path, tmp_path: Path, precision: str, least: float
) -> None:
    network, card = load_model(find_model("rise_small_rgb"))
    spec = ExportSpec(card.network.image_size, (480, 640), precision=precision)
    frames = frames_of(shared_data / "tote_removal", spec.image, 4)
    assert len(frames) == 4
    parity = export_onnx(network, card, spec, tmp_path / "real.onnx", frames)
    assert parity.instances >= 20
    assert parity.mask_iou >= least
