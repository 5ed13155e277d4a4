"""One model that serves: torch for every image, an engine for the camera's size as soon as there is one."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from rise_perception.core.errors import ModelError, RiseError
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.core.letterbox import Letterbox
from rise_perception.inference.decoding import draw_queries
from rise_perception.inference.engines.background_build import BackgroundBuild, Outcome
from rise_perception.inference.engines.build import build_engine, check_name, serving_spec
from rise_perception.inference.engines.cache import EngineCache
from rise_perception.inference.engines.feeds import make_feeds
from rise_perception.inference.engines.folding import fold_norms
from rise_perception.inference.engines.parity import Parity
from rise_perception.inference.engines.runner import Runner
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.inference.gpu_preprocess import make_input_on, paint_on
from rise_perception.inference.pick_success import PickSuccess
from rise_perception.inference.postprocess import suppress_duplicates, to_instances
from rise_perception.network.checkpoint import load_model
from rise_perception.network.config import INPUT_CHANNELS
from rise_perception.network.inputs import fit_input
from rise_perception.network.representation import foreground_of

Size = tuple[int, int]
#: Height and width of the first image, which nobody sees.
WARM_UP = (240, 320)
#: Sizes of images that engines are built for by themselves; a folder of odd pictures needs none.
MAX_SIZES = 2


@dataclass(frozen=True)
class EngineSettings:
    """Which runtime a model asks for.

    Attributes:
        runtime: ``torch``, ``auto``, or another of :data:`rise_perception.inference.engines.build.NAMES`.
        precision: fp32, fp16, bf16 or int8, where the runtime has it; ``auto`` chooses its own.
        folder: of the engine cache; None is the user's.
        calibration: see :class:`rise_perception.inference.engines.spec.ExportSpec`.
    """

    runtime: str = "torch"
    precision: str = "fp32"
    folder: Path | None = None
    calibration: str = ""


@dataclass(frozen=True)
class Active:
    """An engine that serves.

    Attributes:
        runner: of the engine.
        spec: what it was made for.
        parity: with torch, as it was measured before it served.
        cache: that it is from; kept, as it keeps its files in place.
    """

    runner: Runner
    spec: ExportSpec
    parity: Parity | None
    cache: EngineCache | None


class ServedModel:
    """A network on a device, and its engine.

    Images come from one thread; everything else may be called from any.

    Args:
        folder: of the model.
        device: where torch runs it.
        score_threshold: None takes the card's.
        settings: which runtime is asked for.
    """

    def __init__(
        self,
        folder: Path,
        device: str,
        score_threshold: float | None,
        settings: EngineSettings = EngineSettings(),
    ) -> None:
        check_name(settings.runtime)
        self.folder, self.settings = folder, settings
        network, self.card = load_model(folder, device)
        self.pick_success = PickSuccess.from_card(self.card.metrics)
        self.device = torch.device(device)
        self._on_gpu = self.device.type == "cuda"
        config = self.card.network
        sample = torch.zeros(1, INPUT_CHANNELS[config.input], *config.image_size, device=self.device)
        self.network = fold_norms(network, sample, in_place=True).to(memory_format=torch.channels_last)
        self.threshold = self.card.score_threshold if score_threshold is None else score_threshold
        self._engines: dict[Size, Active] = {}
        self._last: Active | None = None
        self._build: BackgroundBuild | None = None
        self._tried: set[Size] = set()
        self._why = ""
        #: The last frame in which it found something.
        self.last_found: Frame | None = None

    @property
    def uses_depth(self) -> bool:
        """True for a network that sees depth."""
        return self.card.network.sees_depth

    # -- serving -----------------------------------------------------------------------------------

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, depth: np.ndarray | None) -> tuple[Instances, dict[str, float]]:
        """Segment an image; returns the instances and milliseconds by part."""
        instances, timing = self._segment(image, depth)
        if len(instances):
            self.last_found = Frame(image, depth)
        return instances, timing

    def _segment(self, image: np.ndarray, depth: np.ndarray | None) -> tuple[Instances, dict[str, float]]:
        size = image.shape[0], image.shape[1]
        self._last = engine = self._engine_for(size)
        if engine is not None:
            try:
                return self._timed(image, depth, engine)
            except Exception as error:  # whatever a runtime raises must not cost the frame
                self._why = f"{engine.runner.name} failed on an image: {error}"
                self._last = None
                if self._engines.get(size) is engine:
                    del self._engines[size]
        return self._timed(image, depth, None)

    def warm_up(self) -> None:
        """Run torch once, so that the first image is not slower than the others."""
        depth = np.ones(WARM_UP, np.float32) if self.uses_depth else None
        with torch.inference_mode():
            self._timed(np.zeros((*WARM_UP, 3), np.uint8), depth, None)

    @torch.inference_mode()
    def inspect(self, image: np.ndarray, depth: np.ndarray | None) -> tuple[int, bool]:
        """How many instances torch finds in an image, and whether all numbers on the way are finite."""
        letterbox = Letterbox((image.shape[0], image.shape[1]), self.card.network.image_size)
        outputs = self.network(*self._prepared(image, depth, letterbox))
        drawn = draw_queries(outputs, self.threshold)
        tensors = [t for t in (outputs.logits, outputs.boxes, outputs.embeddings) if t is not None]
        finite = all(bool(torch.isfinite(t).all()) for t in tensors) and np.isfinite(drawn.masks).all()
        if not finite:
            return 0, False
        return len(to_instances(drawn, letterbox, self.card.network, self.threshold)), True

    @torch.inference_mode()
    def foreground(self, image: np.ndarray, depth: np.ndarray | None) -> np.ndarray | None:
        """M of an image by torch, (H, W) float32 in [0, 1]; None where the network makes none."""
        if not self.card.network.sees_foreground:
            return None
        letterbox = Letterbox((image.shape[0], image.shape[1]), self.card.network.image_size)
        found = foreground_of(self.network, self._prepared(image, depth, letterbox)[0])
        assert found is not None  # as the configuration says
        height, width = letterbox.content
        content = found[0, 0, :height, :width].float().cpu().numpy()
        return np.asarray(cv2.resize(content, (image.shape[1], image.shape[0])))

    def _prepared(
        self, image: np.ndarray, depth: np.ndarray | None, letterbox: Letterbox
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Input and padding of the network, on its device."""
        mode = self.card.network.input
        if self._on_gpu:
            images = make_input_on(self.device, letterbox, mode, image, depth)
        else:
            images = torch.from_numpy(fit_input(letterbox, image, depth, mode))[None]
        mask = letterbox.padding()
        padding = None if mask is None else torch.from_numpy(mask)[None].to(self.device)
        return images.contiguous(memory_format=torch.channels_last), padding

    def _timed(
        self, image: np.ndarray, depth: np.ndarray | None, engine: Active | None
    ) -> tuple[Instances, dict[str, float]]:
        start = time.perf_counter()
        config = self.card.network
        letterbox = Letterbox((image.shape[0], image.shape[1]), config.image_size)
        if engine is not None:
            feeds = make_feeds(engine.spec, config.input, image, depth)
            prepared = time.perf_counter()
            drawn = suppress_duplicates(engine.runner(feeds), self.threshold)
        else:
            images, padding = self._prepared(image, depth, letterbox)
            prepared = time.perf_counter()
            # ends on the CPU: nothing to wait for
            drawn = draw_queries(self.network(images, padding), self.threshold)
        predicted = time.perf_counter()
        paint = partial(paint_on, self.device) if self._on_gpu else None
        instances = to_instances(drawn, letterbox, config, self.threshold, paint)
        done = time.perf_counter()
        return instances, {
            "preprocess": (prepared - start) * 1e3,
            "network": (predicted - prepared) * 1e3,
            "postprocess": (done - predicted) * 1e3,
        }

    # -- engine ------------------------------------------------------------------------------------

    def spec(self, image_size: Size, precision: str | None = None) -> ExportSpec:
        """What an engine for a camera is made for."""
        precision = precision or self.settings.precision
        return serving_spec(self.card, image_size, precision, str(self.device), self.settings.calibration)

    def _engine_for(self, size: Size) -> Active | None:
        """The engine for images of a size; without one, its building begins."""
        if (engine := self._engines.get(size)) is not None:
            return engine
        if (
            self.settings.runtime != "torch"
            and size not in self._tried
            and len(self._tried) < MAX_SIZES
            and not self.is_building
        ):
            self._begin(size, self.settings.runtime, self.settings.precision)
        return None

    def _begin(self, size: Size, runtime: str, precision: str) -> None:
        """Begin to build an engine that is to serve; torch does where that is not possible."""
        self._tried.add(size)
        try:
            self.build(size, runtime, precision, activate=True)
        except RiseError as error:
            self._why = str(error)

    @property
    def is_building(self) -> bool:
        """True while an engine is built in the background."""
        return self._build is not None and self._build.outcome is None

    def build(
        self,
        size: Size,
        runtime: str,
        precision: str,
        activate: bool,
    ) -> BackgroundBuild:
        """Begin to build an engine in the background; the active engine keeps serving, also when it fails.

        Args:
            size: height and width of the camera's images.
            runtime: what for.
            precision: in what.
            activate: serve it when it has passed its check; otherwise it is built into the cache only.

        Raises:
            RiseError: it cannot even begin.
        """
        cache = EngineCache(self.settings.folder)
        finish = partial(self._activate, size) if activate else _as_it_is
        spec, device = self.spec(size, precision), str(self.device)
        self._build = BackgroundBuild(self.folder, spec, runtime, cache.folder, device, finish)
        return self._build

    def _activate(self, size: Size, outcome: Outcome) -> Outcome:
        """Load what was built and, when torch agrees with it in this process too, serve it."""
        if not outcome.error and outcome.runtime != "torch":
            outcome = self._load(size, outcome)
        elif not outcome.error:
            self._engines.pop(size, None)
        self._why = "" if size in self._engines else outcome.error
        return outcome

    def _load(self, size: Size, outcome: Outcome) -> Outcome:
        try:
            cache = EngineCache(self.settings.folder)
            spec = self.spec(size, outcome.precision)
            device = str(self.device)
            # With its norms, which the network that serves has no more: kept, it would take as much again.
            network, card = load_model(self.folder, device)
            if card.checksum != self.card.checksum:
                raise ModelError(f"{self.folder} holds other weights than were loaded; reload the model")
            built = build_engine(network, self.card, spec, outcome.runtime, cache, device=device)
        except RiseError as error:
            return replace(outcome, error=str(error))
        except Exception as error:  # no memory, say: whoever waits has to hear of it
            return replace(outcome, error=f"the engine cannot serve ({type(error).__name__}: {error})")
        self.serve(built.runner, spec, built.parity, cache)
        return outcome

    def serve(
        self,
        runner: Runner,
        spec: ExportSpec,
        parity: Parity | None = None,
        cache: EngineCache | None = None,
    ) -> None:
        """Serve images of the spec's size with a runner from the next image on."""
        self._engines[spec.image] = Active(runner, spec, parity, cache)

    def prepare_like(self, other: ServedModel) -> None:
        """Build an engine like the one that another model uses, or else its newest, and wait for it."""
        if (like := other._last or next(reversed(other._engines.values()), None)) is not None:
            self._begin(like.spec.image, like.runner.name, like.runner.precision)
            self.wait()

    def wait(self, timeout: float | None = None) -> None:
        """Until no engine is being built."""
        if self._build is not None:
            self._build.wait(timeout)

    def close(self) -> None:
        """End a build that runs."""
        if self.is_building and self._build is not None:
            self._build.stop()

    @property
    def serving(self) -> str:
        """Runtime and precision that served the last image."""
        engine = self._last
        return "torch fp32" if engine is None else f"{engine.runner.name} {engine.runner.precision}"

    @property
    def fallback(self) -> str:
        """Why torch serves although an engine was asked for; empty when that is not so."""
        if self._last is not None:
            return ""
        build = self._build
        if build is not None and build.outcome is None:
            fraction = "" if math.isnan(build.fraction) else f" {build.fraction:.0%}"
            return f"the engine is being built: {build.stage}{fraction}, {build.seconds:.0f} s"
        return self._why

    @property
    def engine(self) -> str:
        """What the engine was made for, and how well it matches torch; empty without one."""
        engine = self._last
        if engine is None:
            return ""
        height, width = engine.spec.image
        parity = "not compared" if engine.parity is None else f"{engine.parity.mask_iou:.3f}"
        return f"{width}x{height}, {self.card.version}, mask IoU with torch {parity}"


def _as_it_is(outcome: Outcome) -> Outcome:
    return outcome
