"""`rise bench referring`: pseudo-labels for sentences, what chooses them, and rows that are made once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.bench_referring import summarise
from benchmarks.referring import Plan, ReferringBenchmark, judge_choice, labelled_images, make_selector
from benchmarks.referring_choice import Fold, virtual_rewards
from benchmarks.referring_labels import as_label, mirror_phrase, mirror_scene, predict, worth
from benchmarks.referring_models import ModelFactory
from rise_perception.core.errors import DataError
from rise_perception.core.instances import Instances
from rise_perception.data.images import write_image
from rise_perception.language.meaning import resolve
from rise_perception.language.parser import parse
from rise_perception.referring.head import HeadConfig, Question, ReferringHead, write_down
from rise_perception.referring.head_training import Example
from rise_perception.referring.scene import make_scene
from rise_perception.selection.candidates import ALL, CORE, DROP, PRIOR
from rise_perception.selection.policy import Guarded

SMALL = HeadConfig(crop=8, embedding=4, width=16, heads=2, layers=1, text_layers=1, residual=2)
ITEMS = ((1, (200, 30, 30), (10, 60, 60, 110)), (2, (30, 60, 200), (70, 10, 110, 60)),
         (3, (30, 150, 40), (100, 70, 150, 110)))  # fmt: skip
SENTENCES = (("the red thing", (1,)), ("the rightmost thing", (3,)), ("the pink thing", ()),
             ("the blue box", (2,)), ("the thing", (1, 2, 3)))  # fmt: skip


def picture() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, labels = np.full((120, 160, 3), (90, 130, 120), np.uint8), np.zeros((120, 160), np.uint16)
    for label, colour, (x0, y0, x1, y1) in ITEMS:
        image[y0:y1, x0:x1], labels[y0:y1, x0:x1] = colour, label
    return image, np.full((120, 160), 1000, np.uint16), labels


class Eyes:
    """A segmenter that sees the three items of :func:`picture`."""

    version = "eyes"

    def __call__(self, image: np.ndarray, depth: np.ndarray | None) -> Instances:
        ids = np.arange(1, 4)
        return Instances(
            picture()[2], ids.astype(np.uint16), np.full(3, 0.9, np.float32), np.zeros(3, np.int64),
            np.array([box for _, _, box in ITEMS], np.float32), np.eye(3, 4, dtype=np.float32), ids,
        )  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refer")
    for split, count in (("train", 6), ("test", 2)):
        lines, images, notes = [], [], []
        for number in range(count):
            name = f"{split}/{number}.png"
            for kind, content in zip(("images", "depth", "labels"), picture(), strict=True):
                write_image(folder / kind / name, content)
            images.append({"id": number, "file_name": name, "depth_file": name})
            notes += [{"image_id": number, "label": k + 1, "kind": "box"} for k in range(3)]
            lines += [
                {"file_name": name, "sentence": said, "labels": list(labels),
                 "label": labels[0] if len(labels) == 1 else None}
                for said, labels in SENTENCES
            ]  # fmt: skip
        (folder / f"{split}.json").write_text(json.dumps({"images": images, "annotations": notes}))
        (folder / f"{split}.sentences.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


@pytest.fixture
def bench(data, tmp_path, monkeypatch) -> ReferringBenchmark:
    # A trained model for pictures of 96 pixels does not exist; what is tested begins after it.
    monkeypatch.setattr("benchmarks.referring.Segmenter.load", lambda *_: Eyes())
    # Few steps: rows are wanted here, not a good policy.
    monkeypatch.setattr("benchmarks.referring_choice.UPDATES", 2)
    return ReferringBenchmark(Plan(tmp_path / "out", data, steps=4, head=SMALL))


def test_every_selector_gives_a_row_and_none_is_made_twice(bench, data, tmp_path, monkeypatch):
    rows = [bench.row(name, 0.34, 0) for name in ("supervised", "grammar", "cascade", "soft", "policy")]
    for row in rows:
        assert {"selector", "labelled", "seed", "prior", "precision", "recall", "accuracy", "t_acc", "n_acc",
                "miou", "seconds"} <= set(row)  # fmt: skip
        assert np.isfinite(row["accuracy"])
    assert [row["images"] for row in rows] == [2] * 5
    assert rows[0]["precision"] is None
    assert rows[3]["precision"] > 0
    assert rows[4]["served"] in ("learned", "cascade")
    # Killed and begun again: nothing is segmented, taught or judged.
    monkeypatch.setattr("benchmarks.referring_models.compute_features", bench_of(bench))
    again = ReferringBenchmark(bench.plan)
    # Calling it would fail: whatever is made again is noticed.
    monkeypatch.setattr(again, "_make_base", None)
    assert [again.row(row["selector"], 0.34, 0) for row in rows] == rows
    with pytest.raises(DataError, match="another plan"):
        ReferringBenchmark(dataclasses.replace(bench.plan, steps=5))


def bench_of(bench: ReferringBenchmark):
    parts = iter([bench.train.features, bench.test.features])
    return lambda *_: next(parts)


def test_the_truth_of_unlabelled_sentences_reaches_no_weight(bench):
    row = bench.row("soft", 0.34, 1)
    features = bench.train.features
    known = set(labelled_images(6, 0.34, 1).tolist())
    turned = [
        dataclasses.replace(p, labels=() if p.labels else (2,)) if p.image not in known else p
        for p in features.pairs
    ]
    part = dataclasses.replace(bench.train, features=dataclasses.replace(features, pairs=turned))
    bench.train, bench.factory, bench._base = part, ModelFactory(part, bench.factory.prior, SMALL), None
    (bench.plan.out / "rows/grammar-0.34-1-soft.json").unlink()
    other = bench.row("soft", 0.34, 1)
    assert other.pop("precision") != row.pop("precision")
    for result in (row, other):
        result.pop("seconds"), result.pop("recall")
    assert other == row


def question(sentence: str) -> Question:
    image, depth, _ = picture()
    scene = make_scene(image, depth / np.float32(1000), Eyes()(image, None))
    phrase = parse(sentence)
    return Question(
        scene, np.zeros((3, 16), np.float32), np.array(write_down(phrase)), resolve(phrase, scene.things)
    )


def asked(sentence: str, *items: int) -> Example:
    """An example whose truth are the instances ``items``."""
    q = question(sentence)
    target = np.zeros(4, np.float32)
    target[list(items) or [-1]] = 1 / max(1, len(items))
    single = len(items) == 1
    mask = q.scene.masks[items[0]] if single else np.zeros((60, 80), np.uint8) if not items else None
    return Example(q, target, mask, np.eye(3)[items[0]] if single else None, len(items), False, 0)


def head() -> ReferringHead:
    torch.manual_seed(0)
    return ReferringHead(SMALL).eval()


def found_in(*examples: Example):
    return predict(head(), examples, [e.question for e in examples])


def test_a_mirrored_image_is_asked_with_mirrored_words():
    phrase = parse("the leftmost red thing behind the box right of the can")
    assert str(mirror_phrase(phrase)) == "the rightmost red thing behind the box left of the can"
    assert mirror_phrase(mirror_phrase(phrase)) == phrase
    scene = question("the thing").scene
    before = resolve(parse("the thing left of the green thing"), scene.things)
    after = resolve(parse("the thing right of the green thing"), mirror_scene(scene).things)
    assert np.allclose(before.fits, after.fits, atol=1e-6)
    assert before.fits[0] > 0.9


def test_pseudo_labels_teach_what_their_action_says():
    found = found_in(asked("the blue thing", 1), asked("the pink thing"), asked("the thing", 0, 1, 2))
    assert found.chosen[:2].tolist() == [1, 3]  # the untrained head repeats the grammar
    assert as_label(found, 0, DROP) is None
    label = as_label(found, 0, ALL)
    assert label.target.tolist() == [0, 1, 0, 0]
    assert (label.mask > 127).sum() > 100
    core = as_label(found, 0, CORE)
    assert not core.target.any()  # pixels alone
    assert core.weights.min() in (0.0, 1.0)
    assert as_label(found, 1, PRIOR).target.tolist() == [0, 0, 0, 1]
    assert not as_label(found, 1, ALL).mask.any()


def test_what_pseudo_labels_are_worth():
    truths = [asked("the blue thing", 1), asked("the pink thing"), asked("the thing", 0, 1, 2)]
    table = worth(found_in(*truths), truths)
    assert table[0, [DROP, ALL, PRIOR]].tolist() == [0, 1, 1]
    assert table[1, [DROP, ALL, PRIOR]].tolist() == [0, 1, 1]
    assert table[2].tolist() == [0, 0, 0, 0]  # one of several is wrong
    wrong = [asked("the blue thing", 0)]
    assert worth(found_in(*wrong), wrong)[0, ALL] == 0
    figures = judge_choice([torch.tensor([ALL, DROP, ALL])], table)
    assert figures == {"precision": 0.5, "recall": 0.5}
    assert judge_choice([torch.tensor([DROP] * 3)], table) == {"precision": None, "recall": 0.0}


def fold(count: int = 12) -> Fold:
    """The even half of the sentences is answered rightly and the odd wrongly, and their states tell."""
    truths = [asked("the blue thing", 1 if k % 4 < 2 else 0) for k in range(count)]
    found = found_in(*truths)
    for row in range(count):
        found.candidates.state[row] = 0.0
        found.candidates.state[row, 0] = 0.9
        found.candidates.state[row, 7] = float(row % 4 < 2)
    return Fold(head(), found, worth(found, truths), truths, found_in(*truths[:4]))


@pytest.mark.parametrize("name", ["regressor", "exact"])
def test_learned_selectors_believe_what_is_worth_it(name):
    folds = [fold(), fold()]
    selector = make_selector(name, folds, 0)
    learned = selector.learned if isinstance(selector, Guarded) else selector
    believed = learned.choose(folds[0].disguised.at(1.0)) != DROP
    right = folds[0].worth[:, ALL] >= 0.5
    assert torch.equal(believed, right)


def test_a_virtual_step_rewards_right_labels_and_leaves_the_head_as_it_was():
    one = fold()
    before = {name: tensor.clone() for name, tensor in one.head.state_dict().items()}
    with torch.no_grad():  # an untrained last layer hands no gradient on
        one.head.score.weight.normal_(0, 0.1)
    truths = [asked("the blue thing", 1)] * 4
    one = dataclasses.replace(one, truths=truths, unlabelled=found_in(*truths))
    before = {name: tensor.clone() for name, tensor in one.head.state_dict().items()}
    one.unlabelled.chosen[2:] = 0  # these would teach another item
    one.unlabelled.candidates.state[:, 6] = 0.0  # no prior agrees
    actions = torch.tensor([[ALL, ALL, DROP, DROP], [DROP, DROP, ALL, ALL], [DROP] * 4])
    right, wrong, none = virtual_rewards(one, np.arange(4), actions, np.arange(4), 0.5).tolist()
    assert right > wrong
    assert none == 0.0
    assert all(torch.equal(before[name], tensor) for name, tensor in one.head.state_dict().items())


def test_a_tie_is_called_a_tie():
    def row(selector, seed, accuracy):
        figures = dict.fromkeys(("precision", "recall", "top1", "t_acc", "n_acc", "several_acc", "miou"), 0.5)
        base = {"selector": selector, "labelled": 0.05, "seed": seed, "prior": "grammar"}
        return {**base, **figures, "accuracy": accuracy}

    ahead = [row("policy", s, 0.5 + 0.01 * s) for s in range(3)] + [
        row("cascade", s, 0.4 + 0.01 * s) for s in range(3)
    ]
    level = [row("supervised", s, a) for s, a in enumerate((0.6, 0.4, 0.52))]
    found = summarise(ahead + level)
    verdicts = {e["difference"]: e["verdict"] for e in found if e.get("figure") == "accuracy"}
    assert verdicts["policy - cascade"] == "ahead"
    assert verdicts["policy - supervised"] == "tie"


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--labelled", "0"], "fractions above 0"), (["--steps", "0"], "at least 1"), ([], "cannot be read")],
)
def test_wrong_arguments_are_named(rise, tmp_path, tiny_model, options, reason):
    status, _, err = rise(
        "bench", "referring", tmp_path / "o", "--data", tmp_path / "d", "--model", tiny_model, *options
    )
    assert status == 2
    assert reason in err
