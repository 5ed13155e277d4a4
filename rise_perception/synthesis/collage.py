"""Collages: a background, cut-outs on it in z-order, and fakes, so that an edge of a paste means nothing.

A fake is the silhouette of a cut-out filled with background from elsewhere; it hides what lies below, as an
object does, and carries no label. Edges are feathered inwards. All randomness is torch's global generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from rise_perception.data.coco import LabelledImage
from rise_perception.synthesis.augmentation import uniform
from rise_perception.synthesis.compositing import SUPPORT, augmented
from rise_perception.synthesis.cut_out import CutOut
from rise_perception.synthesis.placement import hides_too_much

#: The identity of a collage's first object; above those of a picture's own objects.
FIRST_OF_COLLAGE = 100_000
#: Greatest displacement of an elastic change, as a fraction of the cut-out's longer side.
ELASTIC = 0.05


@dataclass(frozen=True)
class CollageConfig:
    """How collages are made.

    Attributes:
        amount: lowest and highest number of objects, in multiples of what the annotated pictures show.
        fakes: fakes for each object, on average.
        attempts: places that are tried for each.
        iou: greatest overlap (intersection over union) of the masks of two of them.
        feather: range of the width of the soft edge (standard deviation), pixels.
        elastic: fraction of the cut-outs that are bent.
    """

    amount: tuple[float, float] = (0.5, 2.0)
    fakes: float = 1.0
    attempts: int = 50
    iou: float = 0.6
    feather: tuple[float, float] = (0.4, 1.3)
    elastic: float = 0.5


@dataclass(frozen=True)
class Piece:
    """A cut-out (h, w) at its place in the image; ``fake`` carries no label."""

    cut: CutOut
    top: int
    left: int
    fake: bool

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns that it covers."""
        h, w = self.cut.mask.shape
        return slice(self.top, self.top + h), slice(self.left, self.left + w)


def make_collage(
    background: LabelledImage,
    cuts: Sequence[CutOut],
    typical: float,
    config: CollageConfig,
    fillings: Sequence[LabelledImage],
    region: np.ndarray | None = None,
) -> LabelledImage:
    """Paste objects and fakes on a background.

    Args:
        background: an image; objects that it shows keep their labels as far as they stay visible.
        cuts: at least one; small ones are drawn more often.
        typical: how many objects an annotated picture shows.
        config: how.
        fillings: images without objects, of any size, with which fakes are filled; without any there are
            no fakes.
        region: (H, W) bool, where the centres of what is pasted lie; None is everywhere.

    Returns:
        the collage; its ``depth`` follows where the background and the cut-outs have depth.
    """
    wanted = max(1, round(typical * uniform(*config.amount)))
    areas = torch.tensor([float(np.count_nonzero(cut.mask)) for cut in cuts])
    chosen = torch.multinomial(areas.clamp(min=1).rsqrt(), wanted, replacement=True).tolist()
    kinds = [False] * wanted
    if fillings:
        fakes = int(torch.poisson(torch.tensor(config.fakes * wanted)))
        chosen += torch.multinomial(areas.clamp(min=1).rsqrt(), max(fakes, 1), True).tolist()[:fakes]
        kinds += [True] * fakes
    pieces: list[Piece] = []
    for index in torch.randperm(len(chosen)).tolist():
        cut = augmented(cuts[chosen[index]])
        if uniform(0, 1) < config.elastic:
            cut = bent(cut)
        if kinds[index]:
            cut = faked(cut, fillings[int(torch.randint(len(fillings), ()))])
        piece = _placed(background, pieces, cut, kinds[index], config, region)
        if piece is not None:
            pieces.append(piece)
    return paste_pieces(background, pieces, config)


def paste_pieces(background: LabelledImage, pieces: list[Piece], config: CollageConfig) -> LabelledImage:
    """Paste pieces in their order, the last on top; masks are what stays visible, of true objects only."""
    image = background.image.astype(np.float32)
    depth = None if background.depth is None else background.depth.copy()
    masks = [mask.copy() for mask in background.masks]
    classes, ids = background.classes.tolist(), background.ids.tolist()
    for number, piece in enumerate(pieces):
        cut, box = piece.cut, piece.box
        alpha = _feathered(cut.mask, uniform(*config.feather))[..., None]
        image[box] += alpha * (cut.image.astype(np.float32) - image[box])
        if depth is not None:
            _raise(depth[box], cut)
        for mask in masks:
            mask[box] &= ~cut.mask
        if not piece.fake:
            mask = np.zeros(image.shape[:2], bool)
            mask[box] = cut.mask
            masks.append(mask)
            classes.append(cut.category)
            ids.append(FIRST_OF_COLLAGE + number)
    return LabelledImage(
        name=background.name,
        image=np.rint(image).clip(0, 255).astype(np.uint8),
        depth=depth,
        masks=np.stack(masks) if masks else np.zeros((0, *image.shape[:2]), bool),
        classes=np.array(classes, np.int64),
        ids=np.array(ids, np.int64),
    )


def bent(cut: CutOut) -> CutOut:
    """A cut-out under a smooth random displacement (elastic change); relief follows."""
    h, w = cut.mask.shape
    margin = math.ceil(ELASTIC * max(h, w)) + 1
    reach = ELASTIC * max(h, w)
    coarse = (torch.rand(2, 4, 4) * 2 - 1).numpy() * np.float32(reach)
    size = (w + 2 * margin, h + 2 * margin)
    dx, dy = (cv2.resize(part, size, interpolation=cv2.INTER_CUBIC) for part in coarse)
    x, y = np.meshgrid(np.arange(size[0], dtype=np.float32), np.arange(size[1], dtype=np.float32))
    to_x, to_y = x - margin + dx, y - margin + dy

    def warped(layer: np.ndarray, how: int, border: int) -> np.ndarray:
        return np.asarray(cv2.remap(layer, to_x, to_y, how, borderMode=border))

    mask = warped(cut.mask.astype(np.uint8), cv2.INTER_NEAREST, cv2.BORDER_CONSTANT) > 0
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    if not width:
        return cut
    box = np.s_[top : top + height, left : left + width]
    relief = None
    if cut.relief is not None:
        relief = warped(cut.relief, cv2.INTER_NEAREST, cv2.BORDER_REPLICATE)[box].copy()
    image = warped(cut.image, cv2.INTER_LINEAR, cv2.BORDER_REPLICATE)[box].copy()
    return CutOut(image, mask[box].copy(), relief, cut.category)


def faked(cut: CutOut, filling: LabelledImage) -> CutOut:
    """The silhouette of a cut-out filled with a random part of an image without objects."""
    h, w = cut.mask.shape
    height, width = filling.image.shape[:2]
    factor = max(1.0, h / height, w / width)
    image, depth = filling.image, filling.depth
    if factor > 1:
        size = (math.ceil(width * factor), math.ceil(height * factor))
        image = np.asarray(cv2.resize(image, size))
        if depth is not None:
            depth = np.asarray(cv2.resize(depth, size, interpolation=cv2.INTER_NEAREST))
    top = int(torch.randint(image.shape[0] - h + 1, ()))
    left = int(torch.randint(image.shape[1] - w + 1, ()))
    box = np.s_[top : top + h, left : left + w]
    relief = None
    if cut.relief is not None:
        relief = np.full((h, w), np.nan, np.float32)
        if depth is not None and (measured := depth[box][depth[box] > 0]).size:
            relief = np.where(depth[box] > 0, depth[box] - np.median(measured), np.nan).astype(np.float32)
    return replace(cut, image=image[box].copy(), relief=relief)


def _placed(
    background: LabelledImage,
    pieces: list[Piece],
    cut: CutOut,
    fake: bool,
    config: CollageConfig,
    region: np.ndarray | None,
) -> Piece | None:
    """The piece at a free place on top of the others; None when no place was found."""
    height, width = background.image.shape[:2]
    h, w = cut.mask.shape
    if h >= height or w >= width:
        return None
    others = [piece for piece in pieces if not piece.fake]
    own = background.masks
    seen = np.zeros((len(own) + len(others), height, width), bool)
    seen[: len(own)] = own
    for index, piece in enumerate(others, len(own)):
        seen[index][piece.box] = piece.cut.mask
    full = seen.sum((1, 2))
    area = np.count_nonzero(cut.mask)
    for _ in range(config.attempts):
        top, left = round(uniform(0, height - h)), round(uniform(0, width - w))
        if region is not None and not region[top + h // 2, left + w // 2]:
            continue
        covered = (seen[:, top : top + h, left : left + w] & cut.mask).sum((1, 2))
        overlap = covered / np.maximum(full + area - covered, 1)
        if (overlap <= config.iou).all() and not hides_too_much(covered, full, full):
            return Piece(cut, top, left, fake)
    return None


def _feathered(mask: np.ndarray, sigma: float) -> np.ndarray:
    """(h, w) float32 opacity that falls to zero inside the mask's own edge: no old background comes along."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 4, 4, 4, 4, cv2.BORDER_CONSTANT)
    inner = cv2.GaussianBlur(padded.astype(np.float32), (0, 0), sigma)[4:-4, 4:-4]
    # Half at the old edge; stretched so that the edge itself is nearly the background's.
    return np.asarray(np.clip(2 * inner - 0.7, 0, 1) * mask, np.float32)


def _raise(depth: np.ndarray, cut: CutOut) -> None:
    """Draw the relief of a cut-out on the depth (h, w) of what lies below it, in place."""
    if cut.relief is None:
        return
    under = depth[cut.mask]
    measured = under[under > 0]
    support = float(np.quantile(measured, SUPPORT)) if measured.size else 0.0
    raised = np.nan_to_num(support + cut.relief[cut.mask]) if support else np.zeros_like(under)
    depth[cut.mask] = np.maximum(raised, 0)
