"""The tote world's still scenes: same bytes for the same seed, truth that agrees with the geometry."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from rise_perception.cli.main import main
from rise_perception.core.errors import ConfigError, DataError, MissingDependencyError
from rise_perception.simulation.assets import Builder
from rise_perception.simulation.camera import View, draw_view
from rise_perception.simulation.dataset import MIN_PIXELS, Settings, write_dataset
from rise_perception.simulation.engine import mujoco
from rise_perception.simulation.items import RECIPES_PER_SPLIT, draw_recipe
from rise_perception.simulation.render import Renderer
from rise_perception.simulation.scene import SPLITS, make_scene
from rise_perception.simulation.sensor import measure_depth, photograph
from rise_perception.simulation.shapes import KINDS, Look
from rise_perception.simulation.textures import SURFACES, colour, surface

SETTINGS = Settings(train=3, val=2, test=2, width=160, height=120, views=2, seed=3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tote") / "one"
    assert write_dataset(out, SETTINGS, workers=1) == {"train": 3, "val": 2, "test": 2}
    return out


@pytest.fixture(scope="module")
def renderer():
    with Renderer(160, 120) as ready:
        yield ready


def _content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _picture(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert picture is not None, path
    return picture


@pytest.mark.slow
def test_more_workers_and_an_interruption_give_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    write_dataset(out, SETTINGS, workers=2)
    assert _content(out) == _content(dataset)
    # As if it had been killed in the last scene of train: its record and the JSON are not there yet.
    (out / "records/train/000001.json").unlink()
    (out / "images/train/000002.png").unlink()
    (out / "train.json").unlink()
    kept = (out / "images/train/000000.png").stat().st_mtime_ns
    write_dataset(out, SETTINGS, workers=1)
    assert _content(out) == _content(dataset)
    assert (out / "images/train/000000.png").stat().st_mtime_ns == kept, "a finished scene was rendered again"


def test_annotations_agree_with_the_label_maps(dataset: Path) -> None:
    seen = 0
    for split in SPLITS:
        data = json.loads((dataset / f"{split}.json").read_text())
        assert [c["name"] for c in data["categories"]] == ["container", "object"]
        assert len({a["id"] for a in data["annotations"]}) == len(data["annotations"])
        for image in data["images"]:
            photo = _picture(dataset / "images" / image["file_name"])
            depth = _picture(dataset / "depth" / image["depth_file"])
            labels = _picture(dataset / "labels" / image["file_name"])
            assert photo.shape == (120, 160, 3)
            assert photo.dtype == np.uint8
            assert depth.shape == labels.shape == (120, 160)
            assert depth.dtype == labels.dtype == np.uint16
            assert 0.1 < np.median(depth[depth > 0]) * image["depth_scale"] < 3
            notes = [a for a in data["annotations"] if a["image_id"] == image["id"]]
            objects = [a for a in notes if a["category_id"] == 2]
            assert sorted(a["label"] for a in objects) == [v for v in np.unique(labels) if v]
            for note in notes:
                mask = rle.decode(note["segmentation"]).astype(bool)
                expected = labels == note["label"] if note["category_id"] == 2 else mask & (labels == 0)
                assert np.array_equal(mask, expected)
                assert note["area"] == mask.sum() > 0
                x, y, w, h = note["bbox"]
                assert mask[y : y + h, x : x + w].sum() == mask.sum()
                assert mask[y].any()
                assert mask[y + h - 1].any()
                assert mask[:, x].any()
                assert mask[:, x + w - 1].any()
            for note in objects:
                whole = rle.decode(note["amodal"]).astype(bool)
                assert note["area"] >= MIN_PIXELS
                assert not (rle.decode(note["segmentation"]).astype(bool) & ~whole).any()
                seen += 1
    assert seen > 10


def test_splits_share_no_item(dataset: Path) -> None:
    for code, split in enumerate(SPLITS):
        data = json.loads((dataset / f"{split}.json").read_text())
        recipes = [a["recipe"] for a in data["annotations"] if a["category_id"] == 2]
        assert recipes
        assert {r // RECIPES_PER_SPLIT for r in recipes} == {code}
    draws = [draw_recipe(np.random.default_rng(0), code) for code in range(3)]
    assert len(set(draws)) == 3, "equal generators must draw different items in different splits"


def test_depth_and_intrinsics_put_the_pixels_on_the_boxes_they_show(renderer: Renderer) -> None:
    checked = 0
    for index in range(6):
        scene = make_scene(0, "train", index, 160, 120)
        renderer.load(scene)
        view = replace(draw_view(np.random.default_rng(index), scene, 160, 120), moved={})
        labels, depth = renderer.labels(view)
        c = view.camera
        rows, columns = np.mgrid[0:120, 0:160]
        rays = np.stack([(columns - c.cx) / c.fx, (rows - c.cy) / c.fy, np.ones_like(depth)], -1)
        world = (rays * depth[..., None]) @ view.rotation.T + view.position
        for label in scene.labels:
            item = scene.item(label)
            mask = labels == label
            if item.kind not in ("box", "book") or mask.sum() < 60:
                continue
            frame = scene.data.body(item.body).xmat.reshape(3, 3)
            local = (world[mask] - scene.position(label)) @ frame
            beyond = np.abs(local) - item.half
            assert np.abs(beyond.max(axis=1)).max() < 1e-3, f"scene {index}, item {label}"
            checked += 1
    assert checked >= 5


@pytest.mark.parametrize("kind", ["tote", "bin", "table"])
def test_settled_items_rest_inside_their_place(kind: str) -> None:
    scene = make_scene(1, "val", 0, 160, 120, kind, 12 if kind != "bin" else 6)
    assert len(scene.labels) >= 3
    before = {label: scene.position(label) for label in scene.labels}
    for _ in range(25):
        mujoco().mj_step(scene.model, scene.data)
    for label, position in before.items():
        assert position[2] > -0.02
        assert np.linalg.norm(scene.position(label) - position) < 0.04, "still on the move"
    assert all(scene.position(k)[2] < -10 for k in range(1, len(scene.all_items) + 1) if k not in before)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_item_can_be_built_drawn_and_weighed(kind: str) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        builder = Builder()
        body = builder.spec.worldbody.add_body()
        body.add_freejoint()
        half = KINDS[kind][1](builder, body, Look(rng, colour(rng), 0.2, 1.0))
        model = builder.spec.compile()
        assert model.body_mass[1] > 0
        assert (model.geom_contype > 0).any()
        assert (model.geom_group == 0).any(), "nothing to see"
        assert 0.004 < min(half) <= max(half) < 0.25


@pytest.mark.parametrize("kind", SURFACES)
def test_surfaces_are_pictures_that_differ_by_seed(kind: str) -> None:
    one, again, other = (surface(np.random.default_rng(seed), 64, kind) for seed in (1, 1, 2))
    assert one.shape == (64, 64, 3)
    assert one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_hand_is_seen_and_never_labelled(renderer: Renderer) -> None:
    scene = make_scene(0, "train", 1, 160, 120, "tote", 5)
    renderer.load(scene)
    view: View = replace(draw_view(np.random.default_rng(0), scene, 160, 120), moved={})
    labels, depth = renderer.labels(view)
    ahead = view.position + 0.25 * view.rotation[:, 2]
    blocked = replace(view, moved={"blocker_left": (ahead, np.array([1.0, 0, 0, 0]))})
    hidden, nearer = renderer.labels(blocked)
    covered = nearer < depth - 0.01
    assert covered.sum() > 20
    assert (hidden[covered] == 0).all()
    assert np.array_equal(hidden[~covered], labels[~covered])


def test_depth_sensor_measures_a_wall_and_misses_glass() -> None:
    wall = np.full((120, 160), 0.8, np.float32)
    glass = np.zeros(wall.shape, bool)
    glass[:, :40] = True
    photo = np.full((120, 160, 3), 128, np.uint8)
    missed = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        depth = measure_depth(rng, rng, wall, 200.0, glass, photo)
        seen = depth[:, 40:]
        assert depth.dtype == np.uint16
        assert (seen > 0).mean() > 0.98
        assert abs(np.median(seen[seen > 0]) - 800) <= 3
        assert np.std(seen[seen > 0].astype(float)) < 12
        missed.append((depth[:, :40] == 0).mean())
    assert max(missed) > 0.3


def test_the_same_camera_takes_different_pictures_only_by_grain() -> None:
    clean = np.random.default_rng(0).uniform(0, 255, (60, 80, 3)).astype(np.float32)
    depth = np.ones((60, 80), np.float32)

    def take(camera: int, grain: int) -> np.ndarray:
        rngs = np.random.default_rng(camera), np.random.default_rng(grain)
        return photograph(*rngs, clean, depth, 100.0).astype(float)

    assert np.array_equal(take(1, 1), take(1, 1))
    assert np.abs(take(1, 1) - take(1, 2)).mean() > 1
    assert abs((take(1, 1) - take(1, 2)).mean()) < 1.5, "the exposure of one camera must not jump"


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"train": -1}, "train"),
        ({"train": 0, "val": 0, "test": 0}, "nothing to render"),
        ({"width": 8}, "8x120"),
        ({"views": 0}, "views"),
        ({"seed": -3}, "seed"),
        ({"world": 3}, "world"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, int], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        replace(SETTINGS, **change)


def test_a_folder_with_something_else_is_left_alone(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="made with"):
        write_dataset(dataset, replace(SETTINGS, seed=4))
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(DataError, match="not empty"):
        write_dataset(tmp_path, SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_without_mujoco_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        make_scene(0, "train", 0, 160, 120)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["stills", "--size", "banana"], "banana"),
        (["stills", "--size", "4x4"], "4x4"),
        (["stills", "--workers", "0"], "workers"),
        (["stills", "--train", "-5"], "train"),
        (["bag", "--kind", "barrel"], "barrel"),
        (["bag", "--picks", "0"], "picks"),
        (["sequence", "--split", "all"], "all"),
    ],
)
def test_wrong_arguments_end_with_status_2_and_write_nothing(
    arguments: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    form, *options = arguments
    assert main(["scenes", form, str(tmp_path / "out"), *options]) == 2
    message = capsys.readouterr().err
    assert message.startswith("rise: error:")
    assert word in message
    assert not (tmp_path / "out").exists()
