"""The network as it is exported: camera image or input tensor in, the best instances with their masks out."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from rise_perception.core.errors import ConfigError
from rise_perception.core.letterbox import BORDER, Letterbox
from rise_perception.inference.engines.folding import fold_norms
from rise_perception.inference.engines.spec import ExportSpec
from rise_perception.network.config import INPUT_CHANNELS
from rise_perception.network.deformable_attention import DeformableAttention, Sampler, sample_by_grid
from rise_perception.network.inputs import MEAN, STD
from rise_perception.network.rise import RiseNetwork


class ColourInput(nn.Module):
    """Letterbox and normalisation of a colour image: two matrix products with constant matrices.

    A resize is linear and separable, so these matrices are what OpenCV does, in any runtime and on any
    device; rounding to whole grey levels included.
    """

    rows: Tensor
    columns: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, letterbox: Letterbox) -> None:
        super().__init__()
        self.letterbox = letterbox
        (height, width), (h, w) = letterbox.image_size, letterbox.content
        self.register_buffer("rows", torch.from_numpy(_resize_matrix(height, h, letterbox)), persistent=False)
        self.register_buffer(
            "columns", torch.from_numpy(_resize_matrix(width, w, letterbox)), persistent=False
        )
        scale = 1.0 / (255.0 * STD)
        self.register_buffer("scale", torch.from_numpy(scale)[:, None, None], persistent=False)
        self.register_buffer("offset", torch.from_numpy(MEAN / STD)[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """(H, W, 3) uint8 RGB -> (1, 3, h, w) float32, normalised."""
        x = image.float().permute(2, 0, 1)  # TensorRT takes uint8 into a cast only
        box = self.letterbox
        if box.content != box.image_size:
            x = torch.round(self.rows @ x @ self.columns.T).clamp(0, 255)
        (h, w), (content_h, content_w) = box.input_size, box.content
        if (h, w) != (content_h, content_w):
            x = nn.functional.pad(x, (0, w - content_w, 0, h - content_h), value=float(BORDER))
        return (x * self.scale - self.offset)[None]


def _resize_matrix(source: int, target: int, letterbox: Letterbox) -> np.ndarray:
    """(target, source) float32: what OpenCV's resize does to one axis, found by resizing unit vectors."""
    # Whether all of the image shrinks decides the interpolation, as in Letterbox.fit.
    shrinking = letterbox.content[0] < letterbox.image_size[0]
    how = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    units = np.eye(source, dtype=np.float32)
    return np.ascontiguousarray(cv2.resize(units, (source, target), interpolation=how))


class ExportModule(nn.Module):
    """The network for one camera: constant letterbox, one image, the K best instances.

    Args:
        network: stays as it is; a copy with folded norms is exported.
        spec: what it is made for.
        sample: how deformable attention samples.

    Raises:
        ConfigError: a network whose masks cannot be drawn in a static graph.
    """

    def __init__(self, network: nn.Module, spec: ExportSpec, sample: Sampler = sample_by_grid) -> None:
        super().__init__()
        if not isinstance(network, RiseNetwork):
            raise ConfigError(
                f"a network of {type(network).__name__} cannot be exported; only architecture 'rise' has a "
                "static graph: serve this one with runtime torch"
            )
        self.spec = spec
        self.config = network.config
        channels = INPUT_CHANNELS[self.config.input]
        self.network = fold_norms(network.cpu(), torch.zeros(1, channels, *spec.size))
        for module in self.network.modules():
            if isinstance(module, DeformableAttention):
                module.sample = sample
        self.colour = ColourInput(spec.letterbox) if spec.preprocessing == "inside" else None
        padding = spec.letterbox.padding()
        self.register_buffer(
            "padding", None if padding is None else torch.from_numpy(padding)[None], persistent=False
        )

    def example(self) -> dict[str, Tensor]:
        """Inputs by name, of the right shapes."""
        channels = INPUT_CHANNELS[self.config.input]
        if self.colour is None:
            return {"input": torch.zeros(1, channels, *self.spec.size)}
        inputs = {"image": torch.zeros(*self.spec.image, 3, dtype=torch.uint8)}
        if channels > 3:
            inputs["depth_features"] = torch.zeros(1, channels - 3, *self.spec.size)
        return inputs

    def forward(self, image: Tensor, depth_features: Tensor | None = None) -> tuple[Tensor, ...]:
        """Predict the K best instances of one image.

        Args:
            image: (1, C, h, w) float32, normalised; with preprocessing inside the (H, W, 3) uint8 image.
            depth_features: (1, 3, h, w) float32 beside a uint8 image, for a network that sees depth; the
                rest of :func:`rise_perception.network.inputs.make_input`.

        Returns:
            probability (K,), classes (K,) int64, boxes (K, 4) centre and size as fractions of the input,
            embeddings (K, D), masks (K, h/4, w/4) logits; by falling probability, all but classes float32.
        """
        x = image if self.colour is None else self.colour(image)
        if depth_features is not None:
            x = torch.cat([x, depth_features], 1)
        outputs = self.network(x, self.padding)
        probability, classes = outputs.logits[0].sigmoid().max(-1)
        count = min(self.spec.topk, probability.shape[0])
        best, query = probability.topk(count)
        assert outputs.masks is not None, "the last stage draws masks"
        masks = outputs.masks(torch.zeros_like(query), query)
        return best, classes[query], outputs.boxes[0, query], outputs.embeddings[0, query], masks
