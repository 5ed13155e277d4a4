"""Learning away from the robot: recordings and collected stores become episodes, and these a model."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rise_perception.core.errors import DataError, RiseError
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore, StoreFullError
from rise_perception.grasp_learning.capture.recordings import (
    BagGrasps,
    PictureGrasps,
    Predictor,
    has_pictures,
    is_bag,
    is_store,
)
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.update.learner import OnlineLearner, Update
from rise_perception.grasp_learning.update.update import Progress

Source = EpisodeStore | BagGrasps | PictureGrasps


@dataclass
class Taken:
    """What a source gave.

    Attributes:
        new, known: grasps that were added, and that had been there.
        left_out: sentences about grasps that gave no episode.
        problem: what was damaged; empty when all could be read.
    """

    new: int = 0
    known: int = 0
    left_out: list[str] = field(default_factory=list)
    problem: str = ""


def open_source(
    path: Path,
    color: str | None = None,
    depth: str | None = None,
    info: str | None = None,
    robot: str | None = None,
) -> Source:
    """An episode store, a bag, or a folder of pictures, whichever is at ``path``.

    Args:
        path: where it is.
        color, depth, info, robot: topics, for a bag.

    Raises:
        RiseError: it is none of them, or holds nothing to learn from.
    """
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder; give a bag, an episode store or a folder of pictures"
        )
    if is_bag(path):
        return BagGrasps(path, color, depth, info, robot)
    if path.is_dir() and is_store(path):
        return EpisodeStore(path)
    if has_pictures(path):
        return PictureGrasps(path)
    raise DataError(
        f"{path} is neither a bag (.mcap, .db3) nor an episode store nor a folder of pictures, or it is empty"
    )


def has_depth(source: Source) -> bool:
    """Whether a source's frames come with depth; for a store, those of its newest readable episode."""
    if not isinstance(source, EpisodeStore):
        return source.has_depth
    for entry in reversed(source.entries()):
        try:
            return source.read(entry)[0].before.frame.depth is not None
        except DataError:
            continue
    return False


def ingest(source: Source, store: EpisodeStore, predictor: Predictor, step: Callable[[], object]) -> Taken:
    """Add a source's grasps to a store, those that it does not hold yet.

    Args:
        source: of :func:`open_source`.
        store: opened for writing.
        predictor: for grasps without predictions.
        step: called after each frame, or each episode of a store.

    Raises:
        StoreFullError: they do not fit; what was added stays.
    """
    if isinstance(source, EpisodeStore):
        new, damaged = store.merge(source, step), source.damaged()
        return Taken(new, len(source.entries()) - new - len(damaged), problem="; ".join(damaged[:3]))
    taken = Taken()
    try:
        for episode in source.episodes(step):
            if store.holds(episode):
                taken.known += 1
            else:
                complete = predictor.complete(episode)
                store.add(complete, label_episode(complete))
                taken.new += 1
    except StoreFullError:
        raise
    except RiseError as error:
        taken.problem = str(error)
    taken.left_out = source.left_out
    return taken


def learn_all(
    learner: OnlineLearner,
    seconds: float = math.inf,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[Update]:
    """Update until no episode is new, or time is over; what ended is kept whenever the caller stops.

    Args:
        learner: whose configuration bounds each update.
        seconds: no update begins after this time, and none trains beyond it.
        report: told how far the update is.

    Raises:
        DataError: there is too little to learn from, or to judge by.
    """
    begun, given = time.monotonic(), learner.config
    while new := learner.survey().new:
        left = seconds - (time.monotonic() - begun)
        if left <= 0:
            return
        budget = dataclasses.replace(given.update, seconds=min(given.update.seconds, left))
        learner.config = dataclasses.replace(given, update=budget)
        try:
            yield learner.update(report=report)
        except DataError:  # none of those that it took was of use: there may be others
            if learner.survey().new == new:
                raise
