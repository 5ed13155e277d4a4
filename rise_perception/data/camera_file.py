"""Camera intrinsics from the command line: four numbers, or a calibration file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from rise_perception.core.errors import DataError
from rise_perception.core.frame import CameraIntrinsics

#: A calibration file is a few hundred bytes; more is something else.
MAX_BYTES = 64 << 10


def read_camera(given: str, width: int, height: int) -> CameraIntrinsics:
    """Intrinsics for images of ``width`` x ``height`` pixels.

    Args:
        given: ``fx,fy,cx,cy`` in pixels; or a YAML file as ROS's camera_calibration writes it
            (``image_width``, ``image_height``, ``projection_matrix`` or ``camera_matrix`` with ``data``).
            Where the file is of another size of the same aspect ratio, its numbers are scaled.

    Raises:
        DataError: neither, or of a camera that cannot have taken these images.
    """
    if Path(given).suffix.lower() in (".yaml", ".yml"):
        return _from_file(Path(given), width, height)
    try:
        fx, fy, cx, cy = (float(number) for number in given.split(","))
    except ValueError:
        raise DataError(
            f"camera {given!r} is neither four numbers fx,fy,cx,cy in pixels nor a calibration file (.yaml)"
        ) from None
    return _checked(given, width, height, (fx, fy, cx, cy))


def _from_file(path: Path, width: int, height: int) -> CameraIntrinsics:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES >> 10} KiB; this is no camera calibration")
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        matrix = content.get("projection_matrix") or content["camera_matrix"]
        data = [float(value) for value in matrix["data"]]
        columns = 4 if len(data) == 12 else 3
        own = int(content["image_width"]), int(content["image_height"])
        fx, fy, cx, cy = data[0], data[columns + 1], data[2], data[columns + 2]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; name a calibration file, or give fx,fy,cx,cy") from None
    except (
        yaml.YAMLError,
        RecursionError,
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
    ) as error:
        raise DataError(
            f"{path}: no camera calibration ({type(error).__name__}: {error}); expected image_width, "
            "image_height and projection_matrix or camera_matrix with data"
        ) from None
    if min(own) < 1 or own[0] * height != own[1] * width:
        raise DataError(f"{path}: of {own[0]}x{own[1]} pixels, but the image has {width}x{height}")
    scale = width / own[0]
    # Pixel centres are whole numbers, so that the corner of the image, at -0.5, is what stays.
    centred = ((cx + 0.5) * scale - 0.5, (cy + 0.5) * scale - 0.5)
    return _checked(str(path), width, height, (fx * scale, fy * scale, *centred))


def _checked(
    name: str, width: int, height: int, values: tuple[float, float, float, float]
) -> CameraIntrinsics:
    fx, fy, cx, cy = values
    if not all(map(math.isfinite, values)) or not min(fx, fy) > 0 or max(fx, fy) > 1e6:
        raise DataError(f"camera {name}: focal lengths {fx:g}, {fy:g} pixels are impossible")
    if not (-width < cx < 2 * width and -height < cy < 2 * height):
        raise DataError(
            f"camera {name}: the principal point ({cx:g}, {cy:g}) is far outside {width}x{height}"
        )
    return CameraIntrinsics(width, height, fx, fy, cx, cy)
