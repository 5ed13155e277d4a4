"""What is taught depends on pictures, outlines and seed alone: not on their order, nor on a kill."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_teaching_teach import asked, save_start, write_goods

from rise_perception.data.images import read_image
from rise_perception.inference.segmenter import Segmenter
from rise_perception.network.card import file_checksum
from rise_perception.teaching import trainer as trainer_module
from rise_perception.teaching.teach import teach
from rise_perception.teaching.trainer import TeachTrainer

pytestmark = pytest.mark.slow
#: With M, so that its networks have to repeat themselves, too.
WITH_M = {"input": "rgbm", "steps": 2}
ROUNDS = ("first-half", "second-half", "all")


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory, start: Path) -> Path:
    """Folder of pictures with their annotations, and what was taught with them in ``out``."""
    folder = tmp_path_factory.mktemp("goods")
    teach(asked(write_goods(folder), folder / "out", start, **WITH_M))
    return folder


def checksums(out: Path) -> list[str]:
    return [
        file_checksum(out / "teach" / name / kind)
        for name in ROUNDS
        for kind in ("model.safetensors", "foreground.safetensors")
    ]


def permuted(goods: Path) -> Path:
    """The same annotations in another order, with other ids."""
    content = json.loads(goods.read_text())
    ids = {image["id"]: 900 - 7 * k for k, image in enumerate(content["images"])}
    for image in content["images"]:
        image["id"] = ids[image["id"]]
    for number, note in enumerate(content["annotations"]):
        note["id"], note["image_id"] = 500 - number, ids[note["image_id"]]
    for entries in content.values():
        random.Random(1).shuffle(entries)
    assert content["annotations"][0]["id"] != 500
    path = goods.with_name("permuted.json")
    path.write_text(json.dumps(content))
    return path


def test_permuted_annotations_give_the_same_weights_and_the_same_masks(tmp_path, start, taught):
    teach(asked(permuted(taught / "goods.json"), tmp_path / "out", start, **WITH_M))
    assert checksums(tmp_path / "out") == checksums(taught / "out")
    image = read_image(taught / "0.png")
    one, other = (Segmenter.load(p / "out/teach/all", "cpu", 0.0)(image) for p in (taught, tmp_path))
    np.testing.assert_array_equal(one.label_map, other.label_map)
    np.testing.assert_array_equal(one.scores, other.scores)


def test_another_seed_gives_other_weights(tmp_path, start, taught):
    teach(asked(taught / "goods.json", tmp_path / "out", start, **WITH_M, seed=1))
    assert not set(checksums(tmp_path / "out")) & set(checksums(taught / "out"))


def test_a_run_with_m_that_was_killed_goes_on_with_the_m_that_it_had(tmp_path, start, taught, monkeypatch):
    monkeypatch.setattr(trainer_module, "SAVE_EVERY", 0.0)
    goods, steps = taught / "goods.json", 0

    def dies(self: TeachTrainer, batch: Any, step: Any = TeachTrainer.step) -> dict[str, float]:
        nonlocal steps
        steps += 1
        if steps == 4:  # after the first step of the second round
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(TeachTrainer, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            teach(asked(goods, tmp_path / "out", start, **WITH_M))
    kept = tmp_path / "out/teach/second-half/foreground.safetensors"
    written = kept.stat().st_mtime_ns
    teach(asked(goods, tmp_path / "out", start, **WITH_M))
    assert kept.stat().st_mtime_ns == written
    assert checksums(tmp_path / "out") == checksums(taught / "out")
