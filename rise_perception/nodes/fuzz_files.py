"""Mutated files and messages against the code that reads them, in this process: thousands a minute.

Whatever is read, the reader returns a value or raises a :class:`RiseError`; nothing else leaves it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

from rise_perception.core.errors import RiseError
from rise_perception.core.files import write_json
from rise_perception.core.frame import CameraIntrinsics, Frame
from rise_perception.core.instances import Instances
from rise_perception.data import headers, images, ros_images
from rise_perception.grasp_learning.capture.episode import Calibration, Episode, Grasp, Observation
from rise_perception.grasp_learning.capture.episode_io import EPISODE, LABELS
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.capture.grasp_tracker import Attempts, CaptureSettings
from rise_perception.grasp_learning.labelling.episode_labels import Cause, EpisodeLabels, Verdict
from rise_perception.grasp_learning.update.memory import MEMORY, Memory
from rise_perception.grasp_learning.update.model_store import CURRENT, ModelStore
from rise_perception.grasp_learning.update.update_log import DIARY, read_history, write_down
from rise_perception.network.card import CARD
from rise_perception.nodes.mutations import (
    NAMES,
    NUMBERS,
    mutate_bytes,
    mutate_json,
    mutate_npy,
    mutate_png,
    odd_value,
)

SIZE = (48, 64)
#: Seconds of the processor that a case may take.
SLOW = 5.0


@dataclasses.dataclass(frozen=True)
class Fault:
    """A case that did what it must not: its target, its seed, and what happened."""

    target: str
    seed: int
    what: str


class FileFuzzer:
    """The targets, with valid files of each kind to begin from.

    Args:
        folder: an empty one to work in.
        model: folder of a model, small for speed.
    """

    def __init__(self, folder: Path, model: Path) -> None:
        self._folder = folder
        self._models, self._episodes = folder / "models", folder / "episodes"
        with_write = ModelStore(self._models, write=True)
        with_write.begin(model)
        with_write.close()
        write_down(self._models, {"verdict": "promoted", "reason": "good", "anchor_ap": [0.5, 0.6]})
        write_json(
            self._models / MEMORY,
            dataclasses.asdict(
                Memory(learned=("1-abc",), tried=("2-abc",), rejected=1, last_verdict="rejected")
            ),
        )
        with EpisodeStore(self._episodes, write=True, min_free_bytes=0) as store:
            store.add(example_episode(), example_labels())
        self._pristine = {
            p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".safetensors"
        }
        self._png = images.encode_image(example_episode().before.frame.image)
        self.targets: dict[str, Callable[[random.Random], object]] = {
            "model store": self._model_store,
            "what is remembered": self._remembered,
            "episode": self._episode,
            "labels": self._labels,
            "odd folder": self._odd_folder,
            "picture": self._picture,
            "array": self._array,
            "image message": self._message,
            "compressed message": self._compressed,
            "grasp": self._grasp,
        }

    def run(self, seed: int) -> Fault | None:
        """One case; gives what went wrong, None when nothing did."""
        rng = random.Random(seed)
        name = rng.choice(list(self.targets))
        begin = time.process_time()
        try:
            self.targets[name](rng)
        except RiseError as error:
            if len(str(error)) > 5000:
                return Fault(name, seed, f"a message of {len(str(error))} characters")
        except Exception:
            return Fault(name, seed, traceback.format_exc())
        finally:
            self._restore()
        if (spent := time.process_time() - begin) > SLOW:
            return Fault(name, seed, f"it took {spent:.1f} s")
        return None

    def _restore(self) -> None:
        for path, content in self._pristine.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)

    # -- files -------------------------------------------------------------------------------------

    def _model_store(self, rng: random.Random) -> None:
        (card,) = self._models.glob(f"*/{CARD}")
        for path in rng.sample([card, self._models / CURRENT], rng.randrange(1, 3)):
            path.write_bytes(mutate_json(rng, json.loads(self._pristine[path])))
        store = ModelStore(self._models)
        for model in store.versions():
            assert 0 <= model.created < 2**63, "a version from beyond time"
        for text in store.damaged():
            text.encode()
        current = store.current()
        assert current is None or 0 <= current.database_version < 2**32, "a number that no message holds"
        store.serving()

    def _remembered(self, rng: random.Random) -> None:
        from rise_perception.core.json_files import read_record

        memory, diary = self._models / MEMORY, self._models / DIARY
        diary.write_bytes(mutate_json(rng, json.loads(self._pristine[diary])))
        read_history(self._models)
        write_down(self._models, {"verdict": "rejected"})
        memory.write_bytes(mutate_json(rng, json.loads(self._pristine[memory])))
        read_record(memory, Memory)

    def _episode(self, rng: random.Random) -> None:
        with EpisodeStore(self._episodes, write=True, min_free_bytes=0) as store:
            (entry,) = store.entries()
            record = json.loads(self._pristine[entry.folder / EPISODE])
            if rng.random() < 0.5:  # a file beside it, with the checksum that it is to have
                name = rng.choice(sorted(record["files"]))
                path = entry.folder / name
                change = mutate_npy if name.endswith(".npy") else mutate_png
                path.write_bytes(change(rng, self._pristine[path]))
                record["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
                (entry.folder / EPISODE).write_text(json.dumps(record))
            else:
                (entry.folder / EPISODE).write_bytes(mutate_json(rng, record))
            self._read_all(store)

    def _labels(self, rng: random.Random) -> None:
        with EpisodeStore(self._episodes, write=True, min_free_bytes=0) as store:
            path = store.entries()[0].folder / LABELS
            path.write_bytes(mutate_json(rng, json.loads(self._pristine[path])))
            self._read_all(store)

    def _odd_folder(self, rng: random.Random) -> None:
        (source,) = (p for p in self._episodes.iterdir() if p.is_dir())
        place = self._episodes / rng.choice(NAMES)
        try:
            shutil.copytree(source, place)
            self._read_all(EpisodeStore(self._episodes))
        finally:
            shutil.rmtree(place, ignore_errors=True)

    @staticmethod
    def _read_all(store: EpisodeStore) -> None:
        for entry in store.entries():
            assert entry.stamp >= 0, "a stamp before time"
        for text in store.damaged():
            text.encode()
        for _, episode, labels in store:
            assert labels.known.shape == episode.before.frame.image.shape[:2], "labels of another frame"

    def _picture(self, rng: random.Random) -> None:
        image = example_episode().before.frame.image
        suffix = rng.choice((".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"))
        content = cv2.imencode(suffix, image)[1].tobytes()
        path = self._folder / f"picture{suffix}"
        path.write_bytes(mutate_png(rng, content) if suffix == ".png" else mutate_bytes(rng, content))
        rng.choice((images.read_image, images.read_depth, images.read_label_map))(path)

    def _array(self, rng: random.Random) -> None:
        path = self._folder / "array.npy"
        np.save(path, np.ones(SIZE, np.float32))
        path.write_bytes(mutate_npy(rng, path.read_bytes()))
        images.read_depth(path)
        headers.load_npy(path.read_bytes(), "array")

    # -- messages ----------------------------------------------------------------------------------

    def _message(self, rng: random.Random) -> None:
        kind = rng.choice(("rgb8", "bgr8", "mono8", "mono16", "16UC1", "32FC1", "bayer_rggb8", "yuv422", "x"))
        message = SimpleNamespace(
            height=SIZE[0], width=SIZE[1], encoding=kind, is_bigendian=rng.randrange(2), step=SIZE[1] * 3,
            data=rng.randbytes(SIZE[0] * SIZE[1] * 3), header=None,
        )  # fmt: skip
        for name in rng.sample(("height", "width", "step", "data", "encoding"), rng.randrange(1, 3)):
            if name == "data":
                message.data = mutate_bytes(rng, message.data)
            elif name == "encoding":
                message.encoding = rng.choice(("", "rgb8\x00", "32FC1", "8UC3", "16UC1", "²"))
            else:  # what a uint32 may be
                setattr(
                    message, name, rng.choice([n for n in NUMBERS if isinstance(n, int) and 0 <= n < 2**32])
                )
        rng.choice((ros_images.to_rgb8, ros_images.to_depth, ros_images.to_label_map))(message)

    def _compressed(self, rng: random.Random) -> None:
        depth = rng.random() < 0.5
        head = rng.randbytes(12) if depth else b""
        message = SimpleNamespace(
            format=rng.choice(
                ("32FC1; compressedDepth png", "16UC1; compressedDepth", "png", "jpeg", "", "rvl")
            ),
            data=head + mutate_png(rng, self._depth_png() if depth else self._png),
        )
        (ros_images.to_depth if depth else ros_images.to_rgb8)(message)

    @staticmethod
    def _depth_png() -> bytes:
        return images.encode_image(np.full(SIZE, 800, np.uint16))

    def _grasp(self, rng: random.Random) -> None:
        """Events, frames of changing sizes and stamps, masks and predictions, in a random order."""
        attempts = Attempts(CaptureSettings(window=0.2, timeout=1.0, masks=rng.random() < 0.5))
        stamp, refused = 10**9, 0
        for _ in range(60):
            stamp += rng.choice((0, 50_000_000, 50_000_000, 50_000_000, -(10**9), 10**10))
            shape = rng.choice((SIZE, SIZE, SIZE, (96, 128), (1, 2000), (2000, 1)))
            frame = Frame(np.full((*shape, 3), rng.choice((60, 61, 200)), np.uint8), stamp=stamp)
            attempts.frame(frame)
            try:
                if rng.random() < 0.3:
                    attempts.event(
                        rng.choice(("a", "b", "")), rng.randrange(6), rng.choice((-2, -1, 3)),
                        rng.randrange(6), stamp + rng.choice((0, 0, 10**12)),
                    )  # fmt: skip
            except RiseError:
                refused += 1
            if rng.random() < 0.3:
                attempts.predictions(stamp, Instances.empty(*SIZE), "m-1")
                attempts.robot_mask(stamp, np.zeros(shape, bool))
            attempts.take_finished()
        assert len(attempts.buffer) < 60, "frames are kept for ever"
        attempts.frame(Frame(np.zeros((*SIZE, 3), np.uint8), stamp=stamp + 10**11))
        assert attempts.buffer.newest == stamp + 10**11, "a good frame was lost"
        odd_value(rng)


def example_episode() -> Episode:
    """A small one, with everything that an episode may hold."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (*SIZE, 3), np.uint8)
    label_map = np.zeros(SIZE, np.uint16)
    label_map[10:30, 20:40] = 1
    found = Instances(
        label_map, np.array([1], np.uint16), np.array([0.9], np.float32), np.array([0]),
        np.array([[20, 10, 40, 30]], np.float32), rng.random((1, 8)).astype(np.float32), np.array([7]),
    )  # fmt: skip
    camera = CameraIntrinsics(SIZE[1], SIZE[0], 60.0, 60.0, 32.0, 24.0)
    lens = Calibration("plumb_bob", (0.1,) * 5, (1.0, *(0.0,) * 8), (0.0,) * 12)
    depth = rng.uniform(0.5, 1.0, SIZE).astype(np.float32)
    sides = [
        Observation(Frame(image, depth, camera, stamp), found, np.zeros(SIZE, bool), "m-1", lens)
        for stamp in (10**9, 3 * 10**9)
    ]
    return Episode(sides[0], sides[1], Grasp("grasp", 7, stamp=2 * 10**9), session="bag1")


def example_labels() -> EpisodeLabels:
    """Labels of :func:`example_episode`."""
    mask = np.zeros(SIZE, bool)
    mask[10:30, 20:40] = True
    none = np.zeros(SIZE, bool)
    return EpisodeLabels(
        Verdict.CONFIRMED, Cause.AGREES, "one item left", mask[None], ~none,
        np.array([1], np.uint16), np.eye(2, 3), mask, none,
    )  # fmt: skip


def fuzz_files(folder: Path, model: Path, seed: int, more: Callable[[int], bool]) -> tuple[int, list[Fault]]:
    """Run cases while ``more(number)`` says so; gives how many, and the faults.

    Args:
        folder: an empty one to work in.
        model: folder of a model.
        seed: of the first case; the next one has the next.
        more: asked before each case, with its number from 0.
    """
    fuzzer = FileFuzzer(folder, model)
    faults: list[Fault] = []
    number = 0
    while more(number):
        if (fault := fuzzer.run(seed + number)) is not None:
            faults.append(fault)
        number += 1
    return number, faults


__all__ = ["Fault", "FileFuzzer", "fuzz_files"]
