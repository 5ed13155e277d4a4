"""Bags: pairing, raw and compressed images, both storages, damage, clocks that jump."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from rise_perception.core.errors import BagError
from rise_perception.core.frame import CameraIntrinsics
from rise_perception.data import bags
from rise_perception.data.bag_messages import header, image_message
from rise_perception.data.bags import BagReader, BagWriter
from rise_perception.data.typestore import typestore

START = 1_700_000_000_000_000_000
PERIOD = 33_333_333
CAMERA = CameraIntrinsics(64, 48, 60.0, 61.0, 31.5, 23.5)
RGB = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)


def picture(index):
    image = RGB.copy()
    image[:4, :4] = index % 256
    return image


def depth(index):
    return np.full((48, 64), 500 + index, np.uint16)


def write_frames(bag, count=6, start=START, depth_delay=0, with_truth=True):
    for i in range(count):
        stamp = start + i * PERIOD
        bag.write_camera_info(bags.INFO_TOPIC, CAMERA, stamp, "cam")
        bag.write_image(bags.COLOR_TOPIC, picture(i), "rgb8", stamp, "cam")
        bag.write_image(bags.DEPTH_TOPIC, depth(i), "16UC1", stamp + depth_delay, "cam")
        if with_truth:
            bag.write_image(bags.TRUTH_TOPIC, np.full((48, 64), i, np.uint16), "mono16", stamp, "cam")


@pytest.fixture
def bag(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        write_frames(writer)
    return tmp_path / "bag"


def read(path, **options):
    with BagReader(path) as reader:
        return list(reader.frames(**options))


def read_until_error(path, **options):
    frames = []
    with BagReader(path) as reader:
        iterator = reader.frames(**options)
        with pytest.raises(BagError) as caught:
            frames.extend(iterator)  # keeps what came before the error
    return frames, str(caught.value)


def write_sqlite(path, messages, mode=CompressionMode.NONE):
    """messages: (topic, type name, message, stamp)."""
    store, connections = typestore(), {}
    writer = Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        for topic, kind, message, stamp in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], stamp, store.serialize_cdr(message, kind))


def image_messages(count=40):
    for i in range(count):
        stamp = START + i * PERIOD
        yield (
            bags.COLOR_TOPIC,
            "sensor_msgs/msg/Image",
            image_message(picture(i), "rgb8", stamp, "cam"),
            stamp,
        )
        yield bags.DEPTH_TOPIC, "sensor_msgs/msg/Image", image_message(depth(i), "16UC1", stamp, "cam"), stamp


# ---- whole bags


def test_round_trip(bag):
    frames = read(bag, truth=bags.TRUTH_TOPIC)
    assert len(frames) == 6
    for i, (frame, truth) in enumerate(frames):
        np.testing.assert_array_equal(frame.image, picture(i))
        np.testing.assert_allclose(frame.depth, (500 + i) / 1000, rtol=1e-6)
        assert frame.camera == CAMERA
        assert (frame.stamp, frame.frame_id) == (START + i * PERIOD, "cam")
        assert truth.dtype == np.uint16
        assert (truth == i).all()
    with BagReader(bag) as reader:
        assert reader.topics[bags.TRUTH_TOPIC] == "sensor_msgs/msg/Image"
        assert reader.counts == dict.fromkeys(reader.topics, 6)


def test_own_messages_round_trip(tmp_path):
    store = typestore()
    event = store.types["rise_msgs/msg/GraspEvent"](
        header=header(START, "cam"),
        grasp_id="g7",
        phase=2,
        target_id=-1,
        outcome=1,
        expression="",
        referred=0,
    )
    with BagWriter(tmp_path / "b") as writer:
        writer.write("/grasp_events", "rise_msgs/msg/GraspEvent", event, START)
        writer.write(
            "/grasp_events",
            "rise_msgs/msg/GraspEvent",
            bytes(store.serialize_cdr(event, "rise_msgs/msg/GraspEvent")),
            START + 1,
        )
    with BagReader(tmp_path / "b") as reader:
        messages = list(reader.messages("/grasp_events"))
    assert [stamp for stamp, _ in messages] == [START, START + 1]
    assert all((m.grasp_id, m.phase, m.target_id) == ("g7", 2, -1) for _, m in messages)


@pytest.mark.parametrize("mode", [CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.FILE])
def test_sqlite_bags(tmp_path, mode):
    write_sqlite(tmp_path / "b", image_messages(5), mode)
    frames = read(tmp_path / "b")
    assert [int(frame.image[0, 0, 0]) for frame, _ in frames] == [0, 1, 2, 3, 4]
    assert all(frame.depth is not None for frame, _ in frames)


def test_compressed_images_are_found_under_the_usual_names(tmp_path):
    store = typestore()

    def compressed(name, content, stamp):
        return store.types["sensor_msgs/msg/CompressedImage"](
            header=header(stamp, "cam"), format=name, data=np.frombuffer(content, np.uint8)
        )

    kind = "sensor_msgs/msg/CompressedImage"
    png = cv2.imencode(".png", picture(3)[:, :, ::-1])[1].tobytes()
    depth_png = bytes(12) + cv2.imencode(".png", depth(3))[1].tobytes()
    with BagWriter(tmp_path / "b") as writer:
        writer.write(
            f"{bags.COLOR_TOPIC}/compressed", kind, compressed("rgb8; png compressed bgr8", png, START), START
        )
        writer.write(
            f"{bags.DEPTH_TOPIC}/compressedDepth",
            kind,
            compressed("16UC1; compressedDepth png", depth_png, START),
            START,
        )
    ((frame, _),) = read(tmp_path / "b")
    np.testing.assert_array_equal(frame.image, picture(3))
    np.testing.assert_allclose(frame.depth, 0.503, rtol=1e-6)


def test_single_storage_file_without_metadata(bag):
    (bag / "metadata.yaml").unlink()
    assert len(read(bag / "bag.mcap")) == 6


# ---- pairing


def test_depth_within_tolerance_is_paired_in_any_order(tmp_path):
    for delay in (-15_000_000, 15_000_000):
        path = tmp_path / f"d{delay}"
        with BagWriter(path) as writer:
            write_frames(writer, depth_delay=delay)
        for i, (frame, _) in enumerate(read(path)):
            np.testing.assert_allclose(frame.depth, (500 + i) / 1000, rtol=1e-6)


def test_depth_outside_tolerance_is_left_out(tmp_path):
    with BagWriter(tmp_path / "b") as writer:
        write_frames(writer, depth_delay=16_000_000)
    assert all(frame.depth is None for frame, _ in read(tmp_path / "b", tolerance=0.010))


def test_a_camera_whose_depth_fails_goes_on(tmp_path):
    with BagWriter(tmp_path / "b") as writer:
        for i in range(100):
            stamp = START + i * PERIOD
            writer.write_image(bags.COLOR_TOPIC, picture(i), "rgb8", stamp, "cam")
            if i < 40 or i >= 90:
                writer.write_image(bags.DEPTH_TOPIC, depth(i), "16UC1", stamp, "cam")
    frames = read(tmp_path / "b")
    assert [int(f.image[0, 0, 0]) for f, _ in frames] == list(range(100))
    assert [f.depth is not None for f, _ in frames] == [i < 40 or i >= 90 for i in range(100)]


def test_depth_none_leaves_depth_out(bag):
    assert all(frame.depth is None for frame, _ in read(bag, depth="none"))


@pytest.mark.parametrize("depth_first", [True, False])
def test_clock_jumping_back_pairs_within_each_lap(tmp_path, depth_first):
    with BagWriter(tmp_path / "b") as writer:
        for lap in range(2):  # the log time goes on, the stamps start again, as in a looped bag
            for i in range(5):
                stamp, log = START + i * PERIOD, START + (5 * lap + i) * PERIOD
                value = 10 * lap + i
                images = [
                    (bags.DEPTH_TOPIC, depth(value), "16UC1"),
                    (bags.COLOR_TOPIC, picture(value), "rgb8"),
                ]
                for topic, array, encoding in images if depth_first else images[::-1]:
                    message = image_message(array, encoding, stamp, "cam")
                    writer.write(topic, "sensor_msgs/msg/Image", message, log)
    frames = [frame for frame, _ in read(tmp_path / "b")]
    values = [0, 1, 2, 3, 4, 10, 11, 12, 13, 14]
    assert [f.stamp for f in frames] == [START + i * PERIOD for i in range(5)] * 2
    assert [int(f.image[0, 0, 0]) for f in frames] == values
    np.testing.assert_allclose([f.depth[0, 0] for f in frames], [0.5 + v / 1000 for v in values], rtol=1e-6)


def test_camera_that_changes_resolution(tmp_path):
    with BagWriter(tmp_path / "b") as writer:
        write_frames(writer, 2, with_truth=False)
        writer.write_image(bags.COLOR_TOPIC, RGB[:24, :32], "rgb8", START + 2 * PERIOD, "cam")
    frames = [frame for frame, _ in read(tmp_path / "b")]
    assert [f.image.shape[:2] for f in frames] == [(48, 64), (48, 64), (24, 32)]
    assert [f.camera is None for f in frames] == [False, False, True]


# ---- what is wrong


@pytest.mark.parametrize("argument", ["color", "depth", "info", "truth"])
def test_missing_topic_lists_those_that_are_there(bag, argument):
    with BagReader(bag) as reader, pytest.raises(BagError) as caught:
        reader.frames(**{argument: "/wrist/image"})
    for name in ("/wrist/image", bags.COLOR_TOPIC, bags.TRUTH_TOPIC, "sensor_msgs/msg/CameraInfo"):
        assert name in str(caught.value)


def test_no_colour_at_all(tmp_path):
    with BagWriter(tmp_path / "b") as writer:
        writer.write_image("/other", depth(0), "16UC1", START, "cam")
    with (
        BagReader(tmp_path / "b") as reader,
        pytest.raises(BagError, match=r"/camera/color/image_raw(.|\n)*/other"),
    ):
        reader.frames()


def test_no_bag(tmp_path):
    (tmp_path / "ros1.bag").write_bytes(b"#ROSBAG V2.0\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.mcap").write_bytes(b"nothing of the kind")
    (tmp_path / "zero.db3").write_bytes(b"")
    for name in ("missing", "ros1.bag", "empty", "junk.mcap", "zero.db3"):
        with pytest.raises(BagError, match=name), BagReader(tmp_path / name):
            pass


def test_lying_and_mismatched_frames_are_left_out_and_reported(tmp_path):
    with BagWriter(tmp_path / "b") as writer:
        write_frames(writer, 2)
        lying = image_message(picture(2), "rgb8", START + 2 * PERIOD, "cam")
        lying.step = 10
        short = image_message(picture(3), "rgb8", START + 3 * PERIOD, "cam")
        short.data = short.data[:100]
        for message in (lying, short):
            writer.write(
                bags.COLOR_TOPIC, "sensor_msgs/msg/Image", message, message.header.stamp.nanosec + START
            )
        write_frames(writer, 2, START + 4 * PERIOD)
        writer.write_image(bags.COLOR_TOPIC, picture(6), "rgb8", START + 6 * PERIOD, "cam")
        writer.write_image(bags.DEPTH_TOPIC, depth(6)[:20], "16UC1", START + 6 * PERIOD, "cam")
    frames, message = read_until_error(tmp_path / "b")
    assert len(frames) == 4
    assert "step" in message
    assert "data" in message
    assert "register" in message


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.95, 0.999])
def test_mcap_cut_off_anywhere_gives_what_is_intact(tmp_path, keep):
    with BagWriter(tmp_path / "b") as writer:
        for _, kind, message, stamp in image_messages(400):
            writer.write(
                bags.COLOR_TOPIC if message.encoding == "rgb8" else bags.DEPTH_TOPIC, kind, message, stamp
            )
    file = tmp_path / "b" / "b.mcap"
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    frames, message = read_until_error(tmp_path / "b")
    # Chunks of 1 MiB are lost whole: about 68 frames of 15 kB each.
    assert 400 * keep - 100 < len(frames) <= 400
    assert [int(f.image[0, 0, 0]) for f, _ in frames] == [i % 256 for i in range(len(frames))]
    assert all(f.depth is not None for f, _ in frames[:-1])
    assert "damaged" in message
    assert "b" in message


def test_recorder_that_was_killed_leaves_neither_metadata_nor_index(bag):
    (bag / "metadata.yaml").unlink()
    file = bag / "bag.mcap"
    content = file.read_bytes()
    file.write_bytes(content[: content.index(b"\x0f\x04\x00\x00\x00\x00\x00\x00\x00")])  # up to DataEnd
    frames, message = read_until_error(bag)
    assert len(frames) == 6
    assert "damaged or was not closed" in message


@pytest.mark.parametrize("keep", [0.4, 0.8])
def test_sqlite_cut_off(tmp_path, keep):
    write_sqlite(tmp_path / "b", image_messages(100))
    file = next((tmp_path / "b").glob("*.db3"))
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep)])
    frames, message = read_until_error(tmp_path / "b")
    assert 100 * keep - 10 < len(frames) <= 100 * keep + 1
    assert "damaged" in message


def test_chunk_damaged_in_the_middle(tmp_path):
    with BagWriter(tmp_path / "b") as writer:
        for topic, kind, message, stamp in image_messages(300):
            writer.write(topic, kind, message, stamp)
    file = tmp_path / "b" / "b.mcap"
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 5000] = bytes(5000)
    file.write_bytes(content)
    frames, message = read_until_error(tmp_path / "b")
    assert 50 < len(frames) < 300
    assert "damaged" in message


# ---- writing


def test_writer_refuses_an_existing_name(bag):
    with pytest.raises(BagError, match="exists already"), BagWriter(bag):
        pass
    assert len(read(bag)) == 6


def test_nothing_takes_the_name_before_the_end_and_nothing_written_is_lost(tmp_path):
    path = tmp_path / "b"

    def crash():
        with BagWriter(path) as writer:
            write_frames(writer, 3)
            assert not path.exists()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert not path.exists()
    assert len(read(tmp_path / "b.incomplete" / "b")) == 3
    with BagWriter(path) as writer:  # the next attempt replaces what the failed one left
        write_frames(writer, 4)
    assert len(read(path)) == 4
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_moved_bag_still_opens(bag, tmp_path):
    shutil.move(bag, tmp_path / "renamed")
    assert len(read(tmp_path / "renamed")) == 6
