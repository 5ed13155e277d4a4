"""Weak and strong augmentation by torchvision.transforms.v2: geometry for all layers, colour for images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vf


@dataclass(frozen=True)
class Geometry:
    """One drawn geometric change of an image of H x W pixels: a flip, then an affine map about the centre.

    Attributes:
        flip: mirror left and right.
        scale: factor; below 1 zooms out onto a grey border.
        angle: degrees, clockwise.
        translate: pixels to the right and down.
    """

    flip: bool
    scale: float
    angle: float
    translate: tuple[int, int]

    def __call__(self, image: Tensor, layers: Tensor) -> tuple[Tensor, Tensor]:
        """Change an image and the layers that belong to it alike.

        Args:
            image: (3, H, W) uint8.
            layers: (K, H, W) float32, depth and masks; moved without mixing neighbours, zero outside.

        Returns:
            image and layers of the same shapes.
        """
        joined = [tv_tensors.Image(image), tv_tensors.Mask(layers)]
        if self.flip:
            joined = [vf.horizontal_flip(t) for t in joined]
        moved = [
            vf.affine(
                t, angle=self.angle, translate=list(self.translate), scale=self.scale, shear=[0.0, 0.0],
                interpolation=v2.InterpolationMode.BILINEAR, fill=fill,
            )
            for t, fill in zip(joined, (114, 0), strict=True)
        ]  # fmt: skip
        return moved[0].as_subclass(Tensor), moved[1].as_subclass(Tensor)

    def matrix(self, height: int, width: int) -> np.ndarray:
        """(2, 3) float64: where a point of an image of ``height`` x ``width`` pixels goes.

        Points are x (right) and y (down) in pixels from the upper left corner of the image; the centre of its
        first pixel is (0.5, 0.5).
        """
        centre = np.array([width / 2, height / 2])
        angle = math.radians(self.angle)
        turn = self.scale * np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        mirror = np.diag([-1.0 if self.flip else 1.0, 1.0])
        # Both leave the centre where it is; then comes the shift.
        linear = turn @ mirror
        return np.column_stack([linear, centre - linear @ centre + np.array(self.translate)])


@dataclass(frozen=True)
class GeometricAugmentation:
    """Flip, scale, crop or zoom out, shift and rotate.

    Attributes:
        scale: range of the scale factor, drawn log-uniformly.
        flip: probability of a horizontal flip.
        rotation: greatest rotation to either side, degrees.
    """

    scale: tuple[float, float] = (0.7, 1.6)
    flip: float = 0.5
    rotation: float = 8.0

    def draw(self, height: int, width: int) -> Geometry:
        """Draw a change for images of ``height`` x ``width`` pixels."""
        scale = math.exp(uniform(math.log(self.scale[0]), math.log(self.scale[1])))
        # A larger picture shifts anywhere inside the frame, a smaller one anywhere it still fits.
        room_x, room_y = abs(scale - 1) * width / 2, abs(scale - 1) * height / 2
        translate = (int(uniform(-room_x, room_x)), int(uniform(-room_y, room_y)))
        angle = uniform(-self.rotation, self.rotation)
        return Geometry(bool(torch.rand(()) < self.flip), scale, angle, translate)


#: Between "before" and "after" the camera has hardly moved.
SECOND_VIEW = GeometricAugmentation(scale=(0.9, 1.12), flip=0.0, rotation=4.0)


class DepthNoise:
    """Noise and holes in a depth map, as a cheap depth camera has them, beside those that it has already.

    The noise grows with the square of the depth, as that of stereo does; holes are single pixels and patches.

    Args:
        strength: 1 is the usual amount; 0 leaves the depth as it is.
    """

    #: Standard deviation of the noise at one metre, metres; half of it is smooth.
    noise = 0.004
    #: At most: fraction of single pixels that are lost, patches, their radius as a fraction of the image's
    #: side.
    speckle, patches, radius = 0.02, 6, 0.05

    def __init__(self, strength: float = 1.0) -> None:
        self._strength = strength

    def __call__(self, depth: np.ndarray) -> np.ndarray:
        """(H, W) float32 metres, 0 without a measurement -> the same; holes stay holes."""
        if self._strength == 0:
            return depth
        height, width = depth.shape
        fine, coarse = torch.randn(2, height, width).numpy()
        # The blur takes most of the variance away: back to one.
        coarse = cv2.GaussianBlur(coarse, (0, 0), 3.0) * 10
        deviation = uniform(0.0, self.noise * self._strength) * np.square(depth)
        noisy = np.maximum(depth + deviation * (fine + coarse) / 2, 0)
        lost = (torch.rand(height, width) < uniform(0.0, self.speckle * self._strength)).numpy()
        spots = np.zeros((height, width), np.uint8)
        for _ in range(int(torch.randint(round(self.patches * self._strength) + 1, ()))):
            x, y = int(uniform(0, width)), int(uniform(0, height))
            axes = [1 + int(uniform(0, self.radius * side)) for side in (width, height)]
            cv2.ellipse(spots, (x, y), axes, uniform(0, 180), 0, 360, 1, -1)
        return np.where((depth > 0) & ~lost & (spots == 0), noisy, 0).astype(np.float32)


class WeakColour:
    """A little brightness, contrast and saturation; hue costs as much as all the rest.

    Args:
        strength: 1 is the usual amount; 0 leaves the image as it is.
    """

    def __init__(self, strength: float = 1.0) -> None:
        self._jitter = v2.ColorJitter(0.2 * strength, 0.2 * strength, 0.2 * strength)

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, H, W) uint8"""
        return self._jitter(image)


class StrongColour:
    """Some of colour jitter, Planckian jitter, blur, grey and noise, each at a random magnitude.

    As in RandAugment, each image gets a few operations at random; unlike RandAugment's own list none of them
    is geometric, so that labels of the image stay valid.

    Args:
        strength: 1 is the usual amount; 0 leaves the image as it is.
    """

    #: Operations per image.
    count = 3

    def __init__(self, strength: float = 1.0) -> None:
        self._strength = strength
        self._jitter = v2.ColorJitter(
            min(0.9, 0.5 * strength),
            min(0.9, 0.5 * strength),
            min(0.9, 0.6 * strength),
            min(0.5, 0.15 * strength),
        )
        self._operations: list[Callable[[Tensor], Tensor]] = [
            self._jitter,
            self._jitter,  # the one that matters most comes twice as often
            self._planckian,
            self._blur,
            self._grey,
            self._noise,
        ]

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> (3, H, W) uint8"""
        if self._strength == 0:
            return image
        for index in torch.randperm(len(self._operations))[: self.count].tolist():
            image = self._operations[index](image)
        return image

    @staticmethod
    def _planckian(image: Tensor) -> Tensor:
        return planckian(image, uniform(3000.0, 15000.0))

    @staticmethod
    def _grey(image: Tensor) -> Tensor:
        # Half way on average: without any colour most of the time, colour would teach little.
        grey = vf.rgb_to_grayscale(image, num_output_channels=3)
        fraction = uniform(0.0, 1.0)
        return (grey * fraction + image * (1 - fraction)).to(torch.uint8)

    def _blur(self, image: Tensor) -> Tensor:
        return vf.gaussian_blur(image, [5, 5], [uniform(0.2, 0.2 + 1.2 * self._strength)])

    def _noise(self, image: Tensor) -> Tensor:
        noise = torch.randn(image.shape) * uniform(0.0, 12.0 * self._strength)
        return (image + noise).clamp(0, 255).to(torch.uint8)


def planckian(image: Tensor, kelvin: float) -> Tensor:
    """The image as if lit by a black body of another temperature (Planckian jitter).

    Red and blue are scaled against green by the illuminant's colour in linear sRGB; 6500 K, about that of
    daylight, changes nearly nothing.

    Args:
        image: (3, H, W) uint8.
        kelvin: 1667 to 25000.

    Returns:
        (3, H, W) uint8.
    """
    gains = torch.tensor(_illuminant(kelvin)) / torch.tensor(_illuminant(6500.0))
    return (image * (gains / gains[1])[:, None, None]).clamp(0, 255).to(torch.uint8)


def _illuminant(kelvin: float) -> tuple[float, float, float]:
    """Linear sRGB colour of a black body: chromaticity by Kim et al.'s cubic fit of the Planckian locus."""
    t = 1000.0 / kelvin
    if kelvin < 4000:
        x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    else:
        x = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    if kelvin < 2222:
        y = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    elif kelvin < 4000:
        y = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    else:
        y = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    big_x, big_z = x / y, (1 - x - y) / y  # Y = 1
    return (
        3.2404542 * big_x - 1.5371385 - 0.4985314 * big_z,
        -0.9692660 * big_x + 1.8760108 + 0.0415560 * big_z,
        max(0.0556434 * big_x - 0.2040259 + 1.0572252 * big_z, 0.0),
    )


def uniform(low: float, high: float) -> float:
    """A number from torch's generator, like everything random here."""
    return float(torch.empty(()).uniform_(low, high))
