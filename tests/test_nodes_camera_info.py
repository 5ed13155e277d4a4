"""Which intrinsics an image has, of what its CameraInfo says."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; `make venv` installs it")

from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from rise_perception.core.errors import DataError
from rise_perception.core.frame import CameraIntrinsics
from rise_perception.nodes.camera_info import camera_info, intrinsics, is_rectified

K = [600.0, 0.0, 320.0, 0.0, 610.0, 240.0, 0.0, 0.0, 1.0]
P = [500.0, 0.0, 300.0, 0.0, 0.0, 510.0, 200.0, 0.0, 0.0, 0.0, 1.0, 0.0]


def info(**fields: object) -> CameraInfo:
    return CameraInfo(**{"width": 640, "height": 480, "k": K, "p": P, **fields})


def test_a_raw_image_has_k_and_a_rectified_one_p():
    assert intrinsics(info(), 640, 480, False) == CameraIntrinsics(640, 480, 600, 610, 320, 240)
    assert intrinsics(info(), 640, 480, True) == CameraIntrinsics(640, 480, 500, 510, 300, 200)
    assert intrinsics(info(p=[0.0] * 12), 640, 480, True).fx == 600  # a driver that leaves P out


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/camera/image_rect", True),
        ("/camera/image_rect_color/compressed", True),
        ("/zed/zed_node/rgb/image_rect_color", True),
        ("/zed/zed_node/rgb/color/rect/image", True),
        ("/camera/depth/image_rect_raw/compressedDepth", True),
        ("/corrected_rectangles/image_raw", False),
        ("/camera/image_raw/compressed", False),
        ("image", False),
    ],
)
def test_rectified_images_are_known_by_their_topic(topic, rectified):
    assert is_rectified(topic) == rectified


def test_region_of_interest_and_binning_are_applied():
    part = RegionOfInterest(x_offset=100, y_offset=40, width=400, height=300)
    found = intrinsics(info(roi=part), 400, 300, False)
    assert found == CameraIntrinsics(400, 300, 600, 610, 220, 200)
    found = intrinsics(info(roi=part, binning_x=2, binning_y=2), 200, 150, False)
    assert found == CameraIntrinsics(200, 150, 300, 305, 110, 100)
    found = intrinsics(info(binning_x=2, binning_y=2), 320, 240, True)
    assert found == CameraIntrinsics(320, 240, 250, 255, 150, 100)


def test_a_camera_that_tells_the_size_of_its_images_is_taken_at_its_word():
    found = intrinsics(info(binning_x=2, binning_y=2), 640, 480, False)
    assert found == CameraIntrinsics(640, 480, 600, 610, 320, 240)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"width": 320}, "is of 320x480 pixels and the image of 640x480"),
        ({"k": [0.0] * 9}, "no calibration"),
        ({"k": [1e300, *K[1:]]}, "fx = 1e+300 in K"),
        ({"k": [*K[:2], float("inf"), *K[3:]]}, "cx = inf in K"),
        ({"k": [*K[:4], float("nan"), *K[5:]]}, "fy = nan in K"),
        ({"k": [-600.0, *K[1:]]}, "fx = -600 in K"),
    ],
)
def test_what_no_camera_says_is_named(fields, says):
    with pytest.raises(DataError) as error:
        intrinsics(info(**fields), 640, 480, False)
    assert says in str(error.value)


def test_there_and_back():
    camera = CameraIntrinsics(640, 480, 500, 510, 300, 200)
    assert intrinsics(camera_info(Header(), camera), 640, 480, True) == camera
