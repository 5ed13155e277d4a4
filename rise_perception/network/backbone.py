"""Feature maps of an image: a timm backbone and the projection of its levels to one width."""

from __future__ import annotations

from typing import cast

import timm
import torch.nn.functional as F
from timm.models import FeatureInfo
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from rise_perception.core.errors import ConfigError
from rise_perception.network.config import REPRESENTATIONS, NetworkConfig
from rise_perception.network.representation import represent


class Backbone(nn.Module):
    """C2..C5 of a timm model (strides 4, 8, 16, 32), of which C2 serves only stride-4 masks."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.represent = represent(config)
        # Swin and its kin are built for one size of image.
        known = timm.get_pretrained_cfg(config.backbone)
        size = {"img_size": config.image_size} if known is not None and known.fixed_input_size else {}
        try:
            self.body = timm.create_model(
                config.backbone,
                pretrained=config.pretrained,
                features_only=True,
                in_chans=len(REPRESENTATIONS[config.input]),
                **(size | config.backbone_args),
            )
        except OSError as error:
            raise ConfigError(
                f"network.pretrained: timm could not fetch the weights of {config.backbone!r} ({error}); "
                "connect to the network once, or set it to false"
            ) from error
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
            raise ConfigError(
                f"network.backbone {config.backbone!r} with backbone_args {config.backbone_args} was refused "
                f"by timm: {error}; timm.list_models() names what there is"
            ) from error
        wanted = (4, 8, 16, 32) if config.mask_stride == 4 else (8, 16, 32)
        info = cast(FeatureInfo, self.body.feature_info)
        strides = info.reduction()
        missing = [s for s in wanted if s not in strides]
        if missing:
            raise ConfigError(
                f"network.backbone {config.backbone!r} has feature maps at strides {strides}; {missing} are "
                "missing: choose another"
            )
        self.indices = [strides.index(s) for s in wanted]
        all_channels = info.channels()
        #: Channels of the maps that forward returns.
        self.channels = [all_channels[i] for i in self.indices]
        #: Swin and its kin return maps of (B, h, w, c).
        self.channels_last = self.body.output_fmt == "NHWC"
        if config.frozen_norm:
            _freeze_norms(self.body)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) normalised images -> maps from fine to coarse, (B, c, H/s, W/s)."""
        features = self.body(self.represent(images))
        maps = [features[i] for i in self.indices]
        return [m.permute(0, 3, 1, 2) for m in maps] if self.channels_last else maps


class LevelProjection(nn.Module):
    """1x1 convolutions and GroupNorm(32) from C3..C5 to ``width``; then stride-2 3x3 convolutions."""

    def __init__(self, channels: list[int], width: int, levels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for level in range(levels):
            if level < len(channels):
                conv = nn.Conv2d(channels[level], width, kernel_size=1)
            else:
                source = channels[-1] if level == len(channels) else width
                conv = nn.Conv2d(source, width, kernel_size=3, stride=2, padding=1)
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(cast(Tensor, conv.bias))
            layers.append(nn.Sequential(conv, nn.GroupNorm(32, width)))
        self.layers = nn.ModuleList(layers)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """C3..C5 -> ``levels`` maps of (B, width, h, w)."""
        projected: list[Tensor] = []
        for level, layer in enumerate(self.layers):
            if level < len(maps):
                source = maps[level]
            else:
                source = maps[-1] if level == len(maps) else projected[-1]
            projected.append(layer(source))
        return projected


def _freeze_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            frozen.load_state_dict(child.state_dict())
            # timm's BatchNormAct2d applies its own activation.
            activation = getattr(child, "act", None)
            setattr(module, name, nn.Sequential(frozen, activation) if activation is not None else frozen)
        else:
            _freeze_norms(child)


def downsample_valid(valid: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H, W) bool -> (B, h, w) bool, nearest."""
    return F.interpolate(valid[:, None].float(), size=size).squeeze(1).bool()
