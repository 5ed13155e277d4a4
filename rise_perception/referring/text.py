"""Sentences through a local pretrained text encoder of the transformers library: an option, never needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rise_perception.core.errors import MissingDependencyError, ModelError
from rise_perception.referring.head import MAX_SYMBOLS


class TextEncoder:
    """The last hidden states of an encoder such as BERT.

    Only files of the folder are used, weights as safetensors; nothing is downloaded.

    Args:
        folder: a checkpoint with its tokenizer, as ``save_pretrained`` writes it.

    Raises:
        ModelError: the folder is missing or holds no such checkpoint.
        MissingDependencyError: transformers is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise ModelError(f"text encoder {folder} has no config.json; it is no checkpoint of transformers")
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError as error:
            raise MissingDependencyError(
                f"a pretrained text encoder needs transformers ({error}); pip install transformers"
            ) from error
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"text encoder {folder} cannot be loaded: {error}") from error
        self._model = model.eval()
        self.width: int = int(model.config.hidden_size)

    def __call__(self, sentence: str) -> np.ndarray:
        """(L, width) float32, at most :data:`rise_perception.referring.head.MAX_SYMBOLS` words."""
        import torch

        inputs = self._tokenizer(sentence, truncation=True, max_length=MAX_SYMBOLS, return_tensors="pt")
        with torch.inference_mode():
            return self._model(**inputs).last_hidden_state[0].float().numpy()
