"""The file of weights in a model's folder: written atomically, read with its checksum."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rise_perception.core.errors import ModelError
from rise_perception.core.files import atomic_write
from rise_perception.network.card import WEIGHTS, file_checksum


def write_weights(folder: Path, module: nn.Module) -> str:
    """Write a module's weights into a folder, which is made if there is none; returns their checksum."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}
    with atomic_write(folder / WEIGHTS) as temporary:
        save_file(state, temporary)
    return file_checksum(folder / WEIGHTS)


def read_weights(folder: Path, checksum: str) -> dict[str, Tensor]:
    """Read the weights of a folder.

    Args:
        folder: of the model.
        checksum: what its card says; an empty one fits every file.

    Raises:
        ModelError: the file is missing, damaged or another one.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise ModelError(f"{folder} has a card but no {WEIGHTS}; copy the weights beside the card")
    found = file_checksum(path)
    if checksum and found != checksum:
        raise ModelError(
            f"{path} has SHA-256 {found[:12]}..., its card says {checksum[:12]}...: "
            "the weights are damaged or belong to another card; copy both files again"
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read as safetensors ({error}); copy it again") from error
