"""What real cells and foreign stores hold: frames without stamps, of odd and changing sizes; odd episodes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grasping import picture
from test_data_headers import npy, png
from test_grasp_capture import Cell, grasp
from test_grasp_store import labels, numbered

from rise_perception.core.errors import DataError
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.grasp_learning.capture import frame_buffer, grasp_tracker
from rise_perception.grasp_learning.capture.episode import Outcome, Phase
from rise_perception.grasp_learning.capture.episode_io import EPISODE, LABELS
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.capture.frame_buffer import SMALL, FrameBuffer, measure
from rise_perception.grasp_learning.capture.grasp_tracker import Attempts, CaptureSettings
from rise_perception.inference import pairing
from rise_perception.inference.pairing import FramePairing

SECOND = 10**9


def test_frames_of_a_camera_that_does_not_stamp_are_not_kept_for_ever() -> None:
    buffer = FrameBuffer(6.0, 0.1)
    for _ in range(50):
        buffer.add(replace(picture(1), stamp=0))
    assert (len(buffer), buffer.repeated) == (1, 49)
    buffer.add(replace(picture(1), stamp=SECOND))
    assert (len(buffer), buffer.repeated) == (2, 0)


def test_a_frame_that_comes_twice_still_shows_what_moved() -> None:
    buffer = FrameBuffer(6.0, 0.1)
    first = buffer.add(replace(picture(1, 2, seed=1), stamp=SECOND))
    second = buffer.add(replace(picture(1, 2, seed=2), stamp=2 * SECOND))
    again = buffer.add(replace(picture(1, 2, seed=2), stamp=2 * SECOND))
    assert first.settled
    assert second.settled
    assert again.settled
    assert [id(sample) for sample in buffer.samples()] == [id(first), id(again)]


@pytest.mark.parametrize("shape", [(32_768, 1), (1, 32_768), (1, 1), (20_000, 2)])
def test_measuring_a_picture_of_odd_proportions_costs_little(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    begin = time.perf_counter()
    sample = measure(Frame(image))
    assert sample.small.shape[1] == SMALL
    assert sample.small.size <= 2 * SMALL**2  # it had 300 million pixels, of a picture of 33 thousand
    assert sample.size < 2_000_000
    assert time.perf_counter() - begin < 2.0
    assert np.isfinite(sample.sharpness)


def test_the_buffer_has_a_bound_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    size = measure(picture(1)).size
    buffer = FrameBuffer(60.0, 0.0, most_bytes=5 * size)
    for number in range(40):
        buffer.add(replace(picture(1), stamp=number * SECOND // 10))
        assert sum(sample.size for sample in buffer.samples()) <= 5 * size
    assert buffer.newest == 39 * SECOND // 10
    tiny = FrameBuffer(60.0, 0.0, most_bytes=1)  # motion is seen in any case
    for number in range(4):
        tiny.add(replace(picture(1), stamp=number))
    assert len(tiny) == 2
    monkeypatch.setattr(frame_buffer, "MAX_MASK_BYTES", 5 * 120 * 160)
    for number in range(20):
        buffer.mask(number, np.zeros((120, 160), bool))
    assert len(buffer._masks) == 5


def test_grasps_under_way_have_a_bound_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    size = measure(picture(1)).size
    monkeypatch.setattr(grasp_tracker, "MAX_BYTES", 20 * size)
    attempts = Attempts(CaptureSettings())
    for number in range(30):
        attempts.frame(replace(picture(1, 2), stamp=number * SECOND // 5))
        if number > 6 and number % 3 == 0:
            attempts.event(str(number), Phase.BEFORE, -1, Outcome.UNKNOWN, number * SECOND // 5)
    assert attempts.discarded["its frames take too much memory"] > 0
    assert attempts.under_way
    monkeypatch.setattr(grasp_tracker, "MAX_EARLY_BYTES", 100_000)
    for number in range(9):
        attempts.predictions(10**15 + number, Instances.empty(120, 160), "m")
    assert len(attempts._early) == 2


def test_a_changed_image_size_costs_one_grasp_and_no_frame_after_it() -> None:
    """Before the grasp and again after it, so that both sides hold frames of both sizes."""
    cell = Cell()

    def small(seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            cell.now += SECOND // 10
            frame = picture(1, 2, 3, seed=1)
            small = Frame(frame.image[:60, :50].copy(), stamp=cell.now)
            cell.attempts.frame(small)

    cell.show(0.5)
    small(0.5)
    cell.say(Phase.BEFORE)
    cell.show(0.5)
    cell.say(Phase.AFTER)
    small(0.3)
    cell.show(6.0)
    assert cell.attempts.under_way == []
    assert cell.attempts.buffer.newest == cell.now
    cell.finished()
    grasp(cell)
    cell.say(Phase.AFTER)
    cell.show(2.0)
    (made,) = cell.finished()
    assert made.before.frame.image.shape == (120, 160, 3)


def test_a_size_that_changed_during_the_grasp_is_the_reason() -> None:
    cell = Cell()
    cell.show(1.0)
    cell.say(Phase.BEFORE)
    for step in range(60):
        if step == 5:
            cell.say(Phase.AFTER)
        cell.now += SECOND // 10
        cell.attempts.frame(Frame(np.full((60, 80, 3), 90, np.uint8), stamp=cell.now))
    assert cell.attempts.reasons["g"] == "the size of the camera's images changed during the grasp"


def test_a_grasp_that_cannot_be_looked_at_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell()
    cell.show(1.0)
    cell.say(Phase.BEFORE)
    cell.say(Phase.AFTER)

    def breaks(*_: object) -> str:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(grasp_tracker, "choose_pair", breaks)
        with pytest.raises(RuntimeError):
            cell.show(2.0)
    cell.show(1.0)
    assert cell.attempts.under_way == []
    assert cell.attempts.reasons["g"] == "an internal error; see the log"


def test_images_that_wait_for_their_partner_have_a_bound_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Message:
        data = bytes(1000)

    monkeypatch.setattr(pairing, "MAX_BYTES", 2500)
    held = FramePairing(0.02, patience=1.0)
    for number in range(20):
        held.add_depth(number * SECOND, Message(), 0.0)
        held.add_color(number * SECOND + SECOND // 2, Message(), 0.0)
    assert len(held._colors) == len(held._depths) == 2


# -- episodes --------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    """A store of one episode, for reading."""
    with EpisodeStore(tmp_path / "store", write=True, min_free_bytes=0) as made:
        made.add(numbered(1), labels())
    return EpisodeStore(tmp_path / "store")


@pytest.mark.parametrize(
    "name", ["²-abc", "٣-abc", "-abc", "9" * 200 + "-abc", "1-²", "x", "1-AB-..", "1-abc\n"]
)
def test_folders_with_odd_names_are_left_out_and_named(store: EpisodeStore, name: str) -> None:
    (entry,) = store.entries()
    shutil.copytree(entry.folder, store.root / name)
    assert store.entries() == [entry]
    (said,) = store.damaged()
    assert "is no episode" in said


def test_a_folder_whose_name_is_no_text_is_named(store: EpisodeStore) -> None:
    os.mkdir(os.fsencode(store.root) + b"/\xff-abc")
    with pytest.raises(DataError) as error:
        raise DataError(store.damaged()[0])
    str(error.value).encode()


ODD: list[Callable[[dict[str, Any]], object]] = [
    lambda r: r["after"].update(stamp=float("inf")),
    lambda r: r["after"].update(stamp=2**70),
    lambda r: r["after"].update(stamp=-1),
    lambda r: r["after"].update(stamp="1"),
    lambda r: r["grasp"].update(target_id=float("inf")),
    lambda r: r["grasp"].update(outcome=float("inf")),
    lambda r: r["grasp"].update(outcome=17),
    lambda r: r["grasp"].update(stamps={"NEVER": 1}),
    lambda r: r["before"].update(height=float("inf")),
    lambda r: r["before"].update(height=10**9, width=10**9),
    lambda r: r["before"].update(frame_id="\ud800"),
    lambda r: r["before"].update(depth_scale=1e300),
    lambda r: r["before"].update(depth_scale=float("nan")),
    lambda r: r["before"]["camera"].update(fx=float("nan")),
    lambda r: r["before"]["camera"].update(fx=0.0),
    lambda r: r["before"]["instances"].update(scores=[]),
    lambda r: r["before"]["instances"].update(labels=[2**70, 2, 3]),
    lambda r: r["before"]["instances"].update(labels=[1, 1, 1]),
    lambda r: r["before"]["instances"].update(classes=[7, 7, 7]),
    lambda r: r["before"]["instances"].update(boxes=[[1e999] * 4] * 3),
    lambda r: r.update(files=[]),
    lambda r: r.update(surprise=1),
    lambda r: r.update(session=[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]),
]


@pytest.mark.parametrize("change", ODD)
def test_odd_fields_of_an_episode_are_named(store: EpisodeStore, change: Callable[[Any], object]) -> None:
    (entry,) = store.entries()
    record = json.loads((entry.folder / EPISODE).read_text())
    change(record)
    (entry.folder / EPISODE).write_text(json.dumps(record))
    (said,) = store.damaged()
    assert entry.id in said
    assert len(said) < 2000
    assert list(store) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"size": [float("inf"), 1]},
        {"size": [32_000, 32_000]},
        {"size": [2, 2]},
        {"masks": ["a"] * 1000},
        {"masks": [["a"]]},
        {"to_after": [[1e999, 0, 0], [0, 1, 0]]},
        {"to_after": [[1, 0], [0, 1]]},
        {"unmoved": [2**40]},
        {"verdict": ["confirmed"]},
        {"cause": {}},
        {"format": 2},
    ],
)
def test_odd_fields_of_labels_are_named(store: EpisodeStore, changes: dict[str, Any]) -> None:
    (entry,) = store.entries()
    record = json.loads((entry.folder / LABELS).read_text())
    (entry.folder / LABELS).write_text(json.dumps(record | changes))
    assert entry.id in store.damaged()[0]
    assert len(store.entries()) == 1


@pytest.mark.parametrize("name", [EPISODE, LABELS])
@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff", b"9" * 10_000, b" " * (5 << 20)]
)
def test_what_is_no_record_ends_nothing(store: EpisodeStore, name: str, content: bytes) -> None:
    (entry,) = store.entries()
    (entry.folder / name).write_bytes(content)
    assert len(EpisodeStore(store.root).entries()) == 1
    assert entry.id in store.damaged()[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("before.png", png(15_000)),
        ("before.depth.png", png(15_000, depth=True)),
        ("before.labels.png", png(16_000)),
        ("before.embeddings.npy", npy("(1000000000000, 4)")),
        ("before.embeddings.npy", npy("(3, 1)", "<f4", np.full(3, np.nan, "<f4").tobytes())),
        ("before.embeddings.npy", npy("(3,)", "<f4", bytes(12))),
    ],
)
def test_pictures_and_arrays_that_lie_about_their_size(
    store: EpisodeStore, name: str, content: bytes
) -> None:
    (entry,) = store.entries()
    (entry.folder / name).write_bytes(content)
    record = json.loads((entry.folder / EPISODE).read_text())
    record["files"][name] = hashlib.sha256(content).hexdigest()
    (entry.folder / EPISODE).write_text(json.dumps(record))
    begin = time.perf_counter()
    assert entry.id in store.damaged()[0]
    assert time.perf_counter() - begin < 2.0


def test_labels_of_another_episode_are_refused(store: EpisodeStore) -> None:
    (entry,) = store.entries()
    record = json.loads((entry.folder / LABELS).read_text())
    none = {"size": [2, 2], "masks": [], "known": "4", "removed": "4", "added": "4", "unmoved": []}
    (entry.folder / LABELS).write_text(json.dumps(record | none))
    assert "not of one episode" in store.damaged()[0]


def test_a_store_that_was_removed_is_named(store: EpisodeStore) -> None:
    shutil.rmtree(store.root)
    with pytest.raises(DataError, match="cannot be read"):
        store.entries()
