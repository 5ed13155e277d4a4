"""The whole of `rise teach`: plan, train round by round, evaluate, choose the threshold, write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rise_perception.core.files import write_json
from rise_perception.data.annotated import AnnotatedSet
from rise_perception.network.card import CARD, ModelCard
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.teaching.config import Round, TeachConfig, plan_rounds
from rise_perception.teaching.evaluation import EvaluationPicture, Verdict, predict, verdict, views
from rise_perception.teaching.folder import WORK, State, checksum, locked, open_state, refuse_foreign
from rise_perception.teaching.reading import read_given
from rise_perception.teaching.rounds import BEST, CURVE, prepare_round, read_curve, replace_model, time_steps
from rise_perception.teaching.scenes import TeachScenes
from rise_perception.teaching.trainer import WARM_UP, TeachTrainer

#: Fractions of a round at which it is evaluated.
MARKS = (0.25, 0.5, 0.75, 1.0)
#: Half precision is taken where it is faster by this factor.
WORTH_IT = 1.15


@dataclass(frozen=True)
class Taught:
    """What came of it.

    Attributes:
        card: of the model in the folder.
        better: whether it was taught; otherwise it is the start, with a threshold for these pictures.
        before, after: figures of the start and of what was taught, on the same pictures.
        curves: round -> (fraction, AP50) where it was evaluated.
        how_evaluated: one sentence.
        annotated: the pictures.
        held_out: the pictures evaluated on, in the order of the pairs of ``before`` and ``after``.
        notes: what the user should know.
    """

    card: ModelCard
    better: bool
    before: Verdict
    after: Verdict
    curves: dict[str, list[tuple[float, float]]]
    how_evaluated: str
    annotated: AnnotatedSet
    held_out: list[EvaluationPicture]
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
        self.given = read_given(config)
        order = np.random.default_rng([config.seed, 7]).permutation(len(self.given.pictures)).tolist()
        self.rounds = plan_rounds(len(self.given.pictures), order)
        self.state: State

    # -- the run -----------------------------------------------------------------------------------

    def run(self) -> Taught:
        """Everything, from the plan to the model."""
        config = self.config
        self.state = open_state(config.out, self._asked())
        self.say(self._plan())
        for note in self.given.notes:  # before the time is spent
            self.say(f"note: {note}")
        if config.steps and config.recipe.precision:
            self.state.precision = config.recipe.precision
        elif not self.state.seconds_per_step:
            self._measure_steps()
        if not self.state.done and self.state.seconds_per_step:
            self.say(self._forecast())
        for place in self.rounds:
            if place.name not in self.state.rounds:
                self._run_round(place)
        held_out, after_pairs = self._evaluate_rounds()
        before_pairs = predict(self.given.start, held_out, self.given.annotated.classes, config.device)
        before, after = verdict(before_pairs), verdict(after_pairs)
        better = after.quality > before.quality
        card = self._write_model(better, before, after)
        self.state.done = True
        self.state.save(config.out)
        curves = {r.name: read_curve(self._folder(r)) for r in self.rounds}
        return Taught(
            card,
            better,
            before,
            after,
            {name: [(a, b) for a, b, _ in points] for name, points in curves.items() if points},
            self._how_evaluated(),
            self.given.annotated,
            held_out,
            self.given.notes,
        )

    def _asked(self) -> dict[str, Any]:
        config, given = self.config, self.given
        return {
            "pictures": checksum(given.annotated),
            "start": given.start_card.version,
            "input": given.network.input,
            "depth": given.with_depth,
            "seed": config.seed,
            "empty": str(config.empty.resolve()) if config.empty else "",
            "unlabelled": str(config.unlabelled.resolve()) if config.unlabelled else "",
            "region": str(config.region.resolve()) if config.region else "",
            "recipe": repr(config.recipe),
        }

    def _plan(self) -> str:
        given = self.given
        pictures = given.annotated.pictures
        items = sum(len(p.masks) for p in pictures)
        backgrounds = f"{len(given.empty)} empty pictures" if given.empty else "no empty picture: painted out"
        return (
            f"{len(pictures)} annotated picture{'s' * (len(pictures) != 1)}, {items} items, classes "
            f"{', '.join(given.annotated.classes)}; {backgrounds}; "
            f"{'depth' if given.with_depth else 'colour only'}; from {given.start_card.version}"
        )

    def _forecast(self) -> str:
        steps = sum(self._steps(r) for r in self.rounds)
        minutes = steps * self.state.seconds_per_step / 60
        return (
            f"about {minutes:.0f} minutes: {steps} steps of {self.state.seconds_per_step:.2f} s "
            f"({self.state.precision}) in {len(self.rounds)} round{'s' * (len(self.rounds) != 1)}; "
            f"{self._how_evaluated()}"
        )

    def _how_evaluated(self) -> str:
        if len(self.rounds) > 1:
            return (
                "each half of the pictures is evaluated with a model that learned the other half, in a "
                "quarter of the time; the model itself learns all"
            )
        if self.rounds[0].held_out:
            return f"{len(self.rounds[0].held_out)} pictures are held out"
        return (
            "there is one picture: what is taught is evaluated on changed views of the picture it learned, "
            "which says little about others"
        )

    # -- rounds ------------------------------------------------------------------------------------

    def _folder(self, place: Round) -> Path:
        return self.config.out / WORK / place.name

    def _steps(self, place: Round) -> int:
        if self.config.steps:
            return self.config.steps
        fits = int(60 * self.config.minutes * place.fraction / self.state.seconds_per_step)
        return max(1, min(self.config.recipe.most_steps, fits))

    def _measure_steps(self) -> None:
        """Time a few steps with either precision; on a GPU half precision is taken."""
        folder = self.config.out / WORK / "measure"
        seconds = {}
        either = ("fp32", "bf16") if self.config.device == "cpu" else ("bf16",)
        for precision in (self.config.recipe.precision,) if self.config.recipe.precision else either:
            self.state.precision = precision
            seconds[precision] = time_steps(*self._prepared(self.rounds[0], folder, WARM_UP, 3600.0))
        chosen = min(
            seconds, key=lambda p: seconds[p] * (WORTH_IT if p == "bf16" and len(seconds) > 1 else 1)
        )
        self.state.precision, self.state.seconds_per_step = chosen, seconds[chosen]
        self.state.save(self.config.out)
        shutil.rmtree(folder, ignore_errors=True)

    def _prepared(
        self, place: Round, folder: Path, steps: int, seconds: float
    ) -> tuple[TeachTrainer, TeachScenes]:
        named = {r.name: r for r in self.rounds}
        start = self._folder(named[place.start]) if place.start else self.given.start
        parts = self.config, self.given, place, start, folder
        return prepare_round(*parts, steps, seconds, self.state.precision)

    def _run_round(self, place: Round) -> None:
        folder = self._folder(place)
        steps = self.state.steps.setdefault(place.name, self._steps(place))
        self.state.save(self.config.out)
        seconds = 1e9 if self.config.steps else 60 * self.config.minutes * place.fraction
        trainer, scenes = self._prepared(place, folder, steps, seconds)
        taught = f"{len(place.teaches)} picture{'s' * (len(place.teaches) != 1)}"
        resumed = f", from step {trainer.iteration}" if trainer.iteration else ""
        self.say(f"round {place.name}: learns {taught}, {steps} steps{resumed}")

        def evaluate(fraction: float) -> None:
            trainer.write_model()
            if not place.held_out:
                return
            found = verdict(self._predicted(folder, place))
            points = [p for p in read_curve(folder) if p[0] < fraction]
            best = max((quality for _, _, quality in points), default=-1.0)
            if place.keeps_best and found.quality >= best:
                replace_model(folder / BEST, folder)
            write_json(folder / CURVE, [*points, [fraction, found.ap50, found.quality]])
            self.say(
                f"  {fraction:.0%}: AP50 {found.ap50:.3f} on {len(place.held_out)} pictures that it has not "
                "seen"
            )

        trainer.train(scenes, list(MARKS), evaluate)
        if not (folder / "card.json").is_file():
            trainer.write_model()
        self.state.rounds.append(place.name)
        self.state.save(self.config.out)

    def _predicted(self, model: Path, place: Round) -> list[Any]:
        pictures = [self.given.pictures[k] for k in place.held_out]
        return predict(model, pictures, self.given.annotated.classes, self.config.device)

    def _model_of(self, place: Round) -> Path:
        best = self._folder(place) / BEST
        return best if place.keeps_best and (best / CARD).is_file() else self._folder(place)

    def _evaluate_rounds(self) -> tuple[list[EvaluationPicture], list[Any]]:
        """The held-out pictures, and what the models that have not seen them find there."""
        held_out: list[EvaluationPicture] = []
        pairs: list[Any] = []
        for place in self.rounds:
            held_out += [self.given.pictures[k] for k in place.held_out]
            pairs += self._predicted(self._model_of(place), place) if place.held_out else []
        if not held_out:
            held_out = views(self.given.pictures[0], self.config.seed)
            classes = self.given.annotated.classes
            pairs = predict(self._folder(self.rounds[-1]), held_out, classes, self.config.device)
        return held_out, pairs

    # -- the model ---------------------------------------------------------------------------------

    def _write_model(self, better: bool, before: Verdict, after: Verdict) -> ModelCard:
        config, source = self.config, self.given.start_card
        chosen = self._model_of(self.rounds[-1]) if better else self.given.start
        network, card = load_model(chosen)
        metrics = {
            "teach": {
                "how": self._how_evaluated(),
                "pictures": len(before.pairs),
                "before": _figures(before),
                "after": _figures(after),
            }
        }
        count = len(self.given.annotated.pictures)
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
