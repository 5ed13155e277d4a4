"""A reference on disk: captures come whole, none is lost, and who reads one reads the newest."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from test_inference_reference import EMPTY, filled, instances

from rise_perception.core.errors import ConfigError, DataError
from rise_perception.core.files import write_bytes
from rise_perception.core.folder_store import FolderStore
from rise_perception.core.frame import Frame
from rise_perception.data.images import write_image
from rise_perception.inference import reference_folder
from rise_perception.inference.reference_folder import captures, read_reference, write_capture
from rise_perception.inference.scene_foreground import SceneForeground, check_mode
from rise_perception.inference.segmenter import Segmenter

DEPTH = np.full((120, 160), 0.8125, np.float32)
BOTH = ((20, 20, 60, 60), (90, 50, 140, 100))


def test_the_newest_capture_is_the_reference_and_earlier_ones_stay(tmp_path):
    write_capture(tmp_path, [Frame(filled(), DEPTH)])
    write_capture(tmp_path, [Frame(EMPTY, DEPTH)] * 3)
    found = read_reference(tmp_path)
    assert found.folder.name == "capture-000002"
    assert found.frames == 3
    assert 0 <= found.age < 600
    assert not found.reference.changed(EMPTY, DEPTH).any()
    assert found.reference.depth is not None
    for place in (tmp_path, found.folder):  # in millimetres, whatever the pictures have that it is asked with
        again = read_reference(place, depth_scale=0.0001).reference.depth
        assert np.abs(again - DEPTH).max() <= 0.0005
    assert [p.name for p in captures(tmp_path)] == ["capture-000001", "capture-000002"]


def test_a_folder_of_pictures_is_a_reference_until_one_is_captured(tmp_path):
    write_image(tmp_path / "a.png", filled())
    write_image(tmp_path / "a-depth.png", np.full((120, 160), 800, np.uint16))
    assert read_reference(tmp_path).folder == tmp_path
    assert read_reference(tmp_path).reference.depth is not None
    write_capture(tmp_path, [Frame(EMPTY)])
    assert read_reference(tmp_path).folder.name == "capture-000001"
    assert (tmp_path / "a.png").is_file()


def test_a_capture_that_was_killed_leaves_the_reference_as_it_was(tmp_path, monkeypatch):
    write_capture(tmp_path, [Frame(EMPTY)])

    def killed(path: Path, image: np.ndarray) -> None:
        if path.name == "1.png":
            raise KeyboardInterrupt
        write_image(path, image)

    with monkeypatch.context() as patch:
        patch.setattr(reference_folder, "write_image", killed)
        with pytest.raises(KeyboardInterrupt):
            write_capture(tmp_path, [Frame(filled())] * 2)
    assert not read_reference(tmp_path).reference.changed(EMPTY).any()
    assert write_capture(tmp_path, [Frame(filled())]).name == "capture-000002"


def test_what_makes_no_reference_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file, folder"):
        read_reference(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no picture in this folder"):
        read_reference(tmp_path)
    with pytest.raises(DataError, match="one camera"):
        write_capture(tmp_path, [Frame(EMPTY), Frame(EMPTY[:100])])
    assert not captures(tmp_path)
    write_bytes(tmp_path / "a.png", b"no picture")
    with pytest.raises(DataError, match=r"a\.png.*take the pictures again"):
        read_reference(tmp_path)
    store = FolderStore(tmp_path, True, "reference", DataError)
    with pytest.raises(DataError, match="another process writes to this reference"):
        write_capture(tmp_path, [Frame(EMPTY)])
    store.close()
    with pytest.raises(DataError, match="no reference can be made here"):
        write_capture(Path(os.devnull) / "x", [Frame(EMPTY)])


def test_a_scene_is_restricted_by_what_was_captured(tmp_path):
    scene = SceneForeground(tmp_path)
    scene.load()
    assert "there is no reference" in scene.problem
    seen, frame = instances(*BOTH), Frame(filled())
    assert scene.restrict(frame, seen) is seen
    assert scene.capture([Frame(EMPTY)]).frames == 1
    assert scene.restrict(frame, seen).labels.tolist() == [1]
    assert scene.problem == ""
    assert scene.fraction == pytest.approx(40 * 40 / (120 * 160), rel=0.2)
    again = SceneForeground(tmp_path)
    again.load()
    assert again.restrict(frame, seen).labels.tolist() == [1]
    for mode in ("network", "none"):
        again.mode = mode
        assert again.restrict(frame, seen) is seen
        assert again.mismatch is None


def test_a_stale_reference_is_left_out_of_the_scene_with_the_reason(tmp_path):
    scene = SceneForeground(tmp_path)
    scene.capture([Frame(EMPTY)])
    rng = np.random.default_rng(1)
    elsewhere = rng.integers(0, 256, (8, 10, 3), np.uint8).repeat(15, 0).repeat(16, 1)
    seen = instances(*BOTH)
    assert scene.restrict(Frame(elsewhere), seen) is seen
    assert "stale" in scene.problem
    assert scene.mismatch is not None
    assert scene.mismatch > 0.4
    assert scene.fraction is None
    assert scene.restrict(Frame(filled()), seen).labels.tolist() == [1]  # the camera is back in its place
    assert scene.problem == ""


def test_the_picture_of_the_foreground(tmp_path, tiny_model):
    segmenter = Segmenter.load(tiny_model, "cpu")
    scene, frame = SceneForeground(tmp_path), Frame(filled())
    scene.restrict(frame, instances(*BOTH))
    assert scene.picture(segmenter, frame) is None  # no reference, and no M in this network
    scene.capture([Frame(EMPTY)])
    scene.restrict(frame, instances(*BOTH))
    picture = scene.picture(segmenter, frame)
    assert picture is not None
    assert picture.dtype == np.uint8
    assert (picture[25:55, 25:55] == 255).all()
    assert not picture[:, 70:].any()
    outside = np.ones((120, 160), bool)
    outside[:40] = False
    scene.restrict(frame, instances(*BOTH), outside)
    within = scene.picture(segmenter, frame, outside)
    assert within is not None
    assert within[25:35, 25:55].all()
    assert not within[40:].any()
    scene.mode = "none"
    assert scene.picture(segmenter, frame) is None


def test_a_network_with_m_shows_it_and_a_reference_takes_out_what_has_not_changed(tmp_path):
    import torch
    from tiny import tiny_config

    from rise_perception.network.build import build_network
    from rise_perception.network.card import ModelCard
    from rise_perception.network.checkpoint import save_model

    torch.manual_seed(0)
    network = build_network(tiny_config(input="rgbm", query_selection="dense", mask_stride=4))
    save_model(tmp_path / "m", network, ModelCard("m", network.config))
    segmenter = Segmenter.load(tmp_path / "m", "cpu")
    m = segmenter.foreground(filled())
    assert m is not None
    assert m.shape == (120, 160)
    assert 0 < m.min() <= m.max() < 1
    scene, frame = SceneForeground(tmp_path / "reference"), Frame(filled())
    scene.mode = "network"
    scene.restrict(frame, instances(*BOTH))
    alone = scene.picture(segmenter, frame)
    assert alone is not None
    assert (alone == (255 * m).round()).all()
    assert scene.fraction == pytest.approx(m.mean(), abs=1e-4)
    scene.mode = "auto"
    scene.capture([Frame(EMPTY)])
    scene.restrict(frame, instances(*BOTH))
    both = scene.picture(segmenter, frame)
    assert both is not None
    assert (both[25:55, 25:55] == alone[25:55, 25:55]).all()
    assert not both[:, 70:].any()


def test_a_mode_that_there_is_not_is_named():
    with pytest.raises(ConfigError, match="auto, network, none"):
        check_mode("both")
