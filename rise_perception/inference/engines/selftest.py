"""What a runtime has to show on a machine before it is trusted there; the steps of `rise selftest`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import torch

from rise_perception.inference.engines.build import Built, build_engine, milliseconds, serving_spec
from rise_perception.inference.engines.cache import EngineCache
from rise_perception.inference.engines.runner import EngineError
from rise_perception.network.checkpoint import load_model, save_model


def checks(model: Path, runtime: str, precision: str, device: str, folder: Path) -> Iterator[str]:
    """Run the steps one by one.

    Args:
        model: folder of the model.
        runtime: one with engines.
        precision: of the engine.
        device: for torch's part.
        folder: an empty one, for engines and models.

    Yields:
        what each step found, when it was as it should be.

    Raises:
        RiseError: it was not.
    """
    network, card = load_model(model)
    height, width = card.network.image_size
    # What a node would serve; this shape of image has to be scaled and padded.
    spec = serving_spec(card, (height, width * 3 // 2), precision, device)
    cache = EngineCache(folder / "engines")
    built = build_engine(network, card, spec, runtime, cache, device=device)
    yield f"built and compared with torch: {built.parity}"
    yield f"{milliseconds(built.runner, card, spec):.1f} ms an image (median of the network alone)"

    again = build_engine(network, card, spec, runtime, cache, device=device)
    _expect(again.from_cache, "the engine in the cache was not used")
    yield "loaded from the cache"

    path = Path(built.path)
    path.write_bytes(path.read_bytes()[:-1000])
    rebuilt = build_engine(network, card, spec, runtime, cache, device=device)
    _expect(not rebuilt.from_cache, "a truncated engine was used")
    yield f"truncated engine noticed: {cache.dropped[-1]}"

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.mul_(1.05)
    changed = save_model(folder / "changed", network, dataclasses.replace(card, name=f"{card.name}_changed"))
    swapped: Built = build_engine(network, changed, spec, runtime, cache, device=device)
    _expect(not swapped.from_cache, "changed weights were served by the engine of the old ones")
    how = "the engine was refitted" if swapped.refitted else "a new engine was built"
    yield f"changed weights taken over ({how}) and compared with torch: {swapped.parity}"


def _expect(condition: bool, problem: str) -> None:
    if not condition:
        raise EngineError(f"{problem}; report this with the machine and the versions of its packages")
