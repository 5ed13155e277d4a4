"""The segmenter: one call from an image (and its depth, where there is any) to instances."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch

from rise_perception.data.letterbox import Letterbox
from rise_perception.errors import ModelError
from rise_perception.frame import check_depth, check_image
from rise_perception.instances import Instances
from rise_perception.network.checkpoint import CARD, load_model
from rise_perception.network.inputs import make_input
from rise_perception.resources import find
from rise_perception.runtime.device import choose_device
from rise_perception.runtime.postprocess import draw_queries, to_instances

#: The pair that serves ``auto``: with depth the first, without the second.
AUTO_DEPTH, AUTO_COLOUR = "rise_small_rgbd", "rise_small_rgb"
#: With a smaller share of valid depth than this, depth counts as absent (a covered or failing sensor).
LEAST_DEPTH = 0.05


class Segmenter:
    """Segments images with one model, or with a pair of which depth decides.

    >>> segmenter = Segmenter.load()
    >>> instances = segmenter(image)            # (H, W, 3) uint8 RGB
    >>> instances = segmenter(image, depth)     # depth (H, W) float32 metres, 0 = none

    Attributes:
        version: name and checksum of the model; of both, joined by "+", for a pair.
        class_names: names of the classes.
        last_timing: milliseconds of the last call: ``preprocess``, ``network``, ``postprocess``.
        last_model: version of the model that served the last call.
    """

    def __init__(self, colour: _Model | None, depth: _Model | None) -> None:
        self._colour, self._depth = colour, depth
        models = [m for m in (depth, colour) if m is not None]
        self.version = "+".join(m.card.version for m in models)
        self.class_names: tuple[str, ...] = models[0].card.network.classes
        self.last_timing: dict[str, float] = {}
        self.last_model = ""

    @classmethod
    def load(
        cls, model: str | Path = "auto", device: str = "auto", score_threshold: float | None = None
    ) -> Segmenter:
        """Load a model.

        Args:
            model: a folder with ``model.safetensors`` and ``card.json``; the name of a shipped model; or
                ``auto``, the shipped pair: the RGB-D model where depth comes in, the RGB model elsewhere.
            device: ``auto``, ``cpu``, ``cuda``, ...
            score_threshold: instances that score below are dropped; None takes the card's.

        Raises:
            ModelError: no such model, or its files are damaged or contradict each other.
            ConfigError: the device cannot be used.
        """
        device = choose_device(device)
        names = [AUTO_DEPTH, AUTO_COLOUR] if str(model) == "auto" else [model]
        colour = depth = None
        for name in names:
            loaded = _Model(find_model(name), device, score_threshold)
            if loaded.uses_depth:
                depth = loaded
            else:
                colour = loaded
        return cls(colour, depth)

    @property
    def uses_depth(self) -> bool:
        """True when depth, if given, changes the result."""
        return self._depth is not None

    @property
    def needs_depth(self) -> bool:
        """True when an image without depth cannot be segmented."""
        return self._colour is None

    def __call__(self, image: np.ndarray, depth: np.ndarray | None = None) -> Instances:
        """Segment one image.

        Args:
            image: (H, W, 3) uint8 RGB, any size.
            depth: (H, W) float32 metres registered to the image; 0 or NaN where there is no measurement.

        Returns:
            Instances in the image's own pixels; ``ids`` equal ``labels``.

        Raises:
            ImageError: image or depth of another layout.
            ModelError: the model needs depth and there is none.
        """
        check_image(image)
        if depth is not None:
            check_depth(depth, image)
            # A dead depth camera sends zeros: a robot goes on with colour.
            if np.count_nonzero((depth > 0) & np.isfinite(depth)) < LEAST_DEPTH * depth.size:
                depth = None
        model = self._depth if depth is not None and self._depth else self._colour
        if model is None:
            raise ModelError(
                f"model {self.version} sees depth and this image has none (or less than {LEAST_DEPTH:.0%} "
                "valid); give depth, or use an RGB model or 'auto'"
            )
        instances, self.last_timing = model(image, depth if model.uses_depth else None)
        self.last_model = model.card.version
        return instances


class _Model:
    """One network on one device."""

    def __init__(self, folder: Path, device: str, score_threshold: float | None) -> None:
        network, self.card = load_model(folder, device)
        self.network = network.to(memory_format=torch.channels_last)
        self.device = torch.device(device)
        self.threshold = self.card.score_threshold if score_threshold is None else score_threshold

    @property
    def uses_depth(self) -> bool:
        return self.card.network.input == "rgbd"

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, depth: np.ndarray | None) -> tuple[Instances, dict[str, float]]:
        start = time.perf_counter()
        config = self.card.network
        letterbox = Letterbox(image.shape[:2], config.image_size)
        fitted = None if depth is None else letterbox.fit(depth, nearest=True, border=0)
        array = make_input(letterbox.fit(image), fitted, config.input)
        images = torch.from_numpy(array)[None].to(self.device, memory_format=torch.channels_last)
        mask = letterbox.padding()
        padding = None if mask is None else torch.from_numpy(mask)[None].to(self.device)
        prepared = time.perf_counter()
        drawn = draw_queries(
            self.network(images, padding), self.threshold
        )  # ends on the CPU: nothing to wait for
        predicted = time.perf_counter()
        instances = to_instances(drawn, letterbox, config, self.threshold)
        done = time.perf_counter()
        return instances, {
            "preprocess": (prepared - start) * 1e3,
            "network": (predicted - prepared) * 1e3,
            "postprocess": (done - predicted) * 1e3,
        }


def find_model(model: str | Path) -> Path:
    """Folder of a model given by path or by the name of a shipped one.

    Raises:
        ModelError: neither exists; the message lists the shipped models.
    """
    path = Path(model)
    if (path / CARD).is_file():
        return path
    shipped = find("models")
    if (shipped / path / CARD).is_file():
        return shipped / path
    names = sorted(p.parent.name for p in shipped.glob(f"*/{CARD}"))
    raise ModelError(
        f"model {str(model)!r} is no folder with a {CARD} and no shipped model; shipped are {names or 'none'}"
    )
