"""Grasps out of recordings: the events say when, the frames are those that the node would have taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import picking
import pytest
from grasping import picture

from rise_perception.core.errors import BagError, DataError
from rise_perception.core.frame import CameraIntrinsics
from rise_perception.data.bag_messages import camera_info_message
from rise_perception.data.images import write_image
from rise_perception.grasp_learning.capture.episode import Calibration, Episode, Outcome, Phase
from rise_perception.grasp_learning.capture.recordings import BagGrasps, PictureGrasps, Predictor
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.inference.segmenter import Segmenter


def all_of(source: BagGrasps | PictureGrasps) -> tuple[list[Episode], int]:
    """The episodes, and how often it told how far it is."""
    steps: list[None] = []
    return list(source.episodes(lambda: steps.append(None))), len(steps)


def test_every_grasp_of_a_bag_becomes_an_episode(tmp_path: Path) -> None:
    source = BagGrasps(picking.write_bag(tmp_path / "bag", range(4)))
    assert (source.count, source.has_depth) == (4 * 17, False)
    episodes, steps = all_of(source)
    assert steps == source.count
    assert source.left_out == []
    for number, episode in enumerate(episodes):
        true = picking.make_grasp(number)
        assert (episode.grasp.grasp_id, episode.grasp.outcome) == (f"grasp-{number}", Outcome.SUCCESS)
        np.testing.assert_array_equal(episode.before.frame.image, true.before.frame.image)
        np.testing.assert_array_equal(episode.after.frame.image, true.after.frame.image)
        assert episode.before.instances is None
        stamp = true.before.frame.stamp
        assert episode.grasp.stamps == {
            Phase.BEFORE: stamp + 9 * picking.FRAME,
            Phase.CLOSED: stamp + 9 * picking.FRAME,
            Phase.AFTER: stamp + 10 * picking.FRAME,
        }
        assert len(label_episode(episode).masks) == 1
    assert len(episodes) == 4
    (session,) = {episode.session for episode in episodes}
    other, _ = all_of(BagGrasps(picking.write_bag(tmp_path / "other", range(4, 5))))
    assert other[0].session not in ("", session)


def test_masks_of_the_robot_are_read_from_the_topic_that_is_named(tmp_path: Path) -> None:
    robot = np.zeros(picking.SIZE, bool)
    robot[:10, 60:] = True
    bag = picking.write_bag(tmp_path / "bag", range(2), robot=robot)
    episodes, _ = all_of(BagGrasps(bag, robot="/robot_mask"))
    assert len(episodes) == 2
    for episode in episodes:
        for side in (episode.before, episode.after):
            np.testing.assert_array_equal(side.robot, robot)
    assert all_of(BagGrasps(bag))[0][0].before.robot is None
    with pytest.raises(BagError, match=r"no topic '/nowhere'; it has .*/robot_mask"):
        BagGrasps(bag, robot="/nowhere")


def test_predictions_of_the_recording_are_kept_with_their_ids(tmp_path: Path, tiny_model: Path) -> None:
    episodes, _ = all_of(BagGrasps(picking.write_bag(tmp_path / "bag", range(2), predictions=True)))
    predictor = Predictor(Segmenter.load(tiny_model))
    for episode in episodes:
        assert episode.model_version == "robot-1"
        np.testing.assert_array_equal(episode.before.instances.label_map, picking.guess().label_map)
        assert episode.grasp.target_id == 5
        assert predictor.complete(episode) is episode


def test_a_model_predicts_where_nobody_has(tmp_path: Path, tiny_model: Path) -> None:
    (episode,), _ = all_of(BagGrasps(picking.write_bag(tmp_path / "bag", range(1))))
    segmenter = Segmenter.load(tiny_model)
    complete = Predictor(segmenter).complete(episode)
    for side in (complete.before, complete.after):
        expected = segmenter(side.frame.image)
        np.testing.assert_array_equal(side.instances.label_map, expected.label_map)
    assert complete.model_version == segmenter.version
    assert complete.grasp.target_id == -1  # 5 is the id of another model's instance


def test_the_calibration_of_a_recording_is_kept(tmp_path: Path) -> None:
    camera = CameraIntrinsics(96, 64, 90.0, 91.0, 48.0, 32.0)
    (episode,), _ = all_of(BagGrasps(picking.write_bag(tmp_path / "bag", range(1), camera=camera)))
    expected = Calibration.of(camera_info_message(camera, 0, "cam"))
    for side in (episode.before, episode.after):
        assert (side.frame.camera, side.calibration) == (camera, expected)


def test_what_gives_no_episode_is_told(tmp_path: Path) -> None:
    source = BagGrasps(picking.write_bag(tmp_path / "bag", range(2), ended=False))
    assert all_of(source)[0] == []
    assert source.left_out == ["2 grasps: never ended"]


def test_a_damaged_bag_gives_what_is_intact(tmp_path: Path) -> None:
    bag = picking.write_bag(tmp_path / "bag", range(40))
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found: list[str] = []
    episodes = BagGrasps(bag).episodes(lambda: None)
    with pytest.raises(BagError, match="damaged"):
        found.extend(episode.grasp.grasp_id for episode in episodes)
    assert 0 < len(found) < 40
    assert found == [f"grasp-{number}" for number in range(len(found))]


def test_a_bag_without_events_or_images_is_refused(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    with picking.BagWriter(bag) as writer:
        writer.write_image(picking.COLOR_TOPIC, np.zeros((8, 8, 3), np.uint8), "rgb8", 1, "cam")
    with pytest.raises(BagError, match="no rise_msgs/msg/GraspEvent in this bag"):
        BagGrasps(bag)
    with pytest.raises(BagError, match="no topic '/nowhere'"):
        BagGrasps(bag, color="/nowhere")


def test_pictures_in_order_are_grasps_of_one_session(tmp_path: Path) -> None:
    for number, items in enumerate(((1, 2, 3), (2, 3), (3,))):
        write_image(tmp_path / "series" / f"{number}.png", picture(*items, seed=number).image)
    source = PictureGrasps(tmp_path / "series")
    episodes, steps = all_of(source)
    assert (source.count, steps, len(episodes)) == (3, 3, 2)
    assert [e.grasp.grasp_id for e in episodes] == ["0000-0001", "0001-0002"]
    assert episodes[0].after.frame is episodes[1].before.frame
    assert episodes[0].grasp.outcome == Outcome.UNKNOWN
    assert len({e.session for e in episodes} - {""}) == 1


def test_pictures_that_do_not_fit_are_told_and_one_is_too_few(tmp_path: Path) -> None:
    for number, size in enumerate((40, 40, 50)):
        write_image(tmp_path / "s" / f"{number}.png", np.zeros((size, 60, 3), np.uint8))
    source = PictureGrasps(tmp_path / "s")
    assert len(all_of(source)[0]) == 1
    assert source.left_out == ["2: its size is not that of the one before"]
    for number in (1, 2):
        (tmp_path / "s" / f"{number}.png").unlink()
    with pytest.raises(DataError, match="one picture"):
        PictureGrasps(tmp_path / "s")
