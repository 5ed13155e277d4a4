"""Small labelled images, cut-outs, data sets on disk and training runs for the tests of the learning room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from tiny import tiny_config

from rise_perception.data.coco import LabelledImage
from rise_perception.data.images import write_image
from rise_perception.synthesis.bank import InstanceBank
from rise_perception.synthesis.cut_out import CutOut
from rise_perception.training.batches import Batch
from rise_perception.training.config import DataConfig, OptimisationConfig, SequenceConfig, TrainConfig
from rise_perception.training.trainer import Trainer

#: x3 with the geometry and the depth of x1.
SAME_VIEW: dict[str, Any] = {
    "strong_scale": (1.0, 1.0),
    "strong_rotation": 0.0,
    "strong_flip": 0.0,
    "depth_noise": 0.0,
}
#: Rectangles (x0, y0, x1, y1) of the objects of each image of 64 x 96 pixels.
RECTANGLES = [
    [(8, 10, 40, 30), (50, 20, 86, 56)],
    [(20, 6, 80, 24), (10, 34, 44, 60)],
    [(12, 8, 34, 56), (52, 12, 88, 34)],
    [(40, 22, 72, 52)],
]


def rectangles(boxes: list[tuple[int, int, int, int]], size: tuple[int, int] = (64, 96)) -> np.ndarray:
    """(N, H, W) bool masks of rectangles (x0, y0, x1, y1)."""
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def labelled(
    masks: np.ndarray, depth: bool = True, name: str = "x.png", classes: list[int] | None = None
) -> LabelledImage:
    """Object i is 50 + 50 i bright, 1 + i metres away; its id is 4 + 3 i. Black ground at 9 metres."""
    image = np.zeros((*masks.shape[1:], 3), np.uint8)
    metres = np.full(masks.shape[1:], 9.0, np.float32)
    for index, mask in enumerate(masks):
        image[mask] = 50 + 50 * index
        metres[mask] = 1.0 + index
    count = len(masks)
    kinds = np.array(classes if classes is not None else [0] * count, np.int64)
    return LabelledImage(name, image, metres if depth else None, masks, kinds, 4 + 3 * np.arange(count))


def cut_out(
    mask: np.ndarray,
    colour: tuple[int, int, int] = (200, 30, 30),
    relief: float | None = None,
    category: int = 0,
) -> CutOut:
    """A cut-out of one colour on a white background, standing out by ``relief`` metres."""
    image = np.full((*mask.shape, 3), 255, np.uint8)
    image[mask] = colour
    depth = (
        None if relief is None else np.where(mask, np.float32(-relief), np.float32(0.7)).astype(np.float32)
    )
    return CutOut(image, mask, depth, category)


def bank_of(*cuts: CutOut) -> InstanceBank:
    """A bank that holds these."""
    bank = InstanceBank(max(len(cuts), 1))
    bank.add(list(cuts))
    return bank


def write_data(folder: Path, which: list[int] | None = None, with_depth: bool = True) -> Path:
    """A COCO data set of the images ``which`` of RECTANGLES; its annotation file."""
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    for index in which if which is not None else range(len(RECTANGLES)):
        image = np.full((64, 96, 3), 90, np.uint8)
        depth = np.full((64, 96), 1000, np.uint16)
        for mask, (x0, y0, _, _) in zip(rectangles(RECTANGLES[index]), RECTANGLES[index], strict=True):
            image[mask] = (200, 40 + y0 * 3, x0)
            depth[mask] = 800
            runs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            content["annotations"].append(
                {
                    "id": len(content["annotations"]),
                    "image_id": index,
                    "category_id": 1,
                    "segmentation": {"size": [64, 96], "counts": runs["counts"].decode()},
                }
            )
        write_image(folder / f"images/{index}.png", image)
        entry = {"id": index, "file_name": f"{index}.png"}
        if with_depth:
            write_image(folder / f"depth/{index}.png", depth)
            entry["depth_file"] = f"{index}.png"
        content["images"].append(entry)
    (folder / "train.json").write_text(json.dumps(content))
    return folder / "train.json"


def configure(
    data: Path | str,
    out: Path,
    network: dict[str, Any] | None = None,
    images: dict[str, Any] | None = None,
    sections: dict[str, Any] | None = None,
    **optimisation: Any,
) -> TrainConfig:
    """A run of a few steps of a tiny network; without augmentation, but for what ``images`` says."""
    shape: dict[str, Any] = {
        "classes": ("object",),
        "containers": (),
        "query_selection": "dense",
        "mask_stride": 4,
    }
    still: dict[str, Any] = {"augmentation": 0.0, "scale": (1.0, 1.0), "rotation": 0.0, "workers": 0}
    steps = {
        "iterations": 6,
        "batch": 2,
        "unlabelled_batch": 2,
        "learning_rate": 1e-3,
        "backbone_factor": 1.0,
    }
    sections = {"sequences": SequenceConfig(**SAME_VIEW)} | (sections or {})
    steps |= {"clip": 1.0, "save_every": 3, "threads": 1}
    return TrainConfig(
        name="tiny",
        out=str(out),
        data=DataConfig((str(data),), **(still | (images or {}))),
        network=tiny_config(**(shape | (network or {}))),
        optimisation=OptimisationConfig(**(steps | optimisation)),
        **sections,
    )


class Recorder(Trainer):
    """Notes the losses of every step; dies before step ``dies_at``."""

    dies_at = -1

    def step(self, batch: Batch) -> dict[str, float]:
        if self.iteration == self.dies_at:
            raise KeyboardInterrupt
        iteration = self.iteration
        losses = super().step(batch)
        self.__dict__.setdefault("steps", {})[iteration] = dict(losses)
        return losses
