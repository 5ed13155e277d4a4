"""Collages: z-order, fakes, places, and the same picture for the same seed."""

from __future__ import annotations

import numpy as np
import torch
from tiny_data import cut_out, labelled, rectangles

from rise_perception.data.coco import LabelledImage
from rise_perception.synthesis.backgrounds import shows_surroundings, without_objects
from rise_perception.synthesis.collage import (
    CollageConfig,
    Piece,
    bent,
    faked,
    make_collage,
    paste_pieces,
)

SIZE = (64, 96)
SHARP = CollageConfig(feather=(0.1, 0.1))


def ground(depth: bool = False) -> LabelledImage:
    image = np.full((*SIZE, 3), 60, np.uint8)
    return LabelledImage.unlabelled("ground", image, np.full(SIZE, 1.0, np.float32) if depth else None)


def block(side: int, colour: tuple[int, int, int], relief: float | None = None):
    return cut_out(np.ones((side, side), bool), colour, relief)


def test_masks_are_what_stays_visible_in_z_order():
    below = labelled(rectangles([(0, 0, 30, 30)]), depth=False)
    first, second = Piece(block(20, (200, 0, 0)), 10, 10, False), Piece(block(20, (0, 200, 0)), 20, 20, False)
    collage = paste_pieces(below, [first, second], SHARP)
    assert collage.masks.sum(0).max() == 1  # a pixel has one owner
    assert collage.masks[0].sum() == 900 - 400  # 20 x 20 of it lie below the first
    assert collage.masks[1].sum() == 400 - 100
    assert collage.masks[2].sum() == 400
    assert len(set(collage.ids.tolist())) == 3
    assert (collage.image[25:35, 25:35, 1] > 150).all()  # inside the second, over the first


def test_a_fake_hides_and_carries_no_label():
    fake = faked(block(20, (200, 0, 0)), ground())
    pieces = [Piece(block(20, (200, 0, 0)), 10, 10, False), Piece(fake, 20, 20, True)]
    collage = paste_pieces(ground(), pieces, SHARP)
    assert len(collage.masks) == 1
    assert collage.masks[0].sum() == 300
    assert (collage.image[22:38, 22:38] == 60).all()


def test_every_label_of_a_collage_is_of_an_object_that_can_be_seen():
    torch.manual_seed(3)
    red, sharp = block(16, (220, 10, 10)), CollageConfig(elastic=0, feather=(0.1, 0.1))
    for _ in range(6):
        collage = make_collage(ground(), [red], 4, sharp, [ground()])
        red_there = collage.image[..., 0].astype(int) - collage.image[..., 2] > 90
        labels = collage.masks.any(0)
        assert red_there[~labels].sum() == 0  # nothing red without a label
        assert red_there[labels].mean() > 0.6  # fakes are grey, and take no label; edges are soft


def test_the_same_seed_gives_the_same_bytes():
    cuts = [block(16, (220, 10, 10), 0.1), block(10, (10, 220, 10), 0.1)]
    made = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        made.append(make_collage(ground(True), cuts, 5, CollageConfig(), [ground(True)]))
    assert (made[0].image == made[1].image).all()
    assert (made[0].masks == made[1].masks).all()
    assert (made[0].depth == made[1].depth).all()
    assert made[0].masks.shape != made[2].masks.shape or (made[0].image != made[2].image).any()


def test_centres_stay_in_the_region():
    torch.manual_seed(0)
    region = np.zeros(SIZE, bool)
    region[20:44, 60:80] = True
    still = CollageConfig(fakes=0, elastic=0)
    for _ in range(5):
        collage = make_collage(ground(), [block(8, (220, 10, 10))], 3, still, [], region)
        for mask in collage.masks:
            y, x = (axis.mean() for axis in np.nonzero(mask))
            if mask.sum() > 60:  # of one that is hidden in part the middle lies elsewhere
                assert 16 <= y <= 48
                assert 56 <= x <= 84


def test_depth_rises_where_an_object_lies_and_not_where_a_fake_does():
    object_, fake = block(12, (200, 0, 0), relief=0.2), faked(block(12, (200, 0, 0), 0.2), ground(True))
    collage = paste_pieces(ground(True), [Piece(object_, 5, 5, False), Piece(fake, 40, 60, True)], SHARP)
    assert collage.depth is not None
    assert np.allclose(collage.depth[5:17, 5:17], 0.8)
    assert np.allclose(collage.depth[40:52, 60:72], 1.0)


def test_bending_moves_the_outline_and_keeps_the_size():
    torch.manual_seed(1)
    square = block(40, (200, 0, 0), 0.1)
    shape = bent(square)
    assert 0.75 < shape.mask.sum() / 1600 < 1.3
    assert not shape.mask.all()
    assert shape.relief is not None
    assert shape.relief.shape == shape.mask.shape


def test_objects_are_painted_out_with_what_surrounds_them():
    image = np.full((*SIZE, 3), 60, np.uint8)
    masks = rectangles([(20, 20, 50, 45)])
    image[masks[0]] = (250, 0, 0)
    depth = np.where(masks[0], 0.7, 1.0).astype(np.float32)
    empty = without_objects(
        LabelledImage("x", image, depth, masks, np.zeros(1, np.int64), np.zeros(1, np.int64))
    )
    assert empty is not None
    assert len(empty.masks) == 0
    assert np.abs(empty.image.astype(int) - 60).max() < 10
    assert empty.depth is not None
    assert np.allclose(empty.depth, 1.0, atol=0.02)


def test_a_picture_that_items_cover_tells_nothing_of_the_place():
    def covered(height: int) -> LabelledImage:
        return labelled(rectangles([(0, 0, SIZE[1], height)]), depth=True)

    assert without_objects(covered(SIZE[0])) is None
    assert without_objects(covered(SIZE[0] - 6)) is None  # what the margin leaves is too little
    assert without_objects(covered(SIZE[0] // 2)) is not None
    assert not shows_surroundings(covered(SIZE[0]).masks)
    assert shows_surroundings(covered(SIZE[0] // 2).masks)
    assert shows_surroundings(np.zeros((0, *SIZE), bool))
