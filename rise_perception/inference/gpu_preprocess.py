"""Letterbox and enlarged masks on the device of the network, where a GPU would wait for the CPU to do them.

Plain torch, so that they run on the CPU as well; there, OpenCV is faster
(:mod:`rise_perception.core.letterbox`, :mod:`rise_perception.inference.postprocess`).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rise_perception.core.letterbox import Letterbox
from rise_perception.inference.engines.export_module import ColourInput
from rise_perception.inference.engines.feeds import make_feeds
from rise_perception.inference.engines.spec import ExportSpec

#: Masks that are enlarged at once: bounds the memory, whatever the number of instances.
AT_ONCE = 16


def make_input_on(
    device: torch.device, letterbox: Letterbox, mode: str, image: np.ndarray, depth: np.ndarray | None
) -> Tensor:
    """The network's input of a camera image, whose colour goes to the device as uint8.

    Args:
        device: where the network is.
        letterbox: how the image is fitted into the input.
        mode: the network's input, ``rgb`` or ``rgbd``.
        image: (H, W, 3) uint8 RGB.
        depth: (H, W) float32 metres; needed by ``rgbd``.

    Returns:
        (1, C, h, w) float32 as of :func:`rise_perception.network.inputs.make_input`, except for values at a
        half, which may round to either grey level.
    """
    spec = ExportSpec(letterbox.input_size, letterbox.image_size, preprocessing="inside")
    feeds = {n: torch.from_numpy(a).to(device) for n, a in make_feeds(spec, mode, image, depth).items()}
    parts = [_colour_input(letterbox, device)(feeds.pop("image")), *feeds.values()]
    return torch.cat(parts, 1)


@lru_cache(maxsize=4)
def _colour_input(letterbox: Letterbox, device: torch.device) -> ColourInput:
    return ColourInput(letterbox).to(device)


def paint_on(device: torch.device, masks: np.ndarray, order: np.ndarray, letterbox: Letterbox) -> np.ndarray:
    """Enlarge masks to the image and draw them over each other.

    Args:
        device: where.
        masks: (N, h, w) logits over the network's input.
        order: (N,) int64, the masks from the lowest to the uppermost.
        letterbox: how the image lies in the input.

    Returns:
        (H, W) uint16, 1 + the index of the uppermost mask that is positive at a pixel, 0 where none is.
    """
    (height, width), (h, w) = letterbox.image_size, letterbox.content
    # Centres of pixels and cells lie at halves; in grid_sample, the input spans -1 to 1.
    y = (torch.arange(height, device=device) + 0.5) * (2.0 * h / height / letterbox.input_size[0]) - 1.0
    x = (torch.arange(width, device=device) + 0.5) * (2.0 * w / width / letterbox.input_size[1]) - 1.0
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]  # (1, H, W, 2)
    label_map = torch.zeros(height, width, dtype=torch.int32, device=device)
    for start in range(0, len(order), AT_ONCE):
        part = order[start : start + AT_ONCE]
        logits = torch.from_numpy(masks[part]).to(device)[None]
        positive = F.grid_sample(logits, grid, padding_mode="border", align_corners=False)[0] > 0
        # The rank of the uppermost positive mask of these, 0 where none is.
        rank = torch.arange(1, len(part) + 1, device=device, dtype=torch.int32)
        top = (positive * rank[:, None, None]).amax(0)
        labels = torch.from_numpy(np.concatenate([[0], part + 1])).to(device, torch.int32)
        label_map = torch.where(top > 0, labels[top.long()], label_map)
    return label_map.cpu().numpy().astype(np.uint16)
