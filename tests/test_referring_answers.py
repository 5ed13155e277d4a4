"""Answers to sentences about segmented images: statuses, files of questions, priors, bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rise_perception.core.errors import ConfigError, DataError, ModelError
from rise_perception.core.instances import Instances
from rise_perception.core.regions import encode_mask
from rise_perception.core.rle import decode_runs
from rise_perception.data.images import write_image
from rise_perception.language.meaning import Meaning
from rise_perception.referring.answer import Status, Thresholds, decide, judge
from rise_perception.referring.asking import answer_asks, read_asks
from rise_perception.referring.pictures import draw_referral
from rise_perception.referring.priors import Asked, make_prior, no_prior
from rise_perception.referring.referrer import Referrer

BOXES = {
    1: ((200, 30, 30), (20, 150, 90, 210)),
    2: ((30, 60, 200), (30, 40, 80, 90)),
    3: ((200, 30, 30), (230, 150, 270, 190)),
    4: ((30, 150, 40), (150, 60, 180, 120)),
}


def instances_of(label_map: np.ndarray) -> Instances:
    labels = np.unique(label_map[label_map > 0]).astype(np.uint16)
    boxes = [BOXES[int(label)][1] for label in labels]
    count = len(labels)
    return Instances(
        label_map,
        labels,
        np.linspace(0.9, 0.5, count).astype(np.float32),
        np.zeros(count, np.int64),
        np.array(boxes, np.float32).reshape(-1, 4),
        np.zeros((count, 4), np.float32),
        labels.astype(np.int64) + 10,
    )


def picture() -> tuple[np.ndarray, np.ndarray]:
    image = np.full((240, 320, 3), (90, 130, 120), np.uint8)
    labels = np.zeros((240, 320), np.uint16)
    for label, (colour, (x0, y0, x1, y1)) in BOXES.items():
        image[y0:y1, x0:x1] = colour
        labels[y0:y1, x0:x1] = label
    return image, labels


class Segmenter:
    """Knows the picture; counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: np.ndarray, depth: np.ndarray | None = None) -> Instances:
        self.calls += 1
        return instances_of(picture()[1])


@pytest.fixture
def view():
    image, labels = picture()
    referrer = Referrer()
    return referrer, referrer.look(image, None, instances_of(labels), "a.png")


@pytest.mark.parametrize(
    ("sentence", "status", "found"),
    [
        ("the blue thing", Status.FOUND, 12),
        ("the leftmost red thing", Status.FOUND, 11),
        ("the red thing right of the green thing", Status.FOUND, 13),
        ("the red thing", Status.AMBIGUOUS, None),
        ("the yellow thing", Status.NONE, None),
        ("the blue cup", Status.AMBIGUOUS, None),  # nobody knows whether it is a cup
        ("the nearest thing", Status.AMBIGUOUS, None),  # without depth
        ("the sonic screwdriver", Status.NOT_UNDERSTOOD, None),
        ("синяя вещь", Status.NOT_UNDERSTOOD, None),
        ("x" * 10_000, Status.NOT_UNDERSTOOD, None),
        ("", Status.NOT_UNDERSTOOD, None),
    ],
)
def test_the_grammar_alone_answers_and_never_guesses(sentence, status, found, view):
    referrer, seen = view
    answer = referrer.answer(seen, sentence)
    assert answer.status is status
    content = json.loads(json.dumps(answer.as_json(seen.instances), allow_nan=False))
    assert bool(answer.candidates) == (status in (Status.FOUND, Status.AMBIGUOUS))
    assert content["id"] == found
    assert (content["mask"] is None) == (found is None) == (content["box"] is None)
    assert bool(answer.mask.any()) == (found is not None)
    if found:
        mask = decode_runs(content["mask"]["counts"], 240, 320)
        assert np.array_equal(mask, picture()[1] == found - 10)
        x, y, w, h = content["box"]
        assert (x, y, x + w, y + h) == BOXES[found - 10][1]


def test_candidates_are_those_that_it_may_be(view):
    referrer, seen = view
    content = referrer.answer(seen, "the red thing").as_json(seen.instances)
    assert {candidate["id"] for candidate in content["candidates"]} == {11, 13}
    assert "2 items may be" in content["detail"]


def test_nothing_in_sight_is_none():
    referrer = Referrer()
    image = np.zeros((24, 32, 3), np.uint8)
    seen = referrer.look(image, None, Instances.empty(24, 32))
    answer = referrer.answer(seen, "the largest red box")
    assert answer.status is Status.NONE
    assert "no item is seen" in answer.detail


def test_thresholds_decide_what_is_said():
    chances = np.array([0.55, 0.3, 0.15])
    assert judge(chances, Thresholds(found=0.5, lead=1.5)) == (Status.FOUND, (0,))
    assert judge(chances, Thresholds(found=0.6, lead=1.5)) == (Status.AMBIGUOUS, (0, 1))
    assert judge(chances, Thresholds(found=0.5, lead=2.0))[0] is Status.AMBIGUOUS
    assert judge(np.array([0.1, 0.1, 0.8]), Thresholds()) == (Status.NONE, ())
    assert judge(np.array([1.0]), Thresholds()) == (Status.NONE, ())
    # The head is sure of one, and the prior knows that another fits as well: both are candidates.
    both = Meaning(np.array([0.9, 0.95]), np.array([0.05, 0.1]), 0.0)
    sure = np.array([0.9, 0.05, 0.05])
    assert judge(sure, Thresholds(), both) == (Status.AMBIGUOUS, (1, 0))
    assert judge(sure, Thresholds(several=0.9), both) == (Status.FOUND, (0,))
    assert judge(np.array([0.1, 0.1, 0.8]), Thresholds(), both) == (Status.NONE, ())
    with pytest.raises(ConfigError, match=r"thresholds\.found"):
        Thresholds(found=0.0)


def test_one_doubtful_item_is_not_named():
    image, labels = picture()
    answer = decide(np.array([0.4, 0.0, 0.0, 0.0, 0.3]), Thresholds(), instances_of(labels), "the can")
    assert answer.status is Status.AMBIGUOUS
    assert answer.candidates == (0,)
    assert "not certain enough" in answer.detail
    drawn = draw_referral(image, instances_of(labels), answer, "the can")
    assert drawn.shape[1] == 320
    assert drawn.shape[0] > 240


def test_without_prior_and_model_nothing_is_understood(view):
    referrer = Referrer(prior=no_prior)
    assert referrer.answer(view[1], "the blue thing").status is Status.NOT_UNDERSTOOD


# ---- priors


def asked(view, sentence: str = "the blue thing") -> Asked:
    return Asked("a.png", view[1].image, view[1].scene, sentence, None)


def test_a_file_prior_repeats_what_was_answered(view, tmp_path):
    mask = np.zeros((240, 320), bool)
    mask[60:120, 150:180] = True
    lines = [
        {"file_name": "a.png", "sentence": "by box", "score": 0.9, "box": [30, 40, 50, 50]},
        {"file_name": "a.png", "sentence": "by mask", "score": 0.8, "mask": encode_mask(mask)},
        {"file_name": "a.png", "sentence": "nothing", "score": 0.7},
    ]
    path = tmp_path / "prior.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    prior = make_prior(f"file:{path}")
    for sentence, item in (("by box", 1), ("by mask", 3)):
        belief = prior(asked(view, sentence))
        assert isinstance(belief, Meaning)
        assert belief.unique.argmax() == item
        assert belief.unique[item] > 0.75
    assert prior(asked(view, "nothing")).none == 0.7
    assert prior(asked(view, "never asked")) is None


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 1: no JSON"),
        ("[1]", "line 1: expected file_name"),
        ('{"file_name": "a", "sentence": "b"}', "score is None"),
        ('{"file_name": "a", "sentence": "b", "score": NaN}', "score is nan"),
        ('{"file_name": "a", "sentence": "b", "score": 1, "box": [1, 2]}', "box is"),
        ('{"file_name": "a", "sentence": "b", "score": 1, "mask": [1]}', "no COCO RLE"),
        ("[" * 60_000, "no JSON"),
        ("x" * 70_000, "longer than"),
    ],
)
def test_a_broken_file_prior_is_named(line, reason, tmp_path):
    path = tmp_path / "prior.jsonl"
    path.write_text(line)
    with pytest.raises(DataError, match=reason):
        make_prior(f"file:{path}")


@pytest.mark.parametrize("name", ["file:", "oracle", "transformers:", ""])
def test_an_unknown_prior_is_named(name):
    with pytest.raises(ConfigError, match="prior is"):
        make_prior(name)


def test_a_folder_without_checkpoint_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no config\.json"):
        make_prior(f"transformers:{tmp_path}")


# ---- files of questions


@pytest.fixture
def asks(tmp_path):
    image, _ = picture()
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", image)

    def write(*lines: object):
        path = tmp_path / "ask.jsonl"
        path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
        return path

    return write


def test_answers_come_in_order_and_each_depends_on_its_line_alone(asks):
    lines = [
        {"image": name, "sentence": sentence}
        for sentence in ("the blue thing", "the red thing", "the yellow thing", "was ist das")
        for name in ("a.png", "b.png")
    ]
    segmenter = Segmenter()
    straight = list(answer_asks(read_asks(asks(*lines)), segmenter, Referrer()))
    assert segmenter.calls == 2  # each image once
    assert [a["line"] for a in straight] == list(range(1, 9))
    assert [a["status"] for a in straight[::2]] == ["found", "ambiguous", "none", "not_understood"]
    back = list(answer_asks(read_asks(asks(*lines[::-1])), Segmenter(), Referrer()))
    assert [{**a, "line": 0} for a in back[::-1]] == [{**a, "line": 0} for a in straight]


def test_broken_lines_keep_their_places(asks):
    good = {"image": "a.png", "sentence": "the blue thing"}
    path = asks(
        good,
        "{broken",
        "[1, 2]",
        {"image": "a.png"},
        {"image": "a.png", "sentence": 3},
        {"image": "missing.png", "sentence": "the box"},
        {"image": "a.png", "sentence": "the box", "depth": 3},
        {"image": "a.png", "sentence": "the box", "depth": "none.png"},
        "y" * 70_000,
        "[" * 60_000,
        "",
        good,
    )
    answers = list(answer_asks(read_asks(path), Segmenter(), Referrer()))
    assert [a["line"] for a in answers] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12]
    assert answers[0]["status"] == answers[-1]["status"] == "found"
    for answer, reason in zip(
        answers[1:-1],
        ("no JSON", "no mapping", "sentence is missing", "sentence is", "missing.png", "depth is no",
         "none.png",
         "longer than", "no JSON"),
        strict=True,
    ):  # fmt: skip
        assert answer["status"] is None
        assert reason in answer["error"]


def test_no_file_and_no_line_are_errors(asks, tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_asks(tmp_path / "nothing.jsonl")
    with pytest.raises(DataError, match="is empty"):
        read_asks(asks(""))


# ---- the command


def test_the_command_writes_answer_picture_and_mask(rise, tmp_path, tiny_model):
    image, _ = picture()
    write_image(tmp_path / "tote.png", image)
    common = ("--model", tiny_model, "--refer-model", "none", "--out", tmp_path / "out")
    status, out, _ = rise("refer", tmp_path / "tote.png", "the largest thing", *common)
    assert status == 0
    content = json.loads((tmp_path / "out/tote.refer.json").read_text())
    assert content["status"] in ("found", "ambiguous")
    assert (tmp_path / "out/tote.refer.png").is_file()
    assert (tmp_path / "out/tote.mask.png").is_file() == (content["status"] == "found")
    status, out, _ = rise("refer", tmp_path / "tote.png", "la caja", *common)
    assert status == 0
    assert out.startswith("not understood")
    assert not (tmp_path / "out/tote.mask.png").exists()  # it would be taken for this sentence's


def test_the_command_answers_a_file(rise, asks, tmp_path, tiny_model):
    path = asks(
        {"image": "a.png", "sentence": "the largest thing"}, "{", {"image": "b.png", "sentence": "die Kiste"}
    )
    out = tmp_path / "answers.jsonl"
    status, _, err = rise("refer", path, "--model", tiny_model, "--refer-model", "none", "--out", out)
    assert status == 2
    assert "line 2" in err
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [a["status"] for a in answers][1:] == [None, "not_understood"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("a.png",), "no sentence"),
        (("ask.jsonl", "the box"), "holds the sentences"),
        (("nothing.png", "the box", "--refer-model", "none"), "nothing.png"),
        (("a.png", "the box", "--prior", "magic"), "prior is 'magic'"),
        (("a.png", "the box", "--refer-model", "no_such"), "no_such"),
        (("a.png", "the box", "--catalogue", "no.json"), "no.json"),
    ],
)
def test_the_command_names_what_is_wrong(rise, arguments, reason, tmp_path):
    status, _, err = rise("refer", *arguments, "--out", tmp_path / "out")
    assert status == 2
    assert reason in err


def test_a_missing_model_is_named():
    with pytest.raises(ModelError, match="give a folder"):
        Referrer.load("no_such_model")
