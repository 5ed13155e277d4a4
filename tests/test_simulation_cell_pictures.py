"""The pictures of a cell: one place, one camera, other fillings; and `rise teach` reads them as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rise_perception.core.errors import ConfigError
from rise_perception.core.frame import Frame
from rise_perception.data.annotated import read_annotated
from rise_perception.data.folder import FolderImages
from rise_perception.inference.reference_folder import read_reference
from rise_perception.simulation.cell import CellSettings
from rise_perception.simulation.cell_pictures import PictureSettings, write_cell_pictures

SETTINGS = PictureSettings(2, 2, 2, True, CellSettings(3, 4, 5, 160, 120))


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cells") / "cell"
    assert write_cell_pictures(out, SETTINGS) == {"annotated": 2, "empty": 2, "test": 2, "recoloured": 2}
    return out


def frames(cell: Path, part: str) -> list[tuple[Frame, np.ndarray]]:
    """Frames of a part, each with (H, W) bool where items lie."""
    samples = [p.load(True) for p in read_annotated(cell / f"{part}.json").pictures]
    return [(Frame(s.image, s.depth), s.masks.any(0)) for s in samples]


def test_teach_reads_what_was_written(cell):
    annotated = read_annotated(cell / "annotated.json")
    assert annotated.classes == ("object",)
    assert annotated.has_depth
    assert len(annotated.pictures) == 2
    assert all(p.masks for p in annotated.pictures)
    empty = FolderImages(cell / "empty", True)
    assert len(empty) == 2
    assert all(empty[k].depth is not None for k in range(2))


def test_camera_and_place_are_the_same_in_every_picture(cell):
    reference = read_reference(cell / "empty").reference
    for part in ("annotated", "test"):
        for frame, items in frames(cell, part):
            changed = reference.changed(frame.image, frame.depth)
            assert changed[items].mean() > 0.6
            assert changed[~items].mean() < 0.2  # shadows, and what is too small to be labelled


def test_fillings_differ(cell):
    masks = [items for part in ("annotated", "test") for _, items in frames(cell, part)]
    for k, one in enumerate(masks):
        assert all((one != other).any() for other in masks[:k])


def test_recoloured_goods_lie_as_they_lay_under_another_lamp(cell):
    pairs = zip(frames(cell, "test"), frames(cell, "recoloured"), strict=True)
    for (before, items), (after, same) in pairs:
        assert (items == same).mean() > 0.99
        assert np.abs(before.image.astype(int) - after.image)[items].mean() > 15
        empty = ~items & ~same
        tints = [f.image[empty].mean(0) for f in (before, after)]
        assert (tints[0][0] > tints[0][2]) != (tints[1][0] > tints[1][2])


def test_equal_settings_give_equal_bytes_and_a_folder_that_holds_something_is_refused(cell, rise):
    size = ("--size", "160x120", "--seed", "3")
    again = cell.parent / "again"
    small = PictureSettings(1, 1, 0, False, CellSettings(3, width=160, height=120))
    write_cell_pictures(again, small)
    status, out, _ = rise(
        "scenes", "cell", cell.parent / "third", "--annotated", 1, "--empty", 1, "--test", 0, *size
    )
    assert status == 0
    assert "1 annotated, 1 empty, 0 test pictures" in out
    for name in (
        "images/annotated/000000.png",
        "empty/000000.png",
        "empty/000000-depth.png",
        "annotated.json",
    ):
        assert (again / name).read_bytes() == (cell.parent / "third" / name).read_bytes(), name
    status, _, err = rise("scenes", "cell", again)
    assert status == 2
    assert "is not empty; give a new folder" in err


def test_a_cell_without_annotated_pictures_is_refused():
    with pytest.raises(ConfigError, match="annotated is 0"):
        PictureSettings(annotated=0)
