"""What files say of their size is read before room is made for their pixels."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from rise_perception.core.errors import ImageError
from rise_perception.data import images, ros_images
from rise_perception.data.headers import MAX_PIXELS, check_pixels, load_npy

MEGABYTE = 1 << 20


def png(side: int, depth: bool = False) -> bytes:
    """A small file that says it is a square of ``side`` pixels, with a right checksum."""
    content = cv2.imencode(".png", np.zeros((1, 1), np.uint16 if depth else np.uint8))[1].tobytes()
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"])
def test_sizes_of_all_formats(suffix: str) -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 65, 3), np.uint8)
    content = cv2.imencode(suffix, image)[1].tobytes()
    assert check_pixels(content, "it") == (48, 65)
    with pytest.raises(ImageError, match=r"it says that it has 65x48 pixels.*at most"):
        check_pixels(content, "it", 48 * 65 - 1)
    early = content[:8] if suffix == ".ppm" else content[:20]  # a PPM says its size in its first 12 bytes
    for cut in (content[:8], early, b"", b"x" * 100):
        with pytest.raises(ImageError, match=r"^it: cannot be decoded"):
            check_pixels(cut, "it")


@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_WEBP_QUALITY, 50], [cv2.IMWRITE_WEBP_QUALITY, 101]])
def test_sizes_of_every_kind_of_webp(options: list[int]) -> None:
    for channels in (3, 4):
        image = np.zeros((70, 31, channels), np.uint8)
        assert check_pixels(cv2.imencode(".webp", image, options)[1].tobytes(), "it") == (70, 31)


def test_float_tiffs_which_pillow_cannot_name(tmp_path: Path) -> None:
    content = cv2.imencode(".tiff", np.zeros((20, 30, 3), np.float32))[1].tobytes()
    assert check_pixels(content, "it") == (20, 30)


def test_pictures_of_too_many_pixels_cost_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(15_000))
    tracemalloc.start()
    for read in (images.read_image, images.read_depth, images.read_label_map):
        with pytest.raises(ImageError, match=r"bomb\.png says that it has 15000x15000 pixels"):
            read(path)
    assert tracemalloc.get_traced_memory()[1] < MEGABYTE
    tracemalloc.stop()


@pytest.mark.parametrize("side", [9000, 16_000])
def test_compressed_messages_of_too_many_pixels_are_named(side: int) -> None:
    color = SimpleNamespace(format="png", data=png(side))
    depth = SimpleNamespace(format="16UC1; compressedDepth png", data=bytes(12) + png(side, depth=True))
    for convert, message in ((ros_images.to_rgb8, color), (ros_images.to_depth, depth)):
        with pytest.raises(ImageError, match=f"{side}x{side} pixels.*at most 36 million"):
            convert(message)


def test_a_part_of_a_png_that_claims_gigabytes_is_refused_before_it_is_decoded() -> None:
    content = png(64)
    assert check_pixels(content + b"and more, which is nobody's", "a picture") == (64, 64)
    begin = content.index(b"IDAT") - 4
    content = content[:begin] + struct.pack(">I", 3_000_000_000) + content[begin + 4 :]
    with pytest.raises(ImageError, match="said to have 3000000000 bytes"):
        check_pixels(content, "a picture")
    with pytest.raises(ImageError, match="said to have 3000000000 bytes"):
        ros_images.to_rgb8(SimpleNamespace(format="png", data=content))


def test_plain_messages_have_a_budget_too() -> None:
    message = SimpleNamespace(
        encoding="mono8", height=20_000, width=20_000, step=20_000, is_bigendian=0, data=b""
    )
    with pytest.raises(ImageError, match=r"20000x20000 pixels.*at most 36 million"):
        ros_images.to_rgb8(message)


def npy(shape: str, kind: str = "<f4", content: bytes = b"") -> bytes:
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


@pytest.mark.parametrize(
    "content",
    [
        npy("(1000000000000, 4)"),
        npy("(-1, 4)"),
        npy("(3.0,)"),
        npy("(2,)", content=bytes(4)),
        npy("(2,)", "|O", bytes(16)),
        npy("(2,)", "|V0", bytes(16)),
        npy("[" * 60),
        b"\x93NUMPY\x03\x00" + npy("(2,)")[8:],
        b"",
        b"nonsense",
    ],
)
def test_headers_of_arrays_are_held_against_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(content or b"\0")
    with pytest.raises(ImageError, match=r"a\.npy"):
        images.read_depth(tmp_path / "a.npy")
    with pytest.raises(ImageError, match=r"^it"):
        load_npy(content, "it")


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back(tmp_path: Path, order: str) -> None:
    array = np.asarray(np.random.default_rng(0).random((3, 4, 2)), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(load_npy((tmp_path / "a.npy").read_bytes(), "it"), array)


def test_names_with_odd_digits_are_sorted() -> None:
    names = ["b10", "b²", "b2", "²"]
    assert [p.name for p in sorted(map(Path, names), key=images.natural_order)] == ["b2", "b10", "b²", "²"]
    assert MAX_PIXELS >= 48_000_000  # a telephone's pictures
