"""Image messages: every encoding, and everything a publisher can get wrong."""

from __future__ import annotations

import array
import struct
import time
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from rise_perception.core.errors import ImageError
from rise_perception.data import ros_images


def message(values: np.ndarray, encoding: str, /, **wrong: object) -> SimpleNamespace:
    """A message that tells the truth but for ``wrong``."""
    made = ros_images.fill(SimpleNamespace(), values, encoding)
    for name, value in wrong.items():
        setattr(made, name, value)
    return made


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)


@pytest.mark.parametrize("wrap", [lambda b: b, bytes, lambda b: np.frombuffer(b, np.uint8)])
def test_plain_colour_encodings_give_the_same_picture(picture, wrap):
    alpha = np.dstack([picture, np.full((5, 7), 9, np.uint8)])
    sent = {
        "rgb8": picture,
        "bgr8": picture[:, :, ::-1],
        "8UC3": picture[:, :, ::-1],
        "rgba8": alpha,
        "bgra8": alpha[:, :, [2, 1, 0, 3]],
        "rgb16": picture.astype(np.uint16) * 257,
        "bgr16": picture[:, :, ::-1].astype(np.uint16) * 257,
    }
    for encoding, values in sent.items():
        made = message(values, encoding)
        made.data = wrap(made.data)
        result = ros_images.to_rgb8(made)
        assert result.dtype == np.uint8
        assert result.flags.c_contiguous
        np.testing.assert_array_equal(result, picture, err_msg=encoding)


@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "mono16", "16UC1", "32FC1"])
def test_grey_encodings_become_grey_pictures(encoding):
    grey = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
    scaled = {"8": grey, "16": grey.astype(np.uint16) * 257, "32": (grey / 255).astype(np.float32)}
    values = scaled["32" if "32" in encoding else "16" if "16" in encoding else "8"]
    result = ros_images.to_rgb8(message(values, encoding))
    np.testing.assert_array_equal(result, np.repeat(grey[:, :, None], 3, 2))


def test_rgb8_is_a_view_and_padded_rows_are_understood(picture):
    tight = message(picture, "rgb8")
    assert np.shares_memory(ros_images.to_rgb8(tight), np.frombuffer(tight.data, np.uint8))
    padded = np.zeros((5, 32), np.uint8)
    padded[:, :21] = picture.reshape(5, 21)
    wide = message(padded, "mono8", encoding="rgb8", width=7)
    assert wide.step == 32
    np.testing.assert_array_equal(ros_images.to_rgb8(wide), picture)
    # The last row may end with its pixels instead of its padding.
    wide.data = wide.data[: 4 * 32 + 21]
    np.testing.assert_array_equal(ros_images.to_rgb8(wide), picture)


def test_big_endian_values_are_swapped():
    values = np.array([[1, 258], [5000, 0]], np.uint16)
    made = message(values.astype(">u2"), "mono16", is_bigendian=1)
    np.testing.assert_array_equal(ros_images.to_label_map(made), values)
    np.testing.assert_allclose(ros_images.to_depth(made), values / 1000, rtol=1e-6)
    assert ros_images.to_rgb8(made)[1, 0, 0] == 5000 >> 8


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_patterns_keep_the_colour(pattern, bits):
    colour = {"r": 200, "g": 100, "b": 30}
    cell = np.array([colour[c] for c in pattern]).reshape(2, 2)
    raw = np.tile(cell, (8, 8)).astype(np.uint8)
    values = raw if bits == 8 else raw.astype(np.uint16) * 257
    result = ros_images.to_rgb8(message(values, f"bayer_{pattern}{bits}"))
    np.testing.assert_array_equal(result[8, 8], [200, 100, 30])


@pytest.mark.parametrize(("encoding", "luma"), [("uyvy", 1), ("yuv422", 1), ("yuyv", 0), ("yuv422_yuy2", 0)])
def test_yuv_keeps_the_brightness(encoding, luma):
    values = np.full((4, 6, 2), 128, np.uint8)
    values[:, :, luma] = 235
    assert (ros_images.to_rgb8(message(values, encoding)) >= 253).all()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"step": 20}, "step 20"),
        ({"data": array.array("B", bytes(50))}, "50 bytes"),
        ({"data": array.array("B")}, "0 bytes"),
        ({"height": 0}, "7x0"),
        ({"width": 0}, "0x5"),
        ({"width": 4_000_000_000}, "4000000000"),
        ({"height": 6}, "7x6"),
        ({"encoding": "rgb9"}, "'rgb9'"),
        ({"encoding": ""}, "''"),
        ({"encoding": "32FC1", "step": 28}, "7x5 32FC1"),
    ],
)
def test_lying_images_are_refused_by_name(picture, wrong, says):
    with pytest.raises(ImageError, match=says):
        ros_images.to_rgb8(message(picture, "rgb8", **wrong))


def test_one_pixel_works_and_one_bayer_pixel_is_refused():
    assert ros_images.to_rgb8(message(np.array([[[1, 2, 3]]], np.uint8), "rgb8")).tolist() == [[[1, 2, 3]]]
    with pytest.raises(ImageError, match="1x1"):
        ros_images.to_rgb8(message(np.zeros((1, 1), np.uint8), "bayer_rggb8"))
    with pytest.raises(ImageError, match="odd width"):
        ros_images.to_rgb8(message(np.zeros((4, 5, 2), np.uint8), "yuyv"))


def test_depth_in_millimetres_and_metres_with_holes():
    millimetres = np.array([[0, 500], [1234, 65535]], np.uint16)
    np.testing.assert_allclose(
        ros_images.to_depth(message(millimetres, "16UC1")), millimetres / 1000, rtol=1e-6
    )
    metres = np.array([[np.nan, 0.5], [np.inf, -1.0]], np.float32)
    result = ros_images.to_depth(message(metres, "32FC1"))
    np.testing.assert_array_equal(result, np.array([[0, 0.5], [0, 0]], np.float32))
    assert result.dtype == np.float32
    with pytest.raises(ImageError, match="rgb8"):
        ros_images.to_depth(message(np.zeros((2, 2, 3), np.uint8), "rgb8"))


def compressed(data: bytes, format: str) -> SimpleNamespace:
    return SimpleNamespace(data=array.array("B", data), format=format)


def test_compressed_pictures(picture):
    png = cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes()
    np.testing.assert_array_equal(ros_images.to_rgb8(compressed(png, "rgb8; png compressed bgr8")), picture)
    flat = np.full((64, 64, 3), (200, 30, 90), np.uint8)
    jpeg = cv2.imencode(".jpg", flat[:, :, ::-1])[1].tobytes()
    assert np.abs(ros_images.to_rgb8(compressed(jpeg, "jpeg")).astype(int) - flat).max() <= 3
    for data in (b"", b"nonsense", png[:20]):
        with pytest.raises(ImageError, match="cannot be decoded"):
            ros_images.to_rgb8(compressed(data, "jpeg"))


def test_compressed_depth():
    millimetres = np.array([[0, 500], [1234, 65535]], np.uint16)
    png = cv2.imencode(".png", millimetres)[1].tobytes()
    made = compressed(bytes(12) + png, "16UC1; compressedDepth png")
    np.testing.assert_allclose(ros_images.to_depth(made), millimetres / 1000, rtol=1e-6)
    # 32FC1: inverse depth in steps, the two coefficients in the header.
    a, b = 1000.0, -50.0
    depth = np.array([[0.5, 2.0], [4.0, 0.0]], np.float32)
    with np.errstate(divide="ignore"):
        steps = np.where(depth > 0, a / depth + b, 0).round().astype(np.uint16)
    quantised = cv2.imencode(".png", steps)[1].tobytes()
    made = compressed(struct.pack("<iff", 0, a, b) + quantised, "32FC1; compressedDepth png")
    np.testing.assert_allclose(ros_images.to_depth(made), depth, atol=0.01)
    with pytest.raises(ImageError, match="rvl"):
        ros_images.to_depth(compressed(b"x" * 40, "16UC1; compressedDepth rvl"))
    colour = cv2.imencode(".png", np.zeros((2, 2, 3), np.uint8))[1].tobytes()
    with pytest.raises(ImageError, match="one channel"):
        ros_images.to_depth(compressed(colour, "png"))


def test_label_maps_are_never_compressed():
    values = np.array([[0, 65535]], np.uint16)
    np.testing.assert_array_equal(ros_images.to_label_map(message(values, "mono16")), values)
    with pytest.raises(ImageError, match="compressed"):
        ros_images.to_label_map(compressed(b"", "png"))


def test_a_real_message_is_filled_as_a_block():
    """Element by element it takes 30 to 150 ms; this is the one guard against that, hence a time."""
    msgs = pytest.importorskip("sensor_msgs.msg", reason="ROS 2 messages are not installed")
    values = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        made = ros_images.fill(msgs.Image(), values, "rgb8")
        times.append(time.perf_counter() - start)
    assert isinstance(made.data, array.array)
    assert made.data.typecode == "B"
    np.testing.assert_array_equal(ros_images.to_rgb8(made), values)
    assert min(times) < 1e-3
