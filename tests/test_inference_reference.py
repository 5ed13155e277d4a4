"""A reference drops what has not changed, and is left out when it no longer fits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rise_perception.core.errors import DataError
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.data.images import read_depth, read_image, write_image
from rise_perception.inference.reference import Reference, select
from rise_perception.inference.reference_folder import write_capture

RNG = np.random.default_rng(0)
EMPTY = RNG.integers(90, 110, (120, 160, 3), np.uint8)


def instances(*boxes: tuple[int, int, int, int]) -> Instances:
    label_map = np.zeros((120, 160), np.uint16)
    for number, (x0, y0, x1, y1) in enumerate(boxes, 1):
        label_map[y0:y1, x0:x1] = number
    count = len(boxes)
    labels = np.arange(1, count + 1, dtype=np.uint16)
    return Instances(
        label_map, labels, np.ones(count, np.float32), np.zeros(count, np.int64),
        np.array(boxes, np.float32), np.zeros((count, 4), np.float32), labels.astype(np.int64),
    )  # fmt: skip


def filled(gain: float = 1.0) -> np.ndarray:
    image = EMPTY.copy()
    image[20:60, 20:60] = (200, 40, 40)
    return np.clip(image * gain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("gain", [1.0, 1.15, 0.85])
def test_what_is_as_in_the_reference_is_dropped_in_any_exposure(gain):
    reference = Reference.of([Frame(EMPTY)])
    kept = reference.keep_changed(instances((20, 20, 60, 60), (90, 50, 140, 100)), filled(gain))
    assert kept.problem == ""
    assert kept.mismatch < 0.01
    assert kept.instances.labels.tolist() == [1]
    assert set(np.unique(kept.instances.label_map)) == {0, 1}


def test_what_stands_up_is_kept_by_depth_though_its_colour_is_that_of_the_ground():
    ground = np.full((120, 160), 1.0, np.float32)
    depth = ground.copy()
    depth[50:100, 90:140] = 0.95
    reference = Reference.of([Frame(EMPTY, ground)] * 3)
    both = instances((20, 20, 60, 60), (90, 50, 140, 100))
    assert reference.keep_changed(both, EMPTY, depth).instances.labels.tolist() == [2]


def test_a_stale_reference_is_left_out_and_says_so():
    other_place = RNG.integers(0, 256, (8, 10, 3), np.uint8).repeat(15, 0).repeat(16, 1)
    seen = instances((20, 20, 60, 60))
    kept = Reference.of([Frame(EMPTY)]).keep_changed(seen, other_place)
    assert kept.instances is seen
    assert kept.changed is None
    assert kept.mismatch > 0.4
    assert "stale" in kept.problem
    kept = Reference.of([Frame(EMPTY)]).keep_changed(seen, EMPTY[:100])
    assert kept.instances is seen
    assert "160x120, the picture 160x100" in kept.problem


def test_the_median_leaves_out_what_passes_by():
    passing = EMPTY.copy()
    passing[:, 100:130] = 250
    reference = Reference.of([Frame(EMPTY), Frame(passing), Frame(EMPTY)])
    assert not reference.changed(EMPTY).any()


def test_outside_nothing_counts():
    outside = np.zeros((120, 160), bool)
    outside[:, :80] = True
    other_place = RNG.integers(0, 256, (8, 10, 3), np.uint8).repeat(15, 0).repeat(16, 1)
    half = np.where(outside[..., None], other_place, EMPTY)
    reference, seen = Reference.of([Frame(EMPTY)]), instances((20, 20, 60, 60), (90, 50, 140, 100))
    assert "stale" in reference.keep_changed(seen, half).problem
    kept = reference.keep_changed(seen, half, outside=outside)
    assert kept.problem == ""
    assert kept.changed is not None
    assert not kept.changed[outside].any()
    assert len(kept.instances) == 0


def test_no_picture_and_different_sizes_are_named():
    with pytest.raises(DataError, match="at least one"):
        Reference.of([])
    with pytest.raises(DataError, match="one camera"):
        Reference.of([Frame(EMPTY), Frame(EMPTY[:100])])


def test_selecting_all_changes_nothing():
    seen = instances((1, 1, 5, 5))
    assert select(seen, np.ones(1, bool)) is seen


def test_predict_leaves_out_what_is_in_the_reference_and_warns_of_a_stale_one(tmp_path, tiny_model, rise):
    write_image(tmp_path / "new/a.png", filled())
    write_image(tmp_path / "empty/e.png", EMPTY)
    write_image(tmp_path / "same/e.png", filled())
    asked = ("predict", tmp_path / "new", "--model", tiny_model, "--out", tmp_path / "out")
    with_none = rise(*asked)[1]
    assert not with_none.startswith("0 instances")
    assert rise(*asked, "--reference", tmp_path / "same")[1].startswith("0 instances")
    # The same code reads what a node has captured.
    write_capture(tmp_path / "captured", [Frame(filled())])
    assert rise(*asked, "--reference", tmp_path / "captured")[1].startswith("0 instances")
    write_image(tmp_path / "small/e.png", EMPTY[:50])
    status, out, err = rise(*asked, "--reference", tmp_path / "small")
    assert status == 0
    assert "--reference was left out" in err
    assert out.split()[0] == with_none.split()[0]


def test_on_a_real_tote_floor_and_walls_are_as_in_the_reference(shared_data: Path):
    folder = shared_data / "arc_tote"
    empty, full = (
        Frame(read_image(folder / f"{n}.color.png"), read_depth(folder / f"{n}.depth.png", 0.0001))
        for n in ("background-0", "input-0")
    )
    changed = Reference.of([empty]).changed(full.image, full.depth)
    assert not Reference.of([empty]).changed(empty.image, empty.depth).any()
    assert 0.01 < changed.mean() < 0.4
