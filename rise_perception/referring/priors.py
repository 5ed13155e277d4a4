"""Priors: what something else than the head believes a sentence means. All answer through one protocol.

``none`` says nothing; ``grammar`` reckons with measured places, sizes, colours and recognised kinds;
``file:F`` repeats what any multimodal model answered earlier; ``transformers:FOLDER`` asks a local one.
The last two are for offline use: no robot waits for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rise_perception.core.errors import ConfigError, DataError
from rise_perception.core.rle import decode_runs
from rise_perception.language.meaning import Meaning, resolve
from rise_perception.language.phrase import Phrase
from rise_perception.referring.pairs import read_lines
from rise_perception.referring.scene import Scene

#: How far boxes of another model are believed: an instance is what was meant by intersection over union.
_AGREES, _WIDTH = 0.5, 0.1


@dataclass(frozen=True)
class Asked:
    """One sentence about one scene, as a prior sees it.

    Attributes:
        name: file name of the image.
        image: (H, W, 3) uint8 RGB, or None where only measures are kept.
        scene: its instances.
        sentence: the words.
        phrase: their meaning.
    """

    name: str
    image: np.ndarray | None
    scene: Scene
    sentence: str
    phrase: Phrase


class Prior(Protocol):
    """Believes something about a sentence."""

    def __call__(self, asked: Asked) -> Meaning | None:
        """Probabilities over the scene's instances; None where nothing is believed."""


def make_prior(name: str) -> Prior:
    """The prior of a name: ``none``, ``grammar``, ``file:F`` or ``transformers:FOLDER``.

    Raises:
        ConfigError: no such prior.
        DataError: the file or folder is missing or broken.
    """
    kind, _, place = name.partition(":")
    if name == "none":
        return no_prior
    if name == "grammar":
        return grammar_prior
    if kind == "file" and place:
        return FilePrior(Path(place))
    if kind == "transformers" and place:
        from rise_perception.referring.grounding_prior import GroundingPrior

        return GroundingPrior(Path(place))
    raise ConfigError(f"prior is {name!r}; it must be none, grammar, file:F or transformers:FOLDER")


def no_prior(asked: Asked) -> Meaning | None:
    """Believes nothing."""
    return None


def grammar_prior(asked: Asked) -> Meaning | None:
    """What the sentence means by its grammar (:func:`rise_perception.language.meaning.resolve`)."""
    return resolve(asked.phrase, asked.scene.things)


class FilePrior:
    """Answers that some model gave earlier: lines of file_name, sentence, score, and box or mask.

    ``box`` is x, y, width, height in pixels, ``mask`` a COCO RLE; both null or missing: the model found
    nothing. ``score`` is the probability of the answer, 0 to 1.

    Raises:
        DataError: the file is missing or a line is broken.
    """

    def __init__(self, path: Path) -> None:
        self._answers: dict[tuple[str, str], tuple[float, Any, Any]] = {}
        for number, line in read_lines(path):
            where = f"{path}, line {number}"
            if not isinstance(line, dict) or not all(
                isinstance(line.get(key), str) for key in ("file_name", "sentence")
            ):
                raise DataError(f"{where}: expected file_name, sentence, score, and box or mask")
            score, box = line.get("score"), line.get("box")
            if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
                raise DataError(f"{where}: score is {score!r}; it must be a probability")
            if box is not None and not _is_box(box):
                raise DataError(f"{where}: box is {box!r}; it must be x, y, width and height in pixels")
            mask = line.get("mask")
            if mask is not None and not isinstance(mask, Mapping):
                raise DataError(f"{where}: mask is no COCO RLE")
            self._answers[line["file_name"], line["sentence"]] = float(score), box, mask
        self._path = path

    def __call__(self, asked: Asked) -> Meaning | None:
        """What was answered to this sentence; None where it was not asked."""
        found = self._answers.get((asked.name, asked.sentence))
        if found is None:
            return None
        score, box, mask = found
        if mask is not None:
            things = asked.scene.things
            try:
                pixels = decode_runs(mask["counts"], things.height, things.width)
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{self._path}: mask of {asked.sentence!r} in {asked.name} does not fit: {error}"
                ) from error
            rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
            corners = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if len(rows) else None
        else:
            corners = [box[0], box[1], box[0] + box[2], box[1] + box[3]] if box is not None else None
        return meaning_of_box(asked.scene, corners, score)


def meaning_of_box(scene: Scene, corners: Any, score: float) -> Meaning:
    """A model's box as probabilities over instances.

    Args:
        scene: the instances.
        corners: x0, y0, x1, y1 in pixels; None for "nothing".
        score: probability of the answer.
    """
    fits = np.zeros(len(scene))
    if corners is None or not len(scene):
        return Meaning(fits, fits, score if corners is None else 1 - score)
    overlap = box_overlap(scene.things.boxes, np.asarray(corners, np.float64))
    agrees = score / (1 + np.exp(-(overlap - _AGREES) / _WIDTH))
    best = int(overlap.argmax())
    unique = np.where(np.arange(len(scene)) == best, agrees, 0.0)
    return Meaning(agrees, unique, float(1 - unique.sum()))


def box_overlap(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(N,) intersection over union of (N, 4) boxes x0, y0, x1, y1 with one."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    common = np.prod(np.clip(high - low, 0, None), -1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
    return common / np.maximum(areas + np.prod(box[2:] - box[:2]) - common, 1e-9)


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e6 for v in box)
    )
