"""`rise episodes` and `rise bench grasp-labels`: what a person sees of the episodes."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from grasping import HEIGHT, WIDTH, episode, picture

from rise_perception.data.images import read_image, write_image
from rise_perception.evaluation.panels import LINE
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.labelling.pictures import (
    ADDED,
    GAP,
    LABEL,
    PANEL,
    REMOVED,
    draw_labels,
)


def fill(folder, numbers):
    with EpisodeStore(folder, write=True) as store:
        for number in numbers:
            kept = episode(picture(1, 2, 3, seed=2 * number), picture(2, 3, seed=2 * number + 1))
            store.add(kept, label_episode(kept))


def test_a_store_is_listed_drawn_and_merged(rise, tmp_path):
    fill(tmp_path / "a", (0, 1))
    fill(tmp_path / "b", (1, 2))
    status, out, _ = rise(
        "episodes", tmp_path / "a", "--out", tmp_path / "out", "--merge-into", tmp_path / "b"
    )
    assert status == 0
    assert out.count("confirmed (agrees)") == 2
    assert "1 episodes are new" in out
    assert "2 confirmed: agrees" in out
    pictures = list((tmp_path / "out").glob("*.jpg"))
    assert len(pictures) == 2
    assert read_image(pictures[0]).shape == (
        HEIGHT * PANEL // WIDTH + 2 * LINE,
        4 * PANEL + 3 * GAP,
        3,
    )
    assert len(EpisodeStore(tmp_path / "b").entries()) == 3
    next(iter(EpisodeStore(tmp_path / "b").entries())).folder.joinpath("before.png").write_bytes(b"x")
    status, out, _ = rise("episodes", tmp_path / "b")
    assert status == 2
    assert "left out: " in out


def test_pictures_in_order_are_grasps(rise, tmp_path):
    for number, items in enumerate(((1, 2, 3), (2, 3), (3,), (3,))):
        write_image(tmp_path / "series" / f"{number}.png", picture(*items, seed=number).image)
    target = tmp_path / "store"
    status, out, _ = rise("episodes", tmp_path / "series", "--model", "none", "--merge-into", target)
    assert status == 0
    assert out.count("an item left that was not predicted") == 2
    assert "0002-0003: empty grasp" in out
    assert len(EpisodeStore(target).entries()) == 3


def test_what_is_no_store_is_named(rise, tmp_path):
    status, _, err = rise("episodes", tmp_path / "nowhere")
    assert status == 2
    assert "nowhere" in err


def panel(drawn: np.ndarray, number: int) -> np.ndarray:
    """One panel of a drawn episode_labels, at the size of its frame."""
    start = number * (PANEL + GAP)
    return cv2.resize(drawn[LINE:, start : start + PANEL], (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def near(picture_: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return np.abs(picture_.astype(int) - color).sum(axis=2) < 90


def test_the_picture_shows_both_frames_the_prediction_and_the_label_in_its_colours():
    seen = episode(picture(1, 2, 3), picture(2, 3, seed=1))
    drawn = draw_labels(seen, label_episode(seen))
    before, after, predicted, learned = (panel(drawn, number) for number in range(4))
    item = (slice(30, 60), slice(25, 55))
    image = seen.before.frame.image.astype(int)
    assert np.abs(before - image).mean() < 4
    assert np.abs(after - seen.after.frame.image.astype(int)).mean() < 4
    assert np.abs(predicted - image)[item].mean() > 20
    assert np.abs(learned - image)[item].mean() < 8  # the label keeps its colours
    assert np.ptp(learned[95:, 130:].astype(int), axis=2).max() < 12  # elsewhere it is grey
    assert near(learned, LABEL)[23:67, 18:62].sum() > 60
    assert not near(learned, LABEL)[:, 70:].any()


def test_what_is_rejected_shows_the_change_only():
    seen = episode(picture(1, 2, 3), picture(2, 3, seed=1), target=2)
    episode_labels = label_episode(seen)
    assert not episode_labels.teaches
    learned = panel(draw_labels(seen, episode_labels), 3)
    red = (
        np.abs(learned.astype(int) - REMOVED).sum(axis=2)
        < np.abs(learned.astype(int) - ADDED).sum(axis=2) - 100
    )
    assert red[30:60, 25:55].mean() > 0.9
    assert red[100:].mean() < 0.05
    assert not near(learned, LABEL).any()


def test_the_robot_is_black_and_a_zoomed_picture_shows_the_change():
    robot = np.zeros((HEIGHT, WIDTH), bool)
    robot[:20, 100:] = True
    seen = episode(picture(1, 2, 3), picture(2, 3, seed=1), robot=robot)
    episode_labels = label_episode(seen)
    assert panel(draw_labels(seen, episode_labels), 3)[2:16, 105:155].max() < 20
    zoomed = panel(draw_labels(seen, episode_labels, zoom=True), 3)
    label = near(zoomed, LABEL)
    assert label.any(axis=0).sum() > 60  # of 40 pixels of the frame


@pytest.mark.slow
def test_the_benchmark_measures_and_renders_once(rise, tmp_path):
    command = ("bench", "grasp-labels", "--sequences", 1, "--picks", 2, "--data", tmp_path, "--model", "none")
    status, out, _ = rise(*command, "--films", 1, "--json", tmp_path / "f.json")
    assert status == 0
    rows = json.loads((tmp_path / "f.json").read_text())["rows"]
    names = [row["condition"] for row in rows]
    assert names[0] == "as it is"
    assert {"exposure", "shift", "noise", "shadow", "lie", "camera moved"} <= set(names)
    assert {"undisturbed", "neighbours moved, no depth", "two left, predicted as one"} <= set(names)
    assert [row["by"] for row in rows] == ["serving", "analysis"] * (len(rows) // 2)
    for row in rows:
        assert row["grasps"] == sum(verdict["found"] for verdict in row["verdicts"].values())
        if row["condition"] in ("camera moved", "exposure jump"):
            assert row["labels"] == 0
            assert row["verdicts"]["rejected"]["recall"] == 1
    assert "aims: " in out
    stamp = (tmp_path / "tote-3000-2/sequence.json").stat().st_mtime_ns
    status, again, _ = rise(*command, "--films", 0, "--quick")
    assert status == 0
    assert (tmp_path / "tote-3000-2/sequence.json").stat().st_mtime_ns == stamp
    assert again.split("exposure,")[0].split("aims")[0].strip() in out
    assert rise("bench", "grasp-labels", "--picks", 0)[0] == 2
