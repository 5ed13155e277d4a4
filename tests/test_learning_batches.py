"""From labelled images to batches: one geometry for all layers, exact targets, an order that repeats."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import tiny_config

from rise_perception.data.coco import LabelledImage
from rise_perception.learning.augmentation import ColourAugmentation, GeometricAugmentation, augment
from rise_perception.learning.batches import SeededOrder, collate, make_targets, to_network
from rise_perception.learning.boxes import to_corners


def labelled(height: int = 64, width: int = 96, depth: bool = True) -> LabelledImage:
    """Two objects; object i is (50 + 50 i) bright and (1 + i) metres away."""
    masks = np.zeros((2, height, width), bool)
    masks[0, height // 8 : height // 2, width // 8 : width // 3] = True
    masks[1, height // 3 : height - height // 8, width // 2 : width - width // 6] = True
    image = np.zeros((height, width, 3), np.uint8)
    metres = np.full((height, width), 9.0, np.float32)
    for index, mask in enumerate(masks):
        image[mask] = 50 + 50 * index
        metres[mask] = 1.0 + index
    classes = np.array([1, 0])
    return LabelledImage("x.png", image, metres if depth else None, masks, classes, np.array([4, 7]))


@pytest.mark.parametrize("seed", range(8))
def test_geometry_moves_image_depth_and_masks_alike(seed: int) -> None:
    torch.manual_seed(seed)
    got = augment(labelled(), GeometricAugmentation(rotation=30.0), ColourAugmentation(0.0))
    assert got.depth is not None
    assert got.image.dtype == np.uint8
    assert got.image.shape == (64, 96, 3)
    for mask, identity in zip(got.masks, got.ids, strict=True):
        index = [4, 7].index(identity)
        assert (got.depth[mask] == 1.0 + index).all()
        bright = got.image[mask].astype(int)
        # Bilinear at the rim, exact inside.
        assert np.median(bright) == 50 + 50 * index
        assert (np.abs(bright - (50 + 50 * index)) <= 1).mean() > 0.6
    # Whatever has an object's depth has its mask: nothing of it is lost.
    for index, identity in enumerate((4, 7)):
        if identity in got.ids:
            assert np.array_equal(got.depth == 1.0 + index, got.masks[got.ids.tolist().index(identity)])


def test_augmentation_varies_and_drops_what_left_the_frame() -> None:
    torch.manual_seed(0)
    geometry = GeometricAugmentation((0.5, 4.0))
    results = [augment(labelled(), geometry, ColourAugmentation(0.0)) for _ in range(40)]
    assert len({r.image.tobytes() for r in results}) == 40
    assert {len(r.masks) for r in results} >= {1, 2}
    for r in results:
        assert (r.masks.sum((1, 2)) >= 30).all()
        assert len(r.classes) == len(r.ids) == len(r.masks)


def test_colour_changes_the_image_only() -> None:
    torch.manual_seed(0)
    still = GeometricAugmentation((1.0, 1.0), flip=0.0, rotation=0.0)
    sample = labelled()
    got = augment(sample, still, ColourAugmentation(1.0))
    assert got.depth is not None
    assert not np.array_equal(got.image, sample.image)
    assert np.array_equal(got.masks, sample.masks)
    assert np.array_equal(got.depth, sample.depth)
    assert np.array_equal(augment(sample, still, ColourAugmentation(0.0)).image, sample.image)


def test_colour_acts_on_channels() -> None:
    torch.manual_seed(0)
    image = torch.full((3, 8, 8), 120, dtype=torch.uint8)
    image[0] = 200
    shades = torch.stack([ColourAugmentation(1.0)(image).float().mean((1, 2)) for _ in range(60)])
    assert (shades.std(0) > 5).all()
    assert (shades.max(1).values - shades.min(1).values > 20).any()  # still coloured
    assert shades.argmax(1).eq(0).float().mean() > 0.7  # red stays red


def test_targets_are_a_quarter_of_the_input_by_majority() -> None:
    masks = torch.zeros(3, 16, 24, dtype=torch.bool)
    masks[0, 0:8, 4:12] = True
    masks[1, 0:2, 20:24] = True  # half of one cell
    masks[2, 12, 1] = True  # a sixteenth of one
    targets = make_targets(masks, torch.tensor([1, 0, 0]), torch.arange(3))
    assert targets.masks.shape == (3, 4, 6)
    assert targets.masks[0].nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert targets.masks[1].nonzero().tolist() == [[0, 5]]
    assert not targets.masks[2].any()
    # Boxes bound the full masks.
    expected = torch.tensor(
        [[4 / 24, 0, 12 / 24, 8 / 16], [20 / 24, 0, 1, 2 / 16], [1 / 24, 12 / 16, 2 / 24, 13 / 16]]
    )
    torch.testing.assert_close(to_corners(targets.boxes), expected)


def test_boxes_and_masks_fit_the_letterboxed_image() -> None:
    """A portrait image in a landscape input: the object stays on its pixels."""
    config = tiny_config(input="rgbd")
    image, padding, targets = to_network(labelled(120, 60), config)
    assert image.shape == (6, 64, 96)
    assert padding is not None
    assert padding[:, 32:].all()
    assert not padding[:, :32].any()
    corners = to_corners(targets.boxes) * torch.tensor([96, 64, 96, 64])
    scale = 64 / 120
    expected = torch.tensor([[7, 15, 20, 60], [30, 40, 50, 105]]) * scale
    assert (corners - expected).abs().max() <= 1.0
    assert targets.classes.tolist() == [1, 0]
    assert targets.ids.tolist() == [4, 7]
    # Depth is valid on the image and nowhere else.
    assert (image[5][~padding] == 1).all()
    assert (image[5][padding] == 0).all()


def test_objects_that_vanish_at_the_networks_scale_are_dropped() -> None:
    sample = labelled(640, 960, depth=False)
    masks = np.concatenate([sample.masks, np.zeros((1, 640, 960), bool)])
    masks[2, :, 301] = True  # one column of ten
    sample = LabelledImage("x", sample.image, None, masks, np.array([1, 0, 1]), np.array([4, 7, 9]))
    _, _, targets = to_network(sample, tiny_config())
    assert targets.ids.tolist() == [4, 7]
    assert (targets.boxes[:, 2:] > 0).all()


def test_no_object_and_no_padding() -> None:
    sample = LabelledImage(
        "x", np.zeros((64, 96, 3), np.uint8), None, np.zeros((0, 64, 96), bool), *[np.zeros(0, np.int64)] * 2
    )
    batch = collate([[to_network(sample, tiny_config())] * 2])
    assert batch.padding is None
    assert batch.images.shape == (2, 3, 64, 96)
    assert [len(t) for t in batch.targets] == [0, 0]
    mixed = collate([[to_network(sample, tiny_config()), to_network(labelled(64, 64, False), tiny_config())]])
    assert mixed.padding is not None
    assert mixed.padding.sum((1, 2)).tolist() == [0, 64 * 32]


def test_the_order_repeats_from_any_position() -> None:
    whole = list(SeededOrder(7, 30, 0, seed=3))
    assert list(SeededOrder(7, 30, 11, seed=3)) == whole[11:]
    assert len(SeededOrder(7, 30, 11, seed=3)) == 19
    for epoch in range(4):  # every image once an epoch, in another order
        assert sorted(i for _, i in whole[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert [i for _, i in whole[:7]] != [i for _, i in whole[7:14]]
    assert [i for _, i in SeededOrder(7, 7, 0, seed=4)] != [i for _, i in whole[:7]]
