"""A referring model from its configuration: trained, resumed, loaded, damaged."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from rise_perception.core.errors import ConfigError, ModelError
from rise_perception.core.instances import Instances
from rise_perception.data.images import write_image
from rise_perception.language.meaning import resolve
from rise_perception.language.parser import parse
from rise_perception.language.things import quantiles
from rise_perception.referring.answer import Status, Thresholds
from rise_perception.referring.config import (
    is_referring_training,
    read_referring_training,
)
from rise_perception.referring.crops import cut_crops
from rise_perception.referring.descriptors import DEPTH_COLUMNS, LENGTH, describe
from rise_perception.referring.evaluation import choose_thresholds, score
from rise_perception.referring.head import (
    MAX_SYMBOLS,
    HeadConfig,
    Question,
    collate,
    prior_logits,
    write_down,
)
from rise_perception.referring.head_training import Example, head_loss
from rise_perception.referring.model import (
    ReferringCard,
    ReferringConfig,
    ReferringModel,
    save_referring_model,
)
from rise_perception.referring.referrer import Referrer, encode
from rise_perception.referring.scene import Scene, make_scene

CONFIG = Path(__file__).resolve().parents[1] / "config/train/refer_small.yaml"
SMALL = HeadConfig(crop=8, embedding=4, width=16, heads=2, layers=1, text_layers=1, residual=2)
ITEMS = ((1, (200, 30, 30), (10, 60, 60, 110)), (2, (30, 60, 200), (70, 10, 110, 60)),
         (3, (30, 150, 40), (100, 70, 150, 110)))  # fmt: skip


def picture() -> tuple[np.ndarray, np.ndarray, Instances]:
    image = np.full((120, 160, 3), (90, 130, 120), np.uint8)
    labels = np.zeros((120, 160), np.uint16)
    depth = np.full((120, 160), 1.0, np.float32)
    for label, colour, (x0, y0, x1, y1) in ITEMS:
        image[y0:y1, x0:x1], labels[y0:y1, x0:x1], depth[y0:y1, x0:x1] = colour, label, 0.9
    boxes = np.array([box for _, _, box in ITEMS], np.float32)
    ids = np.arange(1, 4)
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    embeddings = np.eye(3, 4, dtype=np.float32)
    kinds = np.zeros(3, np.int64)
    return image, depth, Instances(labels, ids.astype(np.uint16), scores, kinds, boxes, embeddings, ids)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scene(*picture())


def question(scene: Scene, sentence: str, model: ReferringModel) -> Question:
    with torch.inference_mode():
        known, items = encode(model, scene, torch.device("cpu"))
    phrase = parse(sentence)
    return Question(known, items, np.array(write_down(phrase)), resolve(phrase, known.things))


def model() -> ReferringModel:
    torch.manual_seed(0)
    return ReferringModel(ReferringConfig(head=SMALL)).eval()


def test_the_untrained_head_repeats_the_prior(scene):
    asked = collate(
        [question(scene, "the blue thing", model()), question(scene, "the box", model())], 4, True
    )
    logs, pixels = model().head(asked, with_pixels=True)
    expected = prior_logits(asked).log_softmax(-1)
    assert torch.allclose(logs, expected, atol=1e-5)
    assert pixels.shape == (2, 60, 80)
    # P follows the likeliest instance's mask.
    assert torch.equal(pixels[0] > 0, asked.masks[0, 1] > 0.5)


def test_padding_and_company_change_no_answer(scene):
    head = model().head
    with torch.no_grad():
        head.score.weight.normal_(0, 1)
    one, two = (
        question(scene, "the blue thing", model()),
        question(scene, "the red box behind the ring", model()),
    )
    alone, _ = head(collate([one], 4))
    together, _ = head(collate([two, one], 4))
    assert torch.allclose(alone[0], together[1], atol=1e-5)


def test_the_order_of_the_instances_changes_no_answer(scene):
    head = model().head
    with torch.no_grad():
        head.score.weight.normal_(0, 1)
    image, depth, instances = picture()
    order = [2, 0, 1]
    turned = Instances(
        instances.label_map, instances.labels[order], instances.scores[order], instances.classes,
        instances.boxes[order], instances.embeddings[order], instances.ids[order],
    )  # fmt: skip
    other = make_scene(image, depth, turned)
    first, _ = head(collate([question(scene, "the leftmost thing", model())], 4))
    second, _ = head(collate([question(other, "the leftmost thing", model())], 4))
    assert torch.allclose(first[0, [*order, 3]], second[0], atol=1e-5)


def test_answers_do_without_masks_and_picture(scene):
    head = model().head
    with torch.no_grad():
        head.score.weight.normal_(0, 1)
    bare = make_scene(*picture(), with_pixels=False)
    assert bare.masks.size + bare.picture.size < 10
    one, other = (head(collate([question(s, "the largest red box", model())], 4))[0] for s in (scene, bare))
    assert torch.equal(one, other)


@pytest.mark.parametrize("count", [1, 2, 17])
def test_quantiles_are_those_of_numpy(count):
    values = np.random.default_rng(0).random(count).astype(np.float32)
    shares = (0.0, 0.1, 0.5, 0.95, 1.0)
    np.testing.assert_allclose(quantiles(values, shares), np.quantile(values, shares), rtol=1e-6)


def test_an_empty_scene_is_answered():
    none = make_scene(np.zeros((12, 16, 3), np.uint8), None, Instances.empty(12, 16, dim=4))
    logs, _ = model().head(collate([question(none, "the box", model())], 4, True), with_pixels=True)
    assert logs.exp()[0, -1].item() == pytest.approx(1)


def test_the_head_learns_what_it_is_taught(scene):
    network = model()
    asked = [question(scene, s, network) for s in ("the red thing", "the blue thing", "the green thing")]
    # Not what the grammar says: the next one each time.
    wrong = [np.eye(4, dtype=np.float32)[k] for k in (1, 2, 3)]
    examples = [Example(q, t, None, None, 1, False, 0) for q, t in zip(asked, wrong, strict=True)]
    optimiser = torch.optim.Adam(network.head.parameters(), 1e-2)
    for _ in range(150):
        loss = head_loss(network.head, examples, 0.5, "cpu", np.zeros(3, bool))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    logs, _ = network.head(collate(asked, 4))
    assert logs.argmax(1).tolist() == [1, 2, 3]


def test_questions_without_prior_rest_on_the_words_alone(scene):
    asked = question(scene, "the blue thing", model())
    bare = Question(asked.scene, asked.items, asked.words, None)
    assert prior_logits(collate([bare], 4)).abs().max() == 0


def test_a_long_phrase_is_cut():
    phrase = parse("the cup behind the red box left of the can on the largest bag in the cup")
    assert len(write_down(phrase)) <= MAX_SYMBOLS


def test_without_depth_a_descriptor_has_zeros_where_depth_would_be(scene):
    image, _, instances = picture()
    flat = describe(cut_crops(image, None, instances.label_map, instances.labels, instances.boxes))
    deep = describe(scene.crops)
    assert flat.shape == (3, LENGTH)
    for columns in DEPTH_COLUMNS:
        assert not flat[:, columns].any()
    assert deep[:, DEPTH_COLUMNS[0]].any()
    assert np.isfinite(describe(np.zeros((2, 6, 48, 48), np.uint8))).all()


def test_thresholds_refuse_enough(scene):
    examples = [
        Example(
            question(scene, "the red thing", model()), np.zeros(4), None, np.array([1.0, 0, 0]), 1, False, 0
        ),
        Example(question(scene, "the pink thing", model()), np.zeros(4), None, None, 0, False, 0),
    ]
    chances = [np.array([0.6, 0.1, 0.0, 0.3]), np.array([0.45, 0.1, 0.0, 0.45])]
    chosen = choose_thresholds(examples, chances)
    figures = score(examples, chances, chosen)
    assert (figures["accuracy"], figures["n_acc"], figures["precision"]) == (1.0, 1.0, 1.0)
    # Of what fits several, the head names one; only what the prior says of it tells it from the first.
    every = question(scene, "the thing", model())
    examples.append(Example(every, np.zeros(4), None, None, 3, False, 0))
    chances.append(np.array([0.7, 0.1, 0.0, 0.2]))
    figures = score(examples, chances, choose_thresholds(examples, chances))
    assert (figures["accuracy"], figures["several_acc"]) == (1.0, 1.0)
    examples[-1] = dataclasses.replace(examples[-1], question=dataclasses.replace(every, prior=None))
    assert score(examples, chances, Thresholds(0.5, 1.5))["several_acc"] == 0.0


# ---- the whole training


@pytest.fixture
def data(tmp_path) -> Path:
    image, depth, instances = picture()
    lines = []
    for number in range(3):
        name = f"train/{number}.png"
        write_image(tmp_path / "images" / name, image)
        write_image(tmp_path / "depth" / name, (depth * 1000).astype(np.uint16))
        write_image(tmp_path / "labels" / name, instances.label_map)
        lines += [
            {"file_name": name, "sentence": "the red thing", "label": 1},
            {"file_name": name, "sentence": "the pink thing", "label": None},
            {"file_name": name, "sentence": "the thing", "label": None, "labels": [1, 2, 3]},
        ]
    images = [
        {"id": k, "file_name": f"train/{k}.png", "depth_file": f"train/{k}.png", "depth_scale": 0.001}
        for k in range(3)
    ]
    shapes = ("box", "mug", "lump")
    notes = [{"image_id": k, "label": m + 1, "kind": shapes[m]} for k in range(3) for m in range(3)]
    (tmp_path / "train.json").write_text(json.dumps({"images": images, "annotations": notes}))
    (tmp_path / "train.sentences.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return tmp_path


def configure(data: Path, segmenter: Path, **steps: int) -> Path:
    sentences = str(data / "train.sentences.jsonl")
    content = {
        "name": "tiny",
        "out": str(data / "run"),
        "data": {"kinds": [sentences], "train": [sentences], "validation": sentences,
                 "segmenter": str(segmenter), "cache": str(data / "cache")},
        "referring": {"head": vars(SMALL) | {"embedding": 16}},
        "optimisation": {"kind_epochs": 2, "epochs": 2, "batch": 4, "threads": 1} | steps,
    }  # fmt: skip
    path = data / "refer.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_model_is_trained_resumed_loaded_and_shown(rise, data, tiny_model):
    path = configure(data, tiny_model)
    status, out, err = rise("train", path, "--device", "cpu")
    assert status == 0, err
    assert "tiny-" in out
    first = (data / "run/model.safetensors").read_bytes()
    (data / "run/model.safetensors").unlink()
    status, _, err = rise("train", path, "--device", "cpu")  # goes on after the last pass: there is none left
    assert status == 0
    assert "pass" not in err
    assert (data / "run/model.safetensors").read_bytes() == first
    status, out, _ = rise("info", data / "run")
    assert status == 0
    assert "t_acc" in out
    referrer = Referrer.load(data / "run")
    image, depth, instances = picture()
    answer = referrer.answer(referrer.look(image, depth, instances), "the blue thing")
    assert answer.status in (Status.FOUND, Status.AMBIGUOUS, Status.NONE)
    (data / "run/model.safetensors").write_bytes(first[:-1] + b"\x01")
    with pytest.raises(ModelError, match="SHA-256"):
        Referrer.load(data / "run")


def test_a_killed_training_goes_on_to_the_same_weights(data, tiny_model):
    from rise_perception.referring.trainer import train_referring

    whole = train_referring(read_referring_training(configure(data, tiny_model)), "", "cpu")
    weights = (data / "run/model.safetensors").read_bytes()
    import shutil

    shutil.rmtree(data / "run")
    from rise_perception.referring import head_training

    save, seen = head_training.save_state, []

    def killed(path: Path, *state: object) -> None:
        save(path, *state)
        seen.append(path)
        raise KeyboardInterrupt

    head_training.save_state = killed
    try:
        with pytest.raises(KeyboardInterrupt):
            train_referring(read_referring_training(configure(data, tiny_model)), "", "cpu")
    finally:
        head_training.save_state = save
    again = train_referring(read_referring_training(configure(data, tiny_model)), "", "cpu")
    assert (data / "run/model.safetensors").read_bytes() == weights
    assert again.checksum == whole.checksum


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("referring: {}\nname: a\nout: b", r"configuration\.data is missing"),
        ("referring: {}\nname: a\nout: b\ndata: {kinds: [], train: [x]}", r"data\.kinds"),
        ("referring: {size: 3}\nname: a\nout: b\ndata: {kinds: [x], train: [x]}", r"referring\.size"),
        ("referring: {head: {width: 30}}\nname: a\nout: b\ndata: {kinds: [x], train: [x]}", r"head\.width"),
        ("referring: {}\nname: a\nout: b\ndata: {kinds: [x], train: [x]}\noptimisation: {rate: 0}", "rate"),
        ("[", "no valid YAML"),
    ],
)
def test_a_wrong_configuration_is_named(text, reason, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=reason):
        read_referring_training(path)


def test_the_shipped_configuration_is_read():
    assert is_referring_training(CONFIG)
    assert read_referring_training(CONFIG).name == "rise_refer_small"
    assert not is_referring_training(CONFIG.parent / "rise_small_rgbd.yaml")


def test_a_segmenters_card_is_no_referring_model(tiny_model, tmp_path):
    with pytest.raises(ModelError, match="another kind of model"):
        Referrer.load(tiny_model)
    broken = model()
    with torch.no_grad():
        broken.head.score.weight.fill_(float("nan"))
    save_referring_model(tmp_path / "m", broken, ReferringCard("m", broken.config))
    with pytest.raises(ModelError, match="no finite numbers"):
        Referrer.load(tmp_path / "m")
