"""What image and array files say of their size, read before a byte is allocated for their pixels.

A PNG of a few kilobytes can stand for gigabytes of pixels, and a .npy header of a hundred bytes for
terabytes: files and messages from elsewhere are asked first.
"""

from __future__ import annotations

import io
import struct

import numpy as np

from rise_perception.core.errors import ImageError

#: Pixels of the largest picture that is read from a file: more than any camera of a cell has.
MAX_PIXELS = 64_000_000
_FORMATS = ("JPEG", "BMP", "TIFF", "PPM")  # beside PNG and WebP, which are read here
_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\x00", b"MM\x00*")
_WIDTH, _HEIGHT = 256, 257  # tags of TIFF


def check_pixels(content: bytes | memoryview, where: str, most: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of an encoded picture, from its header.

    Args:
        content: a PNG, JPEG, BMP, TIFF, WebP or PPM file.
        where: what to call it in messages.
        most: pixels that are too many from there on.

    Raises:
        ImageError: it is none of these, or has more pixels than ``most``.
    """
    try:
        height, width = _size(content)
    except ImageError as error:
        raise ImageError(f"{where}: {error}") from None
    if height * width > most:
        raise ImageError(
            f"{where} says that it has {width}x{height} pixels, {height * width / 1e6:.0f} million; at most "
            f"{most / 1e6:.0f} million are decoded: send or store it smaller"
        )
    return height, width


def _size(content: bytes | memoryview) -> tuple[int, int]:
    head = bytes(content[:32])
    if head.startswith(_PNG):  # the usual case, without a detour
        if len(head) < 24 or head[12:16] != b"IHDR":
            raise ImageError("cannot be decoded, it begins like a PNG and has no header; copy it again")
        _check_chunks(content)
        width, height = struct.unpack(">II", head[16:24])
        return height, width
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp_size(head)
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            width, height = image.size
            return height, width
    except UnidentifiedImageError:
        if head[:4] in _TIFF:  # of a kind of pixel that Pillow has no name for
            return _tiff_size(content)
        raise ImageError(
            f"cannot be decoded, it is none of PNG, WEBP, {', '.join(_FORMATS)}; convert it"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("it has far more pixels than are decoded; send or store it smaller") from None
    except Exception as error:  # a damaged header, and what a decoder makes of one
        raise ImageError(f"cannot be decoded ({error}); copy it again") from None


def _check_chunks(png: bytes | memoryview) -> None:
    """No chunk may say that it is longer than the file: decoders make room for it first, maybe gigabytes."""
    begin, kind = len(_PNG), b""
    while begin + 8 <= len(png) and kind != b"IEND":  # what follows the end is nobody's
        length, kind = struct.unpack(">I4s", png[begin : begin + 8])
        follow = max(0, len(png) - begin - 12)
        if length > follow:
            raise ImageError(
                f"cannot be decoded, it was cut off or damaged: a part of it is said to have {length} bytes, "
                f"and {follow} follow; copy it again"
            )
        begin += 12 + length


def _webp_size(head: bytes) -> tuple[int, int]:
    """Of the container or of its one frame; Pillow would make room for the pixels to tell."""
    kind, body = head[12:16], head[20:]
    if kind == b"VP8X" and len(body) >= 10:
        width, height = (int.from_bytes(body[k : k + 3], "little") + 1 for k in (4, 7))
    elif kind == b"VP8L" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and len(body) >= 10:
        width, height = (int.from_bytes(body[k : k + 2], "little") & 0x3FFF for k in (6, 8))
    else:
        raise ImageError("cannot be decoded, it begins like a WebP and has no header; copy it again")
    return height, width


def _tiff_size(content: bytes | memoryview) -> tuple[int, int]:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        stream = io.BytesIO(content)
        tags = ImageFileDirectory_v2(stream.read(8))
        stream.seek(tags.next)
        tags.load(stream)
        return int(tags[_HEIGHT]), int(tags[_WIDTH])
    except Exception as error:
        raise ImageError(f"cannot be decoded ({error}); copy it again") from None


def load_npy(content: bytes, where: str, most_bytes: int = 8 * MAX_PIXELS) -> np.ndarray:
    """The array in a .npy file, read-only; its header is held against the file's length first.

    Args:
        content: of the file.
        where: what to call it in messages.
        most_bytes: of the array.

    Raises:
        ImageError: it is no plain .npy file, holds objects, or is cut off or too large.
    """
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError(f"version {version}")
        shape, fortran, dtype = readers[version](stream)
    except Exception as error:  # the header is Python's syntax: ValueError, SyntaxError, TokenError, ...
        raise ImageError(f"{where}: not a plain NumPy array file ({error}); save it again") from None
    if dtype.hasobject or dtype.names or dtype.itemsize == 0 or any(side < 0 for side in shape):
        raise ImageError(f"{where} holds {dtype} {shape}; expected an array of numbers")
    count = 1
    for side in shape:
        count *= side
    start = stream.tell()
    if count * dtype.itemsize > min(most_bytes, len(content) - start):
        raise ImageError(
            f"{where} says that it holds {dtype} {shape}, {count * dtype.itemsize} bytes, and has "
            f"{len(content) - start} of at most {most_bytes}; copy it again, or make it smaller"
        )
    flat = np.frombuffer(content, dtype, count, start)
    return flat.reshape(shape, order="F" if fortran else "C")
