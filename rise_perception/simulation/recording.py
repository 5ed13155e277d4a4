"""Pick sequences and cells on disk: COCO JSON with images, or a ROS 2 bag with truth and grasp events."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rise_perception.core.errors import DataError
from rise_perception.core.files import write_json
from rise_perception.simulation.cell import Cell, CellSettings
from rise_perception.simulation.dataset import coco, write_shot
from rise_perception.simulation.render import Renderer
from rise_perception.simulation.sequence import AFTER, FRAMES_PER_PICK, Event, SequenceSettings, pick_sequence

FRAME_ID = "camera_color_optical_frame"
EVENT_TOPIC = "/grasp_events"
#: Frames without motion at either end of a bag.
STILL = 2
LEVELS = 4
"""Of filling, at which each tote of a cell is seen."""


def write_sequence(out: Path, settings: SequenceSettings) -> tuple[int, int]:
    """Write ``out``/sequence.json with images, depth and labels; returns (frames, grasps).

    Each image's record has ``sequence`` (the seed), ``frame``, ``stamp`` (ns) and ``event``: null, or
    ``{"grasp", "phase", "target", "outcome"}`` with the numbers of rise_msgs/GraspEvent and the
    target's label.

    Raises:
        DataError: ``out`` holds something already.
        MissingDependencyError: no MuJoCo, or no off-screen OpenGL.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty; give a new folder for the sequence")
    records: list[dict[str, Any]] = []
    grasps = 0
    with Renderer(settings.width, settings.height) as renderer, _bar(settings) as bar:
        for moment in pick_sequence(settings, renderer):
            record = write_shot(out, f"sequence/{moment.number:06d}.png", moment.scene, moment.shot)
            event = asdict(moment.event) if moment.event else None
            record |= {
                "sequence": settings.seed,
                "frame": moment.number,
                "stamp": moment.stamp,
                "event": event,
            }
            records.append(record)
            grasps += _ends(moment.event)
            bar.update()
    write_json(out / "sequence.json", coco(records, f"pick sequence, {settings.split}, seed {settings.seed}"))
    return len(records), grasps


def write_cell(out: Path, settings: CellSettings, totes: int, first: int) -> int:
    """Write ``out``/cell.json with images, depth and labels of a cell; returns the number of images.

    Args:
        out: the folder.
        settings: which cell.
        totes: how many, each at ``LEVELS`` levels of filling.
        first: number of the first one.

    Raises:
        MissingDependencyError: no MuJoCo, or no off-screen OpenGL.
    """
    records: list[dict[str, Any]] = []
    with Renderer(settings.width, settings.height) as renderer:
        cell = Cell(settings, renderer)
        for tote in tqdm(range(first, first + totes), desc="cell", unit="tote"):
            cell.next_tote(tote)
            rng = np.random.default_rng([settings.seed, tote])
            for _ in range(LEVELS):
                records.append(write_shot(out, f"cell/{len(records):06d}.png", cell.scene, cell.look()))
                left = cell.scene.labels
                cell.take(tuple(rng.permutation(left)[: settings.items // LEVELS].tolist()))
    write_json(out / "cell.json", coco(records, f"picking cell, seed {settings.seed}"))
    return len(records)


def write_bag(out: Path, settings: SequenceSettings) -> tuple[int, int]:
    """Write a rosbag2 folder (MCAP) with the camera's topics, truth and events; returns (frames, grasps).

    It begins and ends with frames in which nothing moves, so that the first and the last grasp are episodes.

    Raises:
        BagError: ``out`` exists.
        MissingDependencyError: no MuJoCo, or no off-screen OpenGL.
    """
    # The topics' names and the message types are the reader's own.
    from rise_perception.data import bags
    from rise_perception.data.bag_messages import header
    from rise_perception.data.typestore import typestore

    event_type = "rise_msgs/msg/GraspEvent"
    settings = replace(settings, still=STILL)
    frames = grasps = 0
    with (
        Renderer(settings.width, settings.height) as renderer,
        bags.BagWriter(out) as bag,
        _bar(settings) as bar,
    ):
        for moment in pick_sequence(settings, renderer):
            shot, stamp = moment.shot, moment.stamp
            bag.write_camera_info(bags.INFO_TOPIC, shot.view.camera, stamp, FRAME_ID)
            bag.write_image(bags.COLOR_TOPIC, shot.image, "rgb8", stamp, FRAME_ID)
            bag.write_image(bags.DEPTH_TOPIC, shot.depth, "16UC1", stamp, FRAME_ID)
            bag.write_image(bags.TRUTH_TOPIC, shot.labels, "mono16", stamp, FRAME_ID)
            if moment.event is not None:
                event = moment.event
                message = typestore().types[event_type](
                    header=header(stamp, FRAME_ID),
                    grasp_id=event.grasp,
                    phase=event.phase,
                    target_id=event.target,
                    outcome=event.outcome,
                    expression="",
                    referred=0,
                )
                bag.write(EVENT_TOPIC, event_type, message, stamp)
                grasps += _ends(event)
            frames += 1
            bar.update()
    return frames, grasps


def _ends(event: Event | None) -> int:
    return int(event is not None and event.phase == AFTER)


def _bar(settings: SequenceSettings) -> tqdm[Any]:
    return tqdm(total=settings.picks * FRAMES_PER_PICK + 2 * settings.still, desc="sequence", unit="frame")
