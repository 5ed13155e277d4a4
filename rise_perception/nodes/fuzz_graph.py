"""The real nodes in a real graph under mutated messages, calls, cards and episodes.

After every few cases a good frame comes, and four things are asked: does every node live, does the good frame
have its answer in time, has memory grown, and was what is certainly a fault named in the diagnostics or in
the answer of the call.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import serialize_message
from rise_msgs.msg import GraspEvent, InstanceArray
from rise_msgs.srv import CaptureGraspFrame, ListModels, ReloadModel, RollbackModel, SetTarget, SnapshotModel
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float32, Header

from rise_perception.core.errors import RiseError
from rise_perception.core.files import write_bytes, write_json
from rise_perception.core.frame import Frame
from rise_perception.core.rle import encode_runs
from rise_perception.data import images, ros_images
from rise_perception.grasp_learning.capture.episode_io import EPISODE, LABELS
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.update.model_store import CURRENT, ModelStore
from rise_perception.network.card import CARD
from rise_perception.nodes.camera_info import camera_info
from rise_perception.nodes.fuzz_files import example_episode, example_labels
from rise_perception.nodes.mutations import NAMES, NUMBERS, TEXTS, mutate_bytes, mutate_json, mutate_png
from rise_perception.nodes.node_process import NodeProcess, environment, free_domain
from rise_perception.nodes.soak import resident

START = 240.0  # seconds that all nodes together may take to start
MAX_GROWTH = 50.0  # MB of memory that a node may gain
SETTLE = 25  # cases after which memory counts: caches and allocators have their size by then
CASES = 4  # between two good frames
STEP = 2 * 10**9  # nanoseconds between good frames: no mutated stamp falls between by one flipped bit
PATIENCE = 60.0  # seconds for a call of which nothing is wanted but its end
SILENT = 10.0  # seconds without a status after which a node counts as stuck
COMPRESSED = "/compressed"  # namespace of a second interaction node
NAMED = 6.0  # seconds within which a fault has to be named
CAMERA = {"color_topic": "/c/image", "depth_topic": "/c/depth", "info_topic": "/c/camera_info"}


@dataclass
class GraphResult:
    """What a run found.

    Attributes:
        cases: how many, by kind.
        faults: sentences, each with the seed of its case.
        latencies: milliseconds from each good frame to its instances.
        memory: MB by node: after the first cases, and in the end.
    """

    cases: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)


def fuzz_graph(
    folder: Path, model: Path, frame: Frame, seed: int, more: Callable[[int], bool], limit: float
) -> GraphResult:
    """Start the nodes and run cases while ``more(number)`` says so.

    Args:
        folder: an empty one to work in.
        model: folder of a model that serves images without depth.
        frame: the good one.
        seed: of the first case; the next one has the next.
        more: asked before each case, with its number from 0.
        limit: seconds within which a good frame has to be answered.

    Raises:
        RiseError: the nodes do not start.
    """
    fuzzer = GraphFuzzer(folder, model, frame, limit)
    try:
        fuzzer.start()
        number = 0
        while more(number) and fuzzer.alive():
            fuzzer.case(seed + number)
            number += 1
            if number % CASES == 0:
                fuzzer.check(seed + number - CASES, number >= SETTLE)
        return fuzzer.result
    finally:
        fuzzer.close()


class GraphFuzzer:
    """See the module."""

    def __init__(self, folder: Path, model: Path, frame: Frame, limit: float) -> None:
        self.result = GraphResult()
        self._folder, self._model, self._frame, self._limit = folder, model, frame, limit
        self._models, self._episodes = folder / "models", folder / "episodes"
        domain = free_domain()
        env = environment(domain, folder)
        os.environ.update({key: env[key] for key in env if key.startswith(("FAST", "ROS_"))})
        self._env = env
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = rclpy.create_node("fuzz", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._processes: dict[str, NodeProcess] = {}
        self._answered: dict[int, float] = {}
        self._status: dict[str, tuple[float, int, str]] = {}  # node -> heard, errors, text
        self._stamp = time.time_ns()
        reliable = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        topics = {
            "image": ("/c/image", Image), "depth": ("/c/depth", Image),
            "info": ("/c/camera_info", CameraInfo), "mask": ("/robot_mask", Image),
            "event": ("/grasp_events", GraspEvent),
            "gripper": ("/gripper", Float32), "instances": ("/seen", InstanceArray),
            "compressed": ("/d/image/compressed", CompressedImage),
            "compressed depth": ("/d/depth/compressedDepth", CompressedImage),
        }  # fmt: skip
        self._types = {name: kind for name, (_, kind) in topics.items()}
        self._publishers = {
            name: self._node.create_publisher(kind, topic, reliable) for name, (topic, kind) in topics.items()
        }
        self._node.create_subscription(
            InstanceArray, "/segmentation_node/instances", self._on_instances, reliable
        )
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self._services = {
            "set_target": (SetTarget, "/segmentation_node/set_target"),
            "reload_model": (ReloadModel, "/segmentation_node/reload_model"),
            "capture": (CaptureGraspFrame, "/interaction_node/capture"),
            "list_models": (ListModels, "/learner_node/list_models"),
            "rollback_model": (RollbackModel, "/learner_node/rollback_model"),
            "snapshot_model": (SnapshotModel, "/learner_node/snapshot_model"),
        }
        self._clients = {k: self._node.create_client(*v) for k, v in self._services.items()}
        self._cases: dict[str, Callable[[random.Random], str]] = {
            "message": self._message, "bytes of a message": self._raw, "compressed image": self._compressed,
            "call": self._call, "card": self._card, "current": self._current, "episode": self._episode,
            "odd folder": self._odd_folder, "event": self._event,
        }  # fmt: skip

    # -- the graph ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the stores and start the nodes; a second pair listens to a compressed camera.

        Raises:
            RiseError: one of them does not come up.
        """
        with EpisodeStore(self._episodes, write=True, min_free_bytes=0) as store:
            store.add(example_episode(), example_labels())
        store_of_models = ModelStore(self._models, write=True)
        store_of_models.begin(self._model)
        store_of_models.close()
        anchors = str(_anchors(self._folder / "anchors"))
        reliable = {f"qos_overrides.{t}.subscription.reliability": "reliable" for t in CAMERA.values()}
        stores = {"episode_store": str(self._episodes), "model_store": str(self._models)}
        serving = {"model": str(self._model), "device": "cpu"}
        self._begin("segmentation_node", {**serving, **CAMERA, **reliable, "model_store": str(self._models)})
        capture = {"robot_mask_topic": "/robot_mask", "gripper_topic": "/gripper", "instances_topic": "/seen"}
        store_only = {"episode_store": str(self._episodes), "min_free_mb": 0}
        self._begin("interaction_node", {**store_only, **capture, **CAMERA, **reliable})
        learner = {
            "model": str(self._model),
            "anchors": anchors,
            "heldout_anchors": anchors,
            "min_new": 10_000,
        }
        self._begin("learner_node", {**stores, **learner})
        compressed = {"color_topic": "/d/image/compressed", "depth_topic": "/d/depth/compressedDepth"}
        overrides = {f"qos_overrides.{t}.subscription.reliability": "reliable" for t in compressed.values()}
        other = {"episode_store": str(self._folder / "others"), "min_free_mb": 0}
        self._begin("interaction_node", {**other, **compressed, **overrides}, COMPRESSED)
        end = time.monotonic() + START
        while time.monotonic() < end:
            if not self.alive():
                break
            self._send_good()
            answered = self._spin_until(lambda: self._stamp in self._answered, 1.0)
            ready = all(client.service_is_ready() for client in self._clients.values())
            if answered and ready and len(self._status) >= len(self._processes):
                self._warm_up()
                return
        tails = "\n".join(f"--- {n}\n{p.log_tail()}" for n, p in self._processes.items())
        raise RiseError(f"the nodes did not start within {START:.0f} s; their logs end with:\n{tails}")

    def _warm_up(self) -> None:
        """What costs memory once, and keeps it, has to happen before memory counts.

        Images of other proportions take other ways through the network; and while a model is taken over,
        there are two.
        """
        good = self._frame
        height, width = good.image.shape[:2]
        for part in (good.image[: height // 3], good.image[:, : width // 3]):
            self._frame = Frame(part.copy())
            self._send_good()
            self._spin_until(lambda: self._stamp in self._answered, 10.0)
        self._frame = good
        (serving,) = self._models.glob(f"*/{CARD}")
        kept = self._clients["snapshot_model"].call_async(SnapshotModel.Request(note="fuzz"))
        if self._spin_until(kept.done, PATIENCE) and kept.result().success:
            for version in (kept.result().version, serving.parent.name):
                loaded = self._clients["reload_model"].call_async(ReloadModel.Request(version=version))
                self._spin_until(loaded.done, PATIENCE)
        self._spin(2.0)

    def _begin(self, module: str, parameters: dict[str, Any], namespace: str = "/") -> None:
        name = f"{namespace.rstrip('/')}/{module}"
        log = self._folder / f"{name.replace('/', '-')}.log"
        self._processes[name] = NodeProcess(module, parameters, self._env, log, namespace)

    def alive(self) -> bool:
        """Whether every node runs; one that has ended is a fault."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                text = f"{name} ended with status {process.poll()}:\n{process.log_tail(25)}"
                if text not in self.result.faults:
                    self.result.faults.append(text)
                return False
        return True

    def close(self) -> None:
        """End all nodes."""
        for process in self._processes.values():
            process.stop()
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def _on_instances(self, message: InstanceArray) -> None:
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        self._answered[stamp] = time.monotonic()
        while len(self._answered) > 100:
            self._answered.pop(next(iter(self._answered)))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            errors = int(values.get("errors", "0"))
            self._status[status.hardware_id] = (
                time.monotonic(),
                errors,
                f"{status.message}; {values.get('last error', '')}",
            )

    def _spin(self, seconds: float) -> None:
        self._spin_until(lambda: False, seconds)

    def _spin_until(self, condition: Callable[[], Any], seconds: float) -> bool:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                return False
            self._executor.spin_once(timeout_sec=0.02)
        return True

    # -- what has to hold --------------------------------------------------------------------------

    def _send_good(self) -> float:
        self._stamp += STEP
        header = _header(self._stamp)
        if self._frame.camera is not None:
            self._publishers["info"].publish(camera_info(header, self._frame.camera))
        self._publishers["image"].publish(ros_images.fill(Image(header=header), self._frame.image, "rgb8"))
        return time.monotonic()

    def check(self, seed: int, settled: bool) -> None:
        """Send a good frame and look at every node; ``seed`` is of the first case since the last look."""
        sent = self._send_good()
        stamp = self._stamp
        answered = self._spin_until(lambda: stamp in self._answered, max(10 * self._limit, 10.0))
        spent = self._answered[stamp] - sent if answered else float("inf")
        if not self.alive():
            return
        self.result.latencies.append(spent * 1e3)
        if spent > self._limit:
            self._fault(seed, f"a good frame was answered after {spent:.2f} s, more than {self._limit:g}")
        now = time.monotonic()
        for name in self._processes:
            if now - self._status[name][0] > SILENT:
                self._fault(seed, f"{name} said nothing for {now - self._status[name][0]:.0f} s")
        for name, process in self._processes.items():
            size = resident(process.pid)
            first = self.result.memory.get(name, (size, size))[0] if settled else size
            if size - first > MAX_GROWTH >= self.result.memory.get(name, (first, first))[1] - first:
                self._fault(seed, f"{name} grew from {first:.0f} to {size:.0f} MB")
            self.result.memory[name] = first, size

    def _fault(self, seed: int, text: str) -> None:
        self.result.faults.append(f"cases {seed} to {seed + CASES - 1}: {text}")

    def case(self, seed: int) -> None:
        """One mutated thing; one that is certainly wrong has to be named by the node that gets it."""
        rng = random.Random(seed)
        kind = rng.choice(list(self._cases))
        self.result.cases[kind] = self.result.cases.get(kind, 0) + 1
        before = {name: errors for name, (_, errors, _) in self._status.items()}
        if node := self._cases[kind](rng):
            named = self._spin_until(lambda: self._status[node][1] > before[node], NAMED)
            if not named and self.alive():
                self._fault(seed, f"{kind}: {node} did not name it; it says {self._status[node][2]!r}")
        else:
            self._spin(0.05)

    # -- cases: each gives the node that has to name it, or nothing where it may be harmless ---------

    def _template(self, name: str) -> Any:
        """A good message, with the stamp of the last good frame."""
        header, image = _header(self._stamp), self._frame.image
        if name == "image":
            return ros_images.fill(Image(header=header), image, "rgb8")
        if name == "depth":
            return ros_images.fill(Image(header=header), np.full(image.shape[:2], 800, np.uint16), "16UC1")
        if name == "mask":
            return ros_images.fill(Image(header=header), np.zeros(image.shape[:2], np.uint8), "mono8")
        if name == "info":
            return CameraInfo(header=header, width=image.shape[1], height=image.shape[0], k=[1.0] * 9)
        if name == "event":
            return GraspEvent(header=header, grasp_id="grasp", target_id=1)
        if name == "instances":
            label_map = ros_images.fill(Image(header=header), np.zeros(image.shape[:2], np.uint16), "mono16")
            return InstanceArray(header=header, label_map=label_map, model_version="m")
        return Float32(data=0.5)

    def _message(self, rng: random.Random) -> str:
        name = rng.choice(("image", "depth", "info", "mask", "event", "gripper", "instances"))
        message = self._template(name)
        for _ in range(rng.choice((1, 1, 2, 4))):
            mutate_message(rng, message)
        self._publishers[name].publish(message)
        return ""

    def _raw(self, rng: random.Random) -> str:
        """What no publisher sends: bytes that are no message, or claim other lengths."""
        name = rng.choice(("image", "depth", "info", "mask", "event", "instances"))
        content = serialize_message(self._template(name))
        head, body = content[:4], content[4:]
        start, rest = body[:400], body[400:]
        self._publishers[name].publish(
            head + mutate_bytes(rng, start) + (rest if rng.random() < 0.7 else b"")
        )
        return ""

    def _compressed(self, rng: random.Random) -> str:
        depth = rng.random() < 0.5
        image = np.full((48, 64), 800, np.uint16) if depth else self._frame.image
        content = images.encode_image(image)
        if bomb := rng.random() < 0.5:  # a small file of very many pixels
            side = rng.choice((9000, 16_000))
            content = cv2.imencode(".png", np.zeros((1, 1), np.uint16 if depth else np.uint8))[1].tobytes()
            content = _with_size(content, side)
        else:
            content = mutate_png(rng, content)
        self._stamp += STEP
        message = CompressedImage(header=_header(self._stamp), format="jpeg")
        if depth:
            message.format, content = "16UC1; compressedDepth png", b"\x00" * 12 + content
            good = CompressedImage(header=message.header, format="png")
            good.data = np.frombuffer(images.encode_image(self._frame.image[:48, :64]), np.uint8).tolist()
        message.data = ros_images.byte_array(np.frombuffer(content, np.uint8))
        self._publishers["compressed depth" if depth else "compressed"].publish(message)
        if depth:
            self._publishers["compressed"].publish(good)
        return f"{COMPRESSED}/interaction_node" if bomb else ""

    def _event(self, rng: random.Random) -> str:
        message = self._template("event")
        message.phase, message.outcome = rng.choice((0, 1, 3, 3, 9)), rng.choice((0, 1, 200))
        message.grasp_id = rng.choice(("", "a", "a", "b", "x" * 300, "\x01"))
        self._publishers["event"].publish(message)
        wrong = message.phase > 4 or message.outcome > 4 or message.grasp_id in ("", "x" * 300, "\x01")
        return "/interaction_node" if wrong else ""

    def _call(self, rng: random.Random) -> str:
        name = rng.choice(list(self._services))
        kind, _ = self._services[name]
        request = kind.Request()
        for _ in range(rng.choice((0, 1, 2))):
            mutate_message(rng, request)
        if name == "capture":
            request.timeout_s = rng.choice((0.2, float("nan"), -1.0, 1e30))
        client = self._clients[name]
        future = client.call_async(request)
        # A model is tried before it serves, and a grasp's frames may come late.
        if not self._spin_until(future.done, 30.0):
            client.remove_pending_request(future)
            if self.alive():
                self.result.faults.append(f"{name} did not answer {request} within 30 s")
            return ""
        answer = future.result()
        if not answer.success and not answer.message:
            self.result.faults.append(f"{name} refused {request} without a reason")
        return ""

    def _card(self, rng: random.Random) -> str:
        """A second version with an odd card, or the serving one's for a moment."""
        (card, *_) = sorted(self._models.glob(f"*/{CARD}"))
        content = card.read_bytes()
        place = self._models / rng.choice(("odd-12345678", *NAMES))
        shutil.copytree(card.parent, place, dirs_exist_ok=True)
        try:
            write_bytes(place / CARD, mutate_json(rng, json.loads(content)))
            self._ask("list_models", ListModels.Request())
            self._ask("reload_model", ReloadModel.Request(version=place.name))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return ""

    def _current(self, rng: random.Random) -> str:
        path = self._models / CURRENT
        content = path.read_bytes()
        try:
            write_bytes(path, mutate_json(rng, json.loads(content)))
            self._ask("list_models", ListModels.Request())
            self._ask("reload_model", ReloadModel.Request())
            self._spin(0.6)
        finally:
            write_bytes(path, content)
        return ""

    def _ask(self, name: str, request: Any) -> None:
        future = self._clients[name].call_async(request)
        if not self._spin_until(future.done, 30.0) and self.alive():
            self.result.faults.append(f"{name} did not answer within 30 s")

    def _episode(self, rng: random.Random) -> str:
        """An episode from elsewhere, while the learner looks."""
        (source, *_) = [p for p in self._episodes.iterdir() if (p / EPISODE).is_file()]
        place = self._episodes / f"{rng.randrange(1, 10**18)}-{rng.randrange(16**8):08x}"
        shutil.copytree(source, place)
        try:
            path = place / rng.choice((EPISODE, LABELS))
            write_bytes(path, mutate_json(rng, json.loads(path.read_bytes())))
            self._spin(2.2)  # the learner looks every two seconds
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return ""

    def _odd_folder(self, rng: random.Random) -> str:
        (source, *_) = [p for p in self._episodes.iterdir() if (p / EPISODE).is_file()]
        place = self._episodes / rng.choice(NAMES)
        shutil.copytree(source, place, dirs_exist_ok=True)
        try:
            self._spin(2.2)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return ""


def mutate_message(rng: random.Random, message: Any) -> None:
    """Put an odd value that its type allows into one field of a ROS message, at whatever depth."""
    types = message.get_fields_and_field_types()
    if not types:
        return
    name = rng.choice(list(types))
    value, kind = getattr(message, name), types[name]
    if hasattr(value, "get_fields_and_field_types"):
        mutate_message(rng, value)
    elif "[" in kind:  # of a fixed length
        whole = list(value)
        whole[rng.randrange(len(whole))] = _odd_of(rng, kind.partition("[")[0])
        setattr(message, name, whole)
    elif kind.startswith("sequence<"):
        some = list(value)[: rng.choice((0, 1, 3, 10**7))]
        inner = kind[9:-1]
        if "/" in inner:
            return
        some += [_odd_of(rng, inner) for _ in range(rng.choice((0, 1, 3)))]
        setattr(message, name, some)
    else:
        setattr(message, name, _odd_of(rng, kind))


def _odd_of(rng: random.Random, kind: str) -> Any:
    """An odd value of a primitive type of ROS."""
    if kind.startswith("string"):
        return rng.choice([text for text in TEXTS if "\ud800" not in text])
    if kind in ("float", "double", "float32", "float64"):
        most = 3e38 if kind in ("float", "float32") else 1e308
        return rng.choice((0.0, -1.0, 1e-38, most, -most, float("nan"), float("inf"), float("-inf")))
    if kind == "boolean":
        return rng.random() < 0.5
    bits = int("".join(filter(str.isdecimal, kind)) or 8)
    least, most_int = (0, 2**bits - 1) if kind[0] in "uboc" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return rng.choice(
        [least, most_int, *(n for n in NUMBERS if isinstance(n, int) and least <= n <= most_int)]
    )


def _header(stamp: int) -> Header:
    return Header(stamp=Time(sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id="camera")


def _with_size(png: bytes, side: int) -> bytes:
    """A PNG whose header says that it is a square of ``side`` pixels."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def _anchors(folder: Path) -> Path:
    """A few labelled pictures of painted boxes."""
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    for number in range(3):
        image = rng.integers(90, 110, (96, 128, 3), np.uint8)
        for item in range(3):
            x, y = 10 + 38 * item, int(rng.integers(10, 50))
            image[y : y + 30, x : x + 30] = rng.integers(0, 255, 3)
            mask = np.zeros(image.shape[:2], bool)
            mask[y : y + 30, x : x + 30] = True
            rle = {"size": list(mask.shape), "counts": encode_runs(mask)}
            row = {"id": len(annotations), "image_id": number, "category_id": 2, "segmentation": rle}
            annotations.append({**row, "area": 900, "bbox": [x, y, 30, 30], "iscrowd": 0})
        images.write_image(folder / "images" / f"{number}.png", image)
    pictures = [{"id": n, "file_name": f"{n}.png", "width": 128, "height": 96} for n in range(3)]
    categories = [{"id": 1, "name": "container"}, {"id": 2, "name": "object"}]
    path = folder / "anchors.json"
    write_json(path, {"images": pictures, "annotations": annotations, "categories": categories})
    return path
