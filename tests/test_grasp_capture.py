"""Frames around a grasp: sharp, settled, without the arm; and what happens to events that make no sense."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from grasping import HEIGHT, WIDTH, label_map, picture

from benchmarks.grasp_trials import from_label_map
from rise_perception.core.errors import DataError
from rise_perception.core.frame import Frame
from rise_perception.grasp_learning.capture.episode import Calibration, Outcome, Phase, Referred
from rise_perception.grasp_learning.capture.frame_buffer import FrameBuffer, changed, measure, rim_changed
from rise_perception.grasp_learning.capture.grasp_tracker import Attempts, CaptureSettings, Gripper

SECOND = 10**9
SETTINGS = CaptureSettings(window=0.5, approach=3.0, timeout=3.0, grasp_timeout_s=30.0, history=8.0)


class Cell:
    """A camera at 10 Hz over a cell in which a robot works; the clock goes with the frames."""

    def __init__(self, settings: CaptureSettings = SETTINGS, predicts: bool = False) -> None:
        self.attempts, self.predicts = Attempts(settings), predicts
        self.items = (1, 2, 3)
        self.number = 0
        self.now = 100 * SECOND
        self.frames: dict[int, Frame] = {}

    def show(
        self,
        seconds: float,
        arm: float | None = None,
        blur: float = 0,
        moving: bool = False,
        robot: np.ndarray | None = None,
        late: int = 0,
    ):
        """Frames for a while; an arm stands at column ``arm`` or, if ``moving``, comes in from the right.

        The mask ``robot`` comes with each frame, or that of ``late`` frames ago after it.
        """
        for step in range(round(seconds * 10)):
            self.now += SECOND // 10
            self.number += 1
            frame = picture(*self.items, seed=self.number)
            image = frame.image.copy()
            if arm is not None:
                x = round(arm - 6 * step if moving else arm)
                image[40:60, max(0, x) :] = (15, 15, 20)
            if blur:
                image = cv2.GaussianBlur(image, (0, 0), blur)
            frame = replace(frame, image=image, stamp=self.now)
            self.frames[self.now] = frame
            if robot is not None and late == 0:
                self.attempts.robot_mask(self.now, robot)
            self.attempts.frame(frame)
            if self.predicts:
                self.attempts.predictions(self.now, from_label_map(label_map(*self.items)), "model-1")
            if robot is not None and late > 0:
                self.attempts.robot_mask(self.now - late * SECOND // 10, robot)

    def say(
        self, phase: Phase, grasp_id: str = "g", target: int = 1, outcome: Outcome = Outcome.UNKNOWN
    ) -> str:
        return self.attempts.event(grasp_id, phase, target, outcome, self.now)

    def finished(self):
        return self.attempts.take_finished()


def grasp(cell: Cell, outcome: Outcome = Outcome.SUCCESS) -> None:
    cell.show(1.0)
    cell.say(Phase.BEFORE)
    cell.show(1.0, arm=150, moving=True)
    cell.say(Phase.CLOSED)
    cell.show(0.5, arm=90)
    cell.items = (2, 3)
    cell.say(Phase.LIFTED, outcome=outcome)
    cell.show(0.5, arm=90, moving=True)


def test_a_grasp_becomes_an_episode_of_the_free_scene():
    cell = Cell()
    grasp(cell)
    cell.say(Phase.AFTER, outcome=Outcome.SUCCESS)
    cell.show(2.0)
    (found,) = cell.finished()
    assert found.before.frame.stamp <= 101 * SECOND
    assert found.grasp.outcome == Outcome.SUCCESS
    assert found.grasp.target_id == 1
    for side, items in ((found.before, (1, 2, 3)), (found.after, (2, 3))):
        off = np.abs(side.frame.image.astype(int) - picture(*items).image.astype(int))
        assert np.median(off) < 6
        assert off.max() < 40, "the arm, or another item, is in the frame"
    assert cell.attempts.under_way == []


def test_the_sharpest_settled_frame_is_taken_and_not_the_newest():
    cell = Cell(replace(SETTINGS, window=1.0))
    cell.show(0.5)
    sharp = cell.now
    cell.show(0.4, blur=1.5)
    cell.say(Phase.BEFORE)
    cell.show(0.5, arm=90)
    cell.items = (2, 3)
    cell.say(Phase.AFTER)
    cell.show(0.8, blur=2.0)
    first_sharp = cell.now
    cell.show(1.5)
    (found,) = cell.finished()
    assert found.before.frame.stamp <= sharp
    assert found.after.frame.stamp > first_sharp


def test_it_waits_until_the_arm_has_left():
    cell = Cell()
    grasp(cell)
    cell.say(Phase.AFTER, outcome=Outcome.SUCCESS)
    cell.show(1.5, arm=100)  # it stands still, and is in view
    assert cell.finished() == []
    left = cell.now
    cell.show(1.0)
    (found,) = cell.finished()
    assert found.after.frame.stamp > left


@pytest.mark.parametrize("closed_is_said", [True, False])
def test_the_next_grasp_is_not_taken_for_a_part_of_this_one(closed_is_said):
    """A quick robot: the next item is gone before this grasp's frame has its predictions."""
    cell = Cell()
    grasp(cell)
    cell.say(Phase.AFTER, outcome=Outcome.SUCCESS)
    cell.show(0.3)
    cell.say(Phase.BEFORE, "next", 2)
    free = cell.now
    if closed_is_said:
        cell.say(Phase.CLOSED, "next", 2)
    cell.items = (3,)
    cell.show(0.1, arm=90)
    cell.say(Phase.AFTER, "next", 2)
    cell.show(0.7)
    (found,) = cell.finished()
    assert (found.grasp.grasp_id, found.after.frame.stamp <= free) == ("g", True)
    cell.show(2.0)
    (found,) = cell.finished()
    assert found.grasp.grasp_id == "next"


def test_a_camera_that_pauses_after_a_grasp_loses_nothing():
    cell = Cell()
    grasp(cell)
    cell.say(Phase.AFTER, outcome=Outcome.SUCCESS)
    cell.show(0.3)
    cell.now += 20 * SECOND
    cell.show(0.1)
    (found,) = cell.finished()
    assert found.after.frame.stamp < cell.now - 10 * SECOND


def test_at_the_end_of_a_recording_grasps_end_or_are_given_up():
    cell = Cell()
    grasp(cell)
    cell.say(Phase.AFTER, outcome=Outcome.SUCCESS)
    cell.show(0.3)
    cell.say(Phase.BEFORE, "next", 2)
    assert cell.finished() == []
    cell.attempts.finish()
    assert [episode.grasp.grasp_id for episode in cell.finished()] == ["g"]
    assert cell.attempts.discarded == {"never ended": 1}
    assert cell.attempts.under_way == []


@pytest.mark.parametrize(
    ("arm", "moving", "reason"),
    [(100, False, "the arm stayed in view"), (900, True, "the scene never settled after the grasp")],
)
def test_it_gives_up_in_time_and_says_why(arm, moving, reason):
    cell = Cell()
    grasp(cell)
    cell.say(Phase.AFTER)
    if moving:
        for step in range(40):
            cell.show(0.1, arm=30 + step % 2 * 60)
    else:
        cell.show(4.0, arm=arm)
    assert cell.finished() == []
    assert cell.attempts.discarded == {reason: 1}
    assert cell.attempts.reasons["g"] == reason


def test_a_robot_mask_lets_the_arm_stay():
    cell = Cell()
    robot = np.zeros((HEIGHT, WIDTH), bool)
    robot[38:62, 98:] = True
    cell.show(1.0, robot=robot)
    cell.say(Phase.BEFORE)
    cell.show(0.5, arm=100, robot=robot)
    cell.items = (2, 3)
    cell.say(Phase.AFTER)
    cell.show(1.5, arm=100, robot=robot)
    (found,) = cell.finished()
    np.testing.assert_array_equal(found.after.robot, robot)


MASKED = replace(SETTINGS, masks=True)


def arm_at(column: int) -> np.ndarray:
    """The mask of an arm that reaches in from the right."""
    robot = np.zeros((HEIGHT, WIDTH), bool)
    robot[38:62, column - 2 :] = True
    return robot


def test_masks_that_come_after_their_frames_are_waited_for():
    """A mask that is computed from a picture is always later; here by more than the window."""
    cell = Cell(MASKED, predicts=True)
    cell.show(1.5, arm=100, robot=arm_at(100), late=7)
    cell.say(Phase.BEFORE)
    cell.show(0.7, robot=arm_at(100), late=7)
    cell.items = (2, 3)
    cell.say(Phase.AFTER)
    cell.show(0.7, arm=130)
    assert cell.finished() == []
    cell.show(0.5, arm=130, robot=arm_at(130), late=7)
    (found,) = cell.finished()
    np.testing.assert_array_equal(found.before.robot, arm_at(100))
    np.testing.assert_array_equal(found.after.robot, arm_at(130))


def test_what_only_the_robot_moves_is_settled_as_soon_as_the_masks_say_so():
    cell = Cell(MASKED, predicts=True)
    cell.show(1.0)
    cell.say(Phase.BEFORE)
    cell.items = (2, 3)
    cell.show(0.1, arm=90)
    cell.say(Phase.AFTER)
    for step in range(10):  # the arm swings, and each mask comes three frames late
        cell.show(0.1, arm=120 - step % 2 * 30, robot=arm_at(90), late=3)
    (found,) = cell.finished()
    np.testing.assert_array_equal(found.after.robot, arm_at(90))


def test_a_mask_that_never_comes_is_not_waited_for_for_ever():
    cell = Cell(MASKED, predicts=True)
    grasp(cell)
    cell.say(Phase.AFTER, outcome=Outcome.SUCCESS)
    cell.show(0.8)
    assert cell.finished() == []
    cell.show(0.4)
    (found,) = cell.finished()
    assert found.after.robot is None


def test_each_frame_has_the_mask_that_is_nearest_in_time():
    buffer = FrameBuffer(5.0, 0.5)
    frames = [buffer.add(replace(picture(1), stamp=SECOND + step * SECOND // 20)) for step in range(4)]
    masks = [arm_at(100 + 10 * step) for step in range(4)]
    buffer.mask(frames[1].stamp, masks[1])
    assert [frame.robot is masks[1] for frame in frames] == [True] * 4
    buffer.mask(frames[2].stamp, masks[2])
    assert [frame.robot is masks[2] for frame in frames] == [False, False, True, True]
    buffer.mask(frames[3].stamp, np.zeros((5, 5), bool))  # of another camera
    assert frames[3].robot is masks[2]
    assert buffer.add(replace(picture(1), stamp=3 * SECOND)).robot is None


def test_an_episode_has_the_stamps_the_calibration_and_the_versions_of_its_sides():
    cell = Cell()
    calibration = Calibration("plumb_bob", (0.1,) * 5, (0.0,) * 9, (1.0,) * 12)
    cell.show(0.5)
    stamps = {Phase.BEFORE: cell.now}
    cell.say(Phase.BEFORE)
    cell.attempts.predictions(cell.now, from_label_map(label_map(1, 2, 3)), "model-1")
    for phase in (Phase.CLOSED, Phase.LIFTED):
        cell.show(0.2, arm=90)
        stamps[phase] = cell.now
        cell.say(phase)
    cell.items = (2, 3)
    stamps[Phase.AFTER] = cell.now
    cell.say(Phase.AFTER)
    cell.show(0.3)
    cell.now += SECOND // 10
    cell.attempts.frame(replace(picture(2, 3, seed=77), stamp=cell.now), calibration)
    cell.attempts.predictions(cell.now, from_label_map(label_map(2, 3)), "model-2")
    cell.show(0.8)
    (found,) = cell.finished()
    assert found.grasp.stamps == stamps
    assert (found.before.model_version, found.after.model_version) == ("model-1", "model-2")
    assert (found.before.calibration, found.after.calibration) == (None, calibration)


def test_an_id_that_is_used_again_begins_without_an_old_reason():
    cell = Cell()
    cell.show(1.0)
    cell.say(Phase.BEFORE)
    cell.say(Phase.ABORTED)
    assert cell.attempts.reasons == {"g": "aborted"}
    cell.say(Phase.BEFORE)
    assert cell.attempts.reasons == {}


def test_frames_with_predictions_are_preferred_and_may_be_late_or_early():
    cell = Cell()
    cell.show(0.8)
    stamp = cell.now - 2 * SECOND // 10
    truth = from_label_map(label_map(1, 2, 3))
    cell.say(Phase.BEFORE)
    cell.attempts.predictions(stamp, truth, "model-1")
    cell.show(0.5, arm=90)
    cell.items = (2, 3)
    cell.say(Phase.AFTER)
    cell.show(0.3)
    cell.attempts.predictions(cell.now + SECOND // 10, from_label_map(label_map(2, 3)), "model-1")
    cell.show(1.0)
    (found,) = cell.finished()
    assert found.before.frame.stamp == stamp
    assert found.before.instances is truth
    assert found.model_version == "model-1"
    assert found.after.instances is not None
    assert set(found.after.instances.labels.tolist()) == {2, 3}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"grasp_id": ""}, "is empty"),
        ({"grasp_id": "x" * 1000}, "too long"),
        ({"grasp_id": "a\nb"}, "unprintable"),
        ({"phase": 9}, "phase 9"),
        ({"outcome": 200}, "outcome 200"),
        ({"target_id": -7}, "target_id -7"),
        ({"stamp": 5}, "one clock"),
        ({"stamp": 10**18}, "one clock"),
        ({"phase": Phase.AFTER}, "no BEFORE"),
        ({"grasp_id": "g"}, "has begun already"),
        ({"grasp_id": "g", "phase": Phase.AFTER, "stamp": 99 * SECOND}, "before its BEFORE"),
    ],
)
def test_malformed_events_are_refused_and_change_nothing(change, says):
    cell = Cell()
    cell.show(1.0)
    cell.say(Phase.BEFORE)
    event = {"grasp_id": "new", "phase": Phase.BEFORE, "target_id": -1, "outcome": 0, "stamp": cell.now}
    with pytest.raises(DataError, match=says):
        cell.attempts.event(**(event | change))
    assert cell.attempts.under_way == ["g"]


def test_events_before_the_first_frame_are_refused():
    with pytest.raises(DataError, match="no frame"):
        Cell().say(Phase.BEFORE)


def test_aborted_forgotten_and_too_many_grasps_are_counted():
    cell = Cell()
    cell.show(1.0)
    cell.say(Phase.BEFORE, "aborted")
    cell.say(Phase.ABORTED, "aborted")
    for number in range(12):
        cell.say(Phase.BEFORE, f"grasp {number}")
    assert len(cell.attempts.under_way) == 8
    cell.show(31.0)
    assert cell.attempts.under_way == []
    assert cell.attempts.discarded == {"aborted": 1, "never ended": 12}


def test_a_clock_that_jumps_back_drops_what_is_under_way():
    cell = Cell()
    cell.show(1.0)
    cell.say(Phase.BEFORE)
    cell.now -= 50 * SECOND
    cell.show(1.0)
    assert cell.attempts.discarded == {"the clock jumped back": 1}
    grasp(cell)
    cell.say(Phase.AFTER)
    cell.show(1.5)
    assert len(cell.finished()) == 1


def test_a_gripper_alone_is_enough():
    cell = Cell()
    cell.show(1.0)
    cell.show(0.8, arm=150, moving=True)
    cell.attempts.gripper_closed("g", cell.now)
    cell.show(0.5, arm=90)
    cell.items = (2, 3)
    cell.show(0.3, arm=90, moving=True)
    cell.attempts.gripper_opened("g", cell.now)
    cell.show(0.3, arm=60)
    cell.show(1.5)
    (found,) = cell.finished()
    assert found.grasp.outcome == Outcome.UNKNOWN
    assert list(found.grasp.stamps) == [Phase.CLOSED]
    assert np.abs(found.before.frame.image.astype(int) - picture(1, 2, 3).image).max() < 40
    assert np.abs(found.after.frame.image.astype(int) - picture(2, 3).image).max() < 40


def test_a_gripper_closes_once_however_its_reading_shakes():
    width = Gripper(0.5, 0.1, closed_below=True)
    readings = [0.9, 0.8, 0.52, 0.49, 0.51, 0.48, float("nan"), 0.55, 0.58, 0.62, 0.9, 0.3]
    turns = [width.update(value) for value in readings]
    assert [(k, turn) for k, turn in enumerate(turns) if turn is not None] == [
        (3, True),
        (9, False),
        (11, True),
    ]
    vacuum = Gripper(-0.5, 0.0, closed_below=False)
    assert [vacuum.update(v) for v in (-0.9, -0.4, -0.9)] == [None, True, False]


def test_motion_is_seen_and_exposure_is_not():
    still, other = measure(picture(1, 2, 3)), measure(picture(1, 2, 3, seed=1))
    assert changed(still, other) < 0.004
    brighter = np.clip(picture(1, 2, 3, seed=2).image * 1.15, 0, 255).astype(np.uint8)
    assert changed(still, measure(Frame(brighter))) < 0.004
    assert changed(still, measure(picture(1, 2, 3, seed=1, moved=(4, 4)))) > 0.004
    assert rim_changed(still, measure(picture(1, 2, 3, seed=1, moved=(4, 4)))) == 0


def test_the_buffer_is_bounded_and_keeps_frames_with_predictions():
    buffer = FrameBuffer(5.0, 0.5)
    frame = picture(1)
    for number in range(300):
        buffer.add(replace(frame, stamp=number * SECOND // 30))
        if number == 200:
            buffer.attach(frame_stamp := 199 * SECOND // 30, from_label_map(label_map(1)), "m")
    assert 30 <= len(buffer) < 45
    assert any(s.stamp == frame_stamp and s.instances is not None for s in buffer.between(0, 10 * SECOND))
    assert not buffer.attach(frame_stamp, from_label_map(np.zeros((5, 5), np.uint16)), "m")


def test_the_sentence_of_a_grasp_and_whether_it_was_right_come_with_the_episode():
    cell = Cell()
    cell.show(1.0)
    cell.attempts.event("g", Phase.BEFORE, 1, Outcome.UNKNOWN, cell.now, "the red box")
    cell.show(1.0, arm=150, moving=True)
    cell.items = (2, 3)
    cell.show(0.5, arm=90, moving=True)
    cell.attempts.event("g", Phase.AFTER, -1, Outcome.SUCCESS, cell.now, "", Referred.WRONG)
    cell.show(2.0)
    (found,) = cell.finished()
    assert found.grasp.expression == "the red box"
    assert found.grasp.referred is Referred.WRONG
    assert found.grasp.outcome is Outcome.SUCCESS  # what left shows an outline, whatever was meant


def test_a_referred_that_cannot_be_is_refused_and_a_long_sentence_is_cut():
    cell = Cell()
    cell.show(1.0)
    with pytest.raises(DataError, match="referred 9"):
        cell.attempts.event("g", Phase.BEFORE, 1, Outcome.UNKNOWN, cell.now, "", 9)
    cell.attempts.event("g", Phase.BEFORE, 1, Outcome.UNKNOWN, cell.now, "x" * 5000)
    cell.show(1.0, arm=150, moving=True)
    cell.say(Phase.AFTER)
    cell.show(2.0)
    (found,) = cell.finished()
    assert found.grasp.expression == "x" * 300
