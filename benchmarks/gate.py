"""What the default gate lets through when every label is wrong in the same way, judges included.

The grasps of a cell are collected once. For each kind of poison a learner with the default gate gets them in
rounds, with labels made wrong as they are stored. Harm is measured where no poison reaches: on totes of the
cell with true labels.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch

from benchmarks.live import Plan, average_precision, base_figures, prepare
from benchmarks.live_cell import pick_all
from benchmarks.poison import KINDS, poisoned
from rise_perception.core.files import write_json
from rise_perception.grasp_learning.capture.episode import Episode
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.update.config import LearnerConfig
from rise_perception.grasp_learning.update.learner import OnlineLearner, TooFewEpisodesError
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.inference.segmenter import Segmenter, find_model
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.simulation.cell import Cell, CellSettings
from rise_perception.simulation.picker import Picker
from rise_perception.simulation.render import Renderer
from rise_perception.training.validation import LOWEST_SCORE

#: A model that scores everything higher, by this much in the logit; nothing is learned.
INFLATION = "score inflation"
INFLATED_BY = 0.5
ALL_KINDS = (*KINDS, INFLATION)
#: The kind whose labels are left as they are.
CLEAN = "none"

Row = dict[str, Any]


def collect(plan: Plan, cell: int) -> Path:
    """The store of a cell's grasps, picked with the model as it is; picked where it is missing."""
    folder = plan.out / "data" / f"grasps-{cell}-{plan.picks}"
    if (folder / "complete").is_file():
        return folder / "episodes"
    shutil.rmtree(folder, ignore_errors=True)
    segmenter = Segmenter.load(plan.model, "cpu")
    with (
        EpisodeStore(folder / "episodes", write=True, min_free_bytes=0) as store,
        Renderer(CellSettings.width, CellSettings.height) as renderer,
    ):
        world = Cell(CellSettings(cell), renderer)

        def look(image: np.ndarray, depth: np.ndarray) -> tuple[Any, str]:
            return segmenter(image, depth), segmenter.version

        for _, episode, _ in pick_all(world, look, plan.picks, 0, Picker(), plan.period):
            store.add(episode, label_episode(episode))
    (folder / "complete").touch()
    return folder / "episodes"


def run_kind(plan: Plan, kind: str, cell: int, rounds: int) -> Iterator[Row]:
    """The rows of one kind of poison; those that are finished are read."""
    asked = [cell, plan.picks, rounds, *plan.anchors, *(value for _, value in plan.learner)]
    folder = plan.out / "gate" / "-".join([kind.replace(" ", "-"), *map(str, asked)])
    path = folder / "rows.json"
    if path.is_file():
        yield from json.loads(path.read_text(encoding="utf-8"))
        return
    shutil.rmtree(folder, ignore_errors=True)
    anchors, heldout = prepare(plan, cell)
    grasps = [(episode, labels) for _, episode, labels in EpisodeStore(collect(plan, cell))]
    masks = [mask for _, labels in grasps for mask in labels.masks]
    episodes = EpisodeStore(folder / "episodes", write=True, min_free_bytes=0)
    models = ModelStore(folder / "models", write=True)
    models.begin(find_model(plan.model))
    learner = OnlineLearner(_config(plan, anchors), models, episodes)
    rows: list[Row] = []
    true, _ = base_figures(plan, anchors, heldout)
    for number in range(rounds):
        first, last = (round(k * len(grasps) / rounds) for k in (number, number + 1))
        for index in range(first, last):
            episodes.add(*_spoiled(grasps[index], kind, masks, index))
        begun = time.monotonic()
        ended = _inflated(learner) if kind == INFLATION else _updated(learner)
        after = _true(models, heldout) if ended.promoted else true
        row = {
            "kind": kind,
            "cell": cell,
            "round": number + 1,
            "promoted": ended.promoted,
            "measured": ended.measured,
            "true_ap_before": true[0],
            "true_ap_after": after[0],
            "true_ap50_before": true[1],
            "true_ap50_after": after[1],
            "reason": ended.reason,
            "seconds": round(time.monotonic() - begun, 1),
        }
        rows.append(row)
        true = after
        yield row
    write_json(path, rows)
    episodes.close()
    models.close()


def _config(plan: Plan, anchors: Path) -> LearnerConfig:
    config = LearnerConfig((str(anchors / "train.json"),), str(anchors / "val.json"))
    for name, value in plan.learner:
        config = dataclasses.replace(
            config, update=dataclasses.replace(config.update, **{name.removeprefix("update."): value})
        )
    return config


def _spoiled(
    grasp: tuple[Episode, EpisodeLabels], kind: str, masks: list[np.ndarray], seed: int
) -> tuple[Episode, EpisodeLabels]:
    episode, labels = grasp
    found = episode.before.instances
    neighbours = np.zeros((0, *labels.removed.shape), bool) if found is None else found.masks()
    return episode, poisoned(labels, kind, masks, neighbours, seed)


@dataclass(frozen=True)
class _Ended:
    """An update: whether it serves, whether a candidate was trained and measured at all, and why."""

    promoted: bool
    measured: bool
    reason: str


def _updated(learner: OnlineLearner) -> _Ended:
    try:
        update = learner.update()
    except TooFewEpisodesError as error:
        return _Ended(False, False, str(error))
    return _Ended(update.promoted, update.candidate is not None, update.decision.reason)


def _inflated(learner: OnlineLearner) -> _Ended:
    """Offer the gate a model that is only bolder."""
    serving = learner.models.serving()
    with learner.models.workplace() as place:
        network, card = load_model(serving.folder)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if "class" in name and name.endswith("bias"):
                    parameter.add_(INFLATED_BY)
        card = save_model(place, network, card)
        card, decision, _, _ = learner.evaluate_candidate(place, card, learner.heldout(), Event())
        if decision.accepted:
            learner.models.add(place, card, {"parent": serving.version, "accepted": True})
    if decision.accepted:
        learner.models.promote(card.version, serving.version)
    return _Ended(decision.accepted, True, decision.reason)


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """What came of clean and of poisoned updates.

    Returns:
        for ``clean`` and ``poisoned``: ``updates``; ``measured``, candidates that were trained and measured,
        the others were refused before; ``promoted``; ``worst``, the lowest change of true AP by a promotion,
        0 without any. For ``clean`` ``refused_share`` too: of the measured candidates, None without any.
    """
    result: dict[str, Any] = {}
    for name, group in (
        ("clean", [row for row in rows if row["kind"] == CLEAN]),
        ("poisoned", [row for row in rows if row["kind"] != CLEAN]),
    ):
        promoted = [row for row in group if row["promoted"]]
        result[name] = {
            "updates": len(group),
            "measured": sum(row["measured"] for row in group),
            "promoted": len(promoted),
            "worst": min((row["true_ap_after"] - row["true_ap_before"] for row in promoted), default=0.0),
        }
    clean = result["clean"]
    clean["refused_share"] = 1 - clean["promoted"] / clean["measured"] if clean["measured"] else None
    return result


def _true(models: ModelStore, heldout: Path) -> tuple[float, float]:
    segmenter = Segmenter.load(models.serving().folder, "cpu", LOWEST_SCORE)
    return average_precision(segmenter, heldout / "cell.json")
