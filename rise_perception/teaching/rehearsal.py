"""Pictures of elsewhere with their true items, so that a model does not forget them while it is taught."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tqdm import tqdm

from rise_perception.core.errors import RiseError
from rise_perception.data.coco import LabelledImage
from rise_perception.simulation.engine import mujoco
from rise_perception.simulation.world_source import (
    Renderers,
    WorldConfig,
    WorldImages,
    free_cores,
    record_path,
)
from rise_perception.teaching.scenes import shipped_pictures

#: Of scenes that the shipped models have not learned.
SEED, VIEWS = 4242, 2
#: Version of the world -> fraction of the pictures; the second takes longer to render.
FRACTIONS = {1: 2 / 3, 2: 1 / 3}


def worlds_cache() -> Path:
    """Where rendered pictures are kept for the next teaching: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rise_perception/worlds"


def rehearsal_pictures(count: int, with_depth: bool, notes: list[str]) -> list[LabelledImage]:
    """About ``count`` pictures of the tote worlds, rendered where they are not in the cache.

    Where they cannot be rendered, or ``count`` is 0, the frames of the shipped recording.

    Args:
        count: of pictures.
        with_depth: with depth.
        notes: is told what could not be had.

    Returns:
        pictures of 320x240 whose items are all of class 0, without containers.
    """
    if count == 0:
        return shipped_pictures(with_depth)
    try:
        mujoco()
        return _rendered(count, with_depth)
    except RiseError as error:
        notes.append(
            f"rehearses with the shipped recording alone, which keeps less of what the start knew: {error}"
        )
        return shipped_pictures(with_depth)


def _rendered(count: int, with_depth: bool) -> list[LabelledImage]:
    worlds = [
        WorldImages(
            WorldConfig(world, max(1, round(fraction * count / VIEWS)), SEED, VIEWS),
            worlds_cache(),
            ("object",),
            with_depth,
        )
        for world, fraction in FRACTIONS.items()
    ]
    missing = not all(map(_is_complete, worlds))
    if missing:
        Renderers(worlds, free_cores(1))  # beside this process, which renders what it comes to first
    silent = not (missing and sys.stderr.isatty())
    total = sum(map(len, worlds))
    with tqdm(
        total=total, desc="to rehearse", unit="picture", file=sys.stderr, leave=False, disable=silent
    ) as bar:
        found = []
        for world in worlds:
            for index in range(len(world)):
                found.append(world[index])
                bar.update()
    return found


def _is_complete(world: WorldImages) -> bool:
    return all(record_path(world.path, world.config, k).exists() for k in range(world.config.scenes))
