"""An exported file that serves alone: onnxruntime or OpenVINO, NumPy and OpenCV, without torch.

Made for robots whose image should be small and whose first mask should come soon. ``rise export`` writes into
the file what is needed beside the graph: the network's description, the threshold, and what the network found
on a stored frame, against which a runtime is checked before it serves.

A model's folder may hold such a file of its own weights (:data:`BESIDE`). `rise predict` begins with it,
since importing torch takes longer than segmenting a picture, and leaves to torch what the file cannot do.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import rise_perception
from rise_perception.core import resources
from rise_perception.core.config import build_config
from rise_perception.core.errors import ConfigError, ModelError, RiseError
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.core.letterbox import Letterbox
from rise_perception.inference.engines.backends import onnxruntime as ort
from rise_perception.inference.engines.backends import openvino as ov
from rise_perception.inference.engines.cache import EngineCache
from rise_perception.inference.engines.feeds import STORED, make_feeds, stored_frames
from rise_perception.inference.engines.runner import EngineError, Runner, Runtime, RuntimeUnavailableError
from rise_perception.inference.engines.spec import METADATA, ExportSpec
from rise_perception.inference.pick_success import PickSuccess
from rise_perception.inference.postprocess import DecodedQueries, suppress_duplicates, to_instances
from rise_perception.network.card import ModelCard, file_checksum
from rise_perception.network.config import NetworkConfig

if TYPE_CHECKING:  # with torch
    from rise_perception.inference.served_model import ServedModel

#: An exported file in the folder of the model that it was made of.
BESIDE = "model.onnx"
#: Runtimes that need no torch, the preferred first.
LEAN_RUNTIMES: dict[str, Runtime] = {
    "openvino": ov.OpenVino(),
    "onnxruntime": ort.OnnxRuntime("cpu"),
    "onnxruntime-cuda": ort.OnnxRuntime("cuda"),
    "onnxruntime-tensorrt": ort.OnnxRuntime("tensorrt"),
}
#: A query of the check is found again when a query of its class has a box with this IoU and a class
#: probability that is this near.
SAME_BOX, SAME_PROBABILITY = 0.85, 0.05
#: This fraction of the queries of the check has to be found again.
MIN_FOUND = 0.9
#: Queries that the check holds.
CHECKED = 10


def check_values(found: DecodedQueries) -> dict[str, list[Any]]:
    """What the file keeps of a network's results on the first stored frame: its surest queries."""
    best = np.argsort(-found.probability, kind="stable")[:CHECKED]
    return {
        "probability": [round(float(p), 5) for p in found.probability[best]],
        "classes": found.classes[best].tolist(),
        "boxes": np.round(found.boxes[best].astype(float), 5).tolist(),
    }


class ExportedModel:
    """A file of `rise export` that serves; has the interface of a served model that a segmenter uses.

    Args:
        path: the file.
        runtime: one of :data:`LEAN_RUNTIMES`, or ``auto``: the first of them that is installed.
        score_threshold: None takes the file's.
        cache_folder: of compiled engines; None is the user's.
        card: of the model that the file has to be made of, in FP32; None takes what the file says.
        otherwise: gives what serves images of other proportions; None refuses them.

    Raises:
        ModelError: no such file, none of this version's `rise export`, or one of another model.
        RuntimeUnavailableError: the runtime is not installed.
        EngineError: it computes something else than what the file says it should.
    """

    fallback = ""
    is_building = False

    def __init__(
        self,
        path: Path,
        runtime: str = "auto",
        score_threshold: float | None = None,
        cache_folder: Path | None = None,
        card: ModelCard | None = None,
        otherwise: Callable[[], ServedModel] | None = None,
    ) -> None:
        self.folder = path
        self.device = "cpu"
        try:
            graph = path.read_bytes()
        except OSError as error:
            raise ModelError(f"{path}: {error.strerror}; name a file of `rise export`") from None
        backend = choose_runtime(runtime)
        self.card, self._spec, self._check = _describe(path, graph)
        if card is not None:
            self.card = _same_model(path, self.card, self._spec, card)
        self._otherwise = otherwise
        self._other: ServedModel | None = None
        self._other_served = False
        self.pick_success = PickSuccess.from_card(self.card.metrics)
        self.threshold = self.card.score_threshold if score_threshold is None else score_threshold
        cache = EngineCache(cache_folder)
        self._runner = _load(backend, graph, self._spec, cache)
        self._compare(_stored_frame(self._spec.image, cache))

    @property
    def uses_depth(self) -> bool:
        """True for a network that sees depth."""
        return self.card.network.sees_depth

    @property
    def serving(self) -> str:
        """Runtime and precision that served the last image."""
        if self._other_served and self._other is not None:
            return self._other.serving
        return f"{self._runner.name} {self._runner.precision}"

    @property
    def engine(self) -> str:
        """What the file was made for."""
        height, width = self._spec.image
        return f"{width}x{height}, {self.card.version}, exported file"

    def __call__(self, image: np.ndarray, depth: np.ndarray | None) -> tuple[Instances, dict[str, float]]:
        """Segment an image: of the proportions that the file was made for, or others are served otherwise.

        Returns:
            The instances and milliseconds by part.

        Raises:
            ModelError: an image of other proportions, and nothing serves them.
        """
        start = time.perf_counter()
        size = (image.shape[0], image.shape[1])
        letterbox = Letterbox(size, self._spec.size)
        inside = self._spec.preprocessing == "inside"
        fits = letterbox.content == self._spec.letterbox.content and (not inside or size == self._spec.image)
        self._other_served = not fits
        if not fits:
            return self._serve_otherwise(image, depth)
        feeds = make_feeds(ExportSpec(self._spec.size, size, preprocessing=self._spec.preprocessing),
                           self.card.network.input, image, depth)  # fmt: skip
        prepared = time.perf_counter()
        drawn = suppress_duplicates(self._runner(feeds), self.threshold)
        predicted = time.perf_counter()
        instances = to_instances(drawn, letterbox, self.card.network, self.threshold)
        return instances, {
            "preprocess": (prepared - start) * 1e3,
            "network": (predicted - prepared) * 1e3,
            "postprocess": (time.perf_counter() - predicted) * 1e3,
        }

    def _serve_otherwise(
        self, image: np.ndarray, depth: np.ndarray | None
    ) -> tuple[Instances, dict[str, float]]:
        if self._otherwise is None:
            height, width = self._spec.image
            proportions = "" if self._spec.preprocessing == "inside" else " or their proportions"
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise ModelError(
                f"{self.folder} is made for images of {width}x{height} pixels{proportions}, and this one has "
                f"{size}; export it again with --image {size}"
            )
        if self._other is None:
            self._other = self._otherwise()
        self._other.threshold = self.threshold
        return self._other(image, depth)

    def foreground(self, image: np.ndarray, depth: np.ndarray | None) -> np.ndarray | None:
        """None: M does not come out of the exported graph."""
        return None

    def warm_up(self) -> None:
        """Nothing: the check has run the graph."""

    def wait(self, timeout: float | None = None) -> None:
        """Nothing is built in the background."""

    def close(self) -> None:
        """Nothing runs in the background."""

    def _compare(self, frame: Frame) -> None:
        """Run the stored frame and compare with what the file says.

        Raises:
            EngineError: the runtime computes something else.
        """
        depth = frame.depth if self.uses_depth else None
        got = self._runner(make_feeds(self._spec, self.card.network.input, frame.image, depth))
        wanted = self._check
        found = sum(
            _is_found(probability, kind, np.array(box), got)
            for probability, kind, box in zip(
                wanted["probability"], wanted["classes"], wanted["boxes"], strict=True
            )
        )
        total = len(wanted["probability"])
        if found < MIN_FOUND * total:
            raise EngineError(
                f"{self._runner.name} finds {found} of the {total} queries that {self.folder} says it should "
                "find on the stored frame; use another runtime, or export the file again"
            )


def choose_runtime(name: str) -> Runtime:
    """The runtime of a name.

    Raises:
        ConfigError: none that serves without torch.
        RuntimeUnavailableError: not installed.
    """
    if name in ("auto", "torch"):  # torch is what is asked for when nothing is
        problems = []
        for runtime in LEAN_RUNTIMES.values():
            try:
                runtime.check("fp32")
                return runtime
            except RuntimeUnavailableError as error:
                problems.append(str(error))
        raise RuntimeUnavailableError(f"no runtime serves an exported file here: {'; '.join(problems[:2])}")
    if name not in LEAN_RUNTIMES:
        raise ConfigError(
            f"runtime {name!r} cannot serve an exported file; give one of {', '.join(LEAN_RUNTIMES)}, or a "
            "model's folder"
        )
    LEAN_RUNTIMES[name].check("fp32")
    return LEAN_RUNTIMES[name]


def read_metadata(path: Path, graph: bytes) -> dict[str, Any]:
    """What an exported file says about itself, read with whichever package is there.

    Raises:
        ModelError: it was not written by `rise export`.
        RuntimeUnavailableError: neither onnxruntime nor onnx is installed.
    """
    try:
        text = _metadata_text(graph)
        content = json.loads(text)
    except RiseError:
        raise
    except Exception as error:  # what protobuf and onnxruntime raise has no base that can be imported
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ModelError(f"{path} is no ONNX file of `rise export` ({reason}); export it again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: its metadata is no object; export it again")
    return content


def _metadata_text(graph: bytes) -> str:
    try:
        import onnx
    except ImportError:
        session = ort.package().InferenceSession(graph, providers=ort.PROVIDERS["cpu"])
        return session.get_modelmeta().custom_metadata_map[METADATA]
    model = onnx.load_model_from_string(graph)
    return next(entry.value for entry in model.metadata_props if entry.key == METADATA)


def _describe(path: Path, graph: bytes) -> tuple[ModelCard, ExportSpec, dict[str, list[Any]]]:
    """Card, spec and check of an exported file."""
    said = read_metadata(path, graph)
    try:
        network = build_config(NetworkConfig, said["network"], "network")
        card = ModelCard(
            name=str(said["name"]),
            network=network,
            score_threshold=float(said["score_threshold"]),
            checksum=str(said["checksum"]) or file_checksum(path),
        )
        spec = ExportSpec(
            tuple(said["size"]), tuple(said["image"]), said["topk"], said["precision"], said["preprocessing"]
        )
        return card, spec, {key: list(said["check"][key]) for key in ("probability", "classes", "boxes")}
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise ModelError(
            f"{path} lacks what a file needs to serve alone ({type(error).__name__}: {error}); "
            "export it again with this version"
        ) from None


def _same_model(path: Path, said: ModelCard, spec: ExportSpec, card: ModelCard) -> ModelCard:
    """The card, when the file holds its weights and threshold as they are.

    Raises:
        ModelError: it does not.
    """
    if said.checksum != card.checksum or said.network != card.network or spec.precision != "fp32":
        raise ModelError(
            f"{path} holds {said.version} in {spec.precision} and not {card.version} in fp32; export it again"
        )
    return card


def _stored_frame(image: tuple[int, int], cache: EngineCache) -> Frame:
    """The frame of the check, from the cache: reading recordings takes longer than the check itself."""
    recording = sorted((resources.find("models") / STORED).iterdir())
    key = {
        "package": rise_perception.__version__,
        "image": list(image),
        "recording": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in recording],
    }
    if (content := cache.get("frame", key)) is not None:
        with np.load(io.BytesIO(content)) as arrays:
            return Frame(arrays["image"], arrays.get("depth"))
    frame = stored_frames(image, 1)[0]
    arrays = {"image": frame.image} | ({} if frame.depth is None else {"depth": frame.depth})
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, **arrays)
    cache.put("frame", key, stream.getvalue(), {})
    return frame


def _load(backend: Runtime, graph: bytes, spec: ExportSpec, cache: EngineCache) -> Runner:
    """The compiled engine from the cache, or compiled now."""
    backend.check(spec.precision)
    key = {
        "exported": hashlib.sha256(graph).hexdigest(),
        "runtime": backend.name,
        "precision": spec.precision,
        **backend.identity(),
    }
    if (engine := cache.get("engine", key)) is not None:
        try:
            return backend.load(engine, spec.precision, cache.beside("engine", key))
        except EngineError as error:
            cache.drop("engine", key, f"does not load ({error})")
    engine = backend.build(graph, spec.precision, lambda stage, fraction: None)
    cache.put("engine", key, engine, {"model": "exported file"})
    return backend.load(engine, spec.precision, cache.beside("engine", key))


def _is_found(probability: float, kind: int, box: np.ndarray, got: DecodedQueries) -> bool:
    near = (got.classes == kind) & (np.abs(got.probability - probability) <= SAME_PROBABILITY)
    low, high = box[:2] - box[2:] / 2, box[:2] + box[2:] / 2
    centre, half = got.boxes[near, :2], got.boxes[near, 2:] / 2
    shared = (np.minimum(high, centre + half) - np.maximum(low, centre - half)).clip(min=0).prod(-1)
    union = box[2:].prod() + got.boxes[near, 2:].prod(-1) - shared
    return bool((shared >= SAME_BOX * union).any())
