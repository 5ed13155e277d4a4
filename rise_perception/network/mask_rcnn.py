"""Mask R-CNN behind the protocol of :mod:`rise_perception.network.outputs`: quite another segmenter.

A region proposal network scores anchors; the best Q regions are the queries, which two small networks on
features cut out of the pyramid classify, refine, embed and segment. The building blocks are torchvision's;
its losses and its training path are not used: this network learns through the same criterion as any other.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork, box_convert, nms, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rise_perception.network.backbone import Backbone
from rise_perception.network.config import NetworkConfig
from rise_perception.network.outputs import PRIOR_LOGIT, MaskDecoder, QueryOutputs
from rise_perception.network.transformer import MLP

#: Side of the anchors of a level, in its strides, and their heights over widths.
ANCHOR_SCALE, ANCHOR_RATIOS = 4, (0.5, 1.0, 2.0)
#: This many of the best anchors per query compete; of those with a larger IoU the better one is taken.
CANDIDATES, PROPOSAL_IOU = 4, 0.7
#: Cells that a region is cut into, for its box and for its mask.
BOX_CELLS, MASK_CELLS = 7, 14
#: A region with this side, in pixels, is cut out of the level with stride 16.
CANONICAL_SIDE = 224.0
#: What a step of the second stage's box deltas is worth: centres, sizes.
REFINEMENT = (0.1, 0.1, 0.2, 0.2)
#: Greatest growth of a box by one stage, as a logarithm.
MAX_GROWTH = math.log(1000.0 / 16.0)
#: Logit of what cannot be an object, and of a mask outside its box.
NOTHING, OUTSIDE = -1e4, -10.0


class MaskRcnnNetwork(nn.Module):
    """Instance segmentation of normalised images; implements :mod:`rise_perception.network.outputs`."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width, classes = config.width, len(config.classes)
        self.backbone = Backbone(config)
        count = config.levels + (1 if config.mask_stride == 4 else 0)
        channels = self.backbone.channels[:count]
        self.strides = [config.mask_stride * 2**level for level in range(count)]
        #: Levels that regions are cut out of; one beyond the backbone's only has anchors.
        self.cut_levels = len(channels)
        self.pyramid = FeaturePyramidNetwork(
            channels, width, LastLevelMaxPool() if count > len(channels) else None
        )
        self.anchors = AnchorGenerator(
            tuple((ANCHOR_SCALE * stride,) for stride in self.strides), (ANCHOR_RATIOS,) * count
        )
        self.proposals = RPNHead(width, len(ANCHOR_RATIOS))
        # Classes instead of bare objectness: the criterion asks every stage for them.
        self.proposals.cls_logits = nn.Conv2d(width, len(ANCHOR_RATIOS) * classes, 1)
        self.box_features = TwoMLPHead(width * BOX_CELLS**2, config.feedforward)
        self.classes = nn.Linear(config.feedforward, classes)
        for head in (self.proposals.cls_logits, self.classes):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.constant_(head.bias, PRIOR_LOGIT)
        self.refinement = nn.Linear(config.feedforward, 4)
        nn.init.zeros_(self.refinement.weight)  # boxes start as proposed
        nn.init.zeros_(self.refinement.bias)
        self.contrastive = MLP(config.feedforward, config.embedding, config.embedding, 3)
        self.mask_features = MaskRCNNHeads(width, [width] * 4, 1)
        self.mask_predictor = MaskRCNNPredictor(width, width, 1)

    @property
    def score_layer(self) -> nn.Linear:
        """The layer whose outputs are the class logits that count."""
        return self.classes

    def forward(self, images: Tensor, padding: Tensor | None = None) -> QueryOutputs:
        """Predict Q instances per image.

        Args:
            images: (B, C, H, W) float, normalised (:mod:`rise_perception.network.inputs`).
            padding: (B, H, W) bool, True where the image is padding (right and below); None where nothing is.

        Returns:
            QueryOutputs of the second stage; its one ``auxiliary`` holds all anchors (without masks). Where
            fewer than Q regions are left, the rest are empty boxes with a score of zero. Boxes lie within the
            image; ``masks`` draws (M, H/4, W/4) logits that are :data:`OUTSIDE` off each query's box.
        """
        batch, _, height, width = images.shape
        extent = images.new_ones(batch, 1, 2, dtype=torch.float32)
        if padding is not None:
            images = images.masked_fill(padding[:, None], 0.0)
            extent = torch.stack([(~padding).any(1).float().mean(-1), (~padding).any(2).float().mean(-1)], -1)
            extent = extent[:, None]  # (B, 1, 2), x and y
        maps = self.backbone(images)[: self.cut_levels]
        levels = list(self.pyramid({str(i): m for i, m in enumerate(maps)}).values())
        size = (height, width)

        anchors = self._anchors(levels, size)  # (A, 4)
        class_maps, delta_maps = self.proposals(levels)
        logits = _join(class_maps, len(self.config.classes))
        # Padding holds nothing; nor does what an anchor reaches outside the image.
        logits = logits.masked_fill((anchors[:, :2] >= extent).any(-1, keepdim=True), NOTHING)
        boxes = _clip(_decode(anchors, _join(delta_maps, 4).float()), extent)
        first = QueryOutputs(logits, boxes, None, None)

        regions, found = self._choose(logits.detach(), boxes.detach(), size)
        of = torch.arange(batch, device=images.device).repeat_interleave(regions.shape[1])
        cut = self._cut(levels, regions.flatten(0, 1), of, BOX_CELLS, size)
        hidden = self.box_features(cut).unflatten(0, (batch, -1))  # (B, Q, feedforward)
        logits = self.classes(hidden).masked_fill(~found[..., None], NOTHING)
        deltas = self.refinement(hidden).float() * hidden.new_tensor(REFINEMENT, dtype=torch.float32)
        boxes = _clip(_decode(regions, deltas), extent)
        masks = self._mask_decoder(levels, boxes.detach(), size)
        return QueryOutputs(logits, boxes, self.contrastive(hidden), masks, [first])

    def _anchors(self, levels: list[Tensor], size: tuple[int, int]) -> Tensor:
        """(A, 4) anchors centred on the cells of all levels, fractions of the input."""
        device = levels[0].device
        self.anchors.set_cell_anchors(torch.float32, device)
        grids = [list(level.shape[-2:]) for level in levels]
        strides = [[torch.tensor(s, device=device)] * 2 for s in self.strides]
        # torchvision centres them on the cells' corners.
        centred = [
            a + s / 2 for a, s in zip(self.anchors.grid_anchors(grids, strides), self.strides, strict=True)
        ]
        return box_convert(torch.cat(centred), "xyxy", "cxcywh") / _scale(size, device)

    def _choose(self, logits: Tensor, boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The best anchors' boxes (B, Q, 4), and (B, Q) bool where there is one."""
        queries = self.config.queries
        scores = logits.float().max(-1).values
        corners = box_convert(boxes * _scale(size, boxes.device), "cxcywh", "xyxy")
        sides = corners[..., 2:] - corners[..., :2]
        scores = scores.masked_fill((sides < 1.0).any(-1), NOTHING)  # below a pixel
        best, index = scores.topk(min(CANDIDATES * queries, scores.shape[1]), 1)
        regions, found = [], []
        for image in range(len(boxes)):
            candidates = index[image][best[image] > NOTHING / 2]
            kept = candidates[nms(corners[image, candidates], scores[image, candidates], PROPOSAL_IOU)]
            kept = kept[:queries]
            missing = queries - len(kept)
            regions.append(F.pad(boxes[image, kept], (0, 0, 0, missing)))
            found.append(torch.arange(queries, device=boxes.device) < len(kept))
        return torch.stack(regions), torch.stack(found)

    def _cut(
        self, levels: list[Tensor], boxes: Tensor, of: Tensor, cells: int, size: tuple[int, int]
    ) -> Tensor:
        """Features of R boxes (R, 4) of the images ``of`` (R,), (R, width, cells, cells).

        Large regions come from coarse levels.
        """
        pixels = boxes * _scale(size, boxes.device)
        corners = torch.cat([of[:, None].to(pixels.dtype), box_convert(pixels, "cxcywh", "xyxy")], 1)
        side = (pixels[:, 2] * pixels[:, 3]).sqrt().clamp(min=1.0)
        level = (side * 16.0 / CANONICAL_SIDE / self.strides[0]).log2().floor()
        level = level.long().clamp(0, self.cut_levels - 1)
        rows = [(level == i).nonzero()[:, 0] for i in range(self.cut_levels)]
        parts = [
            roi_align(
                levels[i], corners[r].to(levels[i].dtype), cells, 1.0 / self.strides[i], 2, aligned=True
            )
            for i, r in enumerate(rows)
        ]
        return torch.cat(parts)[torch.cat(rows).argsort()]

    def _mask_decoder(self, levels: list[Tensor], boxes: Tensor, size: tuple[int, int]) -> MaskDecoder:
        quarter = (math.ceil(size[0] / 4), math.ceil(size[1] / 4))

        def decode(batch: Tensor, query: Tensor) -> Tensor:
            chosen = boxes[batch, query]
            cut = self._cut(levels, chosen, batch, MASK_CELLS, size)
            return paste_masks(self.mask_predictor(self.mask_features(cut))[:, 0], chosen, quarter)

        return decode


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw masks that fill their boxes into the whole image, bilinearly.

    Args:
        masks: (M, m, m) logits over each box.
        boxes: (M, 4) centre x, centre y, width, height, fractions of the image.
        size: height h and width w of the result.

    Returns:
        (M, h, w) logits; :data:`OUTSIDE` at cells whose centre is not in the box.
    """
    places = []
    for axis in (0, 1):  # x, y
        cells = size[1 - axis]
        centres = (torch.arange(cells, dtype=boxes.dtype, device=boxes.device) + 0.5) / cells
        half = (boxes[:, 2 + axis] / 2).clamp(min=1e-6)
        places.append((centres - boxes[:, axis, None]) / half[:, None])  # (M, cells), -1 .. 1 in the box
    x = places[0][:, None, :].expand(-1, *size)
    y = places[1][:, :, None].expand(-1, *size)
    grid = torch.stack([x, y], -1).to(masks.dtype)
    drawn = F.grid_sample(masks[:, None], grid, padding_mode="border", align_corners=False)[:, 0]
    return drawn.masked_fill((x.abs() > 1) | (y.abs() > 1), OUTSIDE)


def _scale(size: tuple[int, int], device: torch.device) -> Tensor:
    return torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32, device=device)


def _join(maps: list[Tensor], values: int) -> Tensor:
    """Maps (B, anchors * values, h, w) of all levels -> (B, A, values), cell by cell."""
    return torch.cat([m.unflatten(1, (-1, values)).permute(0, 3, 4, 1, 2).flatten(1, 3) for m in maps], 1)


def _decode(boxes: Tensor, deltas: Tensor) -> Tensor:
    """Move and scale boxes (..., 4): centres by fractions of the size, sizes by exponentials."""
    sizes = boxes[..., 2:]
    return torch.cat(
        [
            boxes[..., :2] + deltas[..., :2] * sizes,
            sizes * deltas[..., 2:].clamp(max=MAX_GROWTH).exp(),
        ],
        -1,
    )


def _clip(boxes: Tensor, extent: Tensor) -> Tensor:
    """The part of boxes (B, N, 4) within the image, which reaches from 0 to ``extent`` (B, 1, 2)."""
    half = boxes[..., 2:] / 2
    low = torch.minimum((boxes[..., :2] - half).clamp(min=0.0), extent)
    high = torch.minimum((boxes[..., :2] + half).clamp(min=0.0), extent)
    return torch.cat([(low + high) / 2, high - low], -1)
