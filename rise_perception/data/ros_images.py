"""sensor_msgs images to arrays and back, without ROS: works on any object with the message's fields.

Nothing a message claims is trusted: size, step and data length are checked against each other before
a pixel is touched. Plain encodings become a NumPy view of the message's own buffer.
"""

from __future__ import annotations

import array
import struct
from typing import Any

import cv2
import numpy as np

from rise_perception.core.errors import ImageError
from rise_perception.data import images
from rise_perception.data.headers import check_pixels

# encoding -> (type of one value, values per pixel)
_PLAIN: dict[str, tuple[str, int]] = {
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "rgb16": ("u2", 3),
    "bgr16": ("u2", 3),
    "mono8": ("u1", 1),
    "mono16": ("u2", 1),
    "8UC1": ("u1", 1),
    "8UC3": ("u1", 3),  # OpenCV's order, blue first
    "16UC1": ("u2", 1),
    "32FC1": ("f4", 1),
}
_BLUE_FIRST = {
    "bgr8": cv2.COLOR_BGR2RGB,
    "8UC3": cv2.COLOR_BGR2RGB,
    "bgr16": cv2.COLOR_BGR2RGB,
    "bgra8": cv2.COLOR_BGRA2RGB,
}
# encoding -> (type of one value, values per pixel, OpenCV's conversion; OpenCV names Bayer patterns by
# the second row, so that rggb is its "BG")
_RAW: dict[str, tuple[str, int, int]] = {
    "bayer_rggb8": ("u1", 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": ("u1", 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": ("u1", 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": ("u1", 1, cv2.COLOR_BayerGB2RGB),
    "bayer_rggb16": ("u2", 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr16": ("u2", 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg16": ("u2", 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg16": ("u2", 1, cv2.COLOR_BayerGB2RGB),
    "yuv422": ("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": ("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": ("u1", 2, cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": ("u1", 2, cv2.COLOR_YUV2RGB_YUYV),
}
_MAX_SIDE = 1 << 15  # 32768: beyond any camera, and OpenCV's own limit for many operations
#: Pixels of the largest image that a message may hold; a compressed one is asked before it is decoded.
MAX_PIXELS = 36_000_000


def pixels(message: Any) -> np.ndarray:
    """(H, W) or (H, W, C) view of an uncompressed image's data, in the encoding's own order, no copy.

    The view may be read-only and may have padded rows. Encodings: rgb8 bgr8 rgba8 bgra8 rgb16 bgr16
    mono8 mono16 8UC1 8UC3 16UC1 32FC1, and the Bayer and YUV 4:2:2 ones as raw values.

    Raises:
        ImageError: unknown encoding, an empty image, or size, step and data that contradict each other.
    """
    encoding = message.encoding
    if encoding not in _PLAIN and encoding not in _RAW:
        known = ", ".join([*_PLAIN, *_RAW])
        raise ImageError(f"image encoding {encoding!r} is not supported; supported: {known}")
    kind = _PLAIN.get(encoding) or _RAW[encoding][:2]
    height, width = int(message.height), int(message.width)
    if not (1 <= height <= _MAX_SIDE and 1 <= width <= _MAX_SIDE):
        raise ImageError(f"image says it is {width}x{height} pixels; expected 1 to {_MAX_SIDE} each way")
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"image says it is {width}x{height} pixels; at most {MAX_PIXELS / 1e6:.0f} million are taken: "
            "lower the camera's resolution, or crop"
        )
    dtype = np.dtype(kind[0]).newbyteorder(">" if message.is_bigendian else "<")
    row = width * kind[1] * dtype.itemsize
    if message.step < row:
        raise ImageError(
            f"image of {width} pixels {encoding} has step {message.step}, but a row takes {row} bytes; "
            "the publisher fills Image.step wrongly"
        )
    needed = (height - 1) * message.step + row
    if len(message.data) < needed:
        raise ImageError(
            f"image {width}x{height} {encoding} with step {message.step} has {len(message.data)} bytes "
            f"of data, {needed} are needed; the message was cut off or its size is wrong"
        )
    buffer = memoryview(message.data).cast("B") if len(message.data) else b""
    strides = (message.step, kind[1] * dtype.itemsize, dtype.itemsize)
    view = np.ndarray((height, width, kind[1]), dtype, buffer, 0, strides)
    return view[:, :, 0] if kind[1] == 1 else view


def to_rgb8(message: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB, C-contiguous, from a sensor_msgs Image or CompressedImage.

    rgb8 with tight rows is a view of the message's buffer; the other plain encodings take one pass.
    Bayer and YUV go through cv_bridge where it is installed, otherwise through OpenCV.

    Raises:
        ImageError: see :func:`pixels`; or compressed data that cannot be decoded.
    """
    if not hasattr(message, "encoding"):
        return _decompress(message, cv2.IMREAD_COLOR_RGB)
    view = pixels(message)
    encoding = message.encoding
    if encoding in _RAW:
        return _demosaic(message, view)
    if view.dtype.itemsize > 1:
        view = view.astype(view.dtype.newbyteorder("="), copy=False)
    if encoding in _BLUE_FIRST:
        view = cv2.cvtColor(np.ascontiguousarray(view), _BLUE_FIRST[encoding])
    elif encoding == "rgba8":
        return cv2.cvtColor(np.ascontiguousarray(view), cv2.COLOR_RGBA2RGB)
    elif view.ndim == 2 and view.dtype == np.uint8:
        return cv2.cvtColor(np.ascontiguousarray(view), cv2.COLOR_GRAY2RGB)
    return images.to_rgb8(view)


def to_depth(message: Any) -> np.ndarray:
    """(H, W) float32 metres, 0 where there is no measurement (NaN, infinite, negative, zero).

    From a sensor_msgs Image (16UC1 or mono16 in millimetres, 32FC1 in metres; REP 118) or a
    CompressedImage as compressed_depth_image_transport writes it (PNG inside).

    Raises:
        ImageError: see :func:`pixels`; an encoding that holds no depth; data that cannot be decoded.
    """
    if not hasattr(message, "encoding"):
        return _decompress_depth(message)
    if message.encoding not in ("16UC1", "mono16", "32FC1"):
        raise ImageError(
            f"depth image has encoding {message.encoding!r}; expected 16UC1 (millimetres) or 32FC1 (metres)"
        )
    view = pixels(message)
    if message.encoding == "32FC1":
        return images.to_metres(view)
    return np.multiply(view, np.float32(0.001), dtype=np.float32)  # one pass: an integer is never NaN


def to_label_map(message: Any) -> np.ndarray:
    """(H, W) uint16 label map from a mono8, mono16, 8UC1 or 16UC1 sensor_msgs Image (never compressed).

    Raises:
        ImageError: see :func:`pixels`; or an encoding that is no label map.
    """
    encoding = getattr(message, "encoding", "compressed")
    if encoding not in ("mono8", "mono16", "8UC1", "16UC1"):
        raise ImageError(f"label map has encoding {encoding!r}; expected mono16 (or mono8), never compressed")
    return pixels(message).astype(np.uint16, copy=False)


def to_mask(message: Any) -> np.ndarray:
    """(H, W) bool: where a sensor_msgs Image, mono or colour, is not 0.

    Raises:
        ImageError: its encoding is unknown, or it is broken.
    """
    values = pixels(message)
    return np.asarray(values.reshape(*values.shape[:2], -1).max(2) > 0)


def fill(message: Any, values: np.ndarray, encoding: str) -> Any:
    """Sets size, encoding, step and data of a sensor_msgs Image to ``values``; returns the message.

    Args:
        message: the Image; its header stays as it is.
        values: (H, W) or (H, W, C) in the layout that ``encoding`` names.
    """
    values = np.ascontiguousarray(values)
    message.height, message.width = values.shape[:2]
    message.encoding = encoding
    message.is_bigendian = 0
    message.step = values.strides[0]
    message.data = byte_array(values)
    return message


def byte_array(values: np.ndarray) -> array.array:
    """The bytes of ``values`` in the one type that rclpy takes over as a block.

    Anything else (bytes, memoryview, ndarray) is checked element by element: 30 to 150 ms an image.
    """
    buffer = array.array("B")
    buffer.frombytes(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return buffer


def _demosaic(message: Any, view: np.ndarray) -> np.ndarray:
    """Bayer and YUV 4:2:2 values to RGB."""
    if min(view.shape[:2]) < 2:
        raise ImageError(
            f"image {message.width}x{message.height} {message.encoding} is too small: it takes 2x2 pixels"
        )
    if view.ndim == 3 and view.shape[1] % 2:
        raise ImageError(
            f"image of {view.shape[1]} pixels {message.encoding} has an odd width; it must be even"
        )
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError:
        values = np.ascontiguousarray(view.astype(view.dtype.newbyteorder("="), copy=False))
        return images.to_rgb8(cv2.cvtColor(values, _RAW[message.encoding][2]))
    try:
        return np.ascontiguousarray(CvBridge().imgmsg_to_cv2(message, "rgb8"))
    except CvBridgeError as error:
        raise ImageError(f"cv_bridge cannot convert {message.encoding!r} to rgb8: {error}") from None


def _decompress(message: Any, flags: int, skip: int = 0) -> np.ndarray:
    data = np.frombuffer(message.data, np.uint8)[skip:] if len(message.data) > skip else np.empty(0, np.uint8)
    if data.size:
        check_pixels(
            data.data, f"compressed image (format {message.format[:80]!r}, {data.size} bytes)", MAX_PIXELS
        )
    try:
        decoded = cv2.imdecode(data, flags) if data.size else None
    except cv2.error:
        decoded = None
    if decoded is None:
        raise ImageError(
            f"compressed image (format {message.format!r}, {len(message.data)} bytes) cannot be decoded; "
            "it was cut off, or is neither JPEG nor PNG"
        )
    return decoded


def _decompress_depth(message: Any) -> np.ndarray:
    """compressed_depth_image_transport: a header of 12 bytes, then a PNG."""
    if "rvl" in message.format.lower():
        raise ImageError(f"compressed depth has format {message.format!r}; set the publisher's format to png")
    transport = "compressedDepth" in message.format
    values = _decompress(message, cv2.IMREAD_UNCHANGED, skip=12 if transport else 0)
    if values.ndim != 2 or values.dtype != np.uint16:
        raise ImageError(
            f"compressed depth (format {message.format!r}) holds {values.dtype} {values.shape}; "
            "expected one channel of 16 bits"
        )
    if not (transport and message.format.startswith("32FC1")):
        return images.to_metres(values)
    # 32FC1 is stored as quantised inverse depth: value = a / depth + b
    a, b = struct.unpack_from("<ff", bytes(message.data[4:12]))
    with np.errstate(all="ignore"):
        return images.to_metres(np.where(values == 0, 0, np.float32(a) / (values - np.float32(b))))
