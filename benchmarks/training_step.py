"""What a training step costs: this package's network against the transformers library's Deformable DETR.

Each side lives in a process of its own (``python -m benchmarks.training_step``), so that its
peak memory is its own; the parent makes them take steps in turn, so that whatever else the machine does hits
both alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rise_perception.core.config import build_config
from rise_perception.core.errors import MissingDependencyError, RiseError
from rise_perception.network.config import NetworkConfig

if TYPE_CHECKING:
    import torch
    from torch import nn

    from rise_perception.training.matching import Targets

OURS, PEER = "rise", "transformers Deformable DETR"
#: Steps before the first that counts: they allocate the optimiser's state and fill the caches.
WARM_UP = 2
#: Of AdamW and of the gradient's norm, on both sides.
LEARNING_RATE, CLIP = 1e-4, 0.1


@dataclass(frozen=True)
class StepJob:
    """The step that both sides take.

    Attributes:
        network: configuration of the network; the peer's is made from it.
        batch: images B, an even number.
        objects: objects in each image.
        device: where it runs.
    """

    network: NetworkConfig
    batch: int
    objects: int
    device: str


@dataclass(frozen=True)
class StepCost:
    """What one side's step costs.

    Attributes:
        milliseconds: of each step: forward, loss, backward, clipping, optimiser.
        peak_mb: most memory during the steps beyond what imports, model and batch take, in 10^6 bytes.
    """

    milliseconds: list[float]
    peak_mb: float


def measure_steps(job: StepJob, repeats: int) -> dict[str, StepCost]:
    """Cost of :data:`OURS` and of :data:`PEER`, by name.

    Raises:
        RiseError: one of them failed; the message is its last words.
    """
    workers = {name: _Worker(name, job) for name in (OURS, PEER)}
    try:
        times: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(WARM_UP + repeats):
            for name, worker in workers.items():
                times[name].append(worker.ask("step"))
        return {n: StepCost(times[n][WARM_UP:], worker.ask("peak")) for n, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()


class _Worker:
    """One side's process: a word in, a number out."""

    def __init__(self, name: str, job: StepJob) -> None:
        self.name = name
        command = [sys.executable, "-m", __name__, name, json.dumps(dataclasses.asdict(job))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )

    def ask(self, word: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone: what it said last tells why
            print(word, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        try:
            return float(answer)
        except ValueError as error:
            raise RiseError(
                f"the training step of {self.name} cannot be measured: {answer.strip() or 'it died'}"
            ) from error

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def main() -> None:
    """One side: answers each line of stdin ("step": milliseconds, "peak": megabytes) with a number."""
    name, content = sys.argv[1:]
    raw = json.loads(content)
    job = StepJob(**raw | {"network": build_config(NetworkConfig, raw["network"], "network")})
    try:
        step = _our_step(job) if name == OURS else _peer_step(job)
    except RiseError as error:
        print(error, flush=True)
        return
    baseline = _memory(job.device)
    for word in sys.stdin:
        if word.strip() == "step":
            start = time.perf_counter()
            step()
            print((time.perf_counter() - start) * 1e3, flush=True)
        else:
            print((_peak_memory(job.device) - baseline) / 1e6, flush=True)


def _our_step(job: StepJob) -> Callable[[], None]:
    import torch

    from rise_perception.network.build import build_network
    from rise_perception.training.association import association_loss
    from rise_perception.training.criterion import LossConfig, match, supervised_loss

    torch.manual_seed(0)
    network = build_network(job.network).to(job.device).to(memory_format=torch.channels_last).train()
    images, targets = make_batch(job)
    config = LossConfig()

    def loss() -> torch.Tensor:
        outputs = network(images)
        assert outputs.embeddings is not None
        matches = match(outputs, targets, config)
        embeddings = association_loss(outputs.embeddings, matches, targets)
        return (
            supervised_loss(outputs, targets, config, matches)["total"] + config.embedding_weight * embeddings
        )

    return _step(network, loss)


def _peer_step(job: StepJob) -> Callable[[], None]:
    import torch

    try:
        from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection
    except ImportError as error:
        raise MissingDependencyError(
            f"the comparison needs the transformers library ({error}); pip install transformers"
        ) from error
    torch.manual_seed(0)
    ours = job.network
    config = DeformableDetrConfig(
        backbone_config={
            "model_type": "timm_backbone",
            "backbone": ours.backbone,
            "out_indices": [2, 3, 4],
            "use_pretrained_backbone": False,
        },
        d_model=ours.width,
        num_feature_levels=ours.levels,
        encoder_layers=ours.encoder_layers,
        decoder_layers=ours.decoder_layers,
        encoder_ffn_dim=ours.feedforward,
        decoder_ffn_dim=ours.feedforward,
        encoder_attention_heads=ours.heads,
        decoder_attention_heads=ours.heads,
        encoder_n_points=ours.points,
        decoder_n_points=ours.points,
        num_queries=ours.queries,
        dropout=ours.dropout,
        with_box_refine=True,
        two_stage=False,
        auxiliary_loss=True,
    )
    config.num_labels = len(ours.classes)
    model = DeformableDetrForObjectDetection(config)
    model.train().to(torch.device(job.device))
    images, targets = make_batch(job)
    labels = [{"class_labels": t.classes, "boxes": t.boxes} for t in targets]
    return _step(model, lambda: model(pixel_values=images, labels=labels).loss)


def _step(network: nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    import torch

    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
    cuda = parameters[0].is_cuda

    def step() -> None:
        value = loss()
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        if cuda:
            torch.cuda.synchronize()

    return step


def make_batch(job: StepJob) -> tuple[torch.Tensor, list[Targets]]:
    """Noise with elliptic objects, the same in both views: images (B, 3, H, W) and their targets."""
    import torch

    from rise_perception.training.batches import make_targets

    height, width = job.network.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(job.batch, 3, height, width, generator=generator).to(job.device)
    y = (torch.arange(height) + 0.5)[:, None] / height
    x = (torch.arange(width) + 0.5) / width
    numbers = torch.rand(4, job.objects, 1, 1, generator=generator)
    centre_x, centre_y = 0.1 + 0.8 * numbers[:2]
    radius_x, radius_y = 0.04 + 0.08 * numbers[2:]
    masks = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 <= 1
    ids = torch.arange(job.objects)
    targets = make_targets(masks, ids % len(job.network.classes), ids).to(images.device)
    return images.contiguous(memory_format=torch.channels_last), [targets] * job.batch


def _memory(device: str) -> float:
    """Bytes in use now, once the device's own count of the most starts anew."""
    import torch

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()


def _peak_memory(device: str) -> float:
    import torch

    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
