"""A segmenter that serves its first picture before torch could have been imported."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rise_perception.core.errors import RiseError
from rise_perception.inference.exported_model import BESIDE, ExportedModel
from rise_perception.inference.segmenter import AUTO_COLOUR, AUTO_DEPTH, Segmenter, find_model
from rise_perception.network.card import read_card

if TYPE_CHECKING:
    from rise_perception.inference.served_model import ServedModel

#: What NVIDIA's drivers for cards, for Jetson and for Windows' Linux show.
_GPUS = ("nvidia[0-9]*", "nvhost-gpu", "nvgpu", "dxg")


def load_exported(model: str, device: str, score_threshold: float | None) -> Segmenter | None:
    """The segmenter of :meth:`Segmenter.load`, from the exported files beside the models' weights.

    A file serves in FP32 and when it is of these very weights, and agrees with what torch found on the stored
    frame; pictures of proportions that it is not made for are torch's, which is loaded for the first of them.

    Args:
        model: as for :meth:`Segmenter.load`.
        device: ``auto`` is the CPU where no GPU shows.
        score_threshold: as for :meth:`Segmenter.load`.

    Returns:
        None where torch has to serve: on a GPU, without a file, or when something about it is not as it
        should be; loading the model as usual then says what is wrong with the model.
    """
    if device != "cpu" and (device != "auto" or shows_gpu()):
        return None
    try:
        names = [AUTO_DEPTH, AUTO_COLOUR] if model == "auto" else [model]
        loaded = [_load(find_model(name), score_threshold) for name in names]
    except RiseError:
        return None
    colour, depth = ([found for found in loaded if found.uses_depth == sees] for sees in (False, True))
    return Segmenter(next(iter(colour), None), next(iter(depth), None))


def shows_gpu() -> bool:
    """Whether torch might find a GPU; asking torch would take a second and a half."""
    return any(any(Path("/dev").glob(pattern)) for pattern in _GPUS)


def _load(folder: Path, score_threshold: float | None) -> ExportedModel:
    card = read_card(folder)
    otherwise = partial(_load_torch, folder, score_threshold)
    return ExportedModel(folder / BESIDE, "auto", score_threshold, card=card, otherwise=otherwise)


def _load_torch(folder: Path, score_threshold: float | None) -> ServedModel:
    from rise_perception.inference.served_model import ServedModel

    return ServedModel(folder, "cpu", score_threshold)
