"""Typed configuration of the network; a YAML file or a model card only overrides these defaults."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from rise_perception.core.errors import require

_RGB, _DEPTH = ("red", "green", "blue"), ("distance", "relief", "measured")
#: What the backbone sees of a frame, by input representation
#: (:mod:`rise_perception.network.representation`).
REPRESENTATIONS: dict[str, tuple[str, ...]] = {
    "rgb": _RGB,
    "l": ("lightness",),
    "g": ("grey",),
    "m": ("foreground",),
    "gm": ("grey", "foreground"),
    "gl": ("grey", "lightness"),
    "lm": ("lightness", "foreground"),
    "glm": ("grey", "lightness", "foreground"),
    "rgbm": (*_RGB, "foreground"),
    "rgbd": (*_RGB, *_DEPTH),
    "glmd": ("grey", "lightness", "foreground", *_DEPTH),
}
#: Channels that a network takes: normalised RGB, and the depth features where it sees depth
#: (:mod:`rise_perception.network.inputs`); everything else is made of these inside.
INPUT_CHANNELS = {name: 6 if "distance" in seen else 3 for name, seen in REPRESENTATIONS.items()}
#: Architectures that :func:`rise_perception.network.build.build_network` builds.
ARCHITECTURES = ("rise", "mask_rcnn")
#: Encoders of ``rise`` (:mod:`rise_perception.network.encoder`).
ENCODERS = ("deformable", "hybrid")

#: Pixels of a side of the network's input. The ranges are far beyond any use: a card from elsewhere must not
#: make a network that no machine holds.
LARGEST_SIDE = 8192
_RANGES: dict[str, tuple[float, float]] = {
    "levels": (1, 4),
    "width": (32, 4096),
    "heads": (1, 256),
    "points": (1, 256),
    "encoder_layers": (0, 64),
    "decoder_layers": (1, 64),
    "feedforward": (1, 65_536),
    "dropout": (0, 1),
    "queries": (1, 10_000),
    "mask_channels": (1, 1024),
    "embedding": (1, 8192),
}
#: timm takes "hf-hub:..." and "local-dir:..." for names of models to fetch or to unpickle.
_BACKBONE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
#: Arguments of timm by which it reads weights, from the disk or from the network.
_NO_ARGUMENTS = {
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "pretrained_strict",
    "checkpoint_path",
    "cache_dir",
}


def _range(least: float, most: float) -> str:
    return f"between {least} and {most}"


@dataclass(frozen=True)
class NetworkConfig:
    """Deformable DETR with a mask head and a contrastive head; defaults are the paper's (Sec. 3.1, App. A).

    Attributes:
        architecture: ``rise``, the paper's Deformable DETR; or ``mask_rcnn``, a Mask R-CNN behind the same
            protocol, whose queries are its best region proposals. That one has no use for ``heads``,
            ``points``, ``encoder``, ``encoder_layers``, ``decoder_layers``, ``dropout``,
            ``query_selection`` and ``mask_channels``.
        backbone: any timm model with feature maps (``resnet18`` ... ``resnet101``,
            ``swin_large_patch4_window7_224``).
        backbone_args: further arguments for ``timm.create_model``, such as ``channels``.
        pretrained: start the backbone from timm's ImageNet weights (needs a network or a filled cache).
        frozen_norm: keep the backbone's batch norms at their loaded statistics, as DETR does; switch it
            off to train from scratch.
        input: what the network sees: ``rgb``, ``rgbd`` (RGB and three depth features), or another key of
            :data:`REPRESENTATIONS`.
        image_size: height and width that an image is letterboxed into.
        classes: names of the classes, in the order of the class logits.
        containers: those of ``classes`` that hold items (a tote) and are never picked themselves.
        levels: feature levels, from stride 8 on; a level beyond the backbone's is a stride-2 convolution
            (``mask_rcnn``: a pooled level of anchors).
        width: channels d of queries and memory (``mask_rcnn``: of its feature pyramid).
        heads: attention heads.
        points: sampling points per head and level.
        encoder: ``deformable`` (the paper): all tokens sample all levels, ``encoder_layers`` times; or
            ``hybrid``, RT-DETR's: ``encoder_layers`` (one there) of self-attention in the coarsest level and
            convolutions across levels, at a fraction of the cost.
        encoder_layers, decoder_layers: depth of the transformer.
        feedforward: hidden width of the feed-forward blocks (``mask_rcnn``: of a region's features).
        dropout: dropout rate in the transformer.
        queries: number of object queries Q.
        query_selection: ``learned`` queries (the paper), or ``dense``: every memory token proposes a
            box and the Q best start the decoder (the two-stage form of Deformable DETR), which learns
            from far fewer images.
        mask_channels: channels of the mask features.
        mask_stride: stride of the mask features; 8 is the paper's, 4 adds a lateral from the backbone
            (``mask_rcnn``: the finest level of its pyramid).
        embedding: width of the contrastive embedding z.
    """

    architecture: str = "rise"
    backbone: str = "resnet50"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    pretrained: bool = False
    frozen_norm: bool = True
    input: str = "rgb"
    image_size: tuple[int, int] = (480, 640)
    classes: tuple[str, ...] = ("container", "object")
    containers: tuple[str, ...] = ("container",)
    levels: int = 4
    width: int = 256
    heads: int = 8
    points: int = 4
    encoder: str = "deformable"
    encoder_layers: int = 6
    decoder_layers: int = 6
    feedforward: int = 1024
    dropout: float = 0.1
    queries: int = 300
    query_selection: str = "learned"
    mask_channels: int = 8
    mask_stride: int = 8
    embedding: int = 256

    def __post_init__(self) -> None:
        # Cards and YAML files carry lists.
        for name in ("image_size", "classes", "containers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require(
            self.architecture in ARCHITECTURES,
            "network.architecture",
            self.architecture,
            f"one of {list(ARCHITECTURES)}",
        )
        require(self.input in INPUT_CHANNELS, "network.input", self.input, f"one of {sorted(INPUT_CHANNELS)}")
        require(self.encoder in ENCODERS, "network.encoder", self.encoder, f"one of {list(ENCODERS)}")
        require(
            self.query_selection in ("learned", "dense"),
            "network.query_selection",
            self.query_selection,
            "learned or dense",
        )
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            require(least <= value <= most, f"network.{name}", value, _range(least, most))
        require(
            _BACKBONE.fullmatch(self.backbone) is not None,
            "network.backbone",
            self.backbone[:80],
            "a name that timm.list_models() lists, no address to fetch a model from",
        )
        named = sorted(set(self.backbone_args) & _NO_ARGUMENTS)
        require(
            not named,
            "network.backbone_args",
            named,
            "without weights: a model brings its own, and those only",
        )
        require(self.mask_stride in (4, 8), "network.mask_stride", self.mask_stride, "4 or 8")
        require(
            self.width % self.heads == 0, "network.width", self.width, f"a multiple of heads ({self.heads})"
        )
        require(
            self.width % 32 == 0,
            "network.width",
            self.width,
            "a multiple of 32 (the groups of its GroupNorm)",
        )
        # Cells of masks and mask features are whole pixels then.
        fits = (
            len(self.image_size) == 2
            and min(self.image_size) >= 32
            and max(self.image_size) <= LARGEST_SIDE
            and not any(s % 8 for s in self.image_size)
        )
        require(
            fits,
            "network.image_size",
            self.image_size,
            f"[height, width], multiples of 8 from 32 to {LARGEST_SIDE}",
        )
        require(1 <= len(self.classes) <= 10_000, "network.classes", self.classes[:5], "1 to 10000 names")
        unknown = set(self.containers) - set(self.classes)
        require(
            not unknown, "network.containers", sorted(unknown), f"a subset of classes {list(self.classes)}"
        )

    @property
    def sees_depth(self) -> bool:
        """True for a network that needs a depth map."""
        return INPUT_CHANNELS[self.input] > 3

    @property
    def sees_foreground(self) -> bool:
        """True for a network that holds a foreground network (M)."""
        return "foreground" in REPRESENTATIONS[self.input]
