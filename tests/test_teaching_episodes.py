"""Grasps annotate: what was taken, where it was seen; what is left over is unknown, and the tote is empty."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from grasping import HEIGHT, WIDTH, episode, label_map, picture
from test_teaching_teach import save_start

from rise_perception.core.errors import DataError
from rise_perception.data.annotated import read_annotated
from rise_perception.data.images import read_image
from rise_perception.grasp_learning.capture.episode import Episode, Observation
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.teaching.episodes import annotate_from_grasps
from rise_perception.teaching.folder import WORK


def tote(start: int, *fillings: tuple[int, ...]) -> list[Episode]:
    """Grasps from each filling to the next one; 10 s between frames, ten minutes between totes."""
    found = []
    for number, (full, rest) in enumerate(pairwise(fillings)):
        seed = 600 * start + 20 * number
        (target,) = set(full) - set(rest)
        before, after = picture(*full, seed=seed), picture(*rest, seed=seed + 10)
        taken = episode(before, after, label_map(*full), target=target)
        found.append(replace(taken, grasp=replace(taken.grasp, grasp_id=f"{start}-{number}")))
    return found


def store_of(folder: Path, *totes: list[Episode]) -> Path:
    with EpisodeStore(folder, write=True, min_free_bytes=0) as store:
        for grasp in [grasp for grasps in totes for grasp in grasps]:
            store.add(grasp, label_episode(grasp))
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three totes that are picked empty, and one in which item 3 stays."""
    folder = tmp_path_factory.mktemp("store") / "episodes"
    emptied = [tote(k, (1, 2, 3), (2, 3), (3,), ()) for k in range(3)]
    return store_of(folder, *emptied, tote(3, (1, 3), (3,)))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_every_item_that_was_taken_is_outlined_in_every_frame_that_shows_it(store, tmp_path):
    with EpisodeStore(store) as opened:
        made = annotate_from_grasps(opened, tmp_path)
    annotated = read_annotated(made.annotations)
    assert annotated.has_depth
    assert made.grasps == 10
    counts = sorted(len(p.masks) for p in annotated.pictures)
    assert counts == [1, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert made.items == sum(counts)
    full = next(p for p in annotated.pictures if len(p.masks) == 3)
    masks = full.load(True).masks
    for label in (1, 2, 3):
        assert max(overlap(mask, label_map(1, 2, 3) == label) for mask in masks) > 0.8, label
    assert full.ignored is None


def test_what_was_never_taken_is_unknown(store, tmp_path):
    with EpisodeStore(store) as opened:
        annotated = read_annotated(annotate_from_grasps(opened, tmp_path).annotations)
    (left,) = [p for p in annotated.pictures if p.ignored is not None]
    assert len(left.masks) == 1
    assert overlap(left.ignored_mask(), label_map(3) > 0) > 0.8


def test_a_picture_of_which_most_is_unknown_still_teaches_what_is_known(tmp_path):
    """Items 1 and 2 were taken in no grasp of the last tote: they are nearly all of it, and not known."""
    emptied = [tote(k, (1, 2, 3), (2, 3), (3,), ()) for k in range(3)]
    with EpisodeStore(store_of(tmp_path / "store", *emptied, tote(3, (1, 2, 3), (1, 2)))) as opened:
        annotated = read_annotated(annotate_from_grasps(opened, tmp_path / "out").annotations)
    (left,) = [p for p in annotated.pictures if p.ignored is not None]
    assert len(left.masks) == 1
    assert overlap(left.load(False).masks[0], label_map(1, 2, 3) == 3) > 0.8
    assert left.ignored_mask().sum() > 2 * left.load(False).masks.sum()
    assert overlap(left.ignored_mask(), label_map(1, 2) > 0) > 0.8


SHADED = np.s_[85:110, 100:130]


def shaded(side: Observation, factor: float, lift: float) -> Observation:
    """An observation with a darker place, which also stands up by ``lift`` metres."""
    image, depth = side.frame.image.copy(), side.frame.depth.copy()
    image[SHADED] = (image[SHADED] * factor).astype(np.uint8)
    depth[SHADED] -= lift
    return replace(side, frame=replace(side.frame, image=image, depth=depth))


@pytest.mark.parametrize(("factor", "lift", "unknown"), [(0.55, 0, False), (0.55, 0.05, True), (0, 0, True)])
def test_a_shadow_is_background_and_what_stands_up_or_is_black_is_not_known(tmp_path, factor, lift, unknown):
    totes = [tote(k, (1, 3), (1,), ()) for k in range(3)]
    totes[0] = [
        replace(grasp, **{name: shaded(getattr(grasp, name), factor, lift) for name in ("before", "after")})
        for grasp in totes[0]
    ]
    with EpisodeStore(store_of(tmp_path / "store", *totes)) as opened:
        annotated = read_annotated(annotate_from_grasps(opened, tmp_path / "out").annotations)
    assert sorted(len(p.masks) for p in annotated.pictures) == [1, 1, 1, 2, 2, 2]
    not_known = sorted(p.ignored_mask()[SHADED].mean() for p in annotated.pictures)
    assert not_known[:4] == [0, 0, 0, 0]
    assert not_known[4] > 0.8 if unknown else not_known[5] == 0


def test_a_tote_with_a_small_item_left_is_no_empty_picture(tmp_path):
    """Item 3, shrunk to 0.6 % of the picture: less than the changes that a lamp or a hand may make."""
    totes = [tote(k, (1, 2), (2,), ()) for k in range(3)]
    last = totes[2][-1]
    image = last.after.frame.image.copy()
    image[80:90, 30:42] = (70, 90, 210)
    totes[2][-1] = replace(last, after=replace(last.after, frame=replace(last.after.frame, image=image)))
    with EpisodeStore(store_of(tmp_path / "store", *totes)) as opened:
        made = annotate_from_grasps(opened, tmp_path / "out")
    assert len(list(made.empty.glob("[0-9]*[0-9].png"))) == 3  # the median, and the two that were empty


def test_the_emptied_tote_is_the_background(store, tmp_path):
    with EpisodeStore(store) as opened:
        made = annotate_from_grasps(opened, tmp_path)
    pictures = sorted(made.empty.glob("[0-9]*[0-9].png"))
    assert len(pictures) == 4  # the median, and the three that were empty
    truth = picture().image.astype(int)
    for path in pictures:
        assert np.abs(read_image(path) - truth).mean() < 5
    assert (made.empty / "000-depth.png").is_file()


def test_what_cannot_annotate_is_refused_with_a_remedy(tmp_path):
    with EpisodeStore(tmp_path / "none", write=True) as opened, pytest.raises(DataError, match="no episode"):
        annotate_from_grasps(opened, tmp_path / "out")
    unseen = [replace(g, after=replace(g.after, instances=None)) for g in tote(0, (1, 2), (2,))]
    with (
        EpisodeStore(store_of(tmp_path / "one", unseen)) as opened,
        pytest.raises(DataError, match="at least 3 totes"),
    ):
        annotate_from_grasps(opened, tmp_path / "out")
    failed = [tote(k, (1, 2, 3), (2, 3)) for k in range(3)]
    blind = [[replace(g, after=g.before) for g in grasps] for grasps in failed]  # nothing left
    with (
        EpisodeStore(store_of(tmp_path / "failed", *blind)) as opened,
        pytest.raises(DataError, match="by hand"),
    ):
        annotate_from_grasps(opened, tmp_path / "out")


def test_the_command_teaches_from_grasps(store, tmp_path, rise):
    start = save_start(tmp_path / "start", input="rgbd", image_size=(64, 88))
    out = tmp_path / "out"
    asked = (
        "teach",
        "--episodes",
        store,
        "--out",
        out,
        "--from",
        start,
        "--minutes",
        0.01,
        "--device",
        "cpu",
    )
    status, said, err = rise(*asked)
    assert status == 0, err
    assert "10 grasps annotate 19 items in 10 pictures\n" in said
    assert "10 annotated pictures" in said
    assert (out / WORK / "episodes/episodes.json").is_file()
    assert read_image(out / WORK / "episodes/empty/000.png").shape == (HEIGHT, WIDTH, 3)
    assert (out / "report.html").is_file()
    status, _, err = rise("teach", "--out", out)
    assert status == 2
    assert "give one of the two" in err
