"""torch-compiled: an engine of torch's own compiler, built ahead of time and distrusted like the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rise_perception.inference.engines import autoselect
from rise_perception.inference.engines.backends.torch_compiled import TorchCompiled, export_program
from rise_perception.inference.engines.build import Built, build_engine, find_engine
from rise_perception.inference.engines.cache import EngineCache
from rise_perception.inference.engines.export_module import ExportModule
from rise_perception.inference.engines.feeds import feeds_of, stored_frames
from rise_perception.inference.engines.runner import EngineError, RuntimeUnavailableError, processor_flags
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.inference.segmenter import Segmenter
from rise_perception.network.checkpoint import load_model
from rise_perception.network.deformable_attention import sample_levels

pytestmark = pytest.mark.slow
SIZE = (120, 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def built(tiny_model: Path, folder: Path) -> Built:
    return build(tiny_model, EngineCache(folder))


def build(model: Path, cache: EngineCache, precision: str = "fp32", stages: list[str] | None = None) -> Built:
    network, card = load_model(model)
    spec = ExportSpec((96, 128), SIZE, precision=precision)
    told: list[str] = [] if stages is None else stages
    return build_engine(network, card, spec, "torch-compiled", cache, lambda stage, _: told.append(stage))


def test_it_is_compiled_once_and_agrees_with_torch(tiny_model: Path, folder: Path, built: Built) -> None:
    assert not built.from_cache
    assert (built.parity.mask_iou > 0.999, built.parity.found) == (True, 1.0)
    stages: list[str] = []
    again = build(tiny_model, EngineCache(folder), stages=stages)
    assert again.from_cache
    assert stages == ["load", "check"]  # neither exported nor compiled
    assert not list(folder.glob("graph-*")), "an ONNX graph that nobody needs"


def test_two_images_one_after_the_other_do_not_share_results(tiny_model: Path, built: Built) -> None:
    mode = load_model(tiny_model)[1].network.input
    first, second = feeds_of(built.spec, mode, stored_frames(SIZE, 2))
    kept = built.runner(first)
    copy = kept.masks.copy()
    built.runner(second)
    assert (kept.masks == copy).all()


def test_a_segmenter_serves_with_the_engine_of_the_cache(
    tiny_model: Path, folder: Path, built: Built
) -> None:
    image = stored_frames(SIZE, 1)[0].image
    segmenter = Segmenter.load(tiny_model, "cpu", runtime="torch-compiled", engine_dir=folder)
    segmenter(image)
    segmenter.wait_for_engines()
    found = segmenter(image)
    assert segmenter.last_runtime == "torch-compiled fp32"
    plain = Segmenter.load(tiny_model, "cpu")(image)
    assert (found.label_map == plain.label_map).mean() > 0.98
    segmenter.close()


def test_what_is_no_package_is_refused(built: Built, tmp_path: Path) -> None:
    content = Path(built.path).read_bytes()
    for damaged in (b"", b"\x00garbage" * 100, content[:-1000]):
        with pytest.raises(EngineError, match="torch refuses the engine"):
            TorchCompiled().load(damaged, "fp32", tmp_path)


def test_another_processor_or_version_of_torch_has_an_engine_of_its_own(
    tiny_model: Path, folder: Path, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, card = load_model(tiny_model)
    cache = EngineCache(folder)
    assert find_engine(card, built.spec, "torch-compiled", cache).precision == "fp32"
    bound = TorchCompiled().identity()
    assert bound["torch"] == torch.__version__
    assert bound["instructions"].split() == sorted(processor_flags())
    for name in ("torch", "processor", "instructions", "threads", "device"):
        other = {**bound, name: "another"}
        # There is one processor and one version of torch here.
        monkeypatch.setattr(TorchCompiled, "identity", lambda self, other=other: other)
        with pytest.raises(EngineError, match="holds no torch-compiled engine"):
            find_engine(card, built.spec, "torch-compiled", cache)


def test_without_a_compiler_it_says_so_and_an_engine_of_the_cache_still_serves(
    tiny_model: Path, folder: Path, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", (None, str(tmp_path / "none")))
    with pytest.raises(RuntimeUnavailableError, match="needs a C\\+\\+ compiler"):
        build(tiny_model, EngineCache(tmp_path / "empty"))
    assert build(tiny_model, EngineCache(folder)).from_cache


def test_in_half_precision_the_program_computes_what_autocast_does(tiny_model: Path) -> None:
    network, _ = load_model(tiny_model)
    spec, device = ExportSpec((96, 128), SIZE, precision="bf16"), torch.device("cpu")
    module = export_program(network, spec, device).module()
    (feeds,) = feeds_of(spec, network.config.input, stored_frames(SIZE, 1))
    image = torch.from_numpy(feeds["input"])
    eager = ExportModule(network, spec, sample=sample_levels).eval()
    with torch.no_grad():
        got, exact = module(image), eager(image)
        with torch.autocast("cpu", torch.bfloat16):
            half = eager(image)
    assert (got[2] - half[2]).abs().max() < 1e-5  # boxes
    assert (exact[2] - half[2]).abs().max() > 1e-5


def test_a_precision_that_the_processor_does_not_compute_is_refused_before_anything_is_compiled(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rise_perception.inference.engines.backends import torch as torch_backend

    monkeypatch.setattr(torch_backend, "processor_flags", set)
    with pytest.raises(RuntimeUnavailableError, match="torch computes no BF16"):
        build(tiny_model, EngineCache(tmp_path), "bf16")


def test_the_fastest_may_be_this_one(
    tiny_model: Path, folder: Path, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` tries it in both precisions, and names why one is left out."""
    tried = [precision for name, precision in autoselect.CANDIDATES["cpu"] if name == "torch-compiled"]
    assert tried == ["fp32", "bf16"]
    monkeypatch.setattr(
        autoselect, "CANDIDATES", {"cpu": (("torch-compiled", "fp32"), ("torch-compiled", "int8"))}
    )
    monkeypatch.setattr(
        autoselect, "milliseconds", lambda runner, *_: 1.0 if runner.name == "torch-compiled" else 2.0
    )
    network, card = load_model(tiny_model)
    choice = autoselect.choose(network, card, built.spec, EngineCache(folder))
    assert (choice.runtime, choice.precision) == ("torch-compiled", "fp32")
    assert "no precision 'int8'" in choice.refused["torch-compiled int8"]
