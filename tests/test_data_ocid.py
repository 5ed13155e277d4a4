"""OCID: its folder tree, its tables, objects that keep their ids from frame to frame, what is broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from rise_perception.core.errors import DataError
from rise_perception.data.images import write_image
from rise_perception.data.ocid import OcidDataset, OcidImages
from rise_perception.data.sources import open_labelled, open_unlabelled

H, W = 48, 64
CLASSES = ("container", "object")
TABLE, FLOOR = "ARID20/table/top/seq02", "ARID20/floor/bottom/seq01"
FRAMES = ("result_2.png", "result_9.png", "result_10.png")


def labels_of(frame: int, table: bool) -> np.ndarray:
    """Frame number ``frame`` of a scene: surroundings, then one object after another, 10 columns each."""
    labels = np.zeros((H, W), np.uint16)
    labels[20:] = 1
    if table:
        labels[30:] = 2
    first = 3 if table else 2
    for k in range(frame):
        labels[25:40, 2 + 12 * k : 12 + 12 * k] = first + k
    return labels


def write_sequence(folder: Path, table: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for frame, name in enumerate(FRAMES):
        write_image(folder / "rgb" / name, rng.integers(0, 255, (H, W, 3), np.uint8))
        write_image(folder / "depth" / name, np.full((H, W), 800 + frame, np.uint16))
        write_image(folder / "label" / name, labels_of(frame, table))
    (folder / "pcd").mkdir()
    (folder / "pcd" / "result_2.pcd").write_text("# .PCD v0.7\n")


@pytest.fixture
def ocid(tmp_path: Path) -> Path:
    root = tmp_path / "OCID-dataset"
    write_sequence(root / TABLE, True, 0)
    write_sequence(root / FLOOR, False, 1)
    write_sequence(root / "YCB10/table/top/mixed/seq11", True, 2)
    (root / "ARID20/info.txt").write_text("not a frame")
    return root


def test_frames_are_in_order_of_sequences_and_time(ocid: Path) -> None:
    data = OcidDataset(ocid, CLASSES)
    sequences = (FLOOR, TABLE, "YCB10/table/top/mixed/seq11")
    assert data.names == [f"{s}/rgb/{name}" for s in sequences for name in FRAMES]
    assert [data[k].name for k in range(len(data))] == data.names


@pytest.mark.parametrize(("sequence", "table"), [(TABLE, True), (FLOOR, False)])
def test_objects_are_what_lies_on_floor_or_table(ocid: Path, sequence: str, table: bool) -> None:
    data = open_labelled(ocid / sequence, CLASSES, with_depth=True)
    first = 3 if table else 2
    for frame in range(3):
        sample = data[frame]
        assert sample.ids.tolist() == list(range(first, first + frame))
        assert sample.classes.tolist() == [1] * frame
        assert sample.masks.shape == (frame, H, W)
        assert sample.masks.dtype == bool
        for mask, identity in zip(sample.masks, sample.ids, strict=True):
            assert np.array_equal(mask, labels_of(frame, table) == identity)
        assert sample.depth is not None
        np.testing.assert_allclose(sample.depth, 0.8 + frame / 1000, rtol=1e-6)


def test_only_the_nearest_folder_says_whether_there_is_a_table(ocid: Path, tmp_path: Path) -> None:
    moved = tmp_path / "table/copies"
    shutil.copytree(ocid / FLOOR, moved / FLOOR)
    assert OcidDataset(moved, CLASSES)[1].ids.tolist() == [2]
    shutil.copytree(ocid / TABLE, tmp_path / "floor/TABLE/my_seq")
    assert OcidDataset(tmp_path / "floor/TABLE/my_seq", CLASSES)[1].ids.tolist() == [3]


def test_the_next_frame_shares_ids_and_ends_with_its_sequence(ocid: Path) -> None:
    data = OcidDataset(ocid, CLASSES)
    later = data.after(1)
    assert later is not None
    assert later.name == data.names[2]
    assert set(data[1].ids) < set(later.ids)
    last = [k for k in range(len(data)) if data.after(k) is None]
    assert last == [2, 5, 8]


def test_classes_that_ocid_can_give(ocid: Path) -> None:
    for classes, index in ((("object",), 0), (("Object", "Tote"), 0), (("item",), 0)):
        assert OcidDataset(ocid, classes)[2].classes.tolist() == [index, index]
    for classes in (("cup", "object"), ("container",)):
        with pytest.raises(DataError, match=r"OCID labels objects without their kind.*network\.classes"):
            OcidDataset(ocid, classes)


def test_unlabelled_frames_need_no_labels_and_never_read_them(ocid: Path) -> None:
    plain = OcidImages(ocid, with_depth=True)[4]
    for file in ocid.rglob("label/*.png"):
        file.write_bytes(b"garbage")
    shutil.rmtree(ocid / FLOOR / "label")
    data = open_unlabelled(ocid, with_depth=True)
    assert isinstance(data, OcidImages)
    assert not isinstance(data, OcidDataset)
    sample, later = data[4], data.after(4)
    assert np.array_equal(sample.image, plain.image)
    assert sample.masks.shape == (0, H, W)
    assert len(sample.ids) == len(sample.classes) == 0
    assert later is not None
    assert later.masks.shape == (0, H, W)
    assert len([data[k] for k in range(9)]) == 9


@pytest.mark.parametrize("kind", ["rgb", "depth", "label"])
def test_what_is_broken_is_named_and_the_rest_goes_on(ocid: Path, kind: str) -> None:
    data = OcidDataset(ocid, CLASSES, with_depth=True)
    file = ocid / FLOOR / kind / FRAMES[1]
    file.write_bytes(file.read_bytes()[:-20])
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            data[1]
        assert f"image {FLOOR}/rgb/{FRAMES[1]}" in str(caught.value)
        assert f"{kind}/{FRAMES[1]}" in str(caught.value)
        file.unlink(missing_ok=True)
    wider = np.ones((H, W + 2, 3), np.uint8) if kind == "rgb" else np.ones((H, W + 2), np.uint16)
    write_image(file, wider)
    with pytest.raises(DataError, match=f"{W + 2}x{H}"):
        data[1]
    with pytest.raises(DataError):
        data.after(0)
    assert data[0].depth is not None
    assert data[2].ids.tolist() == [2, 3]


def test_a_folder_that_is_no_ocid(tmp_path: Path, ocid: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for folder in (tmp_path / "pictures", ocid / FLOOR / "rgb"):
        with pytest.raises(DataError, match="holds no OCID sequence"):
            open_labelled(folder, CLASSES, with_depth=False)
    for file in (ocid / FLOOR / "rgb").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"seq01/rgb: no picture"):
        OcidDataset(ocid, CLASSES)
