"""The picking cell: the same cell for the same seed, goods of its own, a cup that holds what it lies on."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.grasp_trials import from_label_map
from rise_perception.core.errors import ConfigError
from rise_perception.data.coco import CocoDataset
from rise_perception.simulation import parts, shapes
from rise_perception.simulation.cell import CODE, Cell, CellSettings
from rise_perception.simulation.items import RECIPES_PER_SPLIT
from rise_perception.simulation.picker import MIN_ROOM, Aim, Picker, middle
from rise_perception.simulation.recording import LEVELS, write_cell
from rise_perception.simulation.render import Renderer
from rise_perception.simulation.sequence import DOUBLE, EMPTY, SUCCESS

SMALL = CellSettings(seed=4, catalogue=3, items=4, width=160, height=120)


@pytest.fixture
def renderer():
    with Renderer(SMALL.width, SMALL.height) as ready:  # a process has one context at a time
        yield ready


def test_equal_settings_give_equal_frames_and_another_seed_another_cell(renderer) -> None:
    first = Cell(SMALL, renderer).look()
    again = Cell(SMALL, renderer).look()
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.depth, again.depth)
    other = Cell(CellSettings(5, 3, 4, 160, 120), renderer).look()
    assert (first.image != other.image).mean() > 0.5


def test_totes_differ_and_the_cell_stays(renderer) -> None:
    cell = Cell(SMALL, renderer)
    view, seen = cell.look().view, set()
    for number in range(4):
        cell.next_tote(number)
        shot = cell.look()
        assert shot.view is view
        items = [cell.scene.item(label) for label in cell.scene.labels]
        seen |= {item.recipe for item in items}
        assert {item.kind for item in items} <= set(parts.KINDS)
        assert len(items) >= 3  # one may roll away
    assert 1 < len(seen) <= SMALL.catalogue
    assert all(recipe >= CODE * RECIPES_PER_SPLIT for recipe in seen)  # no data set's
    assert not set(parts.KINDS) & set(shapes.KINDS)


def test_every_part_can_be_made_and_is_as_large_as_it_says(renderer) -> None:
    kinds: set[str] = set()
    for seed in range(3):
        cell = Cell(CellSettings(seed, 60, 25, 160, 120), renderer)
        shot = cell.look()
        metres = float(np.median(shot.depth[shot.depth > 0])) / 1e3
        for label, mask in shot.amodal.items():
            item = cell.scene.item(label)
            kinds.add(item.kind)
            rows, columns = np.nonzero(mask)
            extent = max(np.ptp(rows), np.ptp(columns)) / cell.camera.fx * metres
            assert extent < 1.3 * 2 * np.linalg.norm(item.half), item.kind
    assert kinds == set(parts.KINDS)


def test_the_cup_holds_what_it_lies_on(renderer) -> None:
    cell = Cell(CellSettings(4, 3, 12, 160, 120), renderer)
    outcomes = {SUCCESS: 0, EMPTY: 0, DOUBLE: 0}
    labels = np.maximum(cell.look().labels, 0)
    for y in range(10, 110, 5):
        for x in range(10, 150, 5):
            outcome, held = cell.under_cup(x, y)
            outcomes[outcome] += 1
            assert len(held) == {SUCCESS: 1, EMPTY: 0, DOUBLE: 2}[outcome]
            around = labels[y - 4 : y + 5, x - 4 : x + 5]
            if around.all() and len(np.unique(around)) == 1:
                assert (outcome, held) == (SUCCESS, (around[0, 0],))
            if not around.any():
                assert outcome == EMPTY
    assert min(outcomes.values()) > 0


def test_what_is_taken_is_gone(renderer) -> None:
    cell = Cell(SMALL, renderer)
    before = cell.look()
    label = next(iter(before.amodal))
    cell.take((label,))
    after = cell.look()
    assert label not in cell.scene.labels
    assert not (after.labels == label).any()
    rows, columns = np.nonzero(before.labels == label)
    x, y = float(columns.mean()), float(rows.mean())
    assert cell.point(x, y)[2] < 0.2  # metres above the tote's floor


def test_what_stands_in_the_tote_rises_above_the_empty_one(renderer) -> None:
    cell = Cell(SMALL, renderer)
    shot = cell.look()
    rises = cell.rises(shot.depth)
    items = shot.labels > 0
    assert rises[items].mean() > 0.5
    assert rises[~items].mean() < 0.02
    cell.take(tuple(cell.scene.labels))
    assert cell.rises(cell.look().depth).mean() < 0.01


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_a_process_that_has_rendered_can_train() -> None:
    """PyTorch imports Triton with its first optimiser: after a software OpenGL a segmentation fault."""
    code = (
        "from rise_perception.simulation.render import Renderer\n"
        "from rise_perception.simulation.cell import Cell, CellSettings\n"
        "with Renderer(320, 240) as renderer:\n"
        "    cell = Cell(CellSettings(1), renderer)\n"
        "    cell.next_tote(0)\n"
        "    cell.look()\n"
        "import triton.runtime\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"seed": -1}, {"catalogue": 0}, {"items": 99}, {"width": 5}):
        with pytest.raises(ConfigError, match=next(iter(wrong)) if "width" not in wrong else "size"):
            CellSettings(**wrong)


def test_a_cell_on_disk_is_labelled_and_empties(tmp_path: Path) -> None:
    assert write_cell(tmp_path, SMALL, totes=2, first=7) == 2 * LEVELS
    images = CocoDataset(tmp_path / "cell.json", ("object",), True)
    counts = [len(images[k].masks) for k in range(2 * LEVELS)]
    assert counts[0] > counts[LEVELS - 1] < counts[LEVELS]
    content = json.loads((tmp_path / "cell.json").read_text())
    write_cell(tmp_path / "again", SMALL, totes=2, first=7)
    assert json.loads((tmp_path / "again/cell.json").read_text()) == content


# ---- the picker ----


def scene(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    labels = np.zeros((60, 80), np.uint16)
    for k, (y0, y1, x0, x1) in enumerate(boxes, 1):
        labels[y0:y1, x0:x1] = k
    return labels


def test_the_best_mask_with_room_is_aimed_at() -> None:
    instances = from_label_map(scene((10, 30, 10, 30), (5, 55, 40, 44), (35, 55, 10, 30)))
    instances.scores[:] = (0.5, 0.95, 0.8)  # the second has no room
    aim = Picker().choose(instances, np.ones((60, 80), bool))
    assert aim is not None
    assert (aim.x, aim.y, aim.target_id) == (19.5, 44.5, 3)
    assert aim.score == pytest.approx(0.8)


def test_what_failed_is_tried_again_only_when_the_scene_has_changed() -> None:
    instances, picker = from_label_map(scene((10, 30, 10, 30))), Picker()
    nothing = np.zeros((60, 80), bool)
    aim = picker.choose(instances, nothing)
    assert aim is not None
    picker.failed(aim)
    assert picker.choose(instances, nothing) is None
    picker.failed(Aim(79.0, 59.0, 9, 0.5))
    picker.changed()
    assert picker.choose(instances, nothing) == aim


def test_what_no_mask_covers_is_tried_when_no_mask_is_left() -> None:
    instances, picker = from_label_map(scene((10, 30, 10, 30))), Picker()
    rises = scene((10, 30, 10, 30), (35, 55, 40, 60), (2, 5, 70, 79)) > 0  # covered, bare, and too thin
    first = picker.choose(instances, rises)
    assert first is not None
    assert first.target_id == 1
    picker.failed(first)
    second = picker.choose(instances, rises)
    assert second is not None
    assert (second.x, second.y, second.target_id, second.score) == (49.5, 44.5, -1, 0.0)
    picker.failed(second)
    assert picker.choose(instances, rises) is None


def test_the_middle_of_a_ring_lies_on_the_ring() -> None:
    rows, columns = np.mgrid[:60, :80]
    away = np.hypot(rows - 30, columns - 40)
    x, y, room = middle((away < 25) & (away > 13))
    assert 13 < np.hypot(y - 30, x - 40) < 25
    assert room >= MIN_ROOM
    assert middle(np.zeros((60, 80), bool))[2] == 0
