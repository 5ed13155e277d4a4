"""The segmenter: one call from an image (and its depth, where there is any) to instances."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rise_perception.core.errors import ModelError, RiseError
from rise_perception.core.frame import check_depth, check_image
from rise_perception.core.instances import Instances
from rise_perception.core.resources import find
from rise_perception.inference.malloc_tuning import give_back_freed_memory
from rise_perception.inference.pick_success import with_pick_success, without_flat
from rise_perception.network.card import CARD, is_of_segmenter, read_card

if TYPE_CHECKING:  # torch is loaded by who needs it
    from rise_perception.inference.exported_model import ExportedModel
    from rise_perception.inference.served_model import ServedModel

#: The pair that serves ``auto``: with depth the first, without the second.
AUTO_DEPTH, AUTO_COLOUR = "rise_small_rgbd", "rise_small_rgb"
#: With a smaller fraction of valid depth than this, depth counts as absent (a covered or failing sensor).
MIN_DEPTH = 0.05


class Segmenter:
    """Segments images with one model, or with a pair of which depth decides.

    >>> segmenter = Segmenter.load()
    >>> instances = segmenter(image)            # (H, W, 3) uint8 RGB
    >>> instances = segmenter(image, depth)     # depth (H, W) float32 metres, 0 = none

    Attributes:
        class_names: names of the classes.
        last_timing: milliseconds of the last call: ``preprocess``, ``network``, ``postprocess``.
        last_model: version of the model that served the last call.
        last_runtime: runtime and precision that served it.
        min_relief_mm: instances whose median height above the support surface is lower are dropped, where
            there is depth; 0 drops none.
    """

    def __init__(
        self, colour: ServedModel | ExportedModel | None, depth: ServedModel | ExportedModel | None
    ) -> None:
        self._colour, self._depth = colour, depth
        self.class_names: tuple[str, ...] = self.models[0].card.network.classes
        self.last_timing: dict[str, float] = {}
        self.last_model = ""
        self.last_runtime = ""
        self.min_relief_mm = 0.0

    @property
    def models(self) -> list[ServedModel | ExportedModel]:
        """The model for depth and the one for colour alone, those that there are."""
        return [model for model in (self._depth, self._colour) if model is not None]

    @property
    def version(self) -> str:
        """Name and checksum of the model; of both, joined by "+", for a pair."""
        return "+".join(model.card.version for model in self.models)

    @property
    def score_threshold(self) -> float:
        """Score below which the model that served last, or will first, drops instances."""
        model = next((m for m in self.models if m.card.version == self.last_model), self.models[0])
        return float(model.threshold)

    @score_threshold.setter
    def score_threshold(self, value: float) -> None:
        """Holds from the next image on; 0 takes each model's own."""
        for model in self.models:
            model.threshold = value or model.card.score_threshold

    @classmethod
    def load(
        cls,
        model: str | Path = "auto",
        device: str = "auto",
        score_threshold: float | None = None,
        runtime: str = "torch",
        precision: str = "fp32",
        engine_dir: str | Path | None = None,
        calibration: str | Path = "",
    ) -> Segmenter:
        """Load a model.

        Args:
            model: a folder with ``model.safetensors`` and ``card.json``; the name of a shipped model; a file
                of `rise export` (``.onnx``), which serves without torch; or ``auto``, the shipped pair: the
                RGB-D model where depth comes in, the RGB model elsewhere.
            device: ``auto``, ``cpu``, ``cuda``, ...
            score_threshold: instances that score below are dropped; None takes the card's.
            runtime: ``torch``, ``auto`` (the fastest here of torch and
                :data:`rise_perception.inference.engines.autoselect.CANDIDATES`) or another of
                :data:`rise_perception.inference.engines.build.NAMES`. Its engine is built in the
                background for the size of the images that come; torch serves until it is there, and wherever
                it fails.
            precision: of the engine.
            engine_dir: where engines are kept; None is the user's cache.
            calibration: recording or folder of pictures that precision ``int8`` is calibrated on; empty is
                the shipped recording.

        Raises:
            ModelError: no such model, or its files are damaged or contradict each other.
            ConfigError: the device cannot be used.
        """
        folder = None if engine_dir is None else Path(engine_dir)
        if str(model).lower().endswith(".onnx"):
            from rise_perception.inference.exported_model import ExportedModel

            exported = ExportedModel(Path(model), runtime, score_threshold, folder)
            return cls(None, exported) if exported.uses_depth else cls(exported, None)
        from rise_perception.inference.device import choose_device
        from rise_perception.inference.served_model import EngineSettings, ServedModel

        device = choose_device(device)
        settings = EngineSettings(runtime, precision, folder, str(calibration))
        names = [AUTO_DEPTH, AUTO_COLOUR] if str(model) == "auto" else [model]
        colour = depth = None
        for name in names:
            loaded = ServedModel(find_model(name), device, score_threshold, settings)
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
        model, depth = self._choose(image, depth)
        instances, self.last_timing = model(image, depth if model.uses_depth else None)
        self.last_model, self.last_runtime = model.card.version, model.serving
        if self.min_relief_mm > 0 and depth is not None:
            instances = without_flat(instances, depth, self.min_relief_mm)
        if model.pick_success is not None:
            instances = with_pick_success(instances, depth, model.pick_success)
        return instances

    def foreground(self, image: np.ndarray, depth: np.ndarray | None = None) -> np.ndarray | None:
        """M, the foreground as the network that serves such an image sees it.

        Args:
            image, depth: as for a call.

        Returns:
            (H, W) float32 in [0, 1]; None where the network makes none, or is an exported file.

        Raises:
            ImageError, ModelError: as for a call.
        """
        model, depth = self._choose(image, depth)
        return model.foreground(image, depth if model.uses_depth else None)

    def _choose(
        self, image: np.ndarray, depth: np.ndarray | None
    ) -> tuple[ServedModel | ExportedModel, np.ndarray | None]:
        """The model that serves an image, and its depth where that is of any use."""
        check_image(image)
        if depth is not None:
            check_depth(depth, image)
            # A dead depth camera sends zeros: a robot goes on with colour.
            if np.count_nonzero((depth > 0) & np.isfinite(depth)) < MIN_DEPTH * depth.size:
                depth = None
        model = self._depth if depth is not None and self._depth else self._colour
        if model is None:
            raise ModelError(
                f"model {self.version} sees depth and this image has none (or less than {MIN_DEPTH:.0%} "
                "valid); give depth, or use an RGB model or 'auto'"
            )
        return model, depth

    def warm_up(self) -> None:
        """Run every network once, so that the first image is not slower than the others."""
        for model in self.models:
            model.warm_up()

    def wait_for_engines(self, timeout: float | None = None) -> None:
        """Until no engine is being built, or for ``timeout`` seconds."""
        for model in self.models:
            model.wait(timeout)

    def close(self) -> None:
        """End what runs in the background."""
        for model in self.models:
            model.close()

    def swap(self, folder: str | Path, done: Callable[[str], None] | None = None) -> threading.Thread:
        """Replace the model of the same input by new weights, between two images and without losing one.

        In the background the new model is loaded and tried on stored frames
        (:func:`.model_check.check_model`); where an engine serves, one is refitted or built for it and
        compared with torch. Then the new model serves; with torch, if its engine is not as it should
        be. Weights that cannot be loaded, or find nothing, leave everything as it is.

        Args:
            folder: of the new model.
            done: told why it did not work out, or an empty text when it did.
        """

        def work() -> None:
            try:
                problem = self._swap(find_model(folder))
            except RiseError as error:
                problem = str(error)
            except Exception as error:  # no memory, say: whoever waits has to hear of it
                problem = f"model {folder} cannot be taken over ({type(error).__name__}: {error})"
            give_back_freed_memory()  # for a while there were two models
            if done is not None:
                done(problem)

        thread = threading.Thread(target=work, name="model swap", daemon=True)
        thread.start()
        return thread

    def _swap(self, folder: Path) -> str:
        from rise_perception.inference.model_check import check_model
        from rise_perception.inference.served_model import ServedModel

        card = read_card(folder)
        old = self._depth if card.network.sees_depth else self._colour
        if old is None or card.network.classes != old.card.network.classes:
            classes = ", ".join(self.class_names)
            raise ModelError(
                f"model {card.version} (input {card.network.input}, classes "
                f"{', '.join(card.network.classes)}) cannot replace {self.version} (classes {classes})"
            )
        if not isinstance(old, ServedModel):
            raise ModelError(
                f"{old.folder} is an exported file, which cannot take other weights; restart with them"
            )
        new = ServedModel(folder, str(old.device), None, old.settings)
        if old.threshold != old.card.score_threshold:  # given by the user, not by the card
            new.threshold = old.threshold
        give_back_freed_memory()  # what loading took and the check has no use for
        check_model(new, old)
        new.prepare_like(old)
        if new.uses_depth:
            self._depth = new
        else:
            self._colour = new
        old.close()
        return new.fallback


def find_model(model: str | Path) -> Path:
    """Folder of a model given by path or by the name of a shipped one.

    Raises:
        ModelError: neither exists, or it is no segmenter; the message lists those that ship.
    """
    path, shipped = Path(model), find("models")
    names = sorted(p.parent.name for p in shipped.glob(f"*/{CARD}") if is_of_segmenter(p.parent))
    for folder in (path, shipped / path):
        if (folder / CARD).is_file():
            if is_of_segmenter(folder):
                return folder
            raise ModelError(
                f"model {str(model)!r} answers sentences and segments nothing; "
                f"shipped segmenters are {names or 'none'}"
            )
    raise ModelError(
        f"model {str(model)!r} is no folder with a {CARD} and no shipped model; shipped are {names or 'none'}"
    )
