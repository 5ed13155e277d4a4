"""Augmentation of labelled images by torchvision.transforms.v2: geometry for all, colour for the image."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vf

from rise_perception.data.coco import LabelledImage


class GeometricAugmentation:
    """Flip, scale, crop or zoom out, and shift, alike for image, depth and masks.

    Args:
        scale: range of the scale factor, drawn log-uniformly; below 1 zooms out onto a grey border.
        flip: probability of a horizontal flip.
        rotation: greatest rotation to either side, degrees.
    """

    def __init__(
        self, scale: tuple[float, float] = (0.7, 1.6), flip: float = 0.5, rotation: float = 8.0
    ) -> None:
        self.scale, self.flip, self.rotation = scale, flip, rotation

    def __call__(self, image: Tensor, layers: Tensor) -> tuple[Tensor, Tensor]:
        """Transform an image and the layers that belong to it.

        Args:
            image: (3, H, W) uint8.
            layers: (K, H, W) float32, depth and masks; moved without mixing neighbours, zero outside.

        Returns:
            image and layers of the same shapes.
        """
        height, width = image.shape[-2:]
        low, high = (math.log(s) for s in self.scale)
        scale = math.exp(_uniform(low, high))
        # A larger picture shifts anywhere inside the frame, a smaller one anywhere it still fits.
        room_x, room_y = abs(scale - 1) * width / 2, abs(scale - 1) * height / 2
        translate = [int(_uniform(-room_x, room_x)), int(_uniform(-room_y, room_y))]
        angle = _uniform(-self.rotation, self.rotation)
        joined = [tv_tensors.Image(image), tv_tensors.Mask(layers)]
        if torch.rand(()) < self.flip:
            joined = [vf.horizontal_flip(t) for t in joined]
        image, layers = (
            vf.affine(
                t, angle=angle, translate=translate, scale=scale, shear=[0.0, 0.0],
                interpolation=v2.InterpolationMode.BILINEAR, fill=fill,
            )
            for t, fill in zip(joined, (114, 0), strict=True)
        )  # fmt: skip
        return image.as_subclass(Tensor), layers.as_subclass(Tensor)


class ColourAugmentation:
    """Brightness, contrast, saturation and hue; sometimes grey, blurred or noisy.

    Args:
        strength: 1 is the usual amount; 0 leaves the image as it is.
    """

    def __init__(self, strength: float = 1.0) -> None:
        s = strength
        self.jitter = v2.ColorJitter(0.4 * s, 0.4 * s, 0.5 * s, min(0.5, 0.12 * s))
        self.strength = s

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, H, W) uint8"""
        if self.strength == 0:
            return image
        image = self.jitter(image)
        if torch.rand(()) < 0.08 * self.strength:
            image = vf.rgb_to_grayscale(image, num_output_channels=3)
        if torch.rand(()) < 0.2 * self.strength:
            image = vf.gaussian_blur(image, [5, 5], [_uniform(0.3, 1.2)])
        if torch.rand(()) < 0.3 * self.strength:
            noise = torch.randn(image.shape) * _uniform(2.0, 12.0)
            image = (image.float() + noise).clamp(0, 255).to(torch.uint8)
        return image


def augment(
    sample: LabelledImage, geometry: GeometricAugmentation, colour: ColourAugmentation
) -> LabelledImage:
    """Augment one labelled image; instances that leave the frame, or almost, are dropped."""
    image = torch.from_numpy(sample.image).permute(2, 0, 1)
    layers = torch.from_numpy(sample.masks).float()
    if sample.depth is not None:
        layers = torch.cat([torch.from_numpy(sample.depth)[None], layers])
    image, layers = geometry(image, layers)
    image = colour(image)
    depth = None
    if sample.depth is not None:
        depth, layers = layers[0].numpy(), layers[1:]
    masks = layers > 0.5
    keep = masks.flatten(1).sum(1) >= 30
    return LabelledImage(
        name=sample.name,
        image=image.permute(1, 2, 0).contiguous().numpy(),
        depth=depth,
        masks=masks[keep].numpy(),
        classes=sample.classes[keep.numpy()],
        ids=sample.ids[keep.numpy()],
    )


def _uniform(low: float, high: float) -> float:
    return float(torch.empty(()).uniform_(low, high))
