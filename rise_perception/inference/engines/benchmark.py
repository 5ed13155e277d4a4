"""What each runtime costs, from image to full-size masks, beside two well-known networks of the same size.

Every row is measured in a process of its own, one after the other, on the same frame: its peak memory is then
its own. ``python -m rise_perception.inference.engines.benchmark`` is that process.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rise_perception.core.errors import RiseError
from rise_perception.inference.engines.export_module import ExportModule
from rise_perception.inference.engines.feeds import stored_frames
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.network.checkpoint import load_model

#: Peers, by the name of their rows.
DETR, MASK_RCNN = "transformers Deformable DETR", "torchvision Mask R-CNN"
OURS = "rise_perception"
#: Side of the square matrices whose product shows what the machine can do.
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Task:
    """One row to be measured.

    Attributes:
        name: :data:`OURS`, :data:`DETR` or :data:`MASK_RCNN`.
        runtime: how it is run.
        precision: in what.
        device: ``cpu`` or ``cuda``.
        model: folder of our model.
        cache: folder of the engine cache.
        image: height and width of the image, and of the peers' input.
        queries: of the Deformable DETR peer.
        frames: measured, after ``warm_up``.
        warm_up: frames before.
    """

    name: str
    runtime: str
    precision: str
    device: str
    model: str
    cache: str
    image: tuple[int, int]
    queries: int
    frames: int
    warm_up: int = 2


def rows_for(device: str) -> list[tuple[str, str, str]]:
    """(name, runtime, precision) of all rows of a device."""
    if device == "cpu":
        ours = [("torch", "fp32"), ("torch-compiled", "fp32"), ("torch-compiled", "bf16")]
        ours += [("onnxruntime", "fp32")]
        ours += [("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8")]
    else:
        ours = [("torch", "fp32"), ("torch-compiled", "fp16"), ("torch-cudagraph", "fp16")]
        ours += [("onnxruntime-cuda", "fp16"), ("onnxruntime-tensorrt", "fp16"), ("tensorrt", "fp16")]
    peers = [(DETR, "torch", "fp32"), (MASK_RCNN, "torch", "fp32")]
    return [*peers, *((OURS, *pair) for pair in ours)]


def measure(task: Task) -> dict[str, Any]:
    """Measure a row in a new process.

    Returns:
        the row of the report, or with ``error`` in place of figures.
    """
    command = [sys.executable, "-m", "rise_perception.inference.engines.benchmark", json.dumps(asdict(task))]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    row = {"name": task.name, "runtime": task.runtime, "precision": task.precision, "device": task.device}
    for line in reversed(done.stdout.splitlines()):
        with contextlib.suppress(ValueError):
            told = json.loads(line)
            if isinstance(told, dict) and "row" in told:
                return row | told["row"]
    last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
    return row | {"error": f"ended with status {done.returncode}; it said: {last[0]}"}


def peak_gflops(device: str) -> float:
    """FP32 GFLOP/s (2 per multiply-add) that a product of large matrices reaches here: the best of five."""
    side = PEAK_SIDE[device.split(":")[0]]
    a, b = (torch.rand(side, side, device=device) for _ in range(2))
    best = math.inf
    for _ in range(6):  # the first one warms up
        start = time.perf_counter()
        (a @ b)[0, 0].item()
        best = min(best, time.perf_counter() - start)
    return 2.0 * side**3 / best / 1e9


def gflop(folder: str | Path, image: tuple[int, int]) -> float:
    """GFLOP (2 per multiply-add) of our network on an image, convolutions and matrix products."""
    from torch.utils.flop_counter import FlopCounterMode

    network, card = load_model(folder)
    # With gradients, the counter would look for their functions.
    module = ExportModule(network, ExportSpec(card.network.image_size, image)).eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*module.example().values())
    return counter.get_total_flops() / 1e9


def _run(task: Task) -> dict[str, Any]:
    frame = stored_frames(task.image, 1)[0]
    call, version = {OURS: _ours, DETR: _detr, MASK_RCNN: _mask_rcnn}[task.name](
        task, frame.image, frame.depth
    )
    for _ in range(task.warm_up):
        call()
    gc.collect()
    if task.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    spent = []
    for _ in range(task.frames):
        start = time.perf_counter()
        call()
        spent.append((time.perf_counter() - start) * 1e3)
    if task.device == "cpu":
        peak = _peak_memory()
    else:
        free, total = torch.cuda.mem_get_info()
        peak = max(torch.cuda.max_memory_reserved(), total - free) / 2**20
    return {
        "model": version,
        "median_ms": float(np.median(spent)),
        "p95_ms": float(np.quantile(spent, 0.95)),
        "peak_mb": peak,
    }


def _peak_memory() -> float:
    """MB that this process has held at most. (getrusage would count what its parent held, too.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RiseError("peak memory is read from /proc/self/status, which this system does not have")


Call = Callable[[], object]


def _ours(task: Task, image: np.ndarray, depth: np.ndarray | None) -> tuple[Call, str]:
    from rise_perception.inference.engines.backends.torch import MODES, TorchRunner
    from rise_perception.inference.engines.build import find_engine
    from rise_perception.inference.engines.cache import EngineCache
    from rise_perception.inference.served_model import ServedModel

    served = ServedModel(Path(task.model), task.device, None)
    spec = served.spec(task.image, task.precision)
    if task.runtime in MODES:
        served.serve(TorchRunner(load_model(task.model)[0], spec, task.runtime, task.device), spec)
    elif task.runtime != "torch":
        cache = EngineCache(task.cache)
        served.serve(find_engine(served.card, spec, task.runtime, cache, task.device), spec)
    depth = depth if served.uses_depth else None
    return lambda: served(image, depth), served.card.version


def _detr(task: Task, image: np.ndarray, depth: np.ndarray | None) -> tuple[Call, str]:
    import transformers

    config = transformers.DeformableDetrConfig(
        backbone_config={"model_type": "timm_backbone", "backbone": "resnet50", "out_indices": [2, 3, 4]},
        with_box_refine=True,
        num_queries=task.queries,
    )
    network = transformers.DeformableDetrForObjectDetection(config).eval().to(task.device)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float().div(255).to(task.device)

    def call() -> object:
        with torch.inference_mode():
            return network(pixel_values=pixels).logits.cpu()

    return call, f"transformers {transformers.__version__}, boxes only"


def _mask_rcnn(task: Task, image: np.ndarray, depth: np.ndarray | None) -> tuple[Call, str]:
    import torchvision

    # Every proposal counts, as an untrained network scores nothing above the usual threshold.
    network = torchvision.models.detection.maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=3,
        min_size=min(task.image),
        max_size=max(task.image),
        box_score_thresh=0.0,
    )
    network = network.eval().to(task.device)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float().div(255).to(task.device)

    def call() -> object:
        with torch.inference_mode():
            return network([pixels])[0]["masks"].cpu()

    return call, f"torchvision {torchvision.__version__}"


def main() -> int:
    """Measures one row; its last line is the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", type=json.loads)
    fields = parser.parse_args().task
    task = Task(**{**fields, "image": tuple(fields["image"])})
    torch.manual_seed(0)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            row = _run(task)
    except (RiseError, ImportError) as error:
        row = {"error": str(error)}
    print(json.dumps({"row": row}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
