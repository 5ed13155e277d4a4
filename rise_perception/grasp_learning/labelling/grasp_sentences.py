"""Sentences out of episodes: what grasps taught about which item was meant, as data for `rise train`.

What left the scene is evidence of an item's outline, and the robot's ``referred`` alone of whether a sentence
meant it. A right item becomes a sentence with its label; a wrong one a sentence that does not mean that item.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from rise_perception.core.files import write_json, write_text
from rise_perception.data.images import write_image
from rise_perception.grasp_learning.capture.episode import Episode, Referred
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels
from rise_perception.language.catalogue import Catalogue
from rise_perception.language.parser import parse
from rise_perception.language.vocabulary import KIND_OF_SHAPE, KINDS, NotUnderstood

#: Name of the data set; it lies beside its sentences.
NAME = "grasps"
#: Metres of a unit of the depth files.
_DEPTH_SCALE = 0.001


def write_grasp_sentences(
    out: Path, episodes: Iterable[tuple[str, Episode, EpisodeLabels]], catalogue: Catalogue | None = None
) -> dict[str, int]:
    """Write ``grasps.sentences.jsonl`` with its images, depth and label maps.

    Args:
        out: folder.
        episodes: name, episode and labels of each.
        catalogue: names that the robot was told; sentences are written without them.

    Returns:
        how many became what: ``right``, ``wrong``, ``not understood``, ``no item`` (nobody knows which pixels
        were grasped) and ``nothing said`` (no sentence, or no word on whether it was right).
    """
    images: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    for name, episode, labels in episodes:
        grasp, frame = episode.grasp, episode.before.frame
        if not grasp.expression or grasp.referred == Referred.UNKNOWN:
            counts["nothing said"] += 1
            continue
        try:
            sentence, kind = _understood(grasp.expression, catalogue)
        except NotUnderstood:
            counts["not understood"] += 1
            continue
        mask = _grasped(episode, labels)
        if mask is None:
            counts["no item"] += 1
            continue
        right = grasp.referred == Referred.RIGHT
        counts["right" if right else "wrong"] += 1
        number, file_name = len(images), f"{NAME}/{name}.png"
        images.append({"id": number, "file_name": file_name})
        write_image(out / "images" / file_name, frame.image)
        write_image(out / "labels" / file_name, mask.astype(np.uint16))
        if frame.depth is not None:
            depth = np.nan_to_num(frame.depth / _DEPTH_SCALE, posinf=0.0).clip(0, 65535).round()
            write_image(out / "depth" / file_name, depth.astype(np.uint16))
            images[-1] |= {"depth_file": file_name, "depth_scale": _DEPTH_SCALE}
        note: dict[str, Any] = {"image_id": number, "label": 1}
        if right and kind in KINDS:  # a right item is of the kind that the sentence names
            note["kind"] = next(shape for shape, of in KIND_OF_SHAPE.items() if of == kind)
        notes.append(note)
        line: dict[str, Any] = {"file_name": file_name, "sentence": sentence}
        lines.append(line | ({"label": 1} if right else {"label": None, "not": [1]}))
    write_json(out / f"{NAME}.json", {"images": images, "annotations": notes})
    write_text(out / f"{NAME}.sentences.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    return dict(counts)


def _understood(expression: str, catalogue: Catalogue | None) -> tuple[str, str]:
    """The sentence in words that need no catalogue, and the kind that it names; raises NotUnderstood."""
    meant = parse(expression, catalogue).plain
    for sentence in (expression, str(meant)):
        try:
            if parse(sentence).plain == meant:
                return sentence, meant.kind
        except NotUnderstood:
            continue
    raise NotUnderstood(f"{expression!r} cannot be said without the names of the catalogue")


def _grasped(episode: Episode, labels: EpisodeLabels) -> np.ndarray | None:
    """(H, W) bool, the item that was grasped, in the frame before: what left, or else what was aimed at."""
    if len(labels.masks) == 1:
        return np.asarray(labels.masks[0])
    seen = episode.before.instances
    if len(labels.masks) or seen is None or episode.grasp.target_id not in seen.ids:
        return None
    return seen.mask(int(np.flatnonzero(seen.ids == episode.grasp.target_id)[0]))
