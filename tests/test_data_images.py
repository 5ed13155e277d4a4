"""Image files and arrays of every kind users have, and broken ones."""

from __future__ import annotations

import json
import os

import cv2
import numpy as np
import pytest

from rise_perception.core.errors import DataError, ImageError
from rise_perception.core.files import atomic_write, write_json, write_text
from rise_perception.data import images

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


# ---- atomic files


def test_atomic_write_keeps_the_old_file_when_the_block_fails(tmp_path):
    target = tmp_path / "new" / "a.txt"
    write_text(target, "old")

    def crash():
        with atomic_write(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert target.read_text() == "old"
    assert [p.name for p in target.parent.iterdir()] == ["a.txt"]


def test_atomic_write_gives_the_usual_permissions(tmp_path):
    write_text(tmp_path / "a.txt", "x")
    (tmp_path / "b.txt").write_text("x")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def test_write_json_refuses_what_other_languages_cannot_read(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"ap": float("nan")})
    assert not os.listdir(tmp_path)


# ---- pictures


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm"])
def test_lossless_formats_keep_channel_order(tmp_path, suffix):
    cv2.imwrite(str(tmp_path / f"a{suffix}"), RGB[:, :, ::-1])
    np.testing.assert_array_equal(images.read_image(tmp_path / f"a{suffix}"), RGB)


def test_written_image_reads_back(tmp_path):
    images.write_image(tmp_path / "a.png", RGB)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), RGB)


def test_grayscale_rgba_16bit_and_one_pixel(tmp_path):
    cases = {
        "gray": RGB[:, :, 0],
        "rgba": np.dstack([RGB[:, :, ::-1], np.full(RGB.shape[:2], 7, np.uint8)]),
        "rgb16": RGB[:, :, ::-1].astype(np.uint16) * 257,
        "gray16": RGB[:, :, 0].astype(np.uint16) * 257,
        "one": RGB[:1, :1, ::-1],
    }
    for name, stored in cases.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), stored)
        read = images.read_image(tmp_path / f"{name}.png")
        want = np.repeat(RGB[:, :, :1], 3, axis=2) if "gray" in name else RGB
        np.testing.assert_array_equal(read, want[: stored.shape[0], : stored.shape[1]], err_msg=name)


def test_float_pictures(tmp_path):
    np.save(tmp_path / "a.npy", RGB.astype(np.float64) / 255)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.npy"), RGB)
    cv2.imwrite(str(tmp_path / "b.tiff"), RGB[:, :, 0].astype(np.float32) / 255)
    np.testing.assert_array_equal(images.read_image(tmp_path / "b.tiff")[:, :, 0], RGB[:, :, 0])
    np.save(tmp_path / "c.npy", RGB.astype(np.float32))
    with pytest.raises(ImageError, match=r"c\.npy.*values 0\.\.255"):
        images.read_image(tmp_path / "c.npy")
    assert images.to_rgb8(np.full((2, 2), np.nan, np.float32)).max() == 0


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 5, 3), np.uint8),
        np.zeros((4, 5, 2), np.uint8),
        np.zeros(7, np.uint8),
        RGB.astype(np.int32),
    ],
    ids=["no pixels", "two channels", "a row", "int32"],
)
def test_arrays_that_are_no_picture(array):
    with pytest.raises(ImageError):
        images.to_rgb8(array)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
def test_truncated_files_name_themselves(tmp_path, suffix, keep):
    smooth = cv2.resize(RGB, (320, 240))
    content = cv2.imencode(suffix, smooth)[1].tobytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ImageError, match=rf"cut\{suffix}"):
        images.read_image(path)


def test_files_that_are_no_image(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    (tmp_path / "b.exr").write_bytes(b"\x76\x2f\x31\x01" + bytes(100))
    np.save(tmp_path / "c.npy", np.array([{"a": 1}], object), allow_pickle=True)
    for name in ("a.png", "b.exr", "c.npy", "missing.png"):
        with pytest.raises(ImageError, match=name):
            images.read_image(tmp_path / name)


def test_huge_image_is_read(tmp_path):
    cv2.imwrite(str(tmp_path / "8k.jpg"), np.full((4320, 7680, 3), 90, np.uint8))
    assert images.read_image(tmp_path / "8k.jpg").shape == (4320, 7680, 3)


# ---- depth


def test_depth_units_and_invalid_values(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.array([[0, 1500], [65535, 10]], np.uint16))
    np.testing.assert_allclose(images.read_depth(tmp_path / "a.png"), [[0, 1.5], [65.535, 0.01]], rtol=1e-6)
    np.testing.assert_allclose(images.read_depth(tmp_path / "a.png", 0.0001)[0], [0, 0.15], rtol=1e-6)
    np.save(tmp_path / "b.npy", np.array([[np.nan, np.inf], [-1.0, 0.7]]))
    depth = images.read_depth(tmp_path / "b.npy")
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[0, 0], [0, 0.7]], rtol=1e-6)


@pytest.mark.parametrize(
    "array", [RGB, RGB[:, :, 0], np.zeros((0, 3), np.uint16)], ids=["rgb", "8 bit", "empty"]
)
def test_what_is_no_depth(tmp_path, array):
    np.save(tmp_path / "d.npy", array)
    with pytest.raises(ImageError, match=r"d\.npy"):
        images.read_depth(tmp_path / "d.npy")


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_depth_scale_must_be_positive(scale):
    with pytest.raises(ImageError, match="depth scale"):
        images.to_metres(np.ones((2, 2), np.uint16), scale)


# ---- label maps


def test_label_maps_8_16_bit_and_palette(tmp_path):
    from PIL import Image

    labels = np.array([[0, 1], [2, 200]], np.uint16)
    images.write_image(tmp_path / "a.png", labels * 300)
    np.testing.assert_array_equal(images.read_label_map(tmp_path / "a.png"), labels * 300)
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "b.png")
    palette = Image.fromarray(labels.astype(np.uint8), mode="P")
    palette.putpalette([7] * 768)
    palette.save(tmp_path / "c.png")
    for name in ("b.png", "c.png"):
        np.testing.assert_array_equal(images.read_label_map(tmp_path / name), labels)
    images.write_image(tmp_path / "d.png", RGB)
    with pytest.raises(ImageError, match=r"d\.png.*one channel"):
        images.read_label_map(tmp_path / "d.png")


# ---- finding files


def test_list_images_folders_files_and_globs(tmp_path):
    for name in (
        "10.png",
        "2.png",
        "2-depth.png",
        "2.label.png",
        "2.overlay.png",
        "notes.txt",
        ".hidden.png",
    ):
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in images.list_images([tmp_path])] == ["2.png", "10.png"]
    assert [p.name for p in images.list_images([tmp_path / "10.png", tmp_path])] == ["10.png", "2.png"]
    assert [p.name for p in images.list_images([str(tmp_path / "*-depth.png")])] == ["2-depth.png"]


def test_list_images_says_what_it_did_not_find(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no picture"):
        images.list_images([tmp_path / "empty"])
    with pytest.raises(DataError, match="nothing"):
        images.list_images([tmp_path / "nothing*.png"])


@pytest.mark.parametrize(
    ("picture", "companion"),
    [
        ("frame-000001.color", "frame-000001.depth.png"),
        ("000001-color", "000001-depth.png"),
        ("view", "view_depth.tiff"),
        ("view", "view.png"),
        ("view-rgb", "view-rgb.png"),
    ],
)
def test_find_companion(tmp_path, picture, companion):
    assert images.find_companion(tmp_path, picture, ["depth"]) is None
    (tmp_path / companion).write_bytes(b"x")
    assert images.find_companion(tmp_path, picture, ["depth"]) == tmp_path / companion


def test_companion_beats_the_picture_itself_in_the_same_folder(tmp_path):
    for name in ("a.png", "a.depth.png"):
        (tmp_path / name).write_bytes(b"x")
    assert images.find_companion(tmp_path, "a", ["depth"]).name == "a.depth.png"


def test_json_is_plain(tmp_path):
    write_json(tmp_path / "a.json", {"a": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, 2.5, None]}
