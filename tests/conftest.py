"""Fixtures that every room's tests share."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
#: One of several processes that share the tests.
WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:  # a worker for each core: threads of torch would only queue up
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests begin, so that no process of pytest-xdist ends long after the others.

    A file is one process's (``--dist loadfile``): its tests share what they make once, nodes and engines.
    """
    slow: dict[str, int] = {}
    for item in items:
        file = item.location[0]
        slow[file] = slow.get(file, 0) + (item.get_closest_marker("slow") is not None)
    if WORKER:
        items.sort(key=lambda item: -slow[item.location[0]])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the repository, or the one that RISE_SHARED_DATA names."""
    folder = Path(os.environ.get("RISE_SHARED_DATA", ROOT.parent / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"the real images are not here ({folder})")
    return folder


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Gives the folder of a name; the first of the processes that share the tests makes it, the others wait.

    What lies in it is for reading: who changes it copies it.
    """
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if WORKER else base) / "made_once"

    def made(name: str, make: Callable[[Path], object]) -> Path:
        root.mkdir(exist_ok=True)
        with (root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (root / name).exists():
                part = root / f"{name}.part"
                shutil.rmtree(part, ignore_errors=True)  # of a process in which making it failed
                part.mkdir()
                make(part)
                part.rename(root / name)
        return root / name

    return made


@pytest.fixture(scope="session")
def tiny_engines(tiny_model: Path, made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """Engine cache with the tiny model's graph, and ONNX Runtime's engine of it, for images of 120x128."""

    def make(folder: Path) -> None:
        from rise_perception.inference.engines.build import build_engine
        from rise_perception.inference.engines.cache import EngineCache
        from rise_perception.inference.engines.spec import ExportSpec
        from rise_perception.network.checkpoint import load_model

        network, card = load_model(tiny_model)
        spec = ExportSpec(card.network.image_size, (120, 128))
        build_engine(network, card, spec, "onnxruntime", EngineCache(folder))

    return made_once("tiny_engines", make)


@pytest.fixture(scope="session")
def cell_model(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """Folder of the picking cell's model: trained until it finds light items, it has never seen blue ones."""

    def make(folder: Path) -> None:
        import picking

        (folder / "data").mkdir()
        anchors = picking.write_anchors(folder / "data/anchors.json", 40, 0)
        heldout = picking.write_anchors(folder / "data/heldout.json", 20, 1)
        picking.train_model(folder / "model", anchors, heldout)

    return made_once("cell_model", make) / "model"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small RGB model with random weights that reports every query as an instance."""
    return _save_tiny(tmp_path_factory.mktemp("models") / "tiny_rgb", "rgb")


@pytest.fixture(scope="session")
def tiny_depth_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for RGB-D."""
    return _save_tiny(tmp_path_factory.mktemp("models") / "tiny_rgbd", "rgbd")


def _save_tiny(folder: Path, kind: str) -> Path:
    import torch

    from rise_perception.network.card import ModelCard
    from rise_perception.network.checkpoint import save_model
    from rise_perception.network.config import NetworkConfig
    from rise_perception.network.rise import RiseNetwork

    torch.manual_seed(0)
    config = NetworkConfig(
        backbone="resnet18",
        backbone_args={"channels": [8, 16, 16, 32], "layers": [1, 1, 1, 1]},
        input=kind,
        image_size=(96, 128),
        levels=2,
        width=32,
        heads=2,
        points=2,
        encoder_layers=1,
        decoder_layers=1,
        feedforward=32,
        queries=12,
        embedding=16,
        dropout=0.0,
    )
    network = RiseNetwork(config)
    with torch.no_grad():  # untrained embeddings are all alike; the tracker needs them apart
        network.contrastive.layers[-1].weight.mul_(1000)
    save_model(folder, network, ModelCard(name=folder.name, network=config, score_threshold=0.0))
    return folder


@pytest.fixture(scope="session")
def scene() -> tuple[np.ndarray, np.ndarray]:
    """(image, depth) of 120x160 pixels: two boxes on a table, the second without depth in its middle."""
    rng = np.random.default_rng(0)
    image = rng.integers(90, 110, (120, 160, 3), np.uint8)
    depth = np.full((120, 160), 1.0, np.float32)
    image[30:70, 20:60] = (200, 40, 40)
    depth[30:70, 20:60] = 0.8
    image[50:100, 90:140] = (40, 200, 40)
    depth[50:100, 90:140] = 0.9
    depth[70:80, 110:120] = 0
    return image, depth


@pytest.fixture
def rise(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs a command line `rise ...` in this process; gives (exit status, stdout, stderr)."""
    from rise_perception.cli.main import main

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            status = int(stop.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return status, out, err

    return run
