"""What lies outside the workspace is not segmented."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from rise_perception.core.errors import ConfigError
from rise_perception.core.frame import CameraIntrinsics
from rise_perception.core.instances import Instances
from rise_perception.data.images import read_image, write_image
from rise_perception.evaluation.overlay import shade_outside
from rise_perception.inference.workspace import FrameBox, ImagePolygon, keep_inside, parse_workspace


@pytest.fixture
def three() -> Instances:
    """Three squares of 10x10 pixels in a row."""
    label_map = np.zeros((20, 60), np.uint16)
    for label, x in ((1, 5), (2, 25), (3, 45)):
        label_map[5:15, x : x + 10] = label
    return Instances(
        label_map=label_map,
        labels=np.array([3, 1, 2], np.uint16),
        scores=np.array([0.9, 0.8, 0.7], np.float32),
        classes=np.zeros(3, np.int64),
        boxes=np.array([[45, 5, 55, 15], [5, 5, 15, 15], [25, 5, 35, 15]], np.float32),
        embeddings=np.arange(6, dtype=np.float32).reshape(3, 2),
        ids=np.array([30, 10, 20]),
    )


def test_instances_mostly_outside_go_and_the_others_lose_their_pixels_outside(three):
    outside = ImagePolygon(((7, 0), (28, 0), (28, 19), (7, 19))).outside(20, 60)
    kept = keep_inside(three, outside)
    assert kept.ids.tolist() == [10]  # of 20, four columns of ten are inside
    assert kept.boxes.tolist() == [[7, 5, 15, 15]]
    assert kept.labels.tolist() == [1]
    assert kept.embeddings.tolist() == [[2, 3]]
    np.testing.assert_array_equal(kept.label_map == 1, (three.label_map == 1) & ~outside)
    assert set(np.unique(kept.label_map)) == {0, 1}
    assert three.label_map.max() == 3  # the argument is as before


def test_everything_and_nothing_inside(three):
    same = keep_inside(three, np.zeros((20, 60), bool))
    np.testing.assert_array_equal(same.label_map, three.label_map)
    np.testing.assert_array_equal(same.boxes, three.boxes)
    none = keep_inside(three, np.ones((20, 60), bool))
    assert len(none) == 0
    assert not none.label_map.any()


def test_pixels_of_unknown_place_follow_the_others_of_their_instance(three):
    outside, known = np.zeros((20, 60), bool), np.ones((20, 60), bool)
    outside[:, 25:28] = True  # three columns outside, seven not measured: the instance is outside
    known[:, 28:35] = False
    assert keep_inside(three, outside, known).ids.tolist() == [30, 10]
    known[:, 45:55] = False  # nothing is known of it: it stays
    assert 30 in keep_inside(three, outside, known).ids


def test_a_polygon_in_pixels_or_in_fractions():
    pixels = parse_workspace("10,0 29,0 29,19 10,19").outside(20, 40)
    fractions = parse_workspace("0.25,0 0.74,0 0.74,1 0.25,1").outside(20, 40)
    assert (~pixels).sum() == 20 * 20
    assert abs(int((~fractions).sum()) - 400) <= 20
    assert parse_workspace("  ") is None


def test_a_box_in_a_frame_by_depth():
    box = parse_workspace("base_link -0.1:0.1 -1:1 0.05:0.5")
    assert box == FrameBox("base_link", (-0.1, -1.0, 0.05), (0.1, 1.0, 0.5))
    camera = CameraIntrinsics(5, 1, 10, 10, 2, 0)
    base_from_camera = np.diag([1.0, -1, -1, 1])  # it looks down from a metre above
    base_from_camera[2, 3] = 1.0
    depth = np.array([[0.9, 0.9, 0.9, 0.0, 0.9]], np.float32)
    # heights of 0.1 m; x of -0.18, -0.09, 0, unknown, 0.18
    assert box.outside(depth, camera, base_from_camera).tolist() == [[True, False, False, False, True]]
    assert box.outside(depth * 0 + 0.99, camera, base_from_camera).all()  # on the table, 1 cm high


@pytest.mark.parametrize(
    "text",
    [
        "1,2 3,4",
        "1,2 3,4 5",
        "a,b c,d e,f",
        "1,2,3 4,5 6,7",
        "nan,0 1,1 0,1",
        "base 0:1 0:1",
        "base 0:1 0:1 1:0",
        "0:1 0:1 0:1",
        "base 0:1 0:1 0:nan",
    ],
)
def test_what_is_neither_is_refused_with_the_syntax(text):
    with pytest.raises(ConfigError, match="FRAME x0:x1"):
        parse_workspace(text)


def test_outside_is_dark_in_the_picture():
    picture = np.full((4, 4, 3), 90, np.uint8)
    outside = np.zeros((4, 4), bool)
    outside[:, 2:] = True
    shade_outside(picture, outside)
    assert (picture[:, :2] == 90).all()
    assert (picture[:, 2:] == 30).all()


def test_predict_takes_a_polygon(tmp_path, rise, tiny_model, scene):
    write_image(tmp_path / "scene.png", scene[0])
    command = ("predict", tmp_path / "scene.png", "--model", tiny_model, "--device", "cpu")
    assert rise(*command, "--out", tmp_path / "all")[0] == 0
    assert rise(*command, "--out", tmp_path / "part", "--workspace", "0,0 80,0 80,119 0,119")[0] == 0
    whole, part = (json.loads((tmp_path / n / "scene.instances.json").read_text()) for n in ("all", "part"))
    assert part["workspace"] == "0,0 80,0 80,119 0,119"
    assert 0 < len(part["instances"]) < len(whole["instances"])
    picture = read_image(tmp_path / "part/scene.overlay.png")
    assert picture[:, 90:].max() < 90
    for wrong, says in (("12", "FRAME"), ("base 0:1 0:1 0:1", "polygon")):
        status, _, err = rise(*command, "--out", tmp_path / "no", "--workspace", wrong)
        assert status == 2
        assert says in err
    shutil.rmtree(tmp_path / "all")
