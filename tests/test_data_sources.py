"""What a training can read: unlabelled images whose annotations do not matter, folders, bags, splits."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader

from rise_perception.core.errors import DataError, RiseError
from rise_perception.data import bags
from rise_perception.data.bag_images import BagImages
from rise_perception.data.bags import BagWriter
from rise_perception.data.coco import CocoDataset, CocoImages
from rise_perception.data.folder import FolderImages
from rise_perception.data.images import write_image
from rise_perception.data.sources import open_images, open_labelled, open_unlabelled
from rise_perception.data.splits import write_split

H, W = 24, 40
START, PERIOD = 1_700_000_000_000_000_000, 33_333_333


def picture(value: int, shape: tuple[int, ...] = (H, W, 3)) -> np.ndarray:
    return np.random.default_rng(value).integers(0, 255, shape, np.uint8)


@pytest.fixture
def armbench(tmp_path: Path) -> Path:
    """Ten images in the layout of ARMBench mix-object-tote; one tote and one object in each."""
    root = tmp_path / "mix-object-tote"
    images, annotations = [], []
    for k in range(1, 11):
        name = f"{k:04d}.jpg"
        write_image(root / "images" / name, picture(k))
        images.append({"id": k, "file_name": name, "width": W, "height": H})
        boxes = {1: (0, 0, W, H), 2: (k, 5, k + 8, 15)}
        for category, (x0, y0, x1, y1) in boxes.items():
            polygon = [float(v) for v in (x0, y0, x1, y0, x1, y1, x0, y1)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": k,
                    "category_id": category,
                    "segmentation": [polygon],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 1, "name": "Tote"}, {"id": 2, "name": "Object"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "train.json").write_text(json.dumps(content))
    return root / "train.json"


def change(file: Path, **lists: Any) -> None:
    content = json.loads(file.read_bytes())
    for key, value in lists.items():
        if value is None:
            del content[key]
        else:
            content[key] = value
    file.write_text(json.dumps(content))


# ---- COCO


def test_armbench(armbench: Path) -> None:
    data = open_labelled(armbench, ("tote", "object"), with_depth=False)
    assert len(data) == 10
    sample = data[3]
    assert sample.name == "0004.jpg"
    assert sample.classes.tolist() == [0, 1]
    assert sample.masks[0].all()
    wanted = np.zeros((H, W), bool)
    wanted[5:15, 4:12] = True
    assert np.array_equal(sample.masks[1], wanted)
    assert data.after(3) is None
    with pytest.raises(DataError, match=r"image 4, 0004\.jpg has no depth_file"):
        open_labelled(armbench, ("tote", "object"), with_depth=True)[3]


@pytest.mark.parametrize(
    "annotations",
    [None, [], "none", [7], [{"image_id": 77}], [{"image_id": 1, "category_id": 2, "segmentation": [[1]]}]],
)
def test_annotations_never_reach_unlabelled_images(armbench: Path, annotations: Any) -> None:
    before = open_unlabelled(armbench, with_depth=False)
    plain = [before[k] for k in range(len(before))]
    change(armbench, annotations=annotations, categories=None)
    after = open_unlabelled(armbench, with_depth=False)
    assert isinstance(after, CocoImages)
    assert not isinstance(after, CocoDataset)
    assert len(after) == len(plain)
    for k, old in enumerate(plain):
        new = after[k]
        assert new.name == old.name
        assert np.array_equal(new.image, old.image)
        assert new.masks.shape == (0, H, W)
        assert new.masks.dtype == bool
        assert new.classes.shape == new.ids.shape == (0,)


def test_opening_looks_at_no_image(tmp_path: Path) -> None:
    """31,000 images that are not there: opening is parsing."""
    images = [{"id": k, "file_name": f"{k}.jpg", "width": W, "height": H} for k in range(31_000)]
    annotations = [
        {"id": k, "image_id": k % 31_000, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}
        for k in range(62_000)
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    start = time.process_time()
    data = open_labelled(tmp_path / "all.json", ("object",), with_depth=False)
    assert time.process_time() - start < 20
    assert len(data) == 31_000
    with pytest.raises(DataError, match=r"image 30999, 30999\.jpg: .*No such file"):
        data[30_999]


# ---- splits


def test_a_split_gives_each_image_to_one_side(armbench: Path, tmp_path: Path) -> None:
    split = tmp_path / "splits/one.json"
    write_split(split, armbench, open_images(armbench).keys, 0.3, 0)
    labelled = open_labelled(split, ("tote", "object"), with_depth=False)
    unlabelled = open_unlabelled(split, with_depth=False)
    names = [[source[k].name for k in range(len(source))] for source in (labelled, unlabelled)]
    assert [len(part) for part in names] == [3, 7]
    assert sorted(names[0] + names[1]) == [f"{k:04d}.jpg" for k in range(1, 11)]
    assert labelled[0].classes.tolist() == [0, 1]
    assert unlabelled[0].masks.shape == (0, H, W)


def test_broken_annotations_of_unlabelled_images_do_not_matter(armbench: Path, tmp_path: Path) -> None:
    split = tmp_path / "one.json"
    write_split(split, armbench, open_images(armbench).keys, 0.3, 0)
    chosen = json.loads(split.read_bytes())["labelled"]
    plain = open_labelled(split, ("object",), with_depth=False)[0]
    annotations = json.loads(armbench.read_bytes())["annotations"]
    for annotation in annotations:
        if annotation["image_id"] not in chosen:
            annotation.update(segmentation="garbage", category_id=99)
    change(armbench, annotations=annotations)
    sample = open_labelled(split, ("object",), with_depth=False)[0]
    assert np.array_equal(sample.masks, plain.masks)


# ---- folders


def test_a_folder_and_the_folders_in_it(tmp_path: Path) -> None:
    for name in ("10.png", "2.png", "b/1.jpg", "b/c/1.png"):
        write_image(tmp_path / name, picture(1))
    left_out = ("2-depth.png", "2.label.png", "depth/2.png", "b/labels/1.png", "mask/1.png", ".cache/1.png")
    for name in left_out:
        write_image(tmp_path / name, np.ones((H, W), np.uint16))
    (tmp_path / "notes.txt").write_text("no picture")
    data = open_unlabelled(tmp_path, with_depth=False)
    assert [data[k].name for k in range(len(data))] == ["2.png", "10.png", "b/1.jpg", "b/c/1.png"]
    assert data.after(0) is None
    assert data[0].masks.shape == (0, H, W)


@pytest.mark.parametrize(
    ("root", "name", "depth"),
    [
        (".", "a.png", "a-depth.png"),
        (".", "a-color.png", "a-depth.png"),
        ("images", "train/a.png", "../depth/train/a.png"),
        ("images/train", "a.png", "../../depth/train/a.png"),
        (".", "rgb/a.png", "depth/a-depth.png"),
    ],
)
def test_depth_is_found_by_its_name(tmp_path: Path, root: str, name: str, depth: str) -> None:
    write_image(tmp_path / root / name, picture(1))
    data = open_unlabelled(tmp_path / root, with_depth=True)
    with pytest.raises(DataError, match=rf"image {name} has no depth"):
        data[0]
    file = (tmp_path / root / depth).resolve()
    write_image(file, np.full((H, W), 1500, np.uint16))
    sample = data[0]
    assert sample.depth is not None
    np.testing.assert_allclose(sample.depth, 1.5)
    write_image(file, np.full((H, W + 1), 1500, np.uint16))
    with pytest.raises(DataError, match=rf"image {name}: depth is 41x24"):
        data[0]


def test_broken_pictures_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / name, picture(1))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-40])
    data = FolderImages(tmp_path)
    (tmp_path / "b.png").unlink()
    for index, name in enumerate(("a.png", "b.png")):
        with pytest.raises(DataError, match=f"image {name}"):
            data[index]
    assert data[2].name == "c.png"


# ---- bags


def write_bag(path: Path, depth_of: range = range(0)) -> Path:
    with BagWriter(path) as writer:
        for k in range(120):  # several chunks of 1 MiB
            stamp = START + k * PERIOD
            writer.write_image(bags.COLOR_TOPIC, picture(k, (96, 128, 3)), "rgb8", stamp, "cam")
            if k in depth_of:
                depth = np.full((96, 128), 500 + k, np.uint16)
                writer.write_image(bags.DEPTH_TOPIC, depth, "16UC1", stamp + 5_000_000, "cam")
    return path


def test_a_bag_in_any_order(tmp_path: Path) -> None:
    data = open_unlabelled(write_bag(tmp_path / "bag", range(120)), with_depth=True)
    assert len(data) == 120
    for k in (119, 0, 60, 61, 0):
        sample = data[k]
        assert np.array_equal(sample.image, picture(k, (96, 128, 3)))
        assert sample.depth is not None
        np.testing.assert_allclose(sample.depth, 0.5 + k / 1000, rtol=1e-6)
        assert sample.name == f"{(START + k * PERIOD) / 1e9:.3f}"
        assert sample.masks.shape == (0, 96, 128)
        assert data.after(k) is None
    assert np.array_equal(pickle.loads(pickle.dumps(data))[7].image, data[7].image)


def test_workers_of_a_loader_have_a_bag_each(tmp_path: Path) -> None:
    data = BagImages(write_bag(tmp_path / "bag"))
    data[5]  # open in this process before the workers start
    loader = DataLoader(data, batch_size=None, num_workers=2)
    for k, sample in enumerate(loader):
        assert np.array_equal(sample.image, picture(k, (96, 128, 3)))


def test_frames_of_a_bag_that_lack_depth(tmp_path: Path) -> None:
    data = open_unlabelled(write_bag(tmp_path / "some", range(0, 120, 2)), with_depth=True)
    assert data[2].depth is not None
    with pytest.raises(DataError, match=r"some: the frame at 1700000000\.033 s has no depth"):
        data[1]
    with pytest.raises(DataError, match="no depth beside its images"):
        open_unlabelled(write_bag(tmp_path / "none"), with_depth=True)
    assert open_unlabelled(tmp_path / "none", with_depth=False)[1].depth is None


def test_a_damaged_bag_is_refused_or_named(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag")
    file = bag / "bag.mcap"
    content = file.read_bytes()
    data = BagImages(bag)
    file.write_bytes(content[:20000] + bytes(300_000) + content[320_000:])
    with pytest.raises(DataError, match=r"bag: the frame at 1700000000\.000 s: .*damaged"):
        data[0]
    assert np.array_equal(data[119].image, picture(119, (96, 128, 3)))
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(RiseError, match="damaged"):
        open_unlabelled(bag, with_depth=False)


# ---- what is no source


def test_what_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in (("nowhere", "does not exist"), ("empty", "holds no pictures")):
        with pytest.raises(DataError, match=f"{path}.*{words}"):
            open_unlabelled(tmp_path / path, with_depth=False)
    with pytest.raises(DataError, match=r"nowhere\.json does not exist"):
        open_labelled(tmp_path / "nowhere.json", ("object",), with_depth=False)
    with pytest.raises(DataError, match=r"empty holds no OCID sequence"):
        open_labelled(tmp_path / "empty", ("object",), with_depth=False)
    (tmp_path / "words.json").write_text("words")
    with pytest.raises(DataError, match=r"words\.json is no valid JSON"):
        open_unlabelled(tmp_path / "words.json", with_depth=False)
