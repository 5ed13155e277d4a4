"""The place without items: walls are found out, items and full totes never pass for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tiny import tiny_config

from benchmarks.grasp_trials import from_label_map
from rise_perception.core.frame import Frame
from rise_perception.grasp_learning.capture.episode import Episode, Grasp, Observation, Outcome
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.background import (
    FalsePlaces,
    find_false_places,
    learn_background,
)
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.labelling.label_propagation import known_items
from rise_perception.grasp_learning.update.scenes import BARE, FIRST_UNMOVED, NOTHING, EpisodeImages
from rise_perception.grasp_learning.update.update import refuted_loss
from rise_perception.network.outputs import QueryOutputs
from rise_perception.training.matching import Targets

SIZE = (96, 128)
WALL = (slice(0, 96), slice(112, 128))
#: Where items lie: rows and columns.
ITEMS = {1: (20, 20), 2: (20, 60), 3: (60, 30)}


def frame(items: tuple[int, ...] = (), seed: int = 0, height: float = 0.03, gain: float = 1.0) -> Frame:
    """A floor of 0.8 m distance, a wall of 0.1 m height, and items of 20 x 20 pixels."""
    rng = np.random.default_rng(seed)
    depth, image = np.full(SIZE, 0.8), np.full((*SIZE, 3), 90.0)
    image[::8] += 12
    depth[WALL], image[WALL] = 0.7, (120, 60, 40)
    for item in items:
        y, x = ITEMS[item]
        depth[y : y + 20, x : x + 20] -= height
        image[y : y + 20, x : x + 20] = (40, 140 + 20 * item, 60)
    depth += rng.normal(0, 0.001, SIZE)
    image = (image * gain + rng.normal(0, 2, image.shape)).clip(0, 255)
    return Frame(image.astype(np.uint8), depth.astype(np.float32), None, seed)


def seen(view: Frame, *items: int) -> Observation:
    """Predictions of these items, and of a part of the wall (label 9)."""
    labels = np.zeros(SIZE, np.uint16)
    labels[30:50, 114:126] = 9
    for item in items:
        y, x = ITEMS[item]
        labels[y : y + 20, x : x + 20] = item
    return Observation(view, from_label_map(labels), model_version="cell-0")


#: What is left at the end of totes: nothing, an item, another one, nothing.
ENDS = [frame((), 1), frame((1,), 2), frame((3,), 3, gain=1.1), frame((), 4)]


def test_too_few_totes_tell_nothing() -> None:
    assert learn_background(ENDS[:2]) is None
    assert learn_background([replace(end, depth=None) for end in ENDS]) is None


def test_a_wall_is_found_out_and_items_are_not() -> None:
    background = learn_background(ENDS)
    assert background is not None
    places = find_false_places(background, [seen(frame((1, 2), 7), 1, 2), seen(frame((3,), 8), 3)])
    (wall,) = places.masks
    assert np.array_equal(wall, seen(frame(), 1).instances.mask(1))
    assert list(places.in_frame(frame((1, 2, 3), 9, gain=0.9))) == [0]
    hidden = frame((), 9)
    hidden.depth[30:50, 114:126] -= 0.05  # an item that leans on the wall
    assert not places.in_frame(hidden)
    assert not places.in_frame(replace(frame(), depth=None))


def test_a_thin_item_is_told_by_its_colour() -> None:
    background = learn_background(ENDS)
    assert background is not None
    thin = frame((1,), 5, height=0.001)
    assert not background.is_all(thin)
    assert len(find_false_places(background, [seen(thin, 1)]).masks) == 1  # the wall alone


def test_what_lay_in_too_many_totes_is_not_known_and_never_ground() -> None:
    background = learn_background([frame((1,), 1), frame((1,), 2, 0.05), frame((), 3), frame((2,), 4)])
    assert background is not None
    y, x = ITEMS[1]
    assert (background.depth[y + 3 : y + 17, x + 3 : x + 17] == 0).all()
    assert not background.is_all(frame((1,), 5))  # nobody knows what is ground there


def test_only_an_empty_tote_is_one() -> None:
    background = learn_background(ENDS)
    assert background is not None
    assert background.is_all(frame((), 20))
    assert background.is_all(frame((), 21, gain=1.15))
    for items in ((1,), (2,), (3,), (1, 2, 3)):
        assert not background.is_all(frame(items, 22))
    assert not background.is_all(replace(frame((), 23), depth=np.zeros(SIZE, np.float32)))


def test_frames_teach_that_nothing_is_at_a_wall_and_in_an_empty_tote(tmp_path: Path) -> None:
    background = learn_background(ENDS)
    assert background is not None
    store = EpisodeStore(tmp_path, write=True, min_free_bytes=0)
    grasps = ((2, 3), (3,)), ((3,), ())
    for number, (here, there) in enumerate(grasps):
        first, second = frame(here, 10 * number), frame(there, 10 * number + 5)
        after = Observation(replace(second, stamp=10**9 * (number + 1) + 10**8))
        before = seen(replace(first, stamp=10**9 * (number + 1)), *here)
        target = int(before.instances.ids[before.instances.labels == here[0]][0])
        grasp = Episode(before, after, Grasp(f"g{number}", target, Outcome.SUCCESS, after.frame.stamp))
        labels = label_episode(grasp)
        assert len(labels.masks) == 1
        assert 9 in labels.unmoved
        store.add(grasp, labels)
    entries = store.entries()
    places = find_false_places(background, (store.read(entry)[0].before for entry in entries))
    network = tiny_config(classes=("object",), containers=())
    images = EpisodeImages(store, entries, network, known_items(store, entries), places)
    taught = [images[k].ids.tolist() for k in range(4)]
    assert taught[0] == [0, 1, NOTHING]
    assert [ids.count(NOTHING) for ids in taught] == [1, 1, 1, 1]
    assert [ids.count(BARE) for ids in taught] == [0, 0, 0, 1]  # of the emptied tote alone
    assert not any(FIRST_UNMOVED + 9 in ids for ids in taught)
    assert set(images.taught(0).ids.tolist()) == {0}
    without = EpisodeImages(store, entries, network, known_items(store, entries))
    assert FIRST_UNMOVED + 9 in without[0].ids.tolist()
    assert isinstance(places, FalsePlaces)


def test_in_an_empty_tote_every_query_is_judged_but_the_largest() -> None:
    boxes = torch.tensor([[[0.2, 0.2, 0.1, 0.1], [0.7, 0.7, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9]]])
    logits = torch.zeros(1, 3, 1, requires_grad=True)
    outputs = QueryOutputs(logits=logits, boxes=boxes, masks=None, embeddings=None, auxiliary=[])
    masks = torch.ones(1, 8, 8, dtype=torch.bool)
    whole = torch.tensor([[0.5, 0.5, 1.0, 1.0]])
    bare = Targets(torch.zeros(1, dtype=torch.int64), whole, masks, torch.tensor([BARE]))
    pasted = Targets(
        torch.zeros(1, dtype=torch.int64), boxes[0, 1:2], masks, torch.zeros(1, dtype=torch.int64)
    )
    refuted_loss(outputs, {0: bare}, [pasted]).backward()
    assert (logits.grad[0, :, 0] > 0).tolist() == [True, False, False]
