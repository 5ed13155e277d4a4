"""Exported files that serve alone, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

for _package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(_package)

from rise_perception.core.errors import ConfigError, ModelError  # noqa: E402
from rise_perception.inference import exported_model  # noqa: E402
from rise_perception.inference.engines.feeds import stored_frames  # noqa: E402
from rise_perception.inference.engines.onnx_export import export_onnx  # noqa: E402
from rise_perception.inference.engines.runner import EngineError  # noqa: E402
from rise_perception.inference.engines.spec import METADATA, ExportSpec  # noqa: E402
from rise_perception.inference.segmenter import Segmenter  # noqa: E402
from rise_perception.network.checkpoint import load_model  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
#: Serves an exported file where torch cannot be imported, and says what it found.
WITHOUT_TORCH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "timm", "transformers"):
            raise ImportError(f"{name} is not part of this robot's image")
sys.meta_path.insert(0, Block())
import numpy as np
from rise_perception import Segmenter
segmenter = Segmenter.load(sys.argv[1], runtime=sys.argv[2], engine_dir=sys.argv[3])
frame = np.load(sys.argv[4])
instances = segmenter(frame["image"], frame["depth"])
np.savez(sys.argv[5], labels=instances.label_map, scores=instances.scores)
print(segmenter.last_runtime, segmenter.version)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped RGB-D model for images of its own size."""
    network, card = load_model(ROOT / "models/rise_small_rgbd")
    spec = ExportSpec(card.network.image_size, (240, 320))
    out = tmp_path_factory.mktemp("exported") / "rgbd.onnx"
    export_onnx(network, card, spec, out, stored_frames(spec.image, 1))
    return out


def rewritten(path: Path, out: Path, **changes: object) -> Path:
    """The file with other metadata."""
    import onnx

    model = onnx.load(str(path))
    entry = next(e for e in model.metadata_props if e.key == METADATA)
    entry.value = json.dumps(json.loads(entry.value) | changes)
    onnx.save(model, str(out))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_file_serves_without_torch_what_the_model_serves_with_it(
    exported: Path, tmp_path: Path, runtime: str
) -> None:
    frame = stored_frames((240, 320), 1)[0]
    expected = Segmenter.load(ROOT / "models/rise_small_rgbd")(frame.image, frame.depth)
    np.savez(tmp_path / "frame.npz", image=frame.image, depth=frame.depth)
    command = [exported, runtime, tmp_path / "engines", tmp_path / "frame.npz", tmp_path / "out.npz"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, command)],
        capture_output=True, text=True, cwd=ROOT, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(f"{runtime} fp32 rise_small_rgbd-")
    with np.load(tmp_path / "out.npz") as got:
        assert (got["labels"] == expected.label_map).mean() > 0.995
        np.testing.assert_allclose(np.sort(got["scores"]), np.sort(expected.scores), atol=0.01)


@pytest.mark.slow
def test_a_compiled_engine_is_loaded_from_the_cache_the_second_time(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rise_perception.inference.engines.backends.openvino import OpenVino

    Segmenter.load(exported, runtime="openvino", engine_dir=tmp_path)
    monkeypatch.setattr(OpenVino, "build", lambda *_: pytest.fail("compiled again"))
    Segmenter.load(exported, runtime="openvino", engine_dir=tmp_path)


@pytest.mark.slow
def test_images_of_other_proportions_are_refused_with_the_remedy(exported: Path, tmp_path: Path) -> None:
    segmenter = Segmenter.load(exported, runtime="onnxruntime", engine_dir=tmp_path)
    larger = segmenter(np.zeros((480, 640, 3), np.uint8), np.ones((480, 640), np.float32))
    assert larger.label_map.shape == (480, 640)
    with pytest.raises(ModelError, match="--image 480x480"):
        segmenter(np.zeros((480, 480, 3), np.uint8), np.ones((480, 480), np.float32))


@pytest.mark.slow
def test_a_runtime_that_computes_something_else_does_not_serve(exported: Path, tmp_path: Path) -> None:
    said = exported_model.read_metadata(exported, exported.read_bytes())["check"]
    moved = {**said, "boxes": (np.array(said["boxes"]) + np.array([0.3, 0, 0, 0])).tolist()}
    other = rewritten(exported, tmp_path / "other.onnx", check=moved)
    with pytest.raises(EngineError, match="use another runtime"):
        Segmenter.load(other, runtime="onnxruntime", engine_dir=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "auto"])
def test_files_that_cannot_serve_are_named(exported: Path, tmp_path: Path, runtime: str) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported.read_bytes()[:1000])
    for path, said in (
        (tmp_path / "missing.onnx", "No such file"),
        (broken, "broken.onnx"),
        (rewritten(exported, tmp_path / "a.onnx", check=None), "lacks what"),
        (rewritten(exported, tmp_path / "b.onnx", network={"width": 7}), "lacks what"),
    ):
        with pytest.raises(ModelError, match=said):
            Segmenter.load(path, runtime=runtime, engine_dir=tmp_path)
    with pytest.raises(ConfigError, match="'torch-compiled' cannot serve an exported file"):
        Segmenter.load(exported, runtime="torch-compiled", engine_dir=tmp_path)


def test_the_segmentation_node_starts_where_torch_cannot_be_imported() -> None:
    pytest.importorskip("rclpy", reason="rclpy is not installed; `make venv` installs it")
    code = WITHOUT_TORCH.partition("import numpy")[0] + "import rise_perception.nodes.segmentation_node"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_found_query_has_class_probability_and_box_alike() -> None:
    got = exported_model.DecodedQueries(
        np.array([0.9, 0.5]), np.array([0, 1]), np.array([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]),
        np.zeros((2, 1)), np.zeros((2, 1, 1)),
    )  # fmt: skip
    box = np.array([0.5, 0.5, 0.2, 0.2])
    assert exported_model._is_found(0.88, 0, box, got)
    assert not exported_model._is_found(0.88, 1, box, got)
    assert not exported_model._is_found(0.7, 0, box, got)
    assert not exported_model._is_found(0.88, 0, box + np.array([0.03, 0, 0, 0]), got)
    kept = exported_model.check_values(got)
    assert kept["probability"] == [0.9, 0.5]
