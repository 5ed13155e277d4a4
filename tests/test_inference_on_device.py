"""Letterbox and masks in torch, as a GPU does them: the same as OpenCV's on the CPU."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from rise_perception.core.letterbox import Letterbox
from rise_perception.inference.engines.feeds import stored_frames
from rise_perception.inference.gpu_preprocess import AT_ONCE, make_input_on, paint_on
from rise_perception.inference.postprocess import _paint
from rise_perception.inference.segmenter import Segmenter
from rise_perception.network.inputs import make_input

INPUT = (240, 320)
CPU = torch.device("cpu")


def blobs(count: int) -> np.ndarray:
    """(count, 60, 80) logits that are positive in smooth spots anywhere, some across the border."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :80]
    centres = rng.uniform((0, 0), (60, 80), (count, 2))
    distance = np.hypot(y - centres[:, 0, None, None], x - centres[:, 1, None, None])
    return (rng.uniform(3, 15, count)[:, None, None] - distance).astype(np.float32)


@pytest.mark.parametrize("size", [(480, 640), (240, 320), (481, 637), (120, 160), (600, 300), (230, 500)])
@pytest.mark.parametrize("count", [1, AT_ONCE, 2 * AT_ONCE + 3])
def test_masks_are_painted_as_on_the_cpu(size: tuple[int, int], count: int) -> None:
    masks, box = blobs(count), Letterbox(size, INPUT)
    order = np.random.default_rng(1).permutation(count)
    expected, got = _paint(masks, order, box), paint_on(CPU, masks, order, box)
    assert got.shape == size
    assert got.dtype == np.uint16
    assert len(np.unique(expected)) > min(count, 5)
    # OpenCV places pixels in steps of 1/32: what lies on an edge may fall to either side, nothing else.
    near_edge = cv2.dilate(expected, np.ones((3, 3))) != cv2.erode(expected, np.ones((3, 3)))
    assert (expected == got)[~near_edge].all()
    assert (expected != got).mean() < 0.005


def test_nothing_to_paint_is_an_empty_label_map() -> None:
    nothing = paint_on(CPU, blobs(3)[:0], np.zeros(0, np.int64), Letterbox((48, 64), INPUT))
    assert nothing.shape == (48, 64)
    assert not nothing.any()


@pytest.mark.parametrize("mode", ["rgb", "rgbd"])
def test_the_input_is_that_of_the_cpu(mode: str) -> None:
    frame = stored_frames((360, 400), 1)[0]
    box = Letterbox((360, 400), INPUT)
    fitted = box.fit(frame.depth, nearest=True, border=0)
    expected = make_input(box.fit(frame.image), fitted, mode)
    got = make_input_on(CPU, box, mode, frame.image, frame.depth)
    assert got.shape == (1, *expected.shape)
    difference = np.abs(got[0].numpy() - expected)
    assert difference.max() < 1.05 / 255 / 0.224  # a grey level
    assert (difference > 1e-3).mean() < 0.01
    assert difference[3:].sum() == 0  # depth is the very same


def test_a_segmenter_gives_the_same_instances_with_both() -> None:
    frame = stored_frames((200, 300), 1)[0]
    segmenter = Segmenter.load("rise_small_rgbd", "cpu")
    expected = segmenter(frame.image, frame.depth)
    segmenter.models[0]._on_gpu = True  # the very code of a GPU, on the CPU
    got = segmenter(frame.image, frame.depth)
    assert len(expected) == len(got) > 0
    # Two scores that are nearly equal may change places, and with them the labels.
    assert ((expected.label_map > 0) == (got.label_map > 0)).mean() > 0.99
    np.testing.assert_allclose(got.scores, expected.scores, atol=0.01)
