"""Image files and arrays: any reasonable picture in, uint8 RGB or metres out, or an error that names it."""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from rise_perception.core.errors import DataError, ImageError
from rise_perception.core.files import read_bounded, write_bytes
from rise_perception.data.headers import MAX_PIXELS, check_pixels, load_npy

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".npy")
#: Bytes of the largest image file: an uncompressed one of doubles.
MAX_BYTES = 8 * MAX_PIXELS + (1 << 20)
# A file NAME<separator><kind>.png holds something else than the picture NAME.
COMPANION = re.compile(r"[._-](depth|label|labels|segm|mask|overlay)$")
PICTURE = re.compile(r"[._-](color|colour|rgb|image)$")
SEPARATORS = (".", "-", "_")

# OpenCV's own messages do not name the file; the errors raised here do. The switch has moved in OpenCV 5.
(cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel)(0)


def to_rgb8(array: np.ndarray) -> np.ndarray:
    """Convert a picture to (H, W, 3) uint8 RGB.

    Accepts (H, W), (H, W, 1), (H, W, 3) and (H, W, 4) in RGB(A) order; bool, uint8, uint16 (full
    range: 65535 becomes 255) and floats (0..1 becomes 0..255; NaN becomes 0). Alpha is dropped.

    Raises:
        ImageError: an empty array, another shape or dtype, or floats that are not in 0..1.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(f"picture has shape {array.shape}; expected (H, W), or (H, W, C) with C = 1, 3 or 4")
    if array.shape[0] < 1 or array.shape[1] < 1:
        raise ImageError(f"picture has shape {array.shape}: it has no pixels")
    array = array[:, :, :3]
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        array = np.nan_to_num(array.astype(np.float32), nan=0.0)
        low, high = float(array.min()), float(array.max())
        if low < -1e-3 or high > 1 + 1e-3:
            raise ImageError(
                f"float picture has values {low:g}..{high:g}; expected 0..1 (divide it by its full scale)"
            )
        array = (array * 255 + 0.5).clip(0, 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"picture has dtype {array.dtype}; expected bool, uint8, uint16 or float")
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array)


def to_metres(array: np.ndarray, scale: float | None = None) -> np.ndarray:
    """Convert a depth map to (H, W) float32 metres, 0 where there is no measurement.

    Args:
        array: (H, W) or (H, W, 1); integers or floats.
        scale: metres per unit; None means the ROS convention (REP 118): integers are millimetres,
            floats are metres.

    NaN, infinite and negative values become 0.

    Raises:
        ImageError: an empty array, several channels, 8-bit values, or a scale that is not positive.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 or array.size == 0:
        raise ImageError(f"depth map has shape {array.shape}; expected (H, W), one channel")
    integer = np.issubdtype(array.dtype, np.integer)
    if not (integer or np.issubdtype(array.dtype, np.floating)) or array.dtype.itemsize == 1:
        raise ImageError(f"depth map has dtype {array.dtype}; expected 16-bit integers or floats")
    if scale is None:
        scale = 0.001 if integer else 1.0
    if not (np.isfinite(scale) and scale > 0):
        raise ImageError(f"depth scale is {scale}; expected a positive number of metres per unit")
    with np.errstate(over="ignore"):  # what is beyond float32 is beyond any sensor, and goes below
        metres = array.astype(np.float32) * np.float32(scale)
    metres[~((metres > 0) & (metres < np.inf))] = 0
    return metres


def read_image(path: str | Path) -> np.ndarray:
    """Read a picture file as (H, W, 3) uint8 RGB (formats in ``SUFFIXES``; see :func:`to_rgb8`).

    Raises:
        ImageError: the file is missing, empty, cut off, or no picture; the message names it.
    """
    array = _read_array(path)
    if Path(path).suffix.lower() != ".npy" and array.ndim == 3:
        array = cv2.cvtColor(array, cv2.COLOR_BGR2RGB)
    try:
        return to_rgb8(array)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None


#: Metres that a camera over a picking scene measures; a scale wrong by ten lies outside.
PLAUSIBLE_DEPTH = (0.12, 4.0)


def implausible_depth(depth: np.ndarray) -> str:
    """What is odd about the distances of a depth map (H, W) in metres; empty when nothing is."""
    measured = depth[depth > 0]
    median = float(np.median(measured)) if measured.size else 1.0
    low, high = PLAUSIBLE_DEPTH
    if low <= median <= high:
        return ""
    return f"the median depth is {median:.3g} m, and picking scenes are {low} to {high} m away"


def read_depth(path: str | Path, scale: float | None = None) -> np.ndarray:
    """Read a depth file (16-bit PNG, float TIFF, .npy) as (H, W) float32 metres (see :func:`to_metres`).

    Raises:
        ImageError: the file is missing, empty, cut off, or no depth map; the message names it.
    """
    try:
        return to_metres(_read_array(path), scale)
    except ImageError as error:
        if str(path) in str(error):
            raise
        raise ImageError(f"{path}: {error}") from None


def read_label_map(path: str | Path) -> np.ndarray:
    """Read an instance label image (8- or 16-bit, one channel, or a palette) as (H, W) uint16.

    Raises:
        ImageError: the file is missing, broken, or has several channels or values above 65535.
    """
    from PIL import Image, UnidentifiedImageError  # keeps palette indices, which OpenCV turns into colours

    path = Path(path)
    content = _read_whole(path)
    check_pixels(content, str(path))
    try:
        with Image.open(io.BytesIO(content)) as image:
            labels = np.array(image)
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image file") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be read ({error})") from None
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        raise ImageError(
            f"{path}: a label map has one channel of integers, this is {labels.dtype} {labels.shape}"
        )
    if labels.size and (labels.min() < 0 or labels.max() > 65535):
        raise ImageError(f"{path}: label values {labels.min()}..{labels.max()} do not fit 0..65535")
    return labels.astype(np.uint16)


def encode_image(image: np.ndarray, suffix: str = ".png") -> bytes:
    """Encode (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB, as the bytes of a PNG or JPEG file."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # OpenCV's own settings for PNG are its fastest; naming a compression level makes it several times slower.
    options = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, 90]
    return cv2.imencode(suffix, image, options)[1].tobytes()


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write (H, W) uint8 or uint16, or (H, W, 3) uint8 RGB, atomically; the suffix picks PNG or JPEG."""
    write_bytes(path, encode_image(image, Path(path).suffix))


def list_images(inputs: Iterable[str | Path]) -> list[Path]:
    """Find the pictures that ``inputs`` (files, folders, glob patterns) name, each once.

    A folder stands for the pictures directly in it, in natural order (``2.png`` before ``10.png``);
    there, files named like ``X-depth.png``, ``X.label.png`` or ``X.overlay.png`` are companions of a
    picture and are left out.

    Raises:
        DataError: an input that names nothing, or a folder without pictures.
    """
    found: dict[Path, None] = {}
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            names = (p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
            paths = [p for p in names if not COMPANION.search(p.stem)]
            if not paths:
                inner = picture_folders(path)
                hint = f"; there are some in {inner[0]}" if inner else f" (looked for {', '.join(SUFFIXES)})"
                raise DataError(f"{path}: no picture in this folder{hint}")
        elif path.exists():
            paths = [path]
        else:
            paths = [Path(p) for p in glob.glob(str(item), recursive=True)]
            if not paths:
                raise DataError(f"{item}: no such file, folder or matching pattern")
        found.update(dict.fromkeys(sorted(paths, key=natural_order)))
    return list(found)


def picture_folders(root: Path) -> list[Path]:
    """``root`` and the folders in it that hold pictures, in natural order.

    Left out is what is hidden, and folders named like companions (``depth``, ``label``, ``mask``, ...).
    """
    found = []
    for folder, inner, files in os.walk(root, followlinks=True):
        inner[:] = [name for name in inner if not (name.startswith(".") or COMPANION.search(f".{name}"))]
        if any(
            Path(name).suffix.lower() in SUFFIXES and not COMPANION.search(Path(name).stem) for name in files
        ):
            found.append(Path(folder))
    return sorted(found, key=natural_order)


def find_companion(folder: Path, name: str, kinds: Sequence[str]) -> Path | None:
    """The file in ``folder`` that belongs to the picture ``name`` (a file name without its suffix).

    Looked for, with any suffix of ``SUFFIXES``: ``BASE<sep>KIND`` with ``BASE`` the name or the name
    without a trailing ``-color`` (or colour, rgb, image), ``<sep>`` one of ``. - _`` and ``KIND`` one
    of ``kinds``; then ``NAME`` itself. None when there is no such file.
    """
    bases = dict.fromkeys([name, PICTURE.sub("", name)])
    stems = [f"{base}{sep}{kind}" for base in bases for kind in kinds for sep in SEPARATORS]
    for stem in (*stems, name):
        for suffix in SUFFIXES:
            if (candidate := folder / f"{stem}{suffix}").is_file():
                return candidate
    return None


def natural_order(path: Path) -> list[tuple[int, int | str]]:
    """Key that sorts ``2.png`` before ``10.png``."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _read_array(path: str | Path) -> np.ndarray:
    """The array in a file as it is stored; OpenCV's channel order (BGR) unless it is a .npy file."""
    path = Path(path)
    content = _read_whole(path)
    if path.suffix.lower() == ".npy":
        return load_npy(content, str(path))
    check_pixels(content, str(path))
    try:
        array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    except cv2.error:
        array = None
    if array is None:
        raise ImageError(
            f"{path}: not a readable image ({len(content)} bytes); known are {', '.join(SUFFIXES)} "
            "(OpenEXR and other formats: convert to a float TIFF or .npy)"
        )
    return array


def _read_whole(path: Path) -> bytes:
    content = read_bounded(path, MAX_BYTES, ImageError, "give another file, or copy it again")
    if not content:
        raise ImageError(f"{path}: the file is empty")
    if _cut_off(content):
        raise ImageError(f"{path}: the file is cut off ({len(content)} bytes, no end marker); copy it again")
    return content


def _cut_off(content: bytes) -> bool:
    """True for JPEG and PNG files without their end: decoders fill the missing part with grey instead."""
    if content[:2] == b"\xff\xd8":  # inside the entropy-coded scan, FF D9 and FF DA cannot occur
        return content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda") or b"\xff\xda" not in content
    if content[:8] == b"\x89PNG\r\n\x1a\n":
        return b"\x00\x00\x00\x00IEND" not in content[-4096:]
    return False
