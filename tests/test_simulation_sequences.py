"""Pick sequences: what is said to have left has left, in truth, pictures and bag."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from rise_perception.cli.main import main
from rise_perception.core.errors import BagError, DataError
from rise_perception.data.bags import BagReader
from rise_perception.grasp_learning.capture.recordings import BagGrasps
from rise_perception.simulation.recording import EVENT_TOPIC, STILL, write_bag, write_sequence
from rise_perception.simulation.render import Renderer
from rise_perception.simulation.sequence import (
    AFTER,
    BEFORE,
    CLOSED,
    DOUBLE,
    DROPPED,
    EMPTY,
    LIFTED,
    PERIOD,
    SUCCESS,
    UNKNOWN,
    SequenceSettings,
    pick_sequence,
)

SMALL = SequenceSettings(picks=2, seed=9, width=96, height=72)


@pytest.mark.slow
def test_outcomes_are_true() -> None:
    found = set()
    with Renderer(96, 72) as renderer:
        for kind, seed, picks in (("tote", 9, 3), ("table", 2, 2), ("bin", 5, 2)):
            settings = SequenceSettings(picks, seed, "test", kind, width=96, height=72)
            before: set[int] = set()
            gone: set[int] = set()
            for number, moment in enumerate(pick_sequence(settings, renderer)):
                assert moment.number == number
                present = set(moment.scene.labels)
                visible = set(np.unique(moment.shot.labels).tolist()) - {0}
                assert visible <= present
                assert not visible & gone, "an item came back"
                if moment.event is None:
                    continue
                event = moment.event
                if event.phase == BEFORE:
                    before = present
                    assert event.target in visible
                    assert event.outcome == UNKNOWN
                elif event.phase == CLOSED:
                    assert present == before
                elif event.phase == AFTER:
                    left = before - present
                    found.add(event.outcome)
                    if event.outcome in (EMPTY, DROPPED):
                        assert event.target in present
                    else:
                        assert event.target in left
                        assert event.outcome in (SUCCESS, DOUBLE)
                        assert len(left) >= (2 if event.outcome == DOUBLE else 1)
                    gone |= left
    assert found >= {SUCCESS, EMPTY, DOUBLE, DROPPED}, "these seeds no longer show all outcomes; take others"


@pytest.fixture(scope="module")
def sequence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sequence") / "coco"
    assert write_sequence(out, SMALL) == (10, 2)
    return out


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sequence") / "picks"
    assert write_bag(out, SMALL) == (10 + 2 * STILL, 2)
    return out


def test_records_name_frames_stamps_and_events(sequence: Path) -> None:
    data = json.loads((sequence / "sequence.json").read_text())
    images = data["images"]
    assert [image["frame"] for image in images] == list(range(10))
    assert {b["stamp"] - a["stamp"] for a, b in pairwise(images)} == {PERIOD}
    events = [image["event"] for image in images]
    assert [e and e["phase"] for e in events[:5]] == [BEFORE, None, CLOSED, LIFTED, AFTER]
    assert len({e["grasp"] for e in events if e}) == 2
    labels = {a["label"] for a in data["annotations"] if a["image_id"] == images[0]["id"]}
    assert events[0]["target"] in labels


def test_nothing_moves_between_after_and_the_next_before(sequence: Path) -> None:
    def read(folder: str, frame: int) -> np.ndarray:
        return cv2.imread(str(sequence / folder / f"sequence/{frame:06d}.png"), cv2.IMREAD_UNCHANGED)

    assert np.array_equal(read("labels", 4), read("labels", 5))
    assert not np.array_equal(read("images", 4), read("images", 5)), "each frame has noise of its own"
    assert not np.array_equal(read("labels", 5), read("labels", 7)), "the hand is in front of something"


def test_the_bag_holds_the_same_frames_truth_and_events(sequence: Path, bag: Path) -> None:
    data = json.loads((sequence / "sequence.json").read_text())
    with BagReader(bag) as reader:
        frames = list(reader.frames(truth="/truth/label_map"))
        events = [message for _, message in reader.messages(EVENT_TOPIC)]
    assert len(frames) == 10 + 2 * STILL
    for (frame, truth), image in zip(frames[STILL:-STILL], data["images"], strict=True):
        photo = cv2.imread(str(sequence / "images" / image["file_name"]))[..., ::-1]
        depth = cv2.imread(str(sequence / "depth" / image["file_name"]), cv2.IMREAD_UNCHANGED)
        labels = cv2.imread(str(sequence / "labels" / image["file_name"]), cv2.IMREAD_UNCHANGED)
        assert frame.stamp == image["stamp"]
        assert frame.camera is not None
        assert frame.camera.fx == pytest.approx(image["camera"]["fx"])
        assert np.array_equal(frame.image, photo)
        assert frame.depth is not None
        assert np.allclose(frame.depth, depth * image["depth_scale"], atol=1e-5)
        assert truth is not None
        assert np.array_equal(truth, labels)
    expected = [image["event"] for image in data["images"] if image["event"]]
    assert [(e.grasp_id, e.phase, e.target_id, e.outcome) for e in events] == [
        (e["grasp"], e["phase"], e["target"], e["outcome"]) for e in expected
    ]


def test_every_grasp_of_the_bag_is_an_episode_the_first_and_the_last_too(bag: Path) -> None:
    source = BagGrasps(bag)
    found = [episode.grasp.grasp_id for episode in source.episodes(lambda: None)]
    assert found == ["grasp-000", "grasp-001"]
    assert source.left_out == []


def test_what_is_there_is_never_overwritten(
    sequence: Path, bag: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="not empty"):
        write_sequence(sequence, SMALL)
    with pytest.raises(BagError, match="exists"):
        write_bag(bag, SMALL)
    assert main(["scenes", "bag", str(bag)]) == 2
    assert "exists" in capsys.readouterr().err


def test_the_shipped_sequence_is_small_and_whole() -> None:
    folder = Path(__file__).resolve().parents[1] / "models/demo_pick"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 12e6
    with BagReader(folder) as reader:
        frames = sum(1 for _ in reader.frames(truth="/truth/label_map"))
        outcomes = {m.outcome for _, m in reader.messages(EVENT_TOPIC) if m.phase == AFTER}
    assert frames == 35
    assert {SUCCESS, EMPTY, DOUBLE} <= outcomes
