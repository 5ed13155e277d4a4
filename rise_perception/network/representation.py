"""Input representations: from what a network takes to what its backbone sees.

========  ==============================  =====  ===
name      channels of the backbone        depth  M
========  ==============================  =====  ===
``rgb``   normalised red, green, blue     no     no
``l``     lightness                       no     no
``g``     grey                            no     no
``m``     foreground                      no     yes
``gm``    grey, foreground                no     yes
``gl``    grey, lightness                 no     no
``lm``    lightness, foreground           no     yes
``glm``   grey, lightness, foreground     no     yes
``rgbm``  RGB, foreground                 no     yes
``rgbd``  RGB, three depth features       yes    no
``glmd``  the first three, depth          yes    yes
========  ==============================  =====  ===

Grey is Rec. 601's luma and lightness is L* of CIELAB, both in [0, 1] and then centred like RGB. Foreground,
or M, is the probability in [0, 1] that a pixel belongs to an item, by a small network of its own that lies
frozen inside: card, checksum, export and engines stay those of one network, and no truth can come in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rise_perception.network.config import INPUT_CHANNELS, REPRESENTATIONS, NetworkConfig
from rise_perception.network.inputs import MEAN, STD

#: Most parameters of a foreground network.
MAX_FOREGROUND_PARAMETERS = 150_000
#: Luma of Rec. 601, and the luminance of linear sRGB.
_REC601, _LUMINANCE = (0.299, 0.587, 0.114), (0.2126, 0.7152, 0.0722)
#: Grey and lightness are centred with these, the means of RGB's statistics.
GREY_MEAN, GREY_STD = float(MEAN.mean()), float(STD.mean())


class ForegroundNetwork(nn.Module):
    """A small U-Net that says of every pixel whether it belongs to an item.

    Group norms, so that it does the same in training and at inference, whatever the batch.

    Args:
        channels: of its input, which is the instance network's.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = (16, 32, 48, 64)
        sources = (channels, *widths[:-1])
        self.down = nn.ModuleList(_block(a, b, 2) for a, b in zip(sources, widths, strict=True))
        upward = zip(widths[:0:-1], widths[-2::-1], strict=True)
        self.up = nn.ModuleList(_block(a + b, b, 1) for a, b in upward)
        self.head = nn.Conv2d(widths[0], 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) as the instance network takes it -> (B, 1, H, W) logits."""
        maps = []
        x = images
        for block in self.down:
            x = block(x)
            maps.append(x)
        for block, skip in zip(self.up, maps[-2::-1], strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = block(torch.cat([x, skip], 1))
        size = images.shape[-2:]
        logits: Tensor = F.interpolate(self.head(x), size=size, mode="bilinear", align_corners=False)
        return logits


class InputRepresentation(nn.Module):
    """What the backbone sees, made of what the network takes.

    Attributes:
        given: (B, 1, H, W) float32, takes the place of the foreground network's M while it is set: what a
            training wants M to be.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor
    luminance: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.channels = REPRESENTATIONS[config.input]
        self.given: Tensor | None = None
        for name, values in (("mean", MEAN), ("std", STD), ("luma", _REC601), ("luminance", _LUMINANCE)):
            constant = torch.tensor(values, dtype=torch.float32)[:, None, None]
            self.register_buffer(name, constant, persistent=False)
        self.foreground: ForegroundNetwork | None = None
        if config.sees_foreground:
            self.foreground = ForegroundNetwork(INPUT_CHANNELS[config.input]).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W), normalised RGB and perhaps depth features -> (B, K, H, W)."""
        rgb = images[:, :3]
        plain = rgb * self.std + self.mean  # in [0, 1] again
        parts = []
        for name in self.channels:
            if name == "red":
                parts.append(rgb)
            elif name == "grey":
                parts.append(_centred((plain * self.luma).sum(1, keepdim=True)))
            elif name == "lightness":
                parts.append(_centred(lightness(plain, self.luminance)))
            elif name == "foreground":
                parts.append(self._foreground(images))
            elif name == "distance":
                parts.append(images[:, 3:6])
        return torch.cat(parts, 1)

    def _foreground(self, images: Tensor) -> Tensor:
        if self.given is not None:
            return self.given.to(images.dtype)
        assert self.foreground is not None  # as the configuration says
        probability: Tensor = self.foreground(images).sigmoid()
        return probability


def foreground_of(network: nn.Module, images: Tensor) -> Tensor | None:
    """M of images, by the foreground network inside a network.

    Args:
        network: any.
        images: (B, C, H, W), its input.

    Returns:
        (B, 1, H, W) probability; None where the network holds none.
    """
    for module in network.modules():
        if isinstance(module, InputRepresentation) and module.foreground is not None:
            return torch.sigmoid(module.foreground(images))
    return None


def represent(config: NetworkConfig) -> nn.Module:
    """The module that makes what the backbone sees; ``rgb`` and ``rgbd`` are taken as they come."""
    return nn.Identity() if config.input in ("rgb", "rgbd") else InputRepresentation(config)


def lightness(rgb: Tensor, luminance: Tensor) -> Tensor:
    """L* of CIELAB (D65) as a fraction of 100.

    Args:
        rgb: (B, 3, H, W) sRGB in [0, 1].
        luminance: (3, 1, 1) weights of linear red, green and blue.

    Returns:
        (B, 1, H, W) in [0, 1].
    """
    rgb = rgb.clamp(0.0, 1.0)
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    y = (linear * luminance).sum(1, keepdim=True).clamp(min=1e-6)
    return torch.where(y > 216 / 24389, 1.16 * y ** (1 / 3) - 0.16, y * (24389 / 2700))


def adapt_first_weights(weight: Tensor, source: str, target: str) -> Tensor:
    """Weights of the first convolution for another representation.

    A channel that both see keeps its weights, and a new one starts at zero, without effect. Where colour
    goes, the first of grey and lightness takes the sum of the weights of red, green and blue: of a grey
    picture the backbone sees nearly the same as before.

    Args:
        weight: (O, K, h, w) of ``source``.
        source, target: keys of :data:`rise_perception.network.config.REPRESENTATIONS`.

    Returns:
        (O, K', h, w).
    """
    seen = REPRESENTATIONS[source]
    wanted = REPRESENTATIONS[target]
    result = weight.new_zeros((weight.shape[0], len(wanted), *weight.shape[2:]))
    for place, name in enumerate(wanted):
        if name in seen:
            result[:, place] = weight[:, seen.index(name)]
    grey = [k for k, name in enumerate(wanted) if name in ("grey", "lightness")]
    if grey and "red" in seen:
        by_grey = torch.tensor(GREY_STD / STD, dtype=weight.dtype, device=weight.device)[None, :, None, None]
        result[:, grey[0]] = (weight[:, :3] * by_grey).sum(1)
    return result


def _centred(value: Tensor) -> Tensor:
    return (value - GREY_MEAN) / GREY_STD


def _block(source: int, target: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(source, target, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(8, target),
        nn.ReLU(inplace=True),
    )
