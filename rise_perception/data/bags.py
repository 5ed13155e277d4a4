"""ROS 2 bags without ROS: paired RGB-D frames out of sqlite3 and MCAP bags, MCAP bags written.

Reading never trusts the recording: stamps are the headers' own, images may be raw or compressed, a
frame that contradicts itself is left out, and a bag that was cut off gives everything before the cut.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer

from rise_perception.core.errors import BagError, RiseError
from rise_perception.core.frame import CameraIntrinsics, Frame
from rise_perception.data import ros_images
from rise_perception.data.bag_messages import camera_info_message, image_message
from rise_perception.data.bag_pairing import Group, Topics, group_messages, header_stamp
from rise_perception.data.bag_recovery import RawMessage, intact_messages, storage_files
from rise_perception.data.typestore import typestore

COLOR_TOPIC = "/camera/color/image_raw"
DEPTH_TOPIC = "/camera/depth/image_raw"
INFO_TOPIC = "/camera/color/camera_info"
#: What a recording's topics are called where nobody names them; the first that is there counts.
COLOR_TOPICS = (COLOR_TOPIC, "/camera/camera/color/image_raw")
DEPTH_TOPICS = (
    DEPTH_TOPIC,
    "/camera/aligned_depth_to_color/image_raw",
    "/camera/camera/aligned_depth_to_color/image_raw",
)
INFO_TOPICS = (INFO_TOPIC, "/camera/camera/color/camera_info")
TRUTH_TOPIC = "/truth/label_map"
NO_TOPIC = "none"
IMAGES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
INFO = "sensor_msgs/msg/CameraInfo"


class MessagePlace(NamedTuple):
    """Where a message lies: topic, log time and the stamp of its header, both in nanoseconds."""

    topic: str
    log: int
    stamp: int


class FramePlace(NamedTuple):
    """Where a frame lies: its stamp in nanoseconds, its colour image, and its depth if there is any."""

    stamp: int
    color: MessagePlace
    depth: MessagePlace | None


class BagReader:
    """A rosbag2 folder, or a single ``.mcap`` or ``.db3`` file, as a context manager.

    Attributes:
        path: the bag.
        topics: topic name -> message type name.
        counts: topic name -> number of (intact) messages.

    Raises:
        BagError: there is no bag at ``path``, or nothing in it is readable.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.topics: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self._reader: Reader | None = None
        self._damage: str | None = None

    def __enter__(self) -> BagReader:
        if not self.path.exists():
            raise BagError(f"{self.path}: no such bag (give a rosbag2 folder, or an .mcap or .db3 file)")
        if not storage_files(self.path):
            raise BagError(
                f"{self.path}: not a rosbag2 recording (no .mcap or .db3 file); "
                "a ROS 1 bag can be converted with rosbags-convert"
            )
        try:
            self._reader = Reader(self.path)
            self._reader.open()
            for connection in self._reader.connections:
                self.topics[connection.topic] = connection.msgtype
                self.counts[connection.topic] = self.counts.get(connection.topic, 0) + connection.msgcount
        except Exception as error:  # the library raises whatever its parsers meet in a damaged file
            self._reader = None
            self._damage = f"the bag is damaged or was not closed ({_reason(error)})"
            for message in intact_messages(self.path):
                self.topics[message.topic] = message.msgtype
                self.counts[message.topic] = self.counts.get(message.topic, 0) + 1
            if not self.topics:
                raise BagError(f"{self.path}: {self._damage}; no message in it can be read") from None
        return self

    def __exit__(self, *exception: object) -> None:
        if self._reader is not None:
            self._reader.close()

    def messages(self, topic: str) -> Iterator[tuple[int, Any]]:
        """Yield (log time in ns, message) of one topic; messages are of :func:`typestore`'s types.

        Raises:
            BagError: the topic is missing (the message lists those that are there); a message cannot
                be decoded; or, after the last intact message, the bag is damaged.
        """
        self._require(topic)
        return ((raw.stamp, self._decode(raw)) for raw in self._raw([topic]))

    def color_topic(self, color: str | None = None) -> str:
        """The topic that :meth:`frames` takes the colour images from; its count is the number of frames."""
        return self._resolve(color, COLOR_TOPICS) or self._require(COLOR_TOPIC)

    def depth_topic(self, depth: str | None = None) -> str | None:
        """The topic that :meth:`frames` takes depth from; None for none."""
        return None if depth == NO_TOPIC else self._resolve(depth, DEPTH_TOPICS)

    def depth_candidates(self) -> list[str]:
        """Image topics that are depth by their name, whether registered to colour or not."""
        return sorted(t for t, kind in self.topics.items() if kind in IMAGES and "depth" in t.lower())

    def frames(
        self,
        color: str | None = None,
        depth: str | None = None,
        info: str | None = None,
        truth: str | None = None,
        tolerance: float = 0.02,
    ) -> Iterator[tuple[Frame, np.ndarray | None]]:
        """Yield (frame, truth label map or None) for each colour image, in recording order.

        Args:
            color, depth, info: topics of the colour image, of the depth registered to it, and of the
                colour camera's intrinsics; raw or compressed images. None means the usual one (the
                ``*_TOPICS`` constants, or its ``/compressed``, ``/compressedDepth`` form); depth and
                info may then be missing. "none" leaves depth out.
            truth: topic of instance label maps, or None.
            tolerance: seconds by which the stamps of a colour image and its depth or truth may differ.

        Raises:
            BagError: at once when a topic is missing or of another kind (naming those that are there);
                after the last frame when the bag is damaged or frames had to be left out (saying which and
                why).
        """
        topics = self._topics(color, depth, info, truth)
        return self._frames(self._groups(topics, tolerance), topics.info)

    def index(self, depth: str | None = None, tolerance: float = 0.02) -> list[FramePlace]:
        """Where the frames lie that :meth:`frames` yields, for :meth:`frame`; no image is decoded.

        Raises:
            BagError: no colour image, no such depth topic, or the bag is damaged.
        """
        topics = self._topics(None, depth, None, None)._replace(info=None)
        if self._reader is None:
            raise BagError(f"{self.path}: {self._damage}; mend it first, for example by `ros2 bag reindex`")
        return [
            FramePlace(group.stamp, _place(group.color), group.depth and _place(group.depth))
            for group in self._groups(topics, tolerance)
        ]

    def frame(self, place: FramePlace) -> Frame:
        """Read one frame that :meth:`index` found; without intrinsics.

        Raises:
            RiseError: it cannot be decoded, or contradicts itself.
        """
        color = self._decode(self._fetch(place.color))
        depth = self._decode(self._fetch(place.depth)) if place.depth else None
        return _pair(color, depth, None, None, place.stamp)[0]

    def _fetch(self, place: MessagePlace) -> RawMessage:
        assert self._reader is not None  # index() has refused the bag otherwise
        connections = [c for c in self._reader.connections if c.topic == place.topic]
        try:
            for connection, log, data in self._reader.messages(connections, place.log, place.log + 1):
                raw = RawMessage(connection.topic, connection.msgtype, log, data)
                if header_stamp(raw) == place.stamp:
                    return raw
        except Exception as error:  # whatever the library's parsers meet in a damaged file
            raise BagError(f"{self.path}: the bag is damaged ({_reason(error)})") from error
        raise BagError(f"{self.path}: {place} is not there any more; was the bag replaced?")

    def _topics(self, color: str | None, depth: str | None, info: str | None, truth: str | None) -> Topics:
        return Topics(
            self.color_topic(color),
            self.depth_topic(depth),
            self._resolve(info, INFO_TOPICS, (INFO,)),
            truth and self._require(truth, IMAGES),
        )

    def _frames(self, groups: Iterator[Group], info: str | None) -> Iterator[tuple[Frame, np.ndarray | None]]:
        problems: list[str] = []
        camera = next((_intrinsics(message) for _, message in self._quietly(info)), None)
        camera_message: RawMessage | None = None
        try:
            for group in groups:
                try:
                    if group.info is not camera_message:
                        camera_message = group.info
                        camera = camera_message and _intrinsics(self._decode(camera_message))
                    color, depth, truth = (
                        raw and self._decode(raw) for raw in (group.color, group.depth, group.truth)
                    )
                    yield _pair(color, depth, truth, camera, group.stamp)
                except RiseError as error:
                    problems.append(f"frame at {group.stamp / 1e9:.3f} s: {error}")
        except BagError as error:
            problems.append(str(error).removeprefix(f"{self.path}: "))
        if problems:
            shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
            raise BagError(f"{self.path}: not everything could be read: {shown}")

    def _groups(self, topics: Topics, tolerance: float) -> Iterator[Group]:
        messages = self._raw([topic for topic in topics if topic])
        return group_messages(messages, topics, round(tolerance * 1e9))

    def _raw(self, topics: Iterable[str]) -> Iterator[RawMessage]:
        """Undecoded messages of ``topics``; BagError after the last intact one of a damaged bag."""
        topics = set(topics)
        count = 0
        if self._reader is None:
            for message in intact_messages(self.path):
                if message.topic in topics:
                    count += 1
                    yield message
        else:
            connections = [c for c in self._reader.connections if c.topic in topics]
            try:
                for connection, stamp, data in self._reader.messages(connections):
                    count += 1
                    yield RawMessage(connection.topic, connection.msgtype, stamp, data)
            except Exception as error:
                self._damage = f"the bag is damaged ({_reason(error)})"
        if self._damage:
            raise BagError(f"{self.path}: {self._damage}; the {count} messages before the damage were read")

    def _quietly(self, topic: str | None) -> Iterator[tuple[int, Any]]:
        """Messages of an optional topic, ending at damage (which the main pass reports)."""
        try:
            yield from self.messages(topic) if topic else ()
        except BagError:
            return

    def _decode(self, raw: RawMessage) -> Any:
        try:
            return typestore().deserialize_cdr(raw.data, raw.msgtype)
        except Exception as error:  # lying lengths inside the message, or a type nobody knows
            raise BagError(
                f"{self.path}: a {raw.msgtype} on {raw.topic} cannot be decoded ({error!r})"
            ) from None

    def _resolve(self, topic: str | None, usual: Sequence[str], kinds: Sequence[str] = IMAGES) -> str | None:
        """``topic`` if it is given (then it must be there), else the usual one in the form the bag has."""
        if topic is not None:
            return self._require(topic, kinds)
        forms = [name + form for name in usual for form in ("", "/compressed", "/compressedDepth")]
        return next((form for form in forms if form in self.topics), None)

    def _require(self, topic: str, kinds: Sequence[str] = ()) -> str:
        if topic in self.topics:
            if kinds and self.topics[topic] not in kinds:
                others = ", ".join(sorted(name for name, kind in self.topics.items() if kind in kinds))
                raise BagError(
                    f"{self.path}: {topic} is a {self.topics[topic]}, not a {kinds[0]}; of that kind are: "
                    f"{others or 'none'}"
                )
            return topic
        there = "".join(
            f"\n  {name}  [{self.topics[name]}, {self.counts[name]}]" for name in sorted(self.topics)
        )
        raise BagError(f"{self.path}: no topic {topic!r} in this bag; there are:{there or ' none'}")


class BagWriter:
    """Writes an MCAP bag (zstd chunks) as a context manager.

    The bag grows in ``<path>.incomplete`` and takes its name when the block ends well. When the
    block raises or the process dies, what was written stays there and :class:`BagReader` reads it.

    Raises:
        BagError: ``path`` exists already.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._workshop = self.path.with_name(f"{self.path.name}.incomplete")
        self._connections: dict[str, Connection] = {}

    def __enter__(self) -> BagWriter:
        if self.path.exists():
            raise BagError(f"{self.path}: exists already; remove it or give another name for the new bag")
        shutil.rmtree(self._workshop, ignore_errors=True)
        self._writer = Writer(self._workshop / self.path.name, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()
        if exception[0] is None:
            os.replace(self._workshop / self.path.name, self.path)
            self._workshop.rmdir()

    def write(self, topic: str, msgtype: str, message: Any, stamp: int) -> None:
        """Write one message.

        Args:
            topic: topic name; always the same ``msgtype`` on one topic.
            msgtype: e.g. "sensor_msgs/msg/Image".
            message: an object of :func:`typestore`'s types, or the CDR bytes that rclpy serializes to.
            stamp: log time in nanoseconds.
        """
        store = typestore()
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, msgtype, typestore=store)
        data = message if isinstance(message, bytes) else store.serialize_cdr(message, msgtype)
        self._writer.write(self._connections[topic], stamp, data)

    def write_image(self, topic: str, array: np.ndarray, encoding: str, stamp: int, frame_id: str) -> None:
        """Write a sensor_msgs/Image; ``array`` is (H, W) or (H, W, C) in the layout ``encoding`` names."""
        self.write(topic, "sensor_msgs/msg/Image", image_message(array, encoding, stamp, frame_id), stamp)

    def write_camera_info(self, topic: str, camera: CameraIntrinsics, stamp: int, frame_id: str) -> None:
        """Write a sensor_msgs/CameraInfo of a rectified image (no distortion)."""
        message = camera_info_message(camera, stamp, frame_id)
        self.write(topic, "sensor_msgs/msg/CameraInfo", message, stamp)


def _place(raw: RawMessage) -> MessagePlace:
    return MessagePlace(raw.topic, raw.stamp, header_stamp(raw))


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__


def _intrinsics(message: Any) -> CameraIntrinsics:
    k = message.k
    return CameraIntrinsics(message.width, message.height, float(k[0]), float(k[4]), float(k[2]), float(k[5]))


def _pair(
    color: Any, depth: Any, truth: Any, camera: CameraIntrinsics | None, stamp: int
) -> tuple[Frame, np.ndarray | None]:
    image = ros_images.to_rgb8(color)
    if camera and (camera.height, camera.width) != image.shape[:2]:
        camera = None  # intrinsics of another resolution are worse than none
    metres = None if depth is None else ros_images.to_depth(depth)
    frame = Frame(image, metres, camera, stamp, color.header.frame_id)
    labels = None if truth is None else ros_images.to_label_map(truth)
    if labels is not None and labels.shape != image.shape[:2]:
        raise BagError(f"the truth label map has shape {labels.shape} but the image {image.shape[:2]}")
    return frame, labels
