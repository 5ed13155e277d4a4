"""Lessons as learning takes them: labelled images, cut-outs, pairs."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from grasping import HEIGHT, WIDTH, episode, label_map, picture

from rise_perception.benchmarks.interaction_trials import overlap
from rise_perception.interaction.episode import Episode, Observation
from rise_perception.interaction.labels import taught_image, unmoved_masks
from rise_perception.interaction.reconcile import learn_from
from rise_perception.learning.bank import cut_outs


def test_a_lesson_is_a_labelled_image_that_the_bank_can_cut():
    seen = episode(picture(1, 2, 3), picture(1, 3, seed=1), target=2)
    sample = taught_image("episode", seen, learn_from(seen), category=1)
    assert sample.masks.shape == (1, HEIGHT, WIDTH)
    assert sample.classes.tolist() == [1]
    np.testing.assert_array_equal(sample.image, seen.before.frame.image)
    (cut,) = cut_outs(sample, frozenset())
    assert cut.mask.shape[0] in range(46, 55)
    assert np.nanmedian(cut.relief) < -0.1, "the item stands out towards the camera"


def test_unmoved_objects_are_pairs_also_when_the_camera_shifted():
    after = picture(2, 3, seed=1)
    shift = np.array([[1, 0, 2.0], [0, 1, -1.0]])
    image = cv2.warpAffine(after.image, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    depth = cv2.warpAffine(
        after.depth, shift, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT, flags=cv2.INTER_NEAREST
    )
    seen = episode(picture(1, 2, 3), replace(after, image=image, depth=depth))
    lesson = learn_from(seen)
    first, second = unmoved_masks(seen, lesson)
    assert lesson.unmoved.tolist() == [2, 3]
    for label, a, b in zip((2, 3), first, second, strict=True):
        truth = label_map(label) == label
        assert overlap(a, truth) == 1
        assert overlap(b, np.roll(truth, (-1, 2), (0, 1))) > 0.93


def test_without_predictions_there_are_no_pairs():
    seen = episode(picture(1, 2, 3), picture(2, 3, seed=1))
    bare = Episode(Observation(seen.before.frame), seen.after, seen.grasp)
    lesson = learn_from(bare)
    assert [len(masks) for masks in unmoved_masks(bare, lesson)] == [0, 0]
    assert len(taught_image("bare", bare, lesson).masks) == 1
