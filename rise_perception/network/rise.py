"""The RISE network: Deformable DETR with a mask head and a contrastive head (Sec. 3.1)."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rise_perception.network.backbone import Backbone, LevelProjection, downsample_valid
from rise_perception.network.config import NetworkConfig
from rise_perception.network.deformable_attention import LevelShapes
from rise_perception.network.encoder import DeformableEncoder, HybridEncoder
from rise_perception.network.mask_head import DynamicMaskHead, MaskFeatures
from rise_perception.network.outputs import PRIOR_LOGIT, MaskDecoder, QueryOutputs
from rise_perception.network.position import sine_encoding, whole_encoding
from rise_perception.network.transformer import (
    MLP,
    DecoderLayer,
    encoder_reference,
    inverse_sigmoid,
)

#: Side of a token's own box in ``dense`` query selection, in strides of its level.
DENSE_BOX_SCALE = 5.0


class RiseNetwork(nn.Module):
    """Instance segmentation of normalised images; implements :mod:`rise_perception.network.outputs`."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.backbone = Backbone(config)
        with_c2 = config.mask_stride == 4
        self.projection = LevelProjection(self.backbone.channels[1 if with_c2 else 0 :], width, config.levels)
        if config.encoder == "deformable":
            self.level_embed: nn.Parameter | None = nn.Parameter(torch.randn(config.levels, width))
            self.encoder: nn.Module = DeformableEncoder(config)
        else:
            self.level_embed = None  # its attention stays within one level
            self.encoder = HybridEncoder(config)
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        classes = len(config.classes)
        self.class_heads = nn.ModuleList(_class_head(width, classes) for _ in range(config.decoder_layers))
        learned = config.query_selection == "learned"
        # The first stage of learned queries has no size to refine yet: start from small boxes.
        sizes = [-2.0 if learned and layer == 0 else 0.0 for layer in range(config.decoder_layers)]
        self.box_heads = nn.ModuleList(_box_head(width, size) for size in sizes)
        if learned:
            self.query_embed = nn.Embedding(config.queries, 2 * width)  # position, content
            self.reference_points = nn.Linear(width, 2)
            nn.init.xavier_uniform_(self.reference_points.weight)
            nn.init.zeros_(self.reference_points.bias)
        else:
            self.dense_norm = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))
            self.dense_class = _class_head(width, classes)
            self.dense_box = _box_head(width)
            self.box_position = MLP(4, width, width, 2)
        self.mask_features = MaskFeatures(config, self.backbone.channels[0] if with_c2 else None)
        self.mask_head = DynamicMaskHead(config)
        self.contrastive = MLP(width, config.embedding, config.embedding, 3)

    @property
    def score_layer(self) -> nn.Linear:
        """The layer whose outputs are the class logits that count."""
        return cast(nn.Linear, self.class_heads[-1])

    def forward(self, images: Tensor, padding: Tensor | None = None) -> QueryOutputs:
        """Predict Q instances per image.

        Args:
            images: (B, C, H, W) float, normalised (:mod:`rise_perception.network.inputs`).
            padding: (B, H, W) bool, True where the image is padding; None where nothing is.

        Returns:
            QueryOutputs of the last decoder layer; ``auxiliary`` holds the earlier layers (and, with dense
            queries, the proposals of all S memory tokens, first). Boxes are fractions of the whole padded
            input; ``masks`` draws (M, H/4, W/4) logits.
        """
        size = (images.shape[-2], images.shape[-1])
        maps = self.backbone(images)
        c2 = maps[0] if self.config.mask_stride == 4 else None
        levels = self.projection(maps if c2 is None else maps[1:])
        shapes: LevelShapes = [(m.shape[-2], m.shape[-1]) for m in levels]
        memory, position, ratios, flat_padding = self._flatten(levels, padding)
        memory = self.encoder(memory, position, ratios, shapes, flat_padding)
        features = self.mask_features(_unflatten(memory, shapes), c2)

        auxiliary: list[QueryOutputs] = []
        if self.config.query_selection == "learned":
            query_position, query, boxes = self._learned_queries(images.shape[0])
        else:
            proposals, query, boxes = self._dense_queries(
                memory, shapes, ratios, flat_padding, features, size
            )
            query_position = None
            auxiliary.append(proposals)
        last = len(self.decoder) - 1
        for index, layer in enumerate(self.decoder):
            # Learned queries keep their position; dense ones encode the box that they have reached.
            place = query_position if query_position is not None else self.box_position(boxes)
            scale = ratios if boxes.shape[-1] == 2 else torch.cat([ratios, ratios], -1)
            query = layer(query, place, boxes[:, :, None] * scale[:, None], memory, shapes, flat_padding)
            logits = self.class_heads[index](query)
            refined = self._refine(self.box_heads[index](query), boxes)
            output = QueryOutputs(
                logits=logits,
                boxes=_to_input_fraction(refined, ratios),
                embeddings=self.contrastive(query) if index == last else None,
                masks=self._mask_decoder(query, _to_input_fraction(refined, ratios), features, size),
            )
            boxes = refined.detach()
            auxiliary.append(output)
        output = auxiliary.pop()
        output.auxiliary = auxiliary
        return output

    def _flatten(
        self, levels: list[Tensor], padding: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        memory, position, ratios, flat_padding = [], [], [], []
        for index, level in enumerate(levels):
            batch, width, h, w = level.shape
            if padding is None:
                valid = torch.ones(1, h, w, dtype=torch.bool, device=level.device)
                encoding = whole_encoding((h, w), width, level.device)
            else:
                valid = downsample_valid(~padding, (h, w))
                encoding = sine_encoding(valid, width)
            encoding = encoding.flatten(1, 2).to(level.dtype)
            if self.level_embed is not None:
                encoding = encoding + self.level_embed[index]
            position.append(encoding.expand(batch, -1, -1))
            memory.append(level.flatten(2).transpose(1, 2))  # (B, h*w, width)
            flat_padding.append(~valid.flatten(1))
            fractions = torch.stack([valid[:, 0, :].float().mean(-1), valid[:, :, 0].float().mean(-1)], -1)
            ratios.append(fractions.to(level.dtype).expand(batch, -1))
        joined_padding = None if padding is None else torch.cat(flat_padding, 1)
        return torch.cat(memory, 1), torch.cat(position, 1), torch.stack(ratios, 1), joined_padding

    def _learned_queries(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        position, content = self.query_embed.weight.split(self.config.width, -1)
        # In full precision also under autocast: half of it places points only to a few pixels.
        reference = self.reference_points(position).float().sigmoid()  # (Q, 2)
        return position.expand(batch, -1, -1), content.expand(batch, -1, -1), reference.expand(batch, -1, -1)

    def _dense_queries(
        self,
        memory: Tensor,
        shapes: LevelShapes,
        ratios: Tensor,
        padding: Tensor | None,
        features: Tensor,
        size: tuple[int, int],
    ) -> tuple[QueryOutputs, Tensor, Tensor]:
        """Every token proposes a box around itself; the best ``queries`` tokens become queries."""
        tokens = self.dense_norm(memory)
        logits = self.dense_class(tokens)
        # Centres as fractions of the valid region, so that boxes share the decoder's coordinates.
        centres = encoder_reference(shapes, ratios)[:, :, 0] / ratios[:, None, 0]
        sides = torch.cat(
            [
                memory.new_tensor([DENSE_BOX_SCALE / w, DENSE_BOX_SCALE / h]).expand(h * w, 2)
                for h, w in shapes
            ]
        )
        anchors = torch.cat([centres, sides.expand(memory.shape[0], -1, -1).clamp(max=0.9)], -1)
        boxes = (self.dense_box(tokens) + inverse_sigmoid(anchors)).sigmoid()
        if padding is not None:
            logits = logits.masked_fill(padding[..., None], -1e4)
        in_input = _to_input_fraction(boxes, ratios)
        proposals = QueryOutputs(logits, in_input, None, self._mask_decoder(tokens, in_input, features, size))
        best = logits.max(-1).values.topk(min(self.config.queries, logits.shape[1]), dim=1).indices
        # Detached: the proposals are trained by their own loss, and the decoder refines what it is given.
        query = tokens.gather(1, best[..., None].expand(-1, -1, tokens.shape[-1])).detach()
        return proposals, query, boxes.gather(1, best[..., None].expand(-1, -1, 4)).detach()

    @staticmethod
    def _refine(delta: Tensor, reference: Tensor) -> Tensor:
        """Iterative box refinement: the delta adds to the reference in logit space."""
        base = inverse_sigmoid(reference)
        if base.shape[-1] == 2:
            base = F.pad(base, (0, 2))
        return (delta + base).sigmoid()

    def _mask_decoder(
        self, query: Tensor, boxes: Tensor, features: Tensor, size: tuple[int, int]
    ) -> MaskDecoder:
        quarter = (math.ceil(size[0] / 4), math.ceil(size[1] / 4))

        def decode(batch: Tensor, index: Tensor) -> Tensor:
            # The boxes only place the coordinates' origin; the mask loss should not move them.
            centre = boxes[batch, index, :2].detach()
            # With one image there is nothing to count, and so nothing for the processor to wait for.
            alone = len(features) == 1
            per_image = [batch.shape[0]] if alone else torch.bincount(batch, minlength=len(features)).tolist()
            parts = zip(query[batch, index].split(per_image), centre.split(per_image), features, strict=True)
            masks = torch.cat([self.mask_head(q, c, f, size) for q, c, f in parts])
            if masks.shape[-2:] == quarter:
                return masks
            return F.interpolate(masks[:, None], size=quarter, mode="bilinear", align_corners=False)[:, 0]

        return decode


def _to_input_fraction(boxes: Tensor, ratios: Tensor) -> Tensor:
    """Boxes as fractions of the valid region -> fractions of the padded input."""
    return boxes * torch.cat([ratios[:, 0], ratios[:, 0]], -1)[:, None]


def _unflatten(memory: Tensor, shapes: LevelShapes) -> list[Tensor]:
    parts = memory.split([h * w for h, w in shapes], dim=1)
    return [p.transpose(1, 2).unflatten(2, shape) for p, shape in zip(parts, shapes, strict=True)]


def _class_head(width: int, classes: int) -> nn.Linear:
    head = nn.Linear(width, classes)
    nn.init.constant_(head.bias, PRIOR_LOGIT)
    return head


def _box_head(width: int, size: float = 0.0) -> MLP:
    """A head that starts with deltas of zero, except ``size`` on width and height."""
    head = MLP(width, width, 4, 3)
    last = cast(nn.Linear, head.layers[-1])
    nn.init.zeros_(last.weight)
    last.bias.data = torch.tensor([0.0, 0.0, size, size])
    return head
