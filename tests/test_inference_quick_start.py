"""`rise predict` begins with the exported file beside a model's weights; what that cannot do is torch's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

for _package in ("onnx", "openvino"):
    pytest.importorskip(_package)

from rise_perception.data.images import read_image, read_label_map, write_image  # noqa: E402
from rise_perception.inference import quick_start  # noqa: E402
from rise_perception.inference.exported_model import BESIDE, read_metadata  # noqa: E402
from rise_perception.inference.segmenter import Segmenter  # noqa: E402
from rise_perception.network.card import CARD, read_card  # noqa: E402

MODELS = Path(__file__).resolve().parents[1] / "models"
MODEL = MODELS / "rise_small_rgb"
Rise = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is one, what a CPU does is tested; no test can make a card appear or go."""
    monkeypatch.setattr(quick_start, "shows_gpu", lambda: False)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


def test_the_file_serves_what_has_its_proportions_and_torch_the_rest(
    rise: Rise, scene: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    image = scene[0]
    write_image(tmp_path / "in" / "a.png", image)
    write_image(tmp_path / "in" / "b.png", image[:60])
    write_image(tmp_path / "in" / "c.png", image)
    status, text, _ = rise("predict", tmp_path / "in", "--out", tmp_path / "out")
    assert status == 0
    assert "images/s in openvino fp32, model rise_small_rgb-" in text
    told = {name: json.loads((tmp_path / f"out/{name}.instances.json").read_text()) for name in "abc"}
    assert [told[name]["runtime"] for name in "abc"] == ["openvino fp32", "torch fp32", "openvino fp32"]
    torch = Segmenter.load(MODEL)
    for name in "abc":
        expected = torch(read_image(tmp_path / "in" / f"{name}.png"))
        assert told[name]["model"] == torch.last_model
        labels = read_label_map(tmp_path / f"out/{name}.label.png")
        assert (labels == expected.label_map).mean() > 0.99
        scores = [instance["score"] for instance in told[name]["instances"]]
        np.testing.assert_allclose(np.sort(scores), np.sort(expected.scores), atol=1e-3)


@pytest.mark.parametrize("kind", ["rgb", "rgbd"])
def test_the_shipped_models_have_their_files(kind: str) -> None:
    folder = MODELS / f"rise_small_{kind}"
    said, card = read_metadata(folder / BESIDE, (folder / BESIDE).read_bytes()), read_card(folder)
    assert said["checksum"] == card.checksum, f"rise export {folder} --out {folder / BESIDE}"
    assert said["precision"] == "fp32"


def test_a_shipped_model_serves_without_torch(tmp_path: Path, scene: tuple[np.ndarray, np.ndarray]) -> None:
    write_image(tmp_path / "a.png", scene[0])
    code = (
        "import sys; from rise_perception.cli.main import main; "
        f"main(['predict', {str(tmp_path / 'a.png')!r}, '--device', 'cpu', '--out', {str(tmp_path)!r}]); "
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=MODELS.parent, check=True
    )
    summary, modules = done.stdout.splitlines()
    assert "openvino fp32, model rise_small_rgb-" in summary
    assert not {"torch", "torchvision", "timm"} & set(modules.split())


def test_what_is_not_as_it_should_be_is_left_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert quick_start.load_exported(str(MODEL), "cpu", None) is not None
    assert quick_start.load_exported(str(MODEL), "cuda", None) is None
    assert quick_start.load_exported(str(tmp_path / "nothing"), "cpu", None) is None
    other = tmp_path / "other"
    shutil.copytree(MODEL, other)
    card = json.loads((other / CARD).read_text())
    (other / CARD).write_text(json.dumps(card | {"checksum": "0" * 64}))  # of weights learned since
    assert quick_start.load_exported(str(other), "cpu", None) is None
    (other / CARD).write_text(json.dumps(card))
    (other / BESIDE).write_bytes((MODEL / BESIDE).read_bytes()[:1000])
    assert quick_start.load_exported(str(other), "cpu", None) is None
    (other / BESIDE).unlink()
    assert quick_start.load_exported(str(other), "cpu", None) is None
    monkeypatch.setattr(quick_start, "shows_gpu", lambda: True)
    assert quick_start.load_exported(str(MODEL), "auto", None) is None
