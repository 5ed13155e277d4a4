"""`rise teach` as a whole, with a tiny network and pictures of coloured blocks."""

from __future__ import annotations

import fcntl
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import tiny_config

from rise_perception.core.errors import DataError, ModelError
from rise_perception.core.files import write_json
from rise_perception.data.annotated import read_annotated
from rise_perception.data.images import write_image
from rise_perception.network.build import build_network
from rise_perception.network.card import ModelCard, file_checksum, read_card
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.teaching import scenes as scenes_module
from rise_perception.teaching import teach as teach_module
from rise_perception.teaching import trainer as trainer_module
from rise_perception.teaching.config import Recipe, TeachConfig, plan_rounds
from rise_perception.teaching.page import write_page
from rise_perception.teaching.reading import read_given
from rise_perception.teaching.rounds import prepare_round
from rise_perception.teaching.scenes import SHIPPED_BAG, gather_material, shipped_pictures
from rise_perception.teaching.teach import teach
from rise_perception.teaching.trainer import TeachTrainer, silenced, spread_class_heads

QUICK = Recipe(precision="fp32", average=0.5, rehearsed=0)
BLOCKS = [[(10, 10, 34, 34), (50, 20, 80, 44)], [(20, 12, 50, 40)], [(44, 16, 76, 50), (12, 14, 36, 30)]]


def save_start(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    config = tiny_config(
        **({"classes": ("object",), "containers": (), "query_selection": "dense", "mask_stride": 4} | changes)
    )
    save_model(folder, build_network(config), ModelCard(name="start", network=config))
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


def write_goods(
    folder: Path, count: int = 3, names: tuple[str, ...] = ("object",), depth: bool = False
) -> Path:
    """COCO file of `count` pictures of 64 x 96 pixels."""
    rng = np.random.default_rng(0)
    annotations = []
    for index in range(count):
        image = rng.integers(60, 70, (64, 96, 3), np.uint8)
        for number, (x0, y0, x1, y1) in enumerate(BLOCKS[index % len(BLOCKS)]):
            image[y0:y1, x0:x1] = (220, 40, 40) if number else (40, 200, 60)
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": index,
                    "category_id": 1 + number % len(names),
                    "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]],
                }
            )
        write_image(folder / f"{index}.png", image)
        if depth:
            write_image(folder / f"{index}-depth.png", np.full((64, 96), 900, np.uint16))
    content = {
        "images": [{"id": k, "file_name": f"{k}.png"} for k in range(count)],
        "categories": [{"id": 1 + k, "name": name} for k, name in enumerate(names)],
        "annotations": annotations,
    }
    (folder / "goods.json").write_text(json.dumps(content))
    return folder / "goods.json"


def asked(source: Path, out: Path, start: Path, **changes: Any) -> TeachConfig:
    return TeachConfig(source, out, **({"start": str(start), "steps": 3, "recipe": QUICK} | changes))


def test_a_few_pictures_become_a_model_with_a_page(tmp_path, start):
    goods = write_goods(tmp_path)
    said: list[str] = []
    taught = teach(asked(goods, tmp_path / "out", start), said.append)
    _, card = load_model(tmp_path / "out")
    assert card == taught.card
    assert card.network.classes == ("object",)
    figures = card.metrics["teach"]
    assert figures["pictures"] == 3
    assert figures["before"]["items"] == figures["after"]["items"] == 5
    assert any("3 annotated pictures, 5 items" in line for line in said)
    write_page(tmp_path / "report.html", taught, "rise teach")
    page = (tmp_path / "report.html").read_text()
    assert page.count("truth, before, after") >= 3
    assert "What it is worth" in page


@pytest.mark.parametrize("kind", ["quality", "focal"])
def test_scores_go_on_to_learn_what_they_mean_in_the_start(tmp_path, start, kind):
    _, card = load_model(start)
    shutil.copytree(start, tmp_path / "start")
    write_json(tmp_path / "start/card.json", asdict(replace(card, classification=kind)))
    teach(asked(write_goods(tmp_path), tmp_path / "out", tmp_path / "start"))
    assert read_card(tmp_path / "out/teach/all").classification == kind


def test_a_model_that_is_not_better_is_not_kept(tmp_path, start):
    # Three steps cannot help a network of random weights: it finds nothing, before and after.
    taught = teach(asked(write_goods(tmp_path), tmp_path / "out", start))
    assert not taught.better
    assert file_checksum(tmp_path / "out/model.safetensors") == file_checksum(start / "model.safetensors")
    assert "no improvement" in taught.card.data


def test_a_killed_run_resumes_and_ends_with_the_same_weights(tmp_path, start, monkeypatch):
    goods = write_goods(tmp_path)
    monkeypatch.setattr(trainer_module, "SAVE_EVERY", 0.0)
    teach(asked(goods, tmp_path / "whole", start))
    steps = 0

    def dies(self: TeachTrainer, batch: Any, step: Any = TeachTrainer.step) -> dict[str, float]:
        nonlocal steps
        steps += 1
        if steps == 5:  # in the second round
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(TeachTrainer, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            teach(asked(goods, tmp_path / "killed", start))
    said: list[str] = []
    teach(asked(goods, tmp_path / "killed", start), said.append)
    assert any("from step 1" in line for line in said)
    assert not any("first-half" in line for line in said)
    for name in ("first-half", "second-half", "all"):
        one, other = (tmp_path / run / "teach" / name / "model.safetensors" for run in ("whole", "killed"))
        assert file_checksum(one) == file_checksum(other), name


def test_a_second_run_on_the_same_folder_is_refused(tmp_path, start):
    (tmp_path / "out/teach").mkdir(parents=True)
    with (tmp_path / "out/teach/lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ModelError, match="another `rise teach` is writing"):
            teach(asked(write_goods(tmp_path), tmp_path / "out", start))


def test_the_folder_of_another_network_is_refused_and_stays_as_it_is(tmp_path, start):
    goods = write_goods(tmp_path)
    before = sorted(p.name for p in start.iterdir())
    with pytest.raises(ModelError, match=r"another network \(card.json\)"):
        teach(asked(goods, start, start))
    assert sorted(p.name for p in start.iterdir()) == before
    teach(asked(goods, tmp_path / "out", start, steps=1))
    with pytest.raises(ModelError, match="taught with another seed"):
        teach(asked(goods, tmp_path / "out", start, seed=1))
    other = write_goods(tmp_path / "more", 2)
    with pytest.raises(ModelError, match="taught with another pictures"):
        teach(asked(other, tmp_path / "out", start))


def test_several_classes_begin_as_what_the_start_calls_an_object(tmp_path, start):
    network = build_network(tiny_config(classes=("box", "mug"), containers=(), query_selection="dense"))
    spread_class_heads(network, start)
    theirs = load_model(start)[0].state_dict()
    for name, tensor in network.state_dict().items():
        if name.startswith(("class_heads", "dense_class")):
            assert torch.equal(tensor, theirs[name].expand_as(tensor)), name
    taught = teach(asked(write_goods(tmp_path, names=("mug", "box")), tmp_path / "out", start))
    assert taught.annotated.classes == ("box", "mug")
    assert load_model(tmp_path / "out/teach/all")[1].network.classes == ("box", "mug")
    assert set(taught.after.classes) == {"box", "mug"}
    assert any("no rehearsal" in note for note in taught.notes)


def test_one_picture_is_evaluated_on_views_of_itself_and_that_is_said(tmp_path, start):
    said: list[str] = []
    taught = teach(asked(write_goods(tmp_path, 1), tmp_path / "out", start), said.append)
    assert "says little about others" in taught.how_evaluated
    assert len(taught.after.pairs) == 12


def test_pictures_are_split_by_halves_below_twelve_and_held_out_from_there(tmp_path):
    first, second, last = plan_rounds(5, [3, 1, 4, 0, 2])
    assert set(first.teaches) | set(first.held_out) == set(range(5)) == set(last.teaches)
    assert first.teaches == second.held_out
    assert not set(first.teaches) & set(first.held_out)
    (only,) = plan_rounds(12, list(range(12)))
    assert len(only.held_out) == 3
    assert not set(only.held_out) & set(only.teaches)
    assert only.keeps_best


def test_pictures_of_elsewhere_have_true_objects():
    frames = shipped_pictures(with_depth=True)
    assert len(frames) > 20
    assert all(len(f.masks) == len(f.ids) and f.depth is not None for f in frames)
    assert np.mean([len(f.masks) for f in frames]) > 5


def test_nothing_is_learned_where_nothing_is_known(tmp_path, start):
    write_goods(tmp_path)
    sample = read_annotated(tmp_path / "goods.json").pictures[0].load(False)
    unknown = np.zeros((64, 96), bool)
    unknown[:, 48:] = True
    network = load_model(start)[0]
    material = gather_material([(sample, unknown)], [], [], network.config)
    shown = material.pictures[0]
    assert shown.ids.tolist()[-1] == 999_999
    assert (shown.masks[-1] == unknown).all()
    outputs = network(torch.randn(1, 3, 64, 96))
    mute = silenced(outputs, {0: torch.from_numpy(unknown[::4, ::4].copy())})
    right = outputs.boxes[0, :, 0] - outputs.boxes[0, :, 2] / 2 > 0.5
    assert (mute.logits[0, right] == -30).all()
    left = outputs.boxes[0, :, 0] + outputs.boxes[0, :, 2] / 2 < 0.5
    assert torch.equal(mute.logits[0, left], outputs.logits[0, left])


def test_depth_is_used_where_every_picture_has_it(tmp_path):
    depth_start = save_start(tmp_path / "rgbd", input="rgbd")
    goods = write_goods(tmp_path / "goods", depth=True)
    taught = teach(asked(goods, tmp_path / "out", depth_start, steps=1))
    assert taught.held_out[0][0].depth is not None
    with pytest.raises(ModelError, match="--no-depth leaves it out; give --from rise_small_rgb"):
        teach(asked(goods, tmp_path / "other", depth_start, with_depth=False))


def test_bad_inputs_of_the_other_arguments_are_named(tmp_path, start):
    goods = write_goods(tmp_path / "goods")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=r"--empty: .*nothing holds no pictures.*leave --empty out"):
        teach(asked(goods, tmp_path / "out", start, empty=tmp_path / "nothing"))
    with pytest.raises(DataError, match="nowhere is no folder; give one with pictures of the empty place"):
        teach(asked(goods, tmp_path / "out", start, empty=tmp_path / "nowhere"))
    region = tmp_path / "region.png"
    write_image(region, np.zeros((64, 96), np.uint8))
    with pytest.raises(DataError, match="of one colour"):
        teach(asked(goods, tmp_path / "out", start, region=region))
    write_image(region, np.eye(50, dtype=np.uint8) * 255)
    with pytest.raises(DataError, match="50x50, the pictures are 96x64"):
        teach(asked(goods, tmp_path / "out", start, region=region))


def test_the_rate_falls_with_time_and_the_run_ends_with_it(tmp_path, start):
    taught = teach(asked(write_goods(tmp_path), tmp_path / "out", start, steps=0, minutes=0.02))
    assert taught.card.version
    state = json.loads((tmp_path / "out/teach/state.json").read_text())
    assert state["seconds_per_step"] > 0
    assert state["done"]


def test_pictures_of_elsewhere_are_learned_again_so_that_nothing_is_forgotten(tmp_path, start):
    """Fails where rehearsal is left out: of the recipe, of the material, or of what a step sees."""
    config = asked(write_goods(tmp_path), tmp_path / "out", start)
    given = read_given(config)
    place = plan_rounds(3, [0, 1, 2])[-1]
    _, scenes = prepare_round(config, given, place, start, tmp_path / "round", 400, 1e9, "fp32")
    assert all(len(picture.masks) for picture in scenes.material.rehearsal)
    drawn = []
    for position in range(400):
        torch.manual_seed(position)
        drawn.append(scenes._sample(position % 3).name.startswith(SHIPPED_BAG))
    assert 0.10 < np.mean(drawn) < 0.20  # 0.15 of them; three deviations are 0.05


@pytest.mark.parametrize("ends_by", ["steps", "time"])
def test_the_finish_of_every_round_sees_pictures_turned_all_round_at_a_tenth_of_the_rate(
    tmp_path, start, monkeypatch, ends_by
):
    """By steps it is the last half of them; by time the last half of it, wherever the steps are then."""
    steps, by_time = 8, ends_by == "time"
    seen: dict[str, list[tuple[bool, float]]] = {}
    turned = []
    if by_time:  # half of the steps fit into the time of a round
        monkeypatch.setattr(TeachTrainer, "seconds", property(lambda self: self.iteration * self._time / 4))

    class Turned(scenes_module.SequenceMaker):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            turned.append(self.weak.rotation == 180)
            return super().__call__(*args, **kwargs)

    def watched(self: TeachTrainer, batch: Any, step: Any = TeachTrainer.step) -> dict[str, float]:
        pictures = set(turned)
        turned.clear()
        values = step(self, batch)
        (rotated,) = pictures
        seen.setdefault(self.out.name, []).append((rotated, self.optimiser.param_groups[0]["base_lr"]))
        return values

    monkeypatch.setattr(teach_module, "MARKS", (1.0,))  # one evaluation a round is enough here
    # Both do what they did, and are watched.
    monkeypatch.setattr(scenes_module, "SequenceMaker", Turned)
    monkeypatch.setattr(TeachTrainer, "step", watched)
    recipe = replace(QUICK, finish=0.5)
    teach(asked(write_goods(tmp_path), tmp_path / "out", start, steps=steps, recipe=recipe))
    assert set(seen) == {"first-half", "second-half", "all"}
    for name, found in seen.items():
        whole = 4 if by_time else 8
        assert len(found) == whole, name
        rates = [rate for _, rate in found]
        begins = whole // 2
        assert rates[begins - 1] == rates[0], name
        assert rates[begins:] == [pytest.approx(0.1 * rates[0])] * (whole - begins), name
        # The pictures of the step in which time brings the finish forward have been made by then.
        first = begins + by_time
        assert [rotated for rotated, _ in found] == [False] * first + [True] * (whole - first), name


def test_pictures_that_items_cover_give_no_background_and_that_is_said(tmp_path, start):
    goods = write_goods(tmp_path)
    content = json.loads(goods.read_text())
    for note in content["annotations"]:
        note["segmentation"] = [[0, 0, 96, 0, 96, 64, 0, 64]]
    goods.write_text(json.dumps(content))
    given = read_given(asked(goods, tmp_path / "out", start))
    assert any("items cover every picture" in n and "--empty" in n for n in given.notes)
    material = given.material((0, 1, 2))
    assert not material.backgrounds
    for note in content["annotations"][1:]:
        note["segmentation"] = [[10, 10, 40, 10, 40, 40]]
    goods.write_text(json.dumps(content))
    given = read_given(asked(goods, tmp_path / "out", start))
    assert any("items cover 1 of 3 pictures" in n for n in given.notes)
    assert len(given.material((0, 1, 2)).backgrounds) == 2


def test_what_is_not_known_in_a_picture_is_not_known_in_the_background_that_is_made_of_it(tmp_path, start):
    write_goods(tmp_path)
    sample = read_annotated(tmp_path / "goods.json").pictures[0].load(False)
    unknown = np.zeros((64, 96), bool)
    unknown[:, 84:] = True
    (background,) = gather_material([(sample, unknown)], [], [], load_model(start)[0].config).backgrounds
    assert background.ids.tolist() == [999_999]
    assert (background.masks[0] == unknown).all()
