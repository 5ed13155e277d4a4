"""What learning from grasps brings a simulated cell: paired totes, arms that differ in nothing else, figures.

An arm decides what the picker sees. ``off`` serves the model as it is, ``geometric`` drops masks that do not
stand up from the support surface, ``learning`` runs the learner. A run is an arm in a cell with one stream of
totes; what is finished is kept, so that the same command resumes.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.live_cell import Pick, pick_all
from rise_perception.core.errors import DataError
from rise_perception.core.files import write_json
from rise_perception.core.instances import Instances
from rise_perception.core.regions import ImagePair
from rise_perception.data.coco import CocoDataset
from rise_perception.evaluation.coco import coco_scores
from rise_perception.grasp_learning.capture.episode import Episode
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.update.config import LearnerConfig
from rise_perception.grasp_learning.update.learner import OnlineLearner, TooFewEpisodesError
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.inference.segmenter import Segmenter, find_model
from rise_perception.simulation.cell import Cell, CellSettings
from rise_perception.simulation.dataset import Settings, write_dataset
from rise_perception.simulation.picker import Picker
from rise_perception.simulation.recording import write_cell
from rise_perception.simulation.render import Renderer
from rise_perception.training.validation import LOWEST_SCORE, pair_of

#: Totes of one stream of totes; those for AP come after all streams.
TOTES_OF_A_SEED, FIRST_HELDOUT = 1000, 100_000
ANCHOR_SEED = 11
#: Millimetres that a mask has to stand up by in the arm ``geometric``.
MIN_RELIEF_MM = 4.0
#: Probability of success below which the picker leaves a mask alone, where it is told one.
MIN_SUCCESS = 0.25


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        out: folder; what is finished in it is kept.
        model: that every arm begins with.
        picks: grasps of a run.
        period: simulated seconds of a grasp.
        update_seconds: simulated seconds from the begin of an update to the version that it brings.
        totes: held-out totes for AP, each at four levels of filling.
        anchors: labelled images that are replayed, for the gate, and for the report alone.
        learner: changes to the learner's configuration, by name; those of its update as ``update.NAME``.
    """

    out: Path
    model: str = "rise_small_rgbd"
    picks: int = 150
    period: float = 8.0
    update_seconds: float = 60.0
    totes: int = 8
    anchors: tuple[int, int, int] = (160, 80, 80)
    learner: tuple[tuple[str, Any], ...] = ()


Row = dict[str, Any]


def run_arm(plan: Plan, arm: str, cell: int, seed: int, say: Callable[[Pick], None]) -> Row:
    """The row of one run; one that is finished is read."""
    folder = plan.out / "runs" / f"{arm}-{cell}-{seed}-{plan.picks}"
    path = folder / "row.json"
    if path.is_file():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    anchors, heldout = prepare(plan, cell)
    begun = time.monotonic()
    looker = _Learning(plan, folder, anchors) if arm == "learning" else _Fixed(plan, arm)
    picker = Picker(MIN_SUCCESS)
    done: list[Pick] = []
    left = 0
    with Renderer(CellSettings.width, CellSettings.height) as renderer:
        world = Cell(CellSettings(cell), renderer)
        first = seed * TOTES_OF_A_SEED
        for pick, episode, remaining in pick_all(world, looker.look, plan.picks, first, picker, plan.period):
            done.append(pick)
            left = remaining
            looker.after(pick, episode)
            say(pick)
    if not done:
        raise DataError(f"cell {cell}: the picker found nothing to pick in {first} and the totes after it")
    before, before_anchors = base_figures(plan, anchors, heldout)
    after, after_anchors = _figures(looker.final(), anchors, heldout)
    third = done[-(len(done) // 3) :]
    row = {
        "arm": arm,
        "cell": cell,
        "seed": seed,
        "picks": len(done),
        "success": _fraction([p.success for p in done]),
        "success_first_third": _fraction([p.success for p in done[: len(done) // 3]]),
        "success_last_third": _fraction([p.success for p in third]),
        "empty": _fraction([p.outcome == 2 for p in done]),
        "double": _fraction([p.outcome == 3 for p in done]),
        "false_masks": float(np.mean([p.false_masks for p in done])),
        "false_masks_last_third": float(np.mean([p.false_masks for p in third])),
        "left_per_tote": left / max(1, done[-1].tote - done[0].tote),
        "totes": done[-1].tote - done[0].tote + 1,
        "ap50_before": before[1],
        "ap50_after": after[1],
        "ap_before": before[0],
        "ap_after": after[0],
        "anchors_delta": after_anchors[0] - before_anchors[0],
        **looker.figures(),
        "seconds": round(time.monotonic() - begun, 1),
        "outcomes": [pick.to_json() for pick in done],
    }
    write_json(path, row)
    looker.close()
    return row


def prepare(plan: Plan, cell: int) -> tuple[Path, Path]:
    """The folders of the anchors and of the cell's held-out totes, rendered where they are missing."""
    anchors = plan.out / "data" / f"anchors-{'-'.join(map(str, plan.anchors))}"
    if not (anchors / "test.json").is_file():
        write_dataset(anchors, Settings(*plan.anchors, seed=ANCHOR_SEED), workers=1)
    heldout = plan.out / "data" / f"cell-{cell}-{plan.totes}"
    if not (heldout / "cell.json").is_file():
        shutil.rmtree(heldout, ignore_errors=True)
        write_cell(heldout, CellSettings(cell), plan.totes, FIRST_HELDOUT)
    return anchors, heldout


Precision = tuple[float, float]


def _figures(segmenter: Segmenter, anchors: Path, heldout: Path) -> tuple[Precision, Precision]:
    """AP and AP50 on the cell's held-out totes, and on the anchors."""
    return average_precision(segmenter, heldout / "cell.json"), average_precision(
        segmenter, anchors / "test.json"
    )


def base_figures(plan: Plan, anchors: Path, heldout: Path) -> tuple[Precision, Precision]:
    """Those of the model that every arm begins with; measured once for each cell."""
    path = heldout / f"{Path(plan.model).name}-{anchors.name}.json"
    if not path.is_file():
        write_json(path, _figures(Segmenter.load(plan.model, "cpu", LOWEST_SCORE), anchors, heldout))
    cell, anchor = json.loads(path.read_text(encoding="utf-8"))
    return (cell[0], cell[1]), (anchor[0], anchor[1])


def average_precision(segmenter: Segmenter, annotations: Path) -> tuple[float, float]:
    """AP and AP50 of a segmenter that reports all guesses, on a labelled set."""
    depth = segmenter.uses_depth
    images = CocoDataset(annotations, segmenter.class_names, depth)
    names = segmenter.class_names
    pairs: list[ImagePair] = [pair_of(images[k], segmenter, names) for k in range(len(images))]
    scores = coco_scores(pairs)
    if scores.ap is None or scores.ap50 is None:
        raise DataError(f"{annotations} labels no object")
    return scores.ap, scores.ap50


class _Fixed:
    """A model that never changes, with the geometric filter or without."""

    def __init__(self, plan: Plan, arm: str) -> None:
        self._model, self._relief = plan.model, MIN_RELIEF_MM if arm == "geometric" else 0.0
        self._segmenter = self._load(None)

    def _load(self, threshold: float | None) -> Segmenter:
        segmenter = Segmenter.load(self._model, "cpu", threshold)
        segmenter.min_relief_mm = self._relief
        return segmenter

    def look(self, image: np.ndarray, depth: np.ndarray) -> tuple[Instances, str]:
        return self._segmenter(image, depth), self._segmenter.version

    def after(self, pick: Pick, episode: Episode) -> None:
        """Nothing is learned."""

    def final(self) -> Segmenter:
        return self._load(LOWEST_SCORE)

    def figures(self) -> Row:
        return {"updates": 0, "promoted": 0}

    def close(self) -> None:
        """Nothing is open."""


class _Learning:
    """The learner, on what this arm's own grasps gave."""

    def __init__(self, plan: Plan, folder: Path, anchors: Path) -> None:
        self._plan = plan
        self._episodes = EpisodeStore(folder / "episodes", write=True, min_free_bytes=0)
        self._models = ModelStore(folder / "models", write=True)
        self._models.begin(find_model(plan.model))
        config = LearnerConfig((str(anchors / "train.json"),), str(anchors / "val.json"))
        for name, value in plan.learner:
            room, _, key = name.rpartition(".")
            part = replace(getattr(config, room), **{key: value}) if room else value
            config = replace(config, **{room or name: part})
        self._learner = OnlineLearner(config, self._models, self._episodes)
        self._segmenter = Segmenter.load(self._models.serving().folder, "cpu")
        self._busy_until = 0
        self._updates: list[Row] = []

    def look(self, image: np.ndarray, depth: np.ndarray) -> tuple[Instances, str]:
        return self._segmenter(image, depth), self._segmenter.version

    def after(self, pick: Pick, episode: Episode) -> None:
        """Store the grasp, and learn when it is time; what an update brings serves when it would be done."""
        self._episodes.add(episode, label_episode(episode))
        if pick.number < self._busy_until:
            return
        self._learner.watch()
        self._learner.learn_outcomes()
        version = self._learner.version_to_serve(pick.number * self._plan.period)
        if version != self._segmenter.version:
            self._segmenter = Segmenter.load(self._models.find(version).folder, "cpu")
        if self._learner.is_due():
            try:
                update = self._learner.update()
            except TooFewEpisodesError:
                return
            begun = pick.number
            self._busy_until = begun + round(self._plan.update_seconds / self._plan.period)
            reason = update.decision.reason
            self._updates.append({"pick": begun, "promoted": update.promoted, "reason": reason})

    def final(self) -> Segmenter:
        return Segmenter.load(self._models.serving().folder, "cpu", LOWEST_SCORE)

    def figures(self) -> Row:
        current = self._models.current()
        return {
            "updates": len(self._updates),
            "promoted": sum(u["promoted"] for u in self._updates),
            "versions": 0 if current is None else current.database_version,
            "decisions": self._updates,
        }

    def close(self) -> None:
        self._episodes.close()
        self._models.close()


#: Figures that a summary gives with an interval.
SUMMARISED = (
    "success",
    "success_last_third",
    "empty",
    "double",
    "false_masks",
    "false_masks_last_third",
    "left_per_tote",
    "ap50_gain",
    "anchors_delta",
)


def summarise(rows: Sequence[Row], draws: int = 2000) -> dict[str, Any]:
    """Mean of each figure over the cells, and of the differences between arms, with 95 % intervals.

    The intervals are of a bootstrap over cells: runs of one cell resemble each other. With one cell there is
    none.

    Returns:
        arm, or "arm - other arm", -> figure -> (mean, lower, upper); the limits None without an interval.
    """
    runs: dict[str, dict[tuple[int, int], Row]] = {}
    for row in rows:
        gain = {"ap50_gain": row["ap50_after"] - row["ap50_before"]}
        runs.setdefault(row["arm"], {})[row["cell"], row["seed"]] = row | gain
    result: dict[str, Any] = {}
    for rank, (arm, own) in enumerate(runs.items()):
        result[arm] = {f: _interval({k: r[f] for k, r in own.items()}, draws) for f in SUMMARISED}
        for other in list(runs)[:rank]:
            both = own.keys() & runs[other].keys()
            if both:
                result[f"{arm} - {other}"] = {
                    f: _interval({k: own[k][f] - runs[other][k][f] for k in both}, draws) for f in SUMMARISED
                }
    return result


def _interval(values: dict[tuple[int, int], float], draws: int) -> tuple[float, float | None, float | None]:
    cells = sorted({cell for cell, _ in values})
    means = np.array([np.mean([v for (c, _), v in values.items() if c == cell]) for cell in cells])
    if len(cells) < 2:
        return float(means.mean()), None, None
    rng = np.random.default_rng(0)
    drawn = means[rng.integers(0, len(means), (draws, len(means)))].mean(1)
    lower, upper = np.quantile(drawn, (0.025, 0.975))
    return float(means.mean()), float(lower), float(upper)


def first_difference(one: Row, other: Row) -> int:
    """The first grasp of two runs that differs in what was done or held; their length where none does."""
    keys = ("tote", "outcome", "masks")
    for a, b in zip(one["outcomes"], other["outcomes"], strict=False):
        if any(a[key] != b[key] for key in keys):
            return int(a["number"])
    return min(len(one["outcomes"]), len(other["outcomes"]))


def _fraction(flags: Sequence[bool]) -> float:
    return float(np.mean(flags)) if flags else float("nan")
