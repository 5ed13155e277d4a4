"""Real views of one shelf bin as a data set: labelled frames, and the other views as unlabelled ones.

The frames are those of apc_shelf: ``frame-N.color.png`` and ``frame-N.segm.png``, 8-bit, one value an item,
the same in every view, 0 where there is none. Their depth is in the depth camera's frame and is not used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rise_perception.core.errors import DataError
from rise_perception.core.files import write_json
from rise_perception.core.regions import encode_mask
from rise_perception.data.images import read_image, read_label_map, write_image

_CATEGORY = {"id": 1, "name": "object"}
#: Pixels that an item shows at least.
_SEEN = 200


def write_shelf(frames: Path, out: Path, width: int) -> Path:
    """Write the frames as COCO JSON with images ``width`` pixels wide, which the network would make of them.

    Args:
        frames: folder of the frames.
        out: where ``train.json`` and ``images/`` go.

    Returns:
        the annotation file.

    Raises:
        DataError: the folder has no labelled frame.
    """
    colours = sorted(frames.glob("frame-*.color.png"))
    if not colours:
        raise DataError(f"{frames} has no frame-*.color.png; give the folder of apc_shelf by --shelf")
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [_CATEGORY]}
    for number, path in enumerate(colours):
        image = read_image(path)
        labels = read_label_map(path.with_name(path.name.replace(".color.", ".segm.")))
        size = (width, round(image.shape[0] * width / image.shape[1]))
        write_image(out / "images" / path.name, cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        content["images"].append({"id": number, "file_name": path.name})
        for value in np.unique(labels[labels > 0]).tolist():
            item = labels == value
            if np.count_nonzero(item) < _SEEN:
                continue
            mask = cv2.resize(item.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT) > 0
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": number,
                    "category_id": _CATEGORY["id"],
                    "segmentation": encode_mask(mask),
                }
            )
    write_json(out / "train.json", content)
    return out / "train.json"


def write_part(source: Path, out: Path, ids: Sequence[int | str]) -> None:
    """Write the images ``ids`` of an annotation file, with their labels, as another one beside it."""
    content = json.loads(source.read_bytes())
    chosen = set(ids)
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in chosen]
    write_json(out, content)
