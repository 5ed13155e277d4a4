"""A small picking cell for the tests of the learner: labelled anchors, a model that knows them, grasps."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from tiny import tiny_config

from benchmarks.grasp_trials import from_label_map
from rise_perception.core.frame import CameraIntrinsics, Frame
from rise_perception.core.instances import Instances
from rise_perception.data.bag_messages import header, instance_array_message
from rise_perception.data.bags import COLOR_TOPIC, INFO_TOPIC, BagWriter
from rise_perception.data.images import write_image
from rise_perception.data.typestore import typestore
from rise_perception.grasp_learning.capture.episode import Episode, Grasp, Observation, Outcome, Phase
from rise_perception.training.config import DataConfig, OptimisationConfig, SequenceConfig, TrainConfig
from rise_perception.training.trainer import Trainer

SIZE = (64, 96)
FRAME = 200_000_000  # nanoseconds
#: Network of the cell: it learns in seconds.
NETWORK: dict[str, Any] = {
    "classes": ("object",),
    "containers": (),
    "query_selection": "dense",
    "mask_stride": 4,
    "decoder_layers": 1,
    "levels": 2,
}


def scene(rng: np.random.Generator, new: bool, count: int = 3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Masks of boxes that do not touch, and their colours: light as those of the anchors, or blue and new."""
    masks: list[np.ndarray] = []
    colours = []
    taken = np.zeros(SIZE, np.uint8)
    while len(masks) < count:
        h, w = rng.integers(14, 26, 2)
        y, x = rng.integers(4, SIZE[0] - h - 4), rng.integers(5, SIZE[1] - w - 5)
        mask = np.zeros(SIZE, bool)
        mask[y : y + h, x : x + w] = True
        if taken[mask].any():
            continue
        taken |= cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8))
        masks.append(mask)
        colours.append(rng.integers((10, 60, 170), (60, 110, 250)) if new else rng.integers(170, 250, 3))
    return masks, colours


def picture(
    rng: np.random.Generator, ground: np.ndarray, masks: list[np.ndarray], colours: list[np.ndarray]
) -> np.ndarray:
    """(H, W, 3) uint8: the items on the ground, with noise."""
    image = ground.copy()
    for mask, colour in zip(masks, colours, strict=True):
        image[mask] = colour
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def make_ground(rng: np.random.Generator) -> np.ndarray:
    """A textured ground of middle brightness."""
    coarse = rng.integers(85, 125, (SIZE[0] // 8, SIZE[1] // 8, 3)).astype(np.float32)
    return cv2.resize(coarse, (SIZE[1], SIZE[0]), interpolation=cv2.INTER_NEAREST)


def write_anchors(path: Path, count: int, seed: int) -> Path:
    """A COCO data set of labelled scenes with light items; its annotation file."""
    rng = np.random.default_rng(seed)
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    for index in range(count):
        masks, colours = scene(rng, new=False)
        name = f"{path.stem}-{index}.png"
        write_image(path.parent / "images" / name, picture(rng, make_ground(rng), masks, colours))
        content["images"].append({"id": index, "file_name": name})
        for mask in masks:
            runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": index,
                    "category_id": 1,
                    "segmentation": {"size": list(SIZE), "counts": runs["counts"].decode()},
                }
            )
    path.write_text(json.dumps(content))
    return path


def train_model(out: Path, anchors: Path, validation: Path, iterations: int = 160) -> Path:
    """A model that finds light items and has never seen blue ones; its folder."""
    config = TrainConfig(
        name="cell",
        out=str(out),
        data=DataConfig((str(anchors),), validation=str(validation), workers=0, scale=(0.9, 1.1), rotation=0),
        network=tiny_config(**NETWORK),
        sequences=SequenceConfig(objects=2),
        optimisation=OptimisationConfig(
            iterations=iterations, batch=2, learning_rate=2e-3, backbone_factor=1.0, clip=1.0, threads=1,
            save_every=10_000,
        ),
    )  # fmt: skip
    Trainer(config, "test").run()
    return out


def make_grasp(
    number: int, new: bool = True, outcome: Outcome = Outcome.SUCCESS, gone: bool = True
) -> Episode:
    """A grasp at item 1 of a scene that nothing was predicted in; ``gone``: it is not there afterwards."""
    rng = np.random.default_rng([7, number])
    masks, colours = scene(rng, new)
    ground = make_ground(rng)
    first = picture(rng, ground, masks, colours)
    rest = slice(1 if gone else 0, None)
    second = picture(rng, ground, masks[rest], colours[rest])
    stamp = (1 + number) * 10**10
    nothing = from_label_map(np.zeros(SIZE, np.uint16))
    return Episode(
        Observation(Frame(first, None, None, stamp), nothing, model_version="cell-0"),
        Observation(Frame(second, None, None, stamp + 10**8), nothing, model_version="cell-0"),
        Grasp(f"grasp-{number}", -1, outcome, stamp + 10**8),
    )


def write_bag(
    path: Path,
    numbers: Iterable[int],
    predictions: bool = False,
    ended: bool = True,
    camera: CameraIntrinsics | None = None,
    robot: np.ndarray | None = None,
) -> Path:
    """A recording of grasps, ten frames before and seven after each; without AFTER if not ``ended``.

    ``robot`` (H, W) bool is masked in every frame, on the topic /robot_mask.
    """
    event_type = "rise_msgs/msg/GraspEvent"
    with BagWriter(path) as bag:
        for number in numbers:
            grasp = make_grasp(number)
            for step in range(17):
                side = grasp.before if step < 10 else grasp.after
                stamp = grasp.before.frame.stamp + step * FRAME
                bag.write_image(COLOR_TOPIC, side.frame.image, "rgb8", stamp, "cam")
                if camera is not None:
                    bag.write_camera_info(INFO_TOPIC, camera, stamp, "cam")
                if robot is not None:
                    bag.write_image("/robot_mask", robot.astype(np.uint8) * 255, "mono8", stamp, "cam")
                if predictions:
                    found = instance_array_message(guess(), replace(side.frame, stamp=stamp), "robot-1", 1.0)
                    bag.write("/seg/instances", "rise_msgs/msg/InstanceArray", found, stamp)
                said = {9: [Phase.BEFORE, Phase.CLOSED], 10: [Phase.AFTER] if ended else []}.get(step, [])
                for phase in said:
                    message = typestore().types[event_type](
                        header=header(stamp, "cam"),
                        grasp_id=grasp.grasp.grasp_id,
                        phase=phase,
                        target_id=5,
                        outcome=grasp.grasp.outcome if phase == Phase.AFTER else Outcome.UNKNOWN,
                        expression="",
                        referred=0,
                    )
                    bag.write("/grasps", event_type, message, stamp)
    return path


def guess() -> Instances:
    """One instance in the middle, with the id 5."""
    labels = np.zeros(SIZE, np.uint16)
    labels[20:40, 30:60] = 5
    return from_label_map(labels)
