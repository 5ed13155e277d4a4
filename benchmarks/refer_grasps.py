"""What grasps with `referred` teach about sentences: a cell of parts whose names no model was taught.

An operator calls each kind of part by a word of the vocabulary. The robot is asked for parts, takes what it
finds, or else the likeliest candidate, and is told whether that was the one; if not, it puts the item aside
and is asked again. What it has learned is measured on other fillings of the tote. The scenes are stills: what
was taken is outlined by its true mask, and only its instance goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rise_perception.core.errors import DataError
from rise_perception.core.files import write_json, write_text
from rise_perception.data.images import read_depth, read_image, read_label_map
from rise_perception.inference.segmenter import Segmenter
from rise_perception.language.generator import describe
from rise_perception.language.parser import parse
from rise_perception.language.vocabulary import KIND_OF_SHAPE, KINDS
from rise_perception.referring.answer import Status, Thresholds, judge
from rise_perception.referring.config import ReferringDataConfig, ReferringSteps, ReferringTraining
from rise_perception.referring.evaluation import answer_all, score
from rise_perception.referring.features import SAME, Features, compute_features
from rise_perception.referring.grasp_training import learn_from_grasps
from rise_perception.referring.head_training import Example, make_examples
from rise_perception.referring.model import ReferringModel, load_referring_model
from rise_perception.referring.pairs import ToteWorldPairs
from rise_perception.referring.priors import grammar_prior
from rise_perception.referring.referrer import Referrer, find_referring_model
from rise_perception.simulation.sentences import MIN_PIXELS, scene_things, write_sentences

#: What the operator calls each kind of part, by the tote world's shape that has this name.
CALLED = {
    "tee": "pen", "cross": "toy", "gear": "ring", "bracket": "box", "coil": "can",
    "spool": "can", "cone": "mug", "dumbbell": "pen", "star": "toy", "comb": "box",
}  # fmt: skip
#: Grasps from one still after which the next one is looked at, tries of an order, and sentences about each
#: picture that judges.
OF_A_STILL, TRIES, SENTENCES = 4, 3, 12
#: How often the pictures that judge are drawn for an interval.
DRAWS = 2000

Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        out: folder; what is finished in it is kept.
        cell: of `rise scenes cell`; its last ``judges`` test pictures judge, on the others is grasped.
        rehearsal: of `rise scenes stills --sentences`: ``train`` is learned again, ``val`` tells
            what is lost.
        model, segmenter: that begin.
        grasps: how many.
        flipped: share of them of which the robot is told the opposite.
        judges: pictures.
        seed: of sentences and of what is told wrong.
        steps: of the training.
    """

    out: Path
    cell: Path
    rehearsal: Path
    model: str = "rise_refer_small"
    segmenter: str = "auto"
    grasps: int = 100
    flipped: float = 0.1
    judges: int = 30
    seed: int = 0
    steps: ReferringSteps = field(
        default_factory=lambda: ReferringSteps(
            kind_epochs=20, kind_rate=2e-4, epochs=1, rate=5e-5, pixels=0.0, threads=1
        )
    )


@dataclass(frozen=True)
class Told:
    """A grasp: the picture, the sentence, the label that was taken, and whether it was meant."""

    file_name: str
    sentence: str
    label: int
    right: bool


def run_cell(plan: Plan) -> Iterator[Row]:
    """Rows: what the model knows before, after its grasps, and after them with some told wrong."""
    segmenter = Segmenter.load(plan.segmenter, "cpu")
    grasps = _prepare(plan, segmenter)
    data = ToteWorldPairs(plan.out / "test.sentences.jsonl")
    features = compute_features(data, segmenter, plan.out / "cache")
    start, card = load_referring_model(find_referring_model(plan.model))
    before = _answers(start, features, data)
    hits = {"nothing": _hits(*before, card.thresholds)}
    right = sum(told.right for told in grasps)
    yield {"told": "nothing", "grasps": len(grasps), "right": right, **score(*before, card.thresholds)}
    wrong = np.random.default_rng([plan.seed, 22]).permutation(len(grasps))[
        : round(plan.flipped * len(grasps))
    ]
    for told, flipped in (("right", set()), (f"{plan.flipped:.0%} wrong", set(wrong.tolist()))):
        name = "grasps" if not flipped else "grasps-wrong"
        sentences = _write_grasps(plan.out, name, grasps, flipped)
        rehearsal = {split: str(plan.rehearsal / f"{split}.sentences.jsonl") for split in ("train", "val")}
        learned = learn_from_grasps(
            ReferringTraining(
                "taught",
                str(plan.out / f"model-{name}"),
                ReferringDataConfig(
                    (rehearsal["train"],),
                    (rehearsal["train"],),
                    rehearsal["val"],
                    (str(sentences),),
                    plan.segmenter,
                    cache=str(plan.out / "cache"),
                ),
                optimisation=plan.steps,
                init=plan.model,
            ),
            "rise bench refer-grasps",
        )
        model, _ = load_referring_model(plan.out / f"model-{name}")
        after = _answers(model, features, data)
        hits[told] = _hits(*after, card.thresholds)
        yield {
            "told": told,
            **score(*after, card.thresholds),
            "gain": _difference(hits[told], hits["nothing"], plan.seed),
            "against_right": _difference(hits[told], hits["right"], plan.seed),
            "gate": learned.metrics["grasps"],
        }


def _answers(
    model: ReferringModel, features: Features, data: ToteWorldPairs
) -> tuple[list[Example], list[np.ndarray]]:
    examples = make_examples(features, data.names, model, grammar_prior)
    return examples, answer_all(model.head, examples, "cpu")


def _hits(
    examples: list[Example], chances: list[np.ndarray], thresholds: Thresholds
) -> dict[int, list[bool]]:
    """Picture -> whether each sentence that fits one item found it."""
    found: dict[int, list[bool]] = {}
    for example, pi in zip(examples, chances, strict=True):
        if example.fits == 1:
            assert example.overlap is not None
            status, rows = judge(pi, thresholds, example.question.prior)
            hit = status is Status.FOUND and example.overlap[rows[0]] >= SAME
            found.setdefault(example.image, []).append(bool(hit))
    return found


def _difference(one: dict[int, list[bool]], other: dict[int, list[bool]], seed: int) -> list[float]:
    """Mean difference and its 95 % interval, by a bootstrap over pictures."""
    pictures = sorted(one)
    sums = np.array([[sum(one[k]) - sum(other[k]), len(one[k])] for k in pictures], float)
    rng = np.random.default_rng([seed, 23])
    drawn = sums[rng.integers(0, len(sums), (DRAWS, len(sums)))].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return [round(float(v), 4) for v in (sums[:, 0].sum() / sums[:, 1].sum(), low, high)]


def _prepare(plan: Plan, segmenter: Segmenter) -> list[Told]:
    """Sentences that judge, and the grasps; made where they are missing."""
    plan.out.mkdir(parents=True, exist_ok=True)
    for name in ("images", "depth", "labels"):
        if not (plan.out / name).is_symlink():
            (plan.out / name).symlink_to((plan.cell / name).resolve(), target_is_directory=True)
    content = {part: _called(plan.cell / f"{part}.json") for part in ("annotated", "test")}
    test = content["test"]["images"]
    if len(test) <= plan.judges:
        raise DataError(f"{plan.cell} has {len(test)} test pictures; more than {plan.judges} are needed")
    if not (plan.out / "test.sentences.jsonl").is_file():
        kept = {image["id"] for image in test[-plan.judges :]}
        notes = [note for note in content["test"]["annotations"] if note["image_id"] in kept]
        judging = {**content["test"], "images": test[-plan.judges :], "annotations": notes}
        write_json(plan.out / "test.json", judging)
        write_sentences(plan.out, "test", SENTENCES, plan.seed)
    path = plan.out / "told.json"
    if not path.is_file():
        stills = [(part, image) for part in content for image in content[part]["images"]]
        made = list(_grasp(plan, segmenter, content, stills[: -plan.judges]))
        if len(made) < plan.grasps:
            raise DataError(f"{plan.cell}: only {len(made)} grasps; give a cell with more pictures")
        write_json(path, [vars(told) for told in made])
    return [Told(**told) for told in json.loads(path.read_bytes())]


def _called(path: Path) -> Row:
    """A COCO file of a cell with the operator's names."""
    content = dict(json.loads(path.read_bytes()))
    for note in content["annotations"]:
        note["kind"] = CALLED[note["kind"]]
    return content


def _grasp(
    plan: Plan, segmenter: Segmenter, content: dict[str, Row], stills: list[tuple[str, Row]]
) -> Iterator[Told]:
    """Grasps, each asked for by a sentence that fits one item; it is asked again until that item is there."""
    referrer, done = Referrer.load(plan.model), 0
    data = {part: _Pictures(plan.out, whole) for part, whole in content.items()}
    for number, (part, image) in enumerate(stills):
        picture, depth, labels, notes = data[part].read(image)
        things = scene_things(plan.out, image, notes)
        left, taken = segmenter(picture, depth), 0
        rng = np.random.default_rng([plan.seed, number, 21])
        for saying in describe(rng, things, things.areas >= MIN_PIXELS, OF_A_STILL):
            meant = [notes[k]["label"] for k in saying.items]
            for _ in range(TRIES):
                answer = referrer.answer(referrer.look(picture, depth, left), saying.sentence)
                if answer.status not in (Status.FOUND, Status.AMBIGUOUS) or not answer.candidates:
                    break
                row = answer.candidates[0]
                item = int(np.bincount(labels[left.mask(row)], minlength=1).argmax())
                left = left.only(np.arange(len(left)) != row)
                if not item:  # nothing is there to be held
                    continue
                yield Told(image["file_name"], saying.sentence, item, item in meant)
                done, taken = done + 1, taken + 1
                if done == plan.grasps:
                    return
                if item in meant:
                    break
            if taken >= OF_A_STILL:
                break


class _Pictures:
    """The pictures of a COCO file with their truth."""

    def __init__(self, folder: Path, content: Row) -> None:
        self._folder = folder
        self._notes: dict[int, list[Row]] = {}
        for note in content["annotations"]:
            self._notes.setdefault(note["image_id"], []).append(note)

    def read(self, image: Row) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[Row]]:
        """Picture, depth in metres, label map, and notes."""
        name = image["file_name"]
        depth = read_depth(self._folder / "depth" / image["depth_file"], image["depth_scale"])
        labels = read_label_map(self._folder / "labels" / name)
        return read_image(self._folder / "images" / name), depth, labels, self._notes.get(image["id"], [])


def _write_grasps(out: Path, name: str, grasps: list[Told], flipped: set[int]) -> Path:
    """Write what was said of grasps, of some the opposite, as `rise episodes --sentences` does."""
    ids = {file_name: k for k, file_name in enumerate(dict.fromkeys(told.file_name for told in grasps))}
    images = [{"id": k, "file_name": f, "depth_file": f, "depth_scale": 0.001} for f, k in ids.items()]
    notes: dict[tuple[str, int], Row] = {}
    lines = []
    for number, told in enumerate(grasps):
        right = told.right != (number in flipped)
        note: Row = {"image_id": ids[told.file_name], "label": told.label}
        kind = parse(told.sentence).kind
        if right and kind in KINDS:
            note["kind"] = next(shape for shape, of in KIND_OF_SHAPE.items() if of == kind)
        notes[told.file_name, told.label] = note
        line: Row = {"file_name": told.file_name, "sentence": told.sentence}
        lines.append(line | ({"label": told.label} if right else {"label": None, "not": [told.label]}))
    write_json(out / f"{name}.json", {"images": images, "annotations": list(notes.values())})
    write_text(out / f"{name}.sentences.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    return out / f"{name}.sentences.jsonl"
