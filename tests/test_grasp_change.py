"""What changed and what it teaches: masks, verdicts and refusals, on painted scenes and on the tote world."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from grasping import HEIGHT, ITEMS, WIDTH, episode, label_map, picture

from benchmarks.grasp_trials import altered, make_trial, read_trials
from rise_perception.core.errors import DataError
from rise_perception.core.frame import Frame
from rise_perception.core.regions import mask_iou
from rise_perception.grasp_learning.capture.episode import Episode, Grasp, Observation, Outcome
from rise_perception.grasp_learning.labelling.episode_labels import Cause, Verdict
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.labelling.registration import estimate_exposure, estimate_motion

EVERYWHERE = np.ones((HEIGHT, WIDTH), bool)
TRUTH = label_map(1) == 1


def with_image(frame: Frame, image: np.ndarray) -> Frame:
    return replace(frame, image=np.clip(image, 0, 255).astype(np.uint8))


def trial(depth: bool = True):
    before, after = picture(1, 2, 3, depth=depth), picture(2, 3, seed=1, depth=depth)
    rng = np.random.default_rng(0)
    return make_trial("t", before, label_map(1, 2, 3), after, label_map(2, 3), 1, Outcome.SUCCESS, rng)


@pytest.mark.parametrize("depth", [True, False], ids=["RGB-D", "RGB"])
@pytest.mark.parametrize("how", ["exposure", "noise", "shadow", "shift"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_mask_of_what_left_survives_what_cameras_do(how, depth, seed):
    seen = altered(trial(depth), how, np.random.default_rng(seed)).episode
    labels = label_episode(seen)
    if how == "shadow" and not depth and labels.verdict == Verdict.REJECTED:
        return  # colour alone cannot always tell; but it must not teach the shadow
    assert labels.verdict == Verdict.CONFIRMED, labels.reason
    assert len(labels.masks) == 1
    assert mask_iou(labels.masks[0], TRUTH) > 0.85
    assert labels.known[labels.masks[0]].mean() > 0.7


@pytest.mark.parametrize("how", ["exposure", "noise", "shadow", "shift"])
def test_nothing_is_seen_where_nothing_happened(how):
    quiet = replace(
        trial(), episode=episode(picture(1, 2, 3), picture(1, 2, 3, seed=4), outcome=Outcome.EMPTY)
    )
    labels = label_episode(altered(quiet, how, np.random.default_rng(2)).episode)
    assert labels.verdict == Verdict.EMPTY, labels.reason
    assert not labels.teaches
    assert set(labels.unmoved.tolist()) == {1, 2, 3}


def test_a_hard_shadow_that_left_with_its_item_is_no_part_of_the_label():
    """One lamp: the shadow is far darker than any soft one, and of the same depth before and after."""
    before, after = picture(1, 2, 3), picture(2, 3, seed=1)
    image = before.image.astype(np.float32)
    dark = np.zeros((HEIGHT, WIDTH), bool)
    dark[30:80, 40:75] = True
    image[dark & (label_map(1, 2, 3) == 0)] *= 0.12
    nothing = np.zeros((HEIGHT, WIDTH), np.uint16)
    for predicted in (label_map(1, 2, 3), nothing):
        seen = episode(with_image(before, image), after, predicted, outcome=Outcome.SUCCESS)
        labels = label_episode(seen)
        assert labels.teaches, labels.reason
        assert mask_iou(labels.masks[0], TRUTH) > 0.85


def test_a_thin_dark_plate_is_no_shadow():
    """A bracket: its foot stands up, its plate lies 3 mm above the ground; each pixel has a noise of 2 mm."""
    before, after = picture(1, 2, 3), picture(2, 3, seed=1)
    (y0, y1, x0, x1), _, _ = ITEMS[1]
    plate = (slice(y0, y1 - 12), slice(x0, x1))
    image, depth = before.image.astype(np.float32), before.depth.copy()
    image[y0:y1, x0:x1] = (90, 70, 80)
    image[plate] = (30, 15, 45)
    depth[plate] = 0.997 + np.random.default_rng(3).normal(0, 0.002, depth[plate].shape)
    bracket = replace(with_image(before, image), depth=depth)
    for predicted in (label_map(1, 2, 3), np.zeros((HEIGHT, WIDTH), np.uint16)):
        labels = label_episode(episode(bracket, after, predicted, outcome=Outcome.SUCCESS))
        assert labels.teaches, labels.reason
        assert mask_iou(labels.masks[0], TRUTH) > 0.85


def test_what_lies_as_low_as_the_ground_within_an_item_is_no_shadow():
    """A bowl: its bottom has the ground's depth before and after, and is only brighter."""
    before, after = picture(1, 2, 3), picture(2, 3, seed=1)
    (y0, y1, x0, x1), _, _ = ITEMS[1]
    bottom = (slice(y0 + 8, y1 - 8), slice(x0 + 8, x1 - 8))
    image, depth = before.image.astype(np.float32), before.depth.copy()
    image[y0:y1, x0:x1] = (150, 60, 60)
    image[bottom] = after.image[bottom] * 1.7
    depth[bottom] = after.depth[bottom]
    bowl = replace(with_image(before, image), depth=depth)
    labels = label_episode(episode(bowl, after, outcome=Outcome.SUCCESS))
    assert labels.verdict == Verdict.CONFIRMED, labels.reason
    assert labels.masks[0][bottom].mean() > 0.95


def test_a_confirmed_item_and_its_neighbours_that_stayed():
    labels = label_episode(episode(picture(1, 2, 3), picture(2, 3, seed=1)))
    assert (labels.verdict, labels.cause) == (Verdict.CONFIRMED, Cause.AGREES)
    assert mask_iou(labels.masks[0], TRUTH) > 0.9
    assert set(labels.unmoved.tolist()) == {2, 3}
    assert not labels.masks[0][label_map(2, 3) > 0].any()
    np.testing.assert_array_equal(labels.to_after, np.eye(2, 3))


def merged() -> np.ndarray:
    found = label_map(1, 2, 3)
    found[found == 3] = 1
    return found


def split() -> np.ndarray:
    found = label_map(1, 2, 3)
    found[:45][found[:45] == 1] = 4
    return found


def part() -> np.ndarray:
    found = label_map(1, 2, 3)
    found[:45][found[:45] == 1] = 0
    return found


@pytest.mark.parametrize(
    ("predicted", "target", "cause"),
    [
        (merged(), 1, Cause.UNDER_SEGMENTED),
        (split(), 1, Cause.OVER_SEGMENTED),
        (label_map(2, 3), -1, Cause.MISSED),
        (part(), 1, Cause.OUTLINE),
        (np.zeros((HEIGHT, WIDTH), np.uint16), -1, Cause.MISSED),
    ],
    ids=["merged", "split", "missed", "part", "nothing predicted"],
)
@pytest.mark.parametrize("depth", [True, False], ids=["RGB-D", "RGB"])
def test_wrong_predictions_are_corrected(predicted, target, cause, depth):
    before, after = picture(1, 2, 3, depth=depth), picture(2, 3, seed=1, depth=depth)
    labels = label_episode(episode(before, after, predicted, target=target))
    assert (labels.verdict, labels.cause) == (Verdict.CORRECTED, cause), labels.reason
    assert mask_iou(labels.masks[0], TRUTH) > 0.85


def test_a_double_pick_gives_a_mask_for_each_item():
    for outcome, cause in ((Outcome.DOUBLE, Cause.AS_REPORTED), (Outcome.SUCCESS, Cause.NOT_AS_REPORTED)):
        labels = label_episode(episode(picture(1, 2, 3), picture(3, seed=1), outcome=outcome))
        assert (labels.verdict, labels.cause) == (Verdict.DOUBLE, cause), labels.reason
        found = sorted(max(mask_iou(m, label_map(k) == k) for m in labels.masks) for k in (1, 2))
        assert found[0] > 0.85


def test_an_item_that_fell_back_somewhere_else_has_moved():
    after = picture(1, 2, 3, seed=1, moved=(-3, 90))
    labels = label_episode(episode(picture(1, 2, 3), after, outcome=Outcome.DROPPED))
    assert labels.verdict == Verdict.MOVED
    assert mask_iou(labels.masks[0], TRUTH) > 0.85
    assert 1 not in labels.unmoved
    wrong = label_episode(episode(picture(1, 2, 3), after, outcome=Outcome.EMPTY))
    assert (wrong.verdict, wrong.cause) == (Verdict.MOVED, Cause.NOT_AS_REPORTED)


def shifted(frame: Frame, far: float) -> Frame:
    matrix = np.array([[1, 0, far], [0, 1, 0.0]])
    return replace(
        frame, image=cv2.warpAffine(frame.image, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    )


def arm(frame: Frame) -> Frame:
    image = frame.image.copy()
    image[:70, 125:150] = (20, 20, 25)
    depth = None if frame.depth is None else frame.depth.copy()
    if depth is not None:
        depth[:70, 125:150] = 0.5
    return replace(frame, image=image, depth=depth)


@pytest.mark.parametrize(
    ("after", "outcome", "cause"),
    [
        (picture(1, 2, 3, seed=1), Outcome.SUCCESS, Cause.NOTHING_CHANGED),
        (picture(1, 2, 3, seed=1), Outcome.DOUBLE, Cause.NOTHING_CHANGED),
        (picture(1, 3, seed=1), Outcome.SUCCESS, Cause.TARGET_STAYED),
        (shifted(picture(2, 3, seed=1), 9.0), Outcome.SUCCESS, Cause.CAMERA_MOVED),
        (arm(picture(2, 3, seed=1)), Outcome.SUCCESS, Cause.ROBOT_IN_VIEW),
    ],
    ids=["lie", "lie about two", "another item left", "camera moved", "arm in view"],
)
def test_what_teaches_nothing_is_rejected_with_its_reason(after, outcome, cause):
    labels = label_episode(episode(picture(1, 2, 3), after, outcome=outcome))
    assert (labels.verdict, labels.cause) == (Verdict.REJECTED, cause), labels.reason
    assert labels.reason
    assert not labels.teaches
    assert len(labels.unmoved) == 0


def test_black_white_and_random_pictures_are_rejected():
    before = picture(1, 2, 3)
    noise = np.random.default_rng(3).integers(0, 256, before.image.shape).astype(float)
    for image in (np.zeros_like(before.image), np.full_like(before.image, 255), noise, before.image * 0.2):
        for frame in (with_image(before, image), replace(with_image(before, image), depth=None)):
            for outcome in (Outcome.SUCCESS, Outcome.UNKNOWN):
                seen = episode(before, replace(frame, stamp=10**12), outcome=outcome)
                assert label_episode(seen).verdict == Verdict.REJECTED


def test_the_robot_is_left_out_where_a_mask_says_where_it_is():
    after = arm(picture(2, 3, seed=1))
    robot = np.zeros((HEIGHT, WIDTH), bool)
    robot[:70, 125:150] = True
    labels = label_episode(episode(picture(1, 2, 3), after, robot=robot))
    assert labels.verdict == Verdict.CONFIRMED, labels.reason
    assert not labels.known[robot].any()
    hiding = np.zeros((HEIGHT, WIDTH), bool)
    hiding[20:70, 15:35] = True
    labels = label_episode(episode(picture(1, 2, 3), picture(2, 3, seed=1), robot=hiding))
    assert (labels.verdict, labels.cause) == (Verdict.REJECTED, Cause.HIDDEN)


def test_without_predictions_an_item_still_gets_its_mask():
    before, after = picture(1, 2, 3), picture(2, 3, seed=1)
    labels = label_episode(Episode(Observation(before), Observation(after), Grasp("g", -1, Outcome.SUCCESS)))
    assert (labels.verdict, labels.cause) == (Verdict.CORRECTED, Cause.MISSED)
    assert mask_iou(labels.masks[0], TRUTH) > 0.9


def test_motion_and_exposure_are_measured():
    before, after = picture(1, 2, 3), picture(2, 3, seed=1)
    angle = np.deg2rad(1.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 2.0], [np.sin(angle), np.cos(angle), -1.0]])
    image = cv2.warpAffine(after.image, turn, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
    found = estimate_motion(before.image, image, EVERYWHERE)
    corners = np.array([[0, 0, 1], [WIDTH, 0, 1], [0, HEIGHT, 1], [WIDTH, HEIGHT, 1]])
    assert np.abs(corners @ (found.matrix - turn).T).max() < 0.7
    assert estimate_motion(before.image, after.image, EVERYWHERE).shift == 0
    brighter = with_image(after, after.image * 1.2 + 5).image
    exposure = estimate_exposure(before.image, brighter, EVERYWHERE)
    np.testing.assert_allclose(exposure.gain, 1.2, atol=0.05)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (40, 40)])
def test_odd_sizes_do_not_crash(size):
    frame = Frame(np.full((*size, 3), 100, np.uint8), np.ones(size, np.float32))
    labels = label_episode(Episode(Observation(frame), Observation(frame), Grasp("g")))
    assert labels.verdict in (Verdict.EMPTY, Verdict.REJECTED)


def test_sides_that_do_not_fit_are_refused():
    small = Frame(np.zeros((10, 10, 3), np.uint8), stamp=5)
    with pytest.raises(DataError, match="differ in size"):
        Episode(Observation(small), Observation(picture(1)), Grasp("g"))
    with pytest.raises(DataError, match="older"):
        Episode(Observation(picture(1, seed=3)), Observation(picture(1)), Grasp("g"))
    with pytest.raises(DataError, match="robot mask"):
        Observation(small, None, np.zeros((10, 10), np.uint8))


@pytest.mark.slow
def test_the_tote_world(tmp_path):
    from rise_perception.simulation.recording import write_sequence
    from rise_perception.simulation.sequence import SequenceSettings

    write_sequence(tmp_path / "picks", SequenceSettings(picks=3, seed=1003, split="train", kind="tote"))
    trials = list(read_trials(tmp_path / "picks"))
    assert len(trials) == 3
    episode_labels = [label_episode(trial.episode) for trial in trials]
    assert any(labels.teaches for labels in episode_labels)
    for trial, labels in zip(trials, episode_labels, strict=True):
        assert labels.verdict in trial.expected | {Verdict.REJECTED}, (trial.name, labels.reason)
        for mask in labels.masks:
            assert max(mask_iou(mask, trial.before == k) for k in ITEMS | dict.fromkeys(range(1, 30))) > 0.5
    with pytest.raises(DataError, match="rise scenes sequence"):
        next(read_trials(tmp_path / "nothing"))
