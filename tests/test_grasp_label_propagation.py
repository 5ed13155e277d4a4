"""What later grasps tell about earlier frames: who was there, what hid it, and what is not certain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grasping import HEIGHT, WIDTH, episode, label_map, picture

from rise_perception.core.frame import Frame
from rise_perception.core.regions import mask_iou
from rise_perception.grasp_learning.capture.episode import Episode, Outcome
from rise_perception.grasp_learning.capture.episode_store import Entry, EpisodeStore
from rise_perception.grasp_learning.labelling import label_propagation as chain
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.labelling.label_propagation import (
    FrameTransition,
    ItemMask,
    beside,
    known_items,
    propagate_backward,
)

NOTHING = np.zeros((HEIGHT, WIDTH), bool)
SECOND = 10**9


def at(frame: Frame, seconds: float) -> Frame:
    return replace(frame, stamp=int(seconds * SECOND))


def grasp(here: tuple[int, ...], there: tuple[int, ...], seconds: float, **options: object) -> Episode:
    """A grasp of the one item that is ``here`` and no more ``there``."""
    (target,) = set(here) - set(there) or {here[0]}
    seed = int(seconds)
    first, second = picture(*here, seed=seed), picture(*there, seed=seed + 1)
    return episode(
        at(first, seconds),
        at(second, seconds + 1),
        label_map(*here),
        target=target,
        **options,  # type: ignore[arg-type]
    )


def stored(folder: Path, *grasps: Episode) -> tuple[EpisodeStore, list[Entry]]:
    store = EpisodeStore(folder / "episodes", write=True, min_free_bytes=0)
    return store, [store.add(one, label_episode(one)) for one in grasps]


def masks(items: tuple[ItemMask, ...]) -> list[np.ndarray]:
    return [item.unpacked() for item in items]


def test_an_item_that_is_taken_later_was_there_all_the_time(tmp_path: Path) -> None:
    empty = episode(
        at(picture(1, 2, 3, seed=3), 3), at(picture(1, 2, 3, seed=4), 4), outcome=Outcome.EMPTY, target=3
    )
    store, entries = stored(
        tmp_path, empty, grasp((1, 2, 3), (2, 3), 6), grasp((2, 3), (3,), 9), grasp((3,), (), 12)
    )
    known = known_items(store, entries)
    for entry, before, after in zip(
        entries, ((1, 2, 3), (1, 2, 3), (2, 3), (3,)), ((1, 2, 3), (2, 3), (3,), ()), strict=True
    ):
        for items, labels in ((known[entry.id].before, before), (known[entry.id].after, after)):
            found = masks(items)
            assert len(found) == len(labels)
            for label in labels:
                assert max(mask_iou(mask, label_map(label) > 0) for mask in found) > 0.85
    # An item has one name wherever it is seen, and the one that a grasp took goes first.
    first, second = known[entries[1].id], known[entries[2].id]
    assert [s.item for s in first.after] == [s.item for s in second.before]
    assert first.before[0].item.startswith(entries[1].id)
    assert len({s.item for k in known.values() for s in (*k.before, *k.after)}) == 3


def test_another_scene_in_between_says_nothing(tmp_path: Path) -> None:
    """A new tote: the second grasp begins with what the first one did not leave."""
    store, entries = stored(tmp_path, grasp((1, 2), (2,), 3), grasp((1, 3), (1,), 6))
    known = known_items(store, entries)
    assert len(known[entries[0].id].before) == 1
    assert known[entries[0].id].after == ()


@pytest.mark.parametrize("what", ["late", "session", "camera"])
def test_what_is_too_far_apart_says_nothing(tmp_path: Path, what: str) -> None:
    first, second = grasp((1, 2, 3), (2, 3), 3), grasp((2, 3), (3,), 6 if what != "late" else 500)
    if what == "session":
        first, second = replace(first, session="monday"), replace(second, session="tuesday")
    if what == "camera":
        shifted = {
            side: replace(
                getattr(second, side),
                frame=replace(
                    getattr(second, side).frame,
                    image=np.roll(getattr(second, side).frame.image, 5, 1),
                    depth=np.roll(getattr(second, side).frame.depth, 5, 1),
                ),
                instances=None,
            )
            for side in ("before", "after")
        }
        second = replace(second, **shifted)
    store, entries = stored(tmp_path, first, second)
    assert known_items(store, entries)[entries[0].id].after == ()


def test_labels_of_episodes_that_were_not_asked_are_not_used(tmp_path: Path) -> None:
    """A judge's labels must not reach what is learned from."""
    store, entries = stored(tmp_path, grasp((1, 2, 3), (2, 3), 3), grasp((2, 3), (3,), 6))
    assert len(known_items(store, entries)[entries[0].id].before) == 2
    alone = known_items(store, entries[:1])
    assert list(alone) == [entries[0].id]
    assert len(alone[entries[0].id].before) == 1


def test_a_damaged_episode_breaks_the_chain_and_nothing_else(tmp_path: Path) -> None:
    store, entries = stored(tmp_path, grasp((1, 2, 3), (2, 3), 3), grasp((2, 3), (3,), 6), grasp((3,), (), 9))
    next(entries[1].folder.glob("*.png")).write_bytes(b"x")
    known = known_items(store, entries)
    assert set(known) == {entries[0].id, entries[2].id}
    assert len(known[entries[0].id].before) == 1


def test_what_lay_on_an_item_hides_it_before() -> None:
    mask, removed = NOTHING.copy(), NOTHING.copy()
    mask[40:60, 40:80] = True
    removed[30:70, 30:60] = True  # half of it was under what left
    seen = propagate_backward(mask, FrameTransition(removed, NOTHING, np.eye(2, 3)))
    assert seen is not None
    assert np.array_equal(seen, mask & ~removed)
    removed[30:70, 30:72] = True  # and now too much of it
    assert propagate_backward(mask, FrameTransition(removed, NOTHING, np.eye(2, 3))) is None
    removed[:] = False
    removed[30:70, 55:65] = True  # two pieces: which of them is it?
    assert propagate_backward(mask, FrameTransition(removed, NOTHING, np.eye(2, 3))) is None


def test_an_item_that_came_was_not_there() -> None:
    mask, added = NOTHING.copy(), NOTHING.copy()
    mask[40:60, 40:80] = True
    added[45:55, 45:75] = True
    assert propagate_backward(mask, FrameTransition(NOTHING, added, np.eye(2, 3))) is None
    assert propagate_backward(NOTHING, FrameTransition(NOTHING, NOTHING, np.eye(2, 3))) is None


def test_masks_follow_a_camera_that_moved() -> None:
    mask = NOTHING.copy()
    mask[40:60, 40:80] = True
    seen = propagate_backward(mask, FrameTransition(NOTHING, NOTHING, np.array([[1.0, 0, 7], [0, 1, -4]])))
    assert seen is not None
    assert np.array_equal(seen, np.roll(mask, (4, -7), (0, 1)))


def test_only_episodes_soon_after_the_chosen_ones_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "HORIZON", 10.0)
    entries = [Entry(f"{second * SECOND}-x", Path(), None, 0) for second in (1, 5, 9, 14, 30, 41)]  # type: ignore[arg-type]
    found = beside(entries, [entries[1], entries[4]])
    assert [entry.stamp // SECOND for entry in found] == [5, 9, 14, 30]
    assert beside(entries, []) == []
