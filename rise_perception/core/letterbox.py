"""Letterbox: fit an image into the network's input and bring results back, exactly."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

#: Grey that fills the border of an image.
BORDER = 114


@dataclass(frozen=True)
class Letterbox:
    """Scales H x W into the top-left corner of a fixed input, keeping the aspect ratio.

    Top-left, so that the valid region is a fraction of each side, which is what the network's valid ratios
    expect, and so that coordinates differ from the input's by one factor per axis.

    Attributes:
        image_size: height and width of the image.
        input_size: height and width of the network's input.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]

    @property
    def content(self) -> tuple[int, int]:
        """Height and width of the scaled image inside the input; at least one pixel each."""
        (h, w), (ih, iw) = self.image_size, self.input_size
        scale = min(ih / h, iw / w)
        return max(1, min(ih, round(h * scale))), max(1, min(iw, round(w * scale)))

    def fit(self, image: np.ndarray, nearest: bool = False, border: float = BORDER) -> np.ndarray:
        """Scale and pad an image or a depth map.

        Args:
            image: (H, W) or (H, W, 3).
            nearest: do not mix neighbours; for depth, masks and label maps.
            border: value of the padding.

        Returns:
            (h, w) or (h, w, 3) of ``input_size``, same dtype.
        """
        h, w = self.content
        if (h, w) != image.shape[:2]:
            shrinking = h < image.shape[0]
            # Plain INTER_NEAREST takes a cell's corner, not its centre, and so shifts by up to half a cell.
            how = cv2.INTER_NEAREST_EXACT if nearest else cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
            image = cv2.resize(image, (w, h), interpolation=how)
        if (h, w) == self.input_size:
            return image
        fill = (border,) * 3 if image.ndim == 3 else border
        pad = (self.input_size[0] - h, self.input_size[1] - w)
        return cv2.copyMakeBorder(image, 0, pad[0], 0, pad[1], cv2.BORDER_CONSTANT, value=fill)

    def padding(self) -> np.ndarray | None:
        """(h, w) bool of ``input_size``, True where there is no image; None when the image fills it."""
        h, w = self.content
        if (h, w) == self.input_size:
            return None
        mask = np.ones(self.input_size, bool)
        mask[:h, :w] = False
        return mask
