"""A prior out of a local zero-shot detector of the transformers library (Grounding DINO, OWL-ViT, ...)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rise_perception.core.errors import DataError, MissingDependencyError
from rise_perception.language.meaning import Meaning
from rise_perception.referring.priors import Asked, meaning_of_box


class GroundingPrior:
    """The best box of a zero-shot object detector for the whole sentence.

    Only files of the folder are used, weights as safetensors; nothing is downloaded.

    Args:
        folder: a checkpoint with its processor, as ``save_pretrained`` writes it.

    Raises:
        DataError: the folder is missing or holds no such checkpoint.
        MissingDependencyError: transformers is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "config.json").is_file():
            raise DataError(f"{folder} is no checkpoint of transformers: it has no config.json")
        try:
            from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor
        except ImportError as error:
            raise MissingDependencyError(
                f"a prior of transformers:FOLDER needs transformers ({error}); pip install transformers"
            ) from error
        try:
            self._processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
            self._model: Any = AutoModelForZeroShotObjectDetection.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            ).eval()
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{folder} is no zero-shot detector of transformers: {error}") from error

    def __call__(self, asked: Asked) -> Meaning | None:
        """The detector's best box, whatever its score; None where the image is not at hand."""
        import torch

        if asked.image is None:
            return None
        inputs = self._processor(images=asked.image, text=[asked.sentence], return_tensors="pt")
        with torch.inference_mode():
            outputs = self._model(**inputs)
        height, width = asked.image.shape[:2]
        scores = outputs.logits[0].float().sigmoid().amax(-1)
        best = int(scores.argmax())
        cx, cy, w, h = outputs.pred_boxes[0, best].tolist()
        corners = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
        return meaning_of_box(asked.scene, corners, float(scores[best]))
