"""`rise bench refer-grasps`: a cell of painted items, asked for by sentences, before and after its grasps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from grasping import label_map, picture
from test_grasp_sentences import Eyes, rehearse

from benchmarks.refer_grasps import Told, _difference, _write_grasps
from rise_perception.data.images import write_image
from rise_perception.referring import grasp_training
from rise_perception.referring.head import HeadConfig
from rise_perception.referring.model import (
    ReferringCard,
    ReferringConfig,
    ReferringModel,
    save_referring_model,
)
from rise_perception.referring.pairs import ToteWorldPairs


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """As `rise scenes cell` writes it: 4 annotated pictures and 4 that test."""
    folder = tmp_path / "cell"
    for part in ("annotated", "test"):
        images, notes = [], []
        for number in range(4):
            name, frame = f"{part}/{number}.png", picture(1, 2, 3, seed=number)
            write_image(folder / "images" / name, frame.image)
            write_image(folder / "labels" / name, label_map(1, 2, 3))
            write_image(folder / "depth" / name, (frame.depth * 1000).astype(np.uint16))
            images.append({"id": number, "file_name": name, "depth_file": name, "depth_scale": 0.001})
            kinds = zip((1, 2, 3), ("bracket", "coil", "gear"), strict=True)
            notes += [{"id": len(notes), "image_id": number, "label": k, "kind": kind} for k, kind in kinds]
        content = {"info": {}, "images": images, "annotations": notes, "categories": []}
        (folder / f"{part}.json").write_text(json.dumps(content))
    return folder


def test_a_cell_is_measured_before_and_after_its_grasps(rise, cell, tmp_path, monkeypatch):
    torch.manual_seed(0)
    head = HeadConfig(crop=16, embedding=4, width=16, heads=2, layers=1, text_layers=1, residual=0)
    save_referring_model(
        tmp_path / "start",
        ReferringModel(ReferringConfig(head)),
        ReferringCard("start", ReferringConfig(head)),
    )
    (tmp_path / "known").mkdir()
    known = Path(rehearse(tmp_path / "known"))
    for split in ("train", "val"):
        for suffix in (".json", ".sentences.jsonl"):
            (known.parent / f"{split}{suffix}").write_text((known.parent / f"known{suffix}").read_text())
    # Eyes finds painted items for certain; one step of training may forget: both are tested for themselves.
    for module in ("benchmarks.refer_grasps", "rise_perception.referring.grasp_training"):
        monkeypatch.setattr(f"{module}.Segmenter.load", lambda *_: Eyes())
    monkeypatch.setattr(grasp_training, "FORGOTTEN", 1.0)
    status, out, err = rise(
        "bench", "refer-grasps", tmp_path / "out", "--cell", cell, "--rehearsal", known.parent, "--grasps", 6,
        "--judges", 2, "--model", tmp_path / "start", "--json", tmp_path / "f.json",
    )  # fmt: skip
    assert status == 0, err
    nothing, right, wrong = json.loads((tmp_path / "f.json").read_bytes())["rows"]
    assert (nothing["told"], nothing["grasps"]) == ("nothing", 6)
    assert right["gate"]["after"]["held_out"] == 1
    assert right["gain"][1] <= right["gain"][0] <= right["gain"][2]
    assert "against_right" in wrong
    assert "told right: right item" in out
    told = json.loads((tmp_path / "out/told.json").read_bytes())
    assert {entry["file_name"] for entry in told}.isdisjoint({"test/2.png", "test/3.png"})  # those judge
    status, _, err = rise(
        "bench", "refer-grasps", tmp_path / "o", "--cell", cell, "--rehearsal", cell, "--judges", 4
    )
    assert status == 2
    assert "more than 4 are needed" in err


def test_what_is_told_wrong_is_the_opposite(cell):
    grasps = [Told("test/0.png", "the red box", 1, True), Told("test/0.png", "the blue ring", 2, False)]
    for flipped, expected in ((set(), [((1,), ()), ((), (2,))]), ({0, 1}, [((), (1,)), ((2,), ())])):
        data = ToteWorldPairs(_write_grasps(cell, "grasps", grasps, flipped))
        assert [(pair.labels, pair.wrong) for pair in data.pairs] == expected
    assert dict(data[0].kinds) == {2: "ring"}  # that it is one is what somebody said, wrongly


def test_a_difference_has_an_interval_over_pictures():
    one, other = {0: [True, True], 1: [True, False]}, {0: [False, True], 1: [False, False]}
    assert _difference(one, other, 0) == [0.5, 0.5, 0.5]
