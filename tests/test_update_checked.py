"""Hand-checked frames: read in the network's classes, and a judge that the cell's own labels cannot fool."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grasping import label_map, picture
from tiny import tiny_config

from rise_perception.core.errors import ConfigError
from rise_perception.data.images import write_image
from rise_perception.grasp_learning.update.checked import CheckedFrames


def write_frames(folder: Path, labels: np.ndarray | None = None, depth: bool = True) -> Path:
    """Two pictures with label maps."""
    for number in range(2):
        frame = picture(1, 2, seed=number)
        write_image(folder / f"{number}.png", frame.image)
        found = label_map(1, 2).astype(np.uint8) if labels is None else labels
        write_image(folder / f"{number}-label.png", found)
        if depth:
            assert frame.depth is not None
            write_image(folder / f"{number}-depth.png", (frame.depth * 1000).astype(np.uint16))
    return folder


def test_label_maps_become_objects_of_the_network_with_depth_where_it_is_wanted(tmp_path: Path) -> None:
    network = tiny_config(classes=("container", "object"), containers=("container",))
    colour = CheckedFrames(write_frames(tmp_path), network)
    assert len(colour) == 2
    image = colour[1]
    assert image.classes.tolist() == [1, 1]
    assert sorted(image.masks.sum((1, 2))) == sorted((label_map(1, 2) == k).sum() for k in (1, 2))
    assert image.depth is None
    deep = CheckedFrames(tmp_path, replace(network, input="rgbd"))[0]
    assert deep.depth is not None


def test_classes_are_matched_by_name_then_by_kind_and_others_are_left_out(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(1, 2).image)
    boxes = {"mug": [20, 25, 40, 40], "tote": [0, 0, 150, 110]}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 160, "height": 120}],
        "categories": [{"id": k, "name": name} for k, name in enumerate(boxes)],
        "annotations": [
            {
                "id": k,
                "image_id": 1,
                "category_id": k,
                "bbox": box,
                "segmentation": [
                    [
                        box[0], box[1], box[0] + box[2], box[1],
                        box[0] + box[2], box[1] + box[3], box[0], box[1] + box[3],
                    ]
                ],
            }
            for k, box in enumerate(boxes.values())
        ],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(content))
    both = CheckedFrames(tmp_path, tiny_config(classes=("container", "object"), containers=("container",)))
    assert sorted(both[0].classes.tolist()) == [0, 1]
    items = CheckedFrames(tmp_path, tiny_config(classes=("screw", "mug"), containers=()))
    assert items[0].classes.tolist() == [1]


def test_frames_that_cannot_judge_are_refused_with_the_remedy(tmp_path: Path) -> None:
    network = tiny_config(classes=("object",), containers=())
    partly = label_map(1, 2).astype(np.uint8)
    partly[:10] = 255
    with pytest.raises(ConfigError, match="outline every item"):
        CheckedFrames(write_frames(tmp_path / "partly", partly), network)
    flat = write_frames(tmp_path / "flat", depth=False)
    assert len(CheckedFrames(flat, network)) == 2
    with pytest.raises(ConfigError, match=r"give 0-depth\.png beside it"):
        CheckedFrames(flat, replace(network, input="rgbd"))
