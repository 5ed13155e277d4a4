"""The whole of `rise teach`: read, plan, train round by round, judge, choose the threshold, write."""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rise_perception.core.errors import DataError, ImageError, ModelError, RiseError
from rise_perception.core.files import write_json
from rise_perception.data.annotated import AnnotatedSet, downscaled_mask, read_annotated
from rise_perception.data.coco import LabelledImage
from rise_perception.data.folder import FolderImages
from rise_perception.data.images import read_image
from rise_perception.data.sources import ImageSource, open_unlabelled
from rise_perception.inference.segmenter import AUTO_COLOUR, AUTO_DEPTH, find_model
from rise_perception.network.card import ModelCard, read_card
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.network.config import INPUT_CHANNELS, NetworkConfig
from rise_perception.teaching.config import Recipe, Round, TeachConfig, plan_rounds
from rise_perception.teaching.folder import WORK, State, checksum, locked, open_state, refuse_foreign
from rise_perception.teaching.foreground import (
    STEPS,
    VIEWS,
    Foreground,
    ForegroundScenes,
    load_foreground,
    train_foreground,
)
from rise_perception.teaching.judging import Judge, Verdict, predict, verdict, views
from rise_perception.teaching.scenes import Material, TeachScenes, gather_material, shipped_pictures
from rise_perception.teaching.trainer import WARM_UP, TeachTrainer
from rise_perception.training.config import DataConfig, OptimisationConfig, SequenceConfig, TrainConfig
from rise_perception.training.criterion import LossConfig
from rise_perception.training.pseudo_labels import SelfSupervisionConfig

#: Shares of a round at which it is judged.
MARKS = (0.25, 0.5, 0.75, 1.0)
#: Steps that are timed, after one that is not; with each precision.
TIMED_STEPS = 3
#: Half precision is taken where it is faster by this factor.
WORTH_IT = 1.15
CURVE = "curve.json"
FOREGROUND = "foreground.safetensors"
BEST = "best"


@dataclass(frozen=True)
class Taught:
    """What came of it.

    Attributes:
        card: of the model in the folder.
        better: whether it was taught; otherwise it is the start, with a threshold for these pictures.
        before, after: figures of the start and of what was taught, on the same pictures.
        curves: round -> (share, AP50) where it was judged.
        how_judged: one sentence.
        annotated: the pictures.
        judges: the pictures that judged, in the order of the pairs of ``before`` and ``after``.
        notes: what the user should know.
    """

    card: ModelCard
    better: bool
    before: Verdict
    after: Verdict
    curves: dict[str, list[tuple[float, float]]]
    how_judged: str
    annotated: AnnotatedSet
    judges: list[Judge]
    notes: tuple[str, ...]


def teach(config: TeachConfig, say: Callable[[str], None] = lambda text: None) -> Taught:
    """Teach a model.

    A killed call continues where its last checkpoint was when it is made again.

    Args:
        config: what is asked for.
        say: told in one line what comes next.

    Raises:
        RiseError: bad input, a folder of something else, or another process that writes to it.
    """
    refuse_foreign(config.out)
    with locked(config.out):
        return _Teaching(config, say).run()


class _Teaching:
    """One call, with everything that its steps share."""

    def __init__(self, config: TeachConfig, say: Callable[[str], None]) -> None:
        self.config, self.say = config, say
        self.annotated = read_annotated(config.source, config.depth_scale)
        self.notes = list(self.annotated.notes)
        self.with_depth = self._uses_depth()
        sees_depth = self.with_depth and INPUT_CHANNELS[config.input or "rgbd"] > 3
        self.start = find_model(config.start or (AUTO_DEPTH if sees_depth else AUTO_COLOUR))
        self.start_card = read_card(self.start)
        self.network = replace(
            self.start_card.network,
            input=config.input or self.start_card.network.input,
            classes=self.annotated.classes,
            containers=self.annotated.containers,
            pretrained=False,
            frozen_norm=True,  # a handful of pictures says nothing about the statistics of norms
        )
        if self.network.sees_depth and not self.with_depth:
            raise ModelError(
                f"model {self.start_card.name} needs depth, and "
                + ("--no-depth leaves it out" if not config.with_depth else "not all pictures have it")
                + f"; give --from {AUTO_COLOUR}"
            )
        self.with_depth = self.network.sees_depth or self.start_card.network.sees_depth
        self.region = _read_region(config.region, self.annotated) if config.region else None
        self.judges = [self._judge(k) for k in range(len(self.annotated.pictures))]
        self.notes += _implausible_depth([sample for sample, _ in self.judges])
        self.empty = self._read_empty()
        self.unlabelled: list[ImageSource] = (
            [open_unlabelled(config.unlabelled, self.with_depth)] if config.unlabelled else []
        )
        items = len(self.annotated.classes) - len(self.annotated.containers)
        if items == 0:
            raise DataError(
                f"{config.source} outlines only {', '.join(self.annotated.classes)}; outline items"
            )
        self.rehearsal = shipped_pictures(self.with_depth) if items == 1 else []
        if self.rehearsal:
            place = next(
                k for k, name in enumerate(self.annotated.classes) if name not in self.annotated.containers
            )
            self.rehearsal = [replace(r, classes=np.full_like(r.classes, place)) for r in self.rehearsal]
        else:
            self.notes.append("several classes: no rehearsal, since items of elsewhere are of none of them")
        order = np.random.default_rng([config.seed, 7]).permutation(len(self.judges)).tolist()
        self.rounds = plan_rounds(len(self.judges), order)
        self.state: State

    # -- reading -----------------------------------------------------------------------------------

    def _uses_depth(self) -> bool:
        if not self.config.with_depth:
            return False
        there = sum(p.depth is not None for p in self.annotated.pictures)
        if 0 < there < len(self.annotated.pictures):
            self.notes.append(
                f"{there} of {len(self.annotated.pictures)} pictures have depth: it is left out everywhere"
            )
        return there == len(self.annotated.pictures)

    def _judge(self, index: int) -> Judge:
        picture = self.annotated.pictures[index]
        sample, ignored = picture.load(self.with_depth), picture.ignored_mask()
        if self.region is not None:
            ignored = ignored | ~_fitted(self.region, picture.size)
        return sample, ignored

    def _read_empty(self) -> list[LabelledImage]:
        if self.config.empty is None:
            return []
        try:
            folder = FolderImages(self.config.empty, self.with_depth)
            return [folder[k] for k in range(len(folder))]
        except RiseError as error:
            remedy = "; give its depth, or --no-depth" if "depth" in str(error) else ""
            raise DataError(f"--empty: {error}{remedy}") from error

    # -- the run -----------------------------------------------------------------------------------

    def run(self) -> Taught:
        """Everything, from the plan to the model."""
        config = self.config
        self.state = open_state(config.out, self._asked())
        self.say(self._plan())
        if config.steps and config.recipe.precision:
            self.state.precision = config.recipe.precision
        elif not self.state.seconds_per_step:
            self._measure_steps()
        if not self.state.done and self.state.seconds_per_step:
            self.say(self._forecast())
        for place in self.rounds:
            if place.name not in self.state.rounds:
                self._run_round(place)
        judged, after_pairs = self._judge_rounds()
        before_pairs = predict(self.start, judged, self.annotated.classes, config.device)
        before, after = verdict(before_pairs), verdict(after_pairs)
        better = after.quality > before.quality
        card = self._write_model(better, before, after)
        self.state.done = True
        self.state.save(config.out)
        curves = {r.name: _read_curve(self._folder(r)) for r in self.rounds}
        return Taught(
            card,
            better,
            before,
            after,
            {name: [(a, b) for a, b, _ in points] for name, points in curves.items() if points},
            self._how_judged(),
            self.annotated,
            judged,
            tuple(self.notes),
        )

    def _asked(self) -> dict[str, Any]:
        config = self.config
        return {
            "pictures": checksum(self.annotated),
            "start": self.start_card.version,
            "input": self.network.input,
            "depth": self.with_depth,
            "seed": config.seed,
            "empty": str(config.empty.resolve()) if config.empty else "",
            "unlabelled": str(config.unlabelled.resolve()) if config.unlabelled else "",
            "region": str(config.region.resolve()) if config.region else "",
            "recipe": repr(config.recipe),
        }

    def _plan(self) -> str:
        pictures = self.annotated.pictures
        items = sum(len(p.masks) for p in pictures)
        backgrounds = f"{len(self.empty)} empty pictures" if self.empty else "no empty picture: painted out"
        return (
            f"{len(pictures)} annotated picture{'s' * (len(pictures) != 1)}, {items} items, classes "
            f"{', '.join(self.annotated.classes)}; {backgrounds}; "
            f"{'depth' if self.with_depth else 'colour only'}; from {self.start_card.version}"
        )

    def _forecast(self) -> str:
        steps = sum(self._steps(r) for r in self.rounds)
        minutes = steps * self.state.seconds_per_step / 60
        return (
            f"about {minutes:.0f} minutes: {steps} steps of {self.state.seconds_per_step:.2f} s "
            f"({self.state.precision}) in {len(self.rounds)} round{'s' * (len(self.rounds) != 1)}; "
            f"{self._how_judged()}"
        )

    def _how_judged(self) -> str:
        if len(self.rounds) > 1:
            return (
                "each half of the pictures is judged by a model that learned the other half, in a quarter of "
                "the time; the model itself learns all"
            )
        if self.rounds[0].judges:
            return f"{len(self.rounds[0].judges)} pictures are held out and judge"
        return (
            "there is one picture: what is taught is judged on changed views of the picture it learned, "
            "which says little about others"
        )

    # -- rounds ------------------------------------------------------------------------------------

    def _folder(self, place: Round) -> Path:
        return self.config.out / WORK / place.name

    def _steps(self, place: Round) -> int:
        if self.config.steps:
            return self.config.steps
        fits = int(60 * self.config.minutes * place.share / self.state.seconds_per_step)
        return max(1, min(self.config.recipe.most_steps, fits))

    def _measure_steps(self) -> None:
        """Time a few steps with either precision; on a GPU half precision is taken."""
        place = self.rounds[0]
        seconds = {}
        either = ("fp32", "bf16") if self.config.device == "cpu" else ("bf16",)
        for precision in (self.config.recipe.precision,) if self.config.recipe.precision else either:
            self.state.precision = precision
            folder = self.config.out / WORK / "measure"
            trainer, scenes = self._trainer(place, folder, WARM_UP, 3600.0)
            times: list[float] = []
            timed = trainer.step

            def step(batch: Any, timed: Any = timed, times: list[float] = times) -> dict[str, float]:
                if len(times) > TIMED_STEPS:
                    raise _Measured
                begun = time.perf_counter()
                values: dict[str, float] = timed(batch)
                times.append(time.perf_counter() - begun)
                return values

            trainer.step = step  # type: ignore[method-assign]
            with contextlib.suppress(_Measured):
                trainer.train(scenes, [], lambda share: None)
            seconds[precision] = statistics.median(times[1:])
        chosen = min(
            seconds, key=lambda p: seconds[p] * (WORTH_IT if p == "bf16" and len(seconds) > 1 else 1)
        )
        self.state.precision, self.state.seconds_per_step = chosen, seconds[chosen]
        self.state.save(self.config.out)
        shutil.rmtree(self.config.out / WORK / "measure", ignore_errors=True)

    def _trainer(
        self, place: Round, folder: Path, steps: int, seconds: float
    ) -> tuple[TeachTrainer, TeachScenes]:
        start = self._folder(_named(self.rounds, place.start)) if place.start else self.start
        train = round_config(self.config, self.network, start, folder, steps, self.state.precision)
        finish = self.config.recipe.finish
        material = self._material(place.teaches)
        if not self.network.sees_foreground:
            trainer = TeachTrainer(train, self.config.device, seconds, finish)
            return trainer, TeachScenes(train, material, self.config.recipe, self.unlabelled)
        foreground = self._foreground(place, folder, train)
        trainer = TeachTrainer(train, self.config.device, seconds, finish, foreground.whole)
        scenes = ForegroundScenes(train, material, self.config.recipe, self.unlabelled)
        scenes.foreground = foreground
        return trainer, scenes

    def _foreground(self, place: Round, folder: Path, train: TrainConfig) -> Foreground:
        """The foreground networks of a round, trained first and kept beside its checkpoint."""
        path = folder / FOREGROUND
        if not path.is_file():
            halves = [place.teaches[k::2] or place.teaches for k in range(2)]
            steps = min(STEPS, self.config.steps or STEPS)
            made = train_foreground(
                [TeachScenes(train, self._material(half), self.config.recipe, []) for half in halves],
                steps,
                min(VIEWS, 4 * steps),
            )
            made.save(path)
        return load_foreground(path, self.network)

    def _material(self, which: tuple[int, ...]) -> Material:
        pictures = [self.judges[k] for k in which]
        return gather_material(pictures, self.empty, self.rehearsal, self.network, self.region)

    def _run_round(self, place: Round) -> None:
        folder = self._folder(place)
        steps = self.state.steps.setdefault(place.name, self._steps(place))
        self.state.save(self.config.out)
        seconds = 1e9 if self.config.steps else 60 * self.config.minutes * place.share
        trainer, scenes = self._trainer(place, folder, steps, seconds)
        taught = f"{len(place.teaches)} picture{'s' * (len(place.teaches) != 1)}"
        resumed = f", from step {trainer.iteration}" if trainer.iteration else ""
        self.say(f"round {place.name}: learns {taught}, {steps} steps{resumed}")

        def judge(share: float) -> None:
            trainer.write_model()
            if not place.judges:
                return
            found = verdict(self._predicted(folder, place))
            points = [p for p in _read_curve(folder) if p[0] < share]
            best = max((quality for _, _, quality in points), default=-1.0)
            if place.keeps_best and found.quality >= best:
                _replace_folder(folder / BEST, folder)
            write_json(folder / CURVE, [*points, [share, found.ap50, found.quality]])
            self.say(
                f"  {share:.0%}: AP50 {found.ap50:.3f} on {len(place.judges)} pictures that it has not seen"
            )

        trainer.train(scenes, list(MARKS), judge)
        if not (folder / "card.json").is_file():
            trainer.write_model()
        self.state.rounds.append(place.name)
        self.state.save(self.config.out)

    def _predicted(self, model: Path, place: Round) -> list[Any]:
        judges = [self.judges[k] for k in place.judges]
        return predict(model, judges, self.annotated.classes, self.config.device)

    def _model_of(self, place: Round) -> Path:
        best = self._folder(place) / BEST
        return best if place.keeps_best and best.is_dir() else self._folder(place)

    def _judge_rounds(self) -> tuple[list[Judge], list[Any]]:
        """The pictures that judge, and what the models that have not seen them find there."""
        judged: list[Judge] = []
        pairs: list[Any] = []
        for place in self.rounds:
            judged += [self.judges[k] for k in place.judges]
            pairs += self._predicted(self._model_of(place), place) if place.judges else []
        if not judged:
            judged = views(self.judges[0], self.config.seed)
            pairs = predict(self._folder(self.rounds[-1]), judged, self.annotated.classes, self.config.device)
        return judged, pairs

    # -- the model ---------------------------------------------------------------------------------

    def _write_model(self, better: bool, before: Verdict, after: Verdict) -> ModelCard:
        config, source = self.config, self.start_card
        chosen = self._model_of(self.rounds[-1]) if better else self.start
        network, card = load_model(chosen)
        metrics = {
            "teach": {
                "how": self._how_judged(),
                "pictures": len(before.pairs),
                "before": _figures(before),
                "after": _figures(after),
            }
        }
        count = len(self.annotated.pictures)
        data = f"{source.version} ({source.data}), then taught {count} pictures of {config.source.name}"
        if not better:
            data = f"the weights of {source.version}: teaching {count} pictures was no improvement"
        card = replace(
            card,
            name=config.out.name,
            score_threshold=(after if better else before).threshold,
            data=data,
            command=config.command,
            metrics=metrics,
            git_revision="",
            notes="",
        )
        return save_model(config.out, network, card)


class _Measured(Exception):
    """Enough steps were timed."""


def round_config(
    config: TeachConfig, network: NetworkConfig, start: Path, out: Path, steps: int, precision: str
) -> TrainConfig:
    """The training room's configuration of a round."""
    recipe: Recipe = config.recipe
    return TrainConfig(
        name=config.out.name,
        out=str(out),
        init=str(start),
        data=DataConfig(
            train=(str(config.source),),
            broken="skip",
            augmentation=recipe.augmentation,
            scale=recipe.scale,
            workers=0 if config.device == "cpu" else 4,
        ),
        network=network,
        loss=LossConfig(masks_per_image=16),
        sequences=SequenceConfig(objects=recipe.objects),
        self_supervision=SelfSupervisionConfig(teacher="average"),
        optimisation=OptimisationConfig(
            iterations=steps,
            batch=recipe.batch,
            unlabelled_batch=2,
            learning_rate=recipe.learning_rate,
            weight_decay=0.05,
            warmup=min(WARM_UP, steps),
            drop_at=2.0,
            decay_from=recipe.decay_from,
            clip=5.0,
            average=recipe.average,
            precision=precision,
            seed=config.seed,
        ),
    )


def _figures(found: Verdict) -> dict[str, Any]:
    counts = found.counts
    return {
        "ap": round(found.ap, 4),
        "ap50": round(found.ap50, 4),
        "ap50_at_threshold": round(found.ap50_at_threshold, 4),
        "threshold": found.threshold,
        "items": counts.items,
        "found": counts.found,
        "false": counts.false,
        "merged": counts.merged,
        "ap50_of_classes": {name: round(value, 4) for name, value in found.classes.items()},
    }


def _named(rounds: list[Round], name: str) -> Round:
    return next(r for r in rounds if r.name == name)


def _read_curve(folder: Path) -> list[list[float]]:
    path = folder / CURVE
    return list(json.loads(path.read_bytes())) if path.is_file() else []


def _replace_folder(target: Path, model: Path) -> None:
    """Copy card and weights of a model, the card last."""
    target.mkdir(exist_ok=True)
    for name in ("model.safetensors", "card.json"):
        shutil.copyfile(model / name, target / name)


def _read_region(path: Path, annotated: AnnotatedSet) -> np.ndarray:
    try:
        white = np.asarray(read_image(path).max(2) > 127)
    except ImageError as error:
        raise DataError(f"--region: {error}") from error
    height, width = annotated.pictures[0].size
    if abs(white.shape[0] * width - white.shape[1] * height) > 0.02 * white.size**0.5 * max(height, width):
        raise DataError(
            f"--region {path} is {white.shape[1]}x{white.shape[0]}, the pictures are {width}x{height}; paint "
            "white on a picture of that size where the items lie"
        )
    if not white.any() or white.all():
        raise DataError(f"--region {path} is of one colour; paint white where the items lie, black elsewhere")
    return white


def _fitted(region: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return region if region.shape == size else downscaled_mask(region, size)


def _implausible_depth(samples: list[LabelledImage]) -> list[str]:
    medians = [
        float(np.median(s.depth[s.depth > 0])) for s in samples if s.depth is not None and s.depth.any()
    ]
    if medians and not 0.1 <= float(np.median(medians)) <= 8.0:
        return [
            f"the median depth is {np.median(medians):.3g} m, which no bin is away from its camera: check "
            "--depth-scale"
        ]
    return []
