"""`rise split`: draws without replacement, nested by rate, bound to the data set it was made of."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rise_perception.core.errors import DataError
from rise_perception.data.images import write_image
from rise_perception.data.ocid import OcidDataset
from rise_perception.data.sources import open_labelled, open_unlabelled
from rise_perception.data.splits import draw_parts

COUNT = 200


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A COCO file of 200 images (that need not be there to be split)."""
    images = [{"id": 3 * k + 1, "file_name": f"train/{k:04d}.png"} for k in range(COUNT)]
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    file = tmp_path / "data/train.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    return file


def split(rise: Any, data: Path, out: Path, rate: float, seed: int = 0) -> dict[str, Any]:
    status, text, err = rise("split", data, "--labelled", rate, "--seed", seed, "--out", out)
    assert status == 0, err
    content = json.loads(out.read_bytes())
    counts = f"{len(content['labelled'])} labelled and {len(content['unlabelled'])} unlabelled images"
    assert counts in text
    return content


def test_every_image_is_in_one_part(rise: Any, data: Path, tmp_path: Path) -> None:
    content = split(rise, data, tmp_path / "s.json", 0.1)
    assert len(content["labelled"]) == COUNT // 10
    assert sorted(content["labelled"] + content["unlabelled"]) == [3 * k + 1 for k in range(COUNT)]


def test_rates_are_nested_and_seeds_differ(rise: Any, data: Path, tmp_path: Path) -> None:
    rates = (0.005, 0.01, 0.1, 0.5, 1.0)
    parts = [set(split(rise, data, tmp_path / "s.json", rate)["labelled"]) for rate in rates]
    assert [len(part) for part in parts] == [1, 2, 20, 100, 200]
    assert all(small < large for small, large in itertools.pairwise(parts))
    again = set(split(rise, data, tmp_path / "s.json", 0.5)["labelled"])
    other = set(split(rise, data, tmp_path / "s.json", 0.5, seed=1)["labelled"])
    assert again == parts[3]
    assert 30 < len(other & again) < 70  # 50 by chance


def test_no_image_is_favoured(rise: Any, data: Path, tmp_path: Path) -> None:
    drawn = np.zeros(COUNT)
    for seed in range(40):
        ids = split(rise, data, tmp_path / "s.json", 0.5, seed)["labelled"]
        drawn[[identity // 3 for identity in ids]] += 1
    assert drawn.min() > 5
    assert drawn.max() < 35
    assert abs(drawn[:100].sum() - drawn[100:].sum()) < 400  # neither the first nor the last images


def test_the_order_of_the_file_does_not_matter(rise: Any, data: Path, tmp_path: Path) -> None:
    wanted = set(split(rise, data, tmp_path / "s.json", 0.1)["labelled"])
    content = json.loads(data.read_bytes())
    content["images"].reverse()
    content["annotations"] = None
    data.write_text(json.dumps(content))
    assert set(split(rise, data, tmp_path / "t.json", 0.1)["labelled"]) == wanted
    assert len(open_unlabelled(tmp_path / "s.json", with_depth=False)) == 180


def test_at_least_one_image_is_labelled(rise: Any, data: Path, tmp_path: Path) -> None:
    assert len(split(rise, data, tmp_path / "s.json", 1e-6)["labelled"]) == 1


def test_a_split_moves_with_its_data(rise: Any, data: Path, tmp_path: Path) -> None:
    split(rise, data, data.parent / "splits/ten.json", 0.1)
    shutil.move(data.parent, tmp_path / "elsewhere")
    source = open_labelled(tmp_path / "elsewhere/splits/ten.json", ("object",), with_depth=False)
    assert len(source) == 20


def test_a_split_of_other_images_is_refused(rise: Any, data: Path, tmp_path: Path) -> None:
    split(rise, data, tmp_path / "s.json", 0.1)
    content = json.loads(data.read_bytes())
    content["images"][5]["file_name"] = "val/0005.png"  # the same ids, as train.json and val.json have them
    data.write_text(json.dumps(content))
    for opened in (
        lambda: open_labelled(tmp_path / "s.json", ("object",), with_depth=False),
        lambda: open_unlabelled(tmp_path / "s.json", with_depth=False),
    ):
        with pytest.raises(
            DataError, match=r"s\.json is a split of other images than those of .*train\.json"
        ):
            opened()


def test_splits_that_were_edited_badly(rise: Any, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    good = split(rise, data, out, 0.1)
    both = {"labelled": good["labelled"] + good["unlabelled"][:1]}
    for edit, words in (
        (both, "twice"),
        ({"labelled": [2]}, "no image 2"),
        ({"labelled": []}, "no labelled image"),
        ({"labelled": "all"}, "no 'labelled'"),
        ({"labelled": [[1]]}, "neither numbers nor text"),
        ({"rise_split": 9}, "version 9"),
        ({"source": "gone.json"}, "gone.json does not exist"),
    ):
        out.write_text(json.dumps(good | edit))
        with pytest.raises(DataError, match=words):
            open_labelled(out, ("object",), with_depth=False)
    out.write_text(json.dumps(good)[:-20])
    with pytest.raises(DataError, match=r"s\.json is no valid JSON"):
        open_labelled(out, ("object",), with_depth=False)


def test_all_labelled_leaves_nothing_unlabelled(rise: Any, data: Path, tmp_path: Path) -> None:
    split(rise, data, tmp_path / "s.json", 1)
    with pytest.raises(DataError, match=r"s\.json has no unlabelled image"):
        open_unlabelled(tmp_path / "s.json", with_depth=False)


def test_mistakes_in_the_arguments(rise: Any, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.json"
    for arguments, words in (
        ((data, "--labelled", 0, "--out", out), "--labelled 0.0"),
        ((data, "--labelled", 10, "--out", out), "--labelled 10.0"),
        ((data, "--labelled", "nan", "--out", out), "--labelled nan"),
        ((data, "--labelled", "x", "--out", out), "--labelled"),
        ((data, "--labelled", 0.1), "--out"),
        ((data, "--labelled", 0.1, "--out", data), "is the data set itself"),
        ((tmp_path / "no.json", "--labelled", 0.1, "--out", out), "no.json does not exist"),
        ((tmp_path, "--labelled", 0.1, "--out", out), "no OCID sequence"),
    ):
        status, _, err = rise("split", *arguments)
        assert (status, words in err) == (2, True), err
    assert not out.exists()
    split(rise, data, out, 0.1)
    status, _, err = rise("split", out, "--labelled", 0.1, "--out", tmp_path / "t.json")
    assert (status, "is a split itself" in err) == (2, True)


def test_a_split_of_ocid(rise: Any, tmp_path: Path) -> None:
    root = tmp_path / "OCID"
    for sequence in ("ARID20/floor/top/seq01", "ARID20/table/top/seq02"):
        for frame in range(6):
            labels = np.full((8, 10), 3, np.uint16)
            labels[:, :frame] = 4
            write_image(root / sequence / "rgb" / f"{frame}.png", np.full((8, 10, 3), frame, np.uint8))
            write_image(root / sequence / "label" / f"{frame}.png", labels)
    content = split(rise, root, tmp_path / "s.json", 0.5)
    assert content["labelled"][0].endswith(".png")
    source = open_labelled(tmp_path / "s.json", ("object",), with_depth=False)
    assert isinstance(source, OcidDataset)
    assert source.names == content["labelled"]
    rest = open_unlabelled(tmp_path / "s.json", with_depth=False)
    assert [rest[k].name for k in range(len(rest))] == content["unlabelled"]
    for k in range(len(source)):  # what comes after a labelled frame is a labelled one, or nothing
        later = source.after(k)
        assert later is None or later.name in content["labelled"]
    assert any(source.after(k) for k in range(len(source)))
    (root / "ARID20/floor/top/seq01/rgb/6.png").write_bytes(b"")
    with pytest.raises(DataError, match="split of other images"):
        open_labelled(tmp_path / "s.json", ("object",), with_depth=False)


def test_views_of_one_scene_are_never_in_both_parts():
    """Five labelled images of five scenes; their other views are in neither part."""
    keys = [(number, f"{number}.png") for number in range(500)]
    for seed in (0, 1):
        parts = draw_parts(keys, 0.01, seed, 4)
        scenes = {k // 4 for k in parts[True]}
        assert len(parts[True]) == len(scenes) == 5
        assert parts[False] == [k for k in range(500) if k // 4 not in scenes]
    assert draw_parts(keys, 0.01, 0, 4) != draw_parts(keys, 0.01, 1, 4)
    few, more = (set(draw_parts(keys, rate, 0, 4)[True]) for rate in (0.01, 0.5))
    assert few < more
    # More images than scenes: second views of some; all of them at last.
    assert sorted(Counter(k // 4 for k in more).values()) == [2] * 125
    assert draw_parts(keys, 1.0, 0, 4) == {True: list(range(500)), False: []}
    single = draw_parts(keys, 0.1, 0)
    assert sorted(single[True] + single[False]) == list(range(500))
