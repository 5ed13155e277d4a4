"""Compositing: cut-outs pasted on an image in z-order, with masks, classes, identities and depth."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from rise_perception.data.coco import LabelledImage
from rise_perception.synthesis.augmentation import Geometry, WeakColour, uniform
from rise_perception.synthesis.cut_out import CutOut

#: Objects with fewer visible pixels than this carry no label.
VISIBLE = 30
#: A pasted object rests on what stands highest below it: this quantile of the depths there.
SUPPORT = 0.1


@dataclass(frozen=True)
class Layer:
    """A cut-out at its place: ``top`` and ``left`` are rows and columns of the image."""

    cut: CutOut
    top: int
    left: int
    id: int


def visible_masks(masks: np.ndarray, layers: list[Layer]) -> np.ndarray:
    """(N + K, H, W) bool: what is seen of N objects and of K layers on top of them, in order."""
    count = len(masks)
    visible = np.zeros((count + len(layers), *masks.shape[1:]), bool)
    visible[:count] = masks
    for index, layer in enumerate(layers, count):
        h, w = layer.cut.mask.shape
        rows, columns = slice(layer.top, layer.top + h), slice(layer.left, layer.left + w)
        visible[:index, rows, columns] &= ~layer.cut.mask
        visible[index, rows, columns] = layer.cut.mask
    return visible


def paste(base: LabelledImage, layers: list[Layer]) -> LabelledImage:
    """Paste layers onto an image, the last on top; hidden parts leave the masks of what lies below."""
    if not layers:
        return base
    image = base.image.copy()
    depth = None if base.depth is None else base.depth.copy()
    for layer in layers:
        cut = layer.cut
        h, w = cut.mask.shape
        box = np.s_[layer.top : layer.top + h, layer.left : layer.left + w]
        image[box][cut.mask] = cut.image[cut.mask]
        if depth is not None and cut.relief is not None:
            under = depth[box][cut.mask]
            measured = under[under > 0]
            support = np.quantile(measured, SUPPORT) if measured.size else 0.0
            # A hole in the cut-out, or no support to stand on, is a hole in the depth map.
            raised = np.nan_to_num(support + cut.relief[cut.mask]) if support else np.float32(0)
            depth[box][cut.mask] = np.maximum(raised, 0)
    return LabelledImage(
        name=base.name,
        image=image,
        depth=depth,
        masks=visible_masks(base.masks, layers),
        classes=np.concatenate([base.classes, [layer.cut.category for layer in layers]]).astype(np.int64),
        ids=np.concatenate([base.ids, [layer.id for layer in layers]]).astype(np.int64),
    )


#: Each pasted object's own colour.
_OWN_COLOUR = v2.ColorJitter(0.25, 0.25, 0.25)


def augmented(cut: CutOut) -> CutOut:
    """A cut-out with its own scale, rotation, flip and colour; relief grows with the scale."""
    flip = -1.0 if torch.rand(()) < 0.5 else 1.0
    scale, angle = uniform(0.75, 1.3), uniform(0.0, 2 * math.pi)
    h, w = cut.mask.shape
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    width, height = math.ceil(abs(w * cos) + abs(h * sin)) + 2, math.ceil(abs(w * sin) + abs(h * cos)) + 2
    # Centre to centre, in the coordinates of pixel centres.
    turn = np.array([[flip * cos, -sin], [flip * sin, cos]])
    shift = np.array([width - 1, height - 1]) / 2 - turn @ (np.array([w - 1, h - 1]) / 2)
    matrix = np.column_stack([turn, shift])

    def warped(layer: np.ndarray, how: int, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
        return cv2.warpAffine(layer, matrix, (width, height), flags=how, borderMode=border)

    mask = warped(cut.mask.astype(np.uint8), cv2.INTER_NEAREST) > 0
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    if w == 0:
        return cut  # a sliver that vanished in the resampling
    box = np.s_[y : y + h, x : x + w]
    # Replicated, so that no border colour bleeds into the object's rim.
    image = warped(cut.image, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)[box]
    relief = None
    if cut.relief is not None:
        relief = np.ascontiguousarray(warped(cut.relief, cv2.INTER_NEAREST)[box]) * np.float32(scale)
    image = _OWN_COLOUR(torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1))
    return CutOut(to_array(image), np.ascontiguousarray(mask[box]), relief, cut.category)


def weak_view(sample: LabelledImage, geometry: Geometry, colour: WeakColour) -> LabelledImage:
    """The image and all its layers under one geometry, with a little colour change."""
    image = torch.from_numpy(sample.image).permute(2, 0, 1)
    layers = torch.from_numpy(sample.masks).float()
    if sample.depth is not None:
        layers = torch.cat([torch.from_numpy(sample.depth)[None], layers])
    image, layers = geometry(image, layers)
    depth = None
    if sample.depth is not None:
        depth, layers = layers[0].numpy(), layers[1:]
    return LabelledImage(
        name=sample.name,
        image=to_array(colour(image)),
        depth=depth,
        masks=(layers > 0.5).numpy(),
        classes=sample.classes,
        ids=sample.ids,
    )


def without_slivers(sample: LabelledImage) -> LabelledImage:
    """Leave out objects of which almost nothing is seen."""
    keep = sample.masks.sum((1, 2)) >= VISIBLE
    return replace(sample, masks=sample.masks[keep], classes=sample.classes[keep], ids=sample.ids[keep])


def to_array(image: Tensor) -> np.ndarray:
    """(C, H, W) tensor -> (H, W, C) array"""
    return image.permute(1, 2, 0).contiguous().numpy()
