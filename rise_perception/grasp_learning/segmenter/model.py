"""The grasp segmenter on disk and in use: weights as safetensors with a card. Nothing is ever unpickled."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from rise_perception.core import resources
from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, ModelError, require
from rise_perception.core.files import write_json
from rise_perception.core.letterbox import Letterbox
from rise_perception.grasp_learning.capture.episode import Observation
from rise_perception.grasp_learning.labelling.change import Change
from rise_perception.grasp_learning.labelling.registration import bring_back
from rise_perception.grasp_learning.segmenter.inputs import expose_alike, pair_input
from rise_perception.grasp_learning.segmenter.network import SIZE, GraspSegmenter
from rise_perception.network.card import CARD
from rise_perception.network.weights import read_weights, write_weights

#: The model that ships.
SHIPPED = "rise_grasp_segmenter"
#: Largest card that is read, bytes.
_MAX_CARD = 1 << 20


@dataclass(frozen=True)
class SegmenterCard:
    """What a grasp segmenter is and where it comes from.

    Attributes:
        name: short name; the first part of the model's version.
        grasp_segmenter: version of its input and network; its presence tells the card from other models'.
        min_quality, min_quality_rgb: the quality from which a mask is a label, with depth and without.
        data: what it was trained on, one sentence.
        command: the command that trained it.
        metrics: measured figures by name.
        git_revision: revision of the code that trained it.
        checksum: SHA-256 of the weights file.
        notes: anything that a user should know.
    """

    name: str
    grasp_segmenter: int = 1
    min_quality: float = 0.8
    min_quality_rgb: float = 0.8
    data: str = ""
    command: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)
    git_revision: str = ""
    checksum: str = ""
    notes: str = ""

    def __post_init__(self) -> None:
        require(self.grasp_segmenter == 1, "card.grasp_segmenter", self.grasp_segmenter, "1")
        for name in ("min_quality", "min_quality_rgb"):
            require(0 < getattr(self, name) <= 1, f"card.{name}", getattr(self, name), "above 0, at most 1")

    @property
    def version(self) -> str:
        """Name and the first eight digits of the checksum."""
        return f"{self.name}-{self.checksum[:8]}" if self.checksum else self.name


class Removal:
    """What the network sees in one grasp.

    Attributes:
        left, moved: (H, W) float32, probability that a pixel of the frame before shows something that left,
            or that moved.
        min_quality: what a mask needs to be a label.
    """

    def __init__(
        self, network: GraspSegmenter, image: np.ndarray, size: tuple[int, int], min_quality: float
    ) -> None:
        self._network, self._box, self.min_quality = network, Letterbox(size, SIZE), min_quality
        logits, self._maps = network(torch.from_numpy(image)[None])
        likely = logits.sigmoid()
        self._left = F.avg_pool2d(likely[:, :1], 2)
        h, w = self._box.content
        self.left, self.moved = (
            cv2.resize(part[:h, :w].numpy(), size[::-1], interpolation=cv2.INTER_LINEAR) for part in likely[0]
        )

    @torch.inference_mode()
    def quality(self, masks: Sequence[np.ndarray]) -> np.ndarray:
        """(K,) float32 in [0, 1], expected IoU of each mask (H, W) bool with one item that left."""
        if not masks:
            return np.zeros(0, np.float32)
        half = SIZE[1] // 2, SIZE[0] // 2
        small = [
            cv2.resize(self._box.fit(mask.astype(np.float32), border=0), half, interpolation=cv2.INTER_AREA)
            for mask in masks
        ]
        logits = self._network.quality(self._maps, self._left, torch.from_numpy(np.stack(small))[None])
        return np.asarray(logits[0].sigmoid().numpy())


class LoadedSegmenter:
    """A grasp segmenter that is ready for use, on the CPU."""

    def __init__(self, network: GraspSegmenter, card: SegmenterCard) -> None:
        self._network, self.card = network.eval().requires_grad_(False), card

    @torch.inference_mode()
    def __call__(
        self, before: Observation, after: Observation, change: Change, target: np.ndarray | None
    ) -> Removal:
        """Look at a grasp.

        Args:
            before, after: its frames.
            change: how they fit together.
            target: (H, W) bool, the prediction that was grasped at; None where that is not known.
        """
        first, second = before.frame, after.frame
        image = expose_alike(bring_back(second.image, change.motion), change.exposure)
        depths = None
        if first.depth is not None and second.depth is not None:
            depths = first.depth, bring_back(second.depth, change.motion)
        made = pair_input(first.image, image, depths, target, change.compared)
        least = self.card.min_quality_rgb if depths is None else self.card.min_quality
        return Removal(self._network, made, first.image.shape[:2], least)


def save_segmenter(folder: Path, network: GraspSegmenter, card: SegmenterCard) -> SegmenterCard:
    """Write weights and card atomically, the card last, and return the card with its checksum."""
    card = dataclasses.replace(card, checksum=write_weights(folder, network))
    write_json(folder / CARD, dataclasses.asdict(card))
    return card


def load_segmenter(folder: Path) -> LoadedSegmenter:
    """Load a model; ModelError where a file is missing, damaged or does not fit."""
    path = folder / CARD
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > _MAX_CARD:
            raise ConfigError(f"larger than {_MAX_CARD} bytes")
        raw = json.loads(text)
        if not isinstance(raw, dict) or "grasp_segmenter" not in raw:
            raise ConfigError("it has no entry 'grasp_segmenter'; it is the card of another kind of model")
        card = build_config(SegmenterCard, raw, "card")
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise ModelError(
            f"{path} is not a valid card of a grasp segmenter: {error}; restore it from where it came"
        ) from error
    state = read_weights(folder, card.checksum)
    network = GraspSegmenter()
    try:
        network.load_state_dict(state)
    except RuntimeError as error:  # other names or shapes
        raise ModelError(f"the weights in {folder} do not fit the network: {error}") from error
    if not all(torch.isfinite(tensor).all() for tensor in network.state_dict().values()):
        raise ModelError(f"{folder} holds weights that are no finite numbers; copy or train it again")
    return LoadedSegmenter(network, card)


@cache
def shipped_segmenter() -> LoadedSegmenter | None:
    """The model that ships; None, with a warning, where it is missing or damaged."""
    folder = resources.find("models") / SHIPPED
    try:
        return load_segmenter(folder)
    except ModelError as error:
        logging.getLogger(__name__).warning("grasps are labelled without the grasp segmenter: %s", error)
        return None
