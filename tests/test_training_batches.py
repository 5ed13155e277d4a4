"""From images to batches: exact targets, an order that repeats, broken images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_config
from tiny_data import configure, labelled, rectangles, write_data

from rise_perception.core.errors import ConfigError, DataError
from rise_perception.data.coco import LabelledImage
from rise_perception.training import distributed
from rise_perception.training.batches import Sample, Scene, collate, make_targets, to_network
from rise_perception.training.boxes import to_corners
from rise_perception.training.loader import SeededOrder, training_loader
from rise_perception.training.scenes import Key, Scenes, downscale


def two(height: int = 64, width: int = 96, depth: bool = True) -> LabelledImage:
    boxes = [(1 / 8, 1 / 8, 1 / 3, 1 / 2), (1 / 2, 1 / 3, 5 / 6, 7 / 8)]
    corners = [tuple(int(s * side) for s, side in zip(b, (width, height) * 2, strict=True)) for b in boxes]
    return labelled(rectangles(corners, (height, width)), depth, classes=[1, 0])  # type: ignore[arg-type]


def test_targets_are_a_quarter_of_the_input_by_majority() -> None:
    masks = torch.zeros(3, 16, 24, dtype=torch.bool)
    masks[0, 0:8, 4:12] = True
    masks[1, 0:2, 20:24] = True  # half of one cell
    masks[2, 12, 1] = True  # a sixteenth of one
    targets = make_targets(masks, torch.tensor([1, 0, 0]), torch.arange(3))
    assert targets.masks.shape == (3, 4, 6)
    assert targets.masks[0].nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert targets.masks[1].nonzero().tolist() == [[0, 5]]
    assert not targets.masks[2].any()
    # Boxes bound the full masks.
    expected = torch.tensor(
        [[4 / 24, 0, 12 / 24, 8 / 16], [20 / 24, 0, 1, 2 / 16], [1 / 24, 12 / 16, 2 / 24, 13 / 16]]
    )
    torch.testing.assert_close(to_corners(targets.boxes), expected)


def test_boxes_and_masks_fit_the_letterboxed_image() -> None:
    """A portrait image in a landscape input: the object stays on its pixels."""
    config = tiny_config(input="rgbd")
    image, padding, targets = to_network(two(120, 60), config)
    assert image.shape == (6, 64, 96)
    assert padding is not None
    assert padding[:, 32:].all()
    assert not padding[:, :32].any()
    corners = to_corners(targets.boxes) * torch.tensor([96, 64, 96, 64])
    scale = 64 / 120
    expected = torch.tensor([[7, 15, 20, 60], [30, 40, 50, 105]]) * scale
    assert (corners - expected).abs().max() <= 1.0
    assert targets.classes.tolist() == [1, 0]
    assert targets.ids.tolist() == [4, 7]
    # Depth is valid on the image and nowhere else.
    assert (image[5][~padding] == 1).all()
    assert (image[5][padding] == 0).all()


def test_objects_that_vanish_at_the_networks_scale_are_dropped() -> None:
    sample = two(640, 960, depth=False)
    masks = np.concatenate([sample.masks, np.zeros((1, 640, 960), bool)])
    masks[2, :, 301] = True  # one column of ten
    sample = LabelledImage("x", sample.image, None, masks, np.array([1, 0, 1]), np.array([4, 7, 9]))
    _, _, targets = to_network(sample, tiny_config())
    assert targets.ids.tolist() == [4, 7]
    assert (targets.boxes[:, 2:] > 0).all()


def test_large_images_are_shrunk_with_all_their_layers() -> None:
    sample = two(640, 480)
    got = downscale(sample, (64, 96))
    assert got.image.shape == (64, 48, 3)
    assert got.depth is not None
    assert got.masks.shape == (2, 64, 48)
    for index, mask in enumerate(got.masks):
        assert mask.sum() == pytest.approx(sample.masks[index].sum() / 100, rel=0.1)
        assert (got.depth[mask] == 1.0 + index).all()
        assert np.median(got.image[mask]) == 50 + 50 * index
    assert got.ids.tolist() == sample.ids.tolist()
    assert downscale(got, (64, 96)) is got
    bare = LabelledImage.unlabelled("x", sample.image, None)
    assert downscale(bare, (64, 96)).masks.shape == (0, 64, 48)


def of(sample: LabelledImage, is_labelled: bool = True) -> Scene:
    views: list[Sample] = [to_network(sample, tiny_config()) for _ in range(3)]
    return Scene(views[0], views[1], None if is_labelled else views[2], is_labelled)


def test_no_object_and_no_padding() -> None:
    empty = LabelledImage.unlabelled("x", np.zeros((64, 96, 3), np.uint8), None)
    batch = collate([of(empty)])
    assert batch.padding is None
    assert batch.images.shape == (2, 3, 64, 96)
    assert [len(t) for t in batch.targets] == [0, 0]
    assert batch.before.shape == (0, 3, 64, 96)
    portrait = two(64, 64, False)
    mixed = collate([of(empty), of(portrait)])
    assert mixed.padding is not None
    assert mixed.padding.sum((1, 2)).tolist() == [0, 0, 64 * 32, 64 * 32]
    semi = collate([of(empty), of(portrait, False)])
    assert semi.labelled.tolist() == [True, True, False, False]
    assert semi.before.shape == (1, 3, 64, 96)
    assert semi.before_padding is not None
    assert semi.before_padding.sum() == 64 * 32


# ---- the order ----


def test_the_order_repeats_from_any_step() -> None:
    def keys(start: int, seed: int = 3) -> list[list[Key]]:
        return list(SeededOrder((7, 5), (2, 3), (start, 30), seed))

    whole = keys(0)
    assert len(SeededOrder((7, 5), (2, 3), (11, 30), 3)) == 19
    assert keys(11) == whole[11:]
    assert [k.position for step in whole for k in step] == list(range(150))
    assert all([k.labelled for k in step] == [True] * 2 + [False] * 3 for step in whole)
    for kind, size, count in ((True, 7, 60), (False, 5, 90)):
        images = [k.image for step in whole for k in step if k.labelled == kind]
        assert len(images) == count
        epochs = [images[n : n + size] for n in range(0, count - size + 1, size)]
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)  # without replacement
        assert len({tuple(epoch) for epoch in epochs}) > 3
    assert [k.image for k in keys(0, 4)[0]] != [k.image for k in whole[0]] or keys(0, 4)[1:] != whole[1:]


def test_processes_share_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    order = SeededOrder((7, 5), (4, 2), (0, 6), 0)
    whole = list(order)
    # Two processes in earnest are in test_training_processes.py.
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(list(order))
    for together, one, other in zip(whole, *shares, strict=True):
        assert sorted(one + other) == sorted(together)
        assert [k.labelled for k in one] == [k.labelled for k in other] == [True, True, False]


@pytest.mark.parametrize("scenes", [(3, 2), (2, 1)])
def test_a_batch_that_cannot_be_shared_is_an_error(
    monkeypatch: pytest.MonkeyPatch, scenes: tuple[int, int]
) -> None:
    # Two processes in earnest are in test_training_processes.py.
    monkeypatch.setattr(distributed, "processes", lambda: 2)
    with pytest.raises(ConfigError, match=r"cannot be shared by 2 processes.*batch"):
        list(SeededOrder((7, 5), scenes, (0, 6), 0))


# ---- broken images ----


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Four images; of the second the annotation is broken, of the third the picture."""
    data = write_data(tmp_path)
    content = json.loads(data.read_text())
    for annotation in content["annotations"]:
        if annotation["image_id"] == 1:
            annotation["segmentation"] = {"size": [64, 96], "counts": "nonsense!"}
    data.write_text(json.dumps(content))
    (tmp_path / "images/2.png").write_bytes(b"no picture")
    return data


def test_broken_images_are_named_once_and_left_out(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = {"broken": "skip", "unlabelled": (str(broken),)}
    scenes = Scenes(configure(broken, broken.parent / "out", images=images))
    for position in range(2):
        names = [scenes.sequence(Key(position, True, i)).source.name for i in range(4)]
        assert names == ["0.png", "3.png", "3.png", "3.png"]
        names = [scenes.sequence(Key(position, False, i)).source.name for i in range(4)]
        assert names == ["0.png", "1.png", "3.png", "3.png"]  # the annotation does not matter here
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(lines) == len(set(lines)) <= 3
    assert any("1.png" in line and "annotation" in line for line in lines)
    assert any("2.png" in line for line in lines)


def test_broken_images_stop_the_run_that_wants_it(broken: Path) -> None:
    with pytest.raises(DataError, match=r"1\.png|2\.png"):
        list(training_loader(Scenes(configure(broken, broken.parent / "out")), 0))


def test_nothing_but_broken_images(broken: Path) -> None:
    for index in (0, 1, 3):
        (broken.parent / f"images/{index}.png").unlink()
    scenes = Scenes(configure(broken, broken.parent / "out", images={"broken": "skip"}))
    with pytest.raises(DataError, match="none of the 4 images can be read"):
        scenes.sequence(Key(0, True, 0))
