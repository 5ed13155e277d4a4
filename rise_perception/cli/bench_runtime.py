"""`rise bench runtime`: every runtime beside two well-known networks, on this machine, in one run."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rise_perception.core.errors import ConfigError, RiseError, require

if TYPE_CHECKING:
    from rise_perception.inference.engines.cache import EngineCache

SUMMARY = "the network in every runtime, beside transformers' Deformable DETR and torchvision's Mask R-CNN"
EXAMPLES = """\
examples:
  OMP_NUM_THREADS=2 taskset -c 0,1 rise bench runtime
  rise bench runtime --json runtime.json
  rise bench runtime --model rise_small_rgb --size 480x640
  rise bench runtime --encoders deformable hybrid --runtimes torch openvino

Without --model ours is the paper's network (ResNet-50, 300 queries) with random weights, of which 20
instances are drawn; with --encoders also the same network with the light encoder. Ours goes from the image to
instances with masks at full size; Deformable DETR gives boxes only. Aims on two CPU cores at 480x640: eager
at most 1.1 times Deformable DETR's eager time, the best runtime at most 0.40 times it.
"""
DRAWN = 20
AIMS = (("torch", 1.10), ("", 0.40))
#: Depth of each encoder: the paper's and RT-DETR's.
LAYERS = {"deformable": 6, "hybrid": 1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the benchmark's arguments."""
    parser.add_argument("--model", metavar="M", help="model folder or name (default: ResNet-50, random)")
    parser.add_argument(
        "--encoders",
        nargs="+",
        choices=list(LAYERS),
        metavar="E",
        help="of the random network: deformable (default), hybrid",
    )
    parser.add_argument("--size", default="480x640", metavar="HxW", help="images (default: 480x640)")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu or cuda")
    parser.add_argument("--frames", type=int, default=20, metavar="N", help="per row (default: 20)")
    parser.add_argument("--runtimes", nargs="+", metavar="R", help="only these of ours (default: all)")
    parser.add_argument("--engine-dir", type=Path, metavar="DIR", help="engine cache (default: the user's)")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to this file")


def run(args: argparse.Namespace) -> int:
    """Build what is missing, measure row by row, print the table."""
    from rise_perception.cli.export import parse_size
    from rise_perception.inference.device import choose_device
    from rise_perception.inference.segmenter import find_model

    require(args.frames >= 1, "--frames", args.frames, "at least 1")
    if args.model and args.encoders:
        raise ConfigError(
            f"--encoders is {args.encoders} and --model {args.model!r} has its own; leave one out"
        )
    size = parse_size("--size", args.size)
    device = choose_device(args.device)
    with tempfile.TemporaryDirectory() as folder:
        if args.model:
            models = [find_model(args.model)]
        else:
            models = [
                _paper_network(Path(folder) / encoder, size, encoder)
                for encoder in args.encoders or ["deformable"]
            ]
        return _measure(args, models, size, device)


def _measure(args: argparse.Namespace, models: list[Path], size: tuple[int, int], device: str) -> int:
    from tqdm import tqdm

    from rise_perception.core.files import write_json
    from rise_perception.inference.engines.benchmark import OURS, Task, gflop, measure, peak_gflops, rows_for
    from rise_perception.inference.engines.cache import EngineCache
    from rise_perception.inference.threads import cpu_threads
    from rise_perception.network.card import read_card

    cache = EngineCache(args.engine_dir)
    tasks, rows = [], []
    queries = read_card(models[0]).network.queries
    for name, runtime, precision in rows_for(device):
        if name == OURS and args.runtimes and runtime not in args.runtimes:
            continue
        for model in models if name == OURS else models[:1]:
            if name == OURS and (problem := _prepare(model, size, runtime, precision, device, cache)):
                print(f"{runtime} {precision} is left out: {problem}")
                continue
            folders = str(model), str(cache.folder)
            tasks.append(Task(name, runtime, precision, device, *folders, size, queries, args.frames))
    work, peak = {str(model): gflop(model, size) for model in models}, peak_gflops(device)
    for task in tqdm(tasks, desc="measuring", unit="row"):
        row = measure(task)
        if "error" in row:
            print(f"{task.name}, {task.runtime} {task.precision} is left out: {row['error']}")
            continue
        if task.name == OURS:
            row |= _work(row, work[task.model], peak)
            row["encoder"] = read_card(task.model).network.encoder
        rows.append(row)
    _print(rows, peak, size, device)
    if args.json:
        machine = f"{platform.machine()}, Python {platform.python_version()}, {cpu_threads()} threads"
        content = {
            "benchmark": "runtime",
            "machine": machine,
            "height": size[0],
            "width": size[1],
            "frames": args.frames,
            "gflop": work[str(models[0])],
            "peak_gflops": peak,
            "rows": rows,
        }
        write_json(args.json, content)
    return 0


def _prepare(
    model: Path, size: tuple[int, int], runtime: str, precision: str, device: str, cache: EngineCache
) -> str:
    """Have the engine in the cache, compared with torch; returns why there is none, or an empty text."""
    from rise_perception.inference.engines.build import RUNTIMES, build_engine, serving_spec
    from rise_perception.network.checkpoint import load_model

    if runtime not in RUNTIMES:
        return ""

    def told(stage: str, fraction: float) -> None:
        print(f"{runtime} {precision}: {stage}", file=sys.stderr)

    network, card = load_model(model)
    try:
        build_engine(network, card, serving_spec(card, size, precision, device), runtime, cache, told, device)
    except RiseError as error:
        return str(error)
    return ""


def _work(row: dict[str, Any], gflop: float, peak: float) -> dict[str, float]:
    """GFLOP of a row and, as the peak is measured in FP32, in FP32 its fraction of the peak."""
    of_peak = {"peak_share": gflop / row["median_ms"] * 1e3 / peak} if row["precision"] == "fp32" else {}
    return {"gflop": gflop, **of_peak}


def _print(rows: list[dict[str, Any]], peak: float, size: tuple[int, int], device: str) -> None:
    from rise_perception.inference.engines.benchmark import DETR

    base = next((r["median_ms"] for r in rows if r["name"] == DETR), None)
    print(f"{size[1]}x{size[0]} on {device}; FP32 products of matrices reach {peak:.0f} GFLOP/s here")
    columns = f"{'median ms':>10}{'95 %':>9}{'peak MB':>9}{'ratio':>7}{'GFLOP':>7}{'of peak':>9}"
    print(f"{'':<31}{'runtime':<22}{'':<6}{columns}")
    for row in rows:
        ratio = "" if base is None else f"{row['median_ms'] / base:.2f}"
        fraction = f"{row['gflop']:>7.1f}" if "gflop" in row else ""
        fraction += f"{row['peak_share']:>9.0%}" if "peak_share" in row else ""
        name = row["name"] + (", hybrid encoder" if row.get("encoder") == "hybrid" else "")
        print(
            f"{name:<31}{row['runtime']:<22}{row['precision']:<6}{row['median_ms']:>10.1f}"
            f"{row['p95_ms']:>9.1f}{row['peak_mb']:>9.0f}{ratio:>7}{fraction}"
        )
    ours = [row for row in rows if row.get("encoder") == "deformable"]
    if base is None or device != "cpu":
        return
    for runtime, aim in AIMS:
        fitting = [row["median_ms"] / base for row in ours if runtime in ("", row["runtime"])]
        if fitting:
            what = runtime or "the best runtime"
            print(f"{what}: {min(fitting):.2f} times {DETR} (aim: {aim:.2f})")


def _paper_network(folder: Path, size: tuple[int, int], encoder: str) -> Path:
    """The paper's network, random, with one of two encoders; its threshold lets a few queries pass."""
    import torch

    from rise_perception.inference.engines.feeds import stored_frames
    from rise_perception.network.build import build_network
    from rise_perception.network.card import ModelCard
    from rise_perception.network.checkpoint import save_model
    from rise_perception.network.config import NetworkConfig
    from rise_perception.network.inputs import make_input

    torch.manual_seed(0)
    layers = LAYERS[encoder]
    config = NetworkConfig(
        image_size=size, classes=("object",), containers=(), encoder=encoder, encoder_layers=layers
    )
    network = build_network(config).eval()
    frame = stored_frames(size, 1)[0]
    with torch.inference_mode():
        scores = (
            network(torch.from_numpy(make_input(frame.image, None, "rgb"))[None]).logits[0, :, 0].sigmoid()
        )
    threshold = float(scores.sort(descending=True).values[DRAWN])
    save_model(folder, network, ModelCard(f"rise_r50_{encoder}_random", config, score_threshold=threshold))
    return folder
