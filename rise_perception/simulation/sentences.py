"""Sentences about the still scenes of the tote world: ``SPLIT.sentences.jsonl`` beside ``SPLIT.json``.

A line is a JSON object: ``file_name``; ``sentence``; ``label``, the one item that it fits, in the image's
label map, or null; and ``labels``, all that it fits (several where the sentence does not tell them apart).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rise_perception.core.errors import ConfigError
from rise_perception.core.files import write_text
from rise_perception.data.images import read_depth, read_image, read_label_map
from rise_perception.language.generator import Saying, describe, refuse
from rise_perception.language.things import Things, measure
from rise_perception.language.vocabulary import KIND_OF_SHAPE, KINDS
from rise_perception.simulation.scene import SPLITS

#: Items with fewer visible pixels are not spoken about; at 320 x 240 the eye does not find them either.
MIN_PIXELS = 300
#: Fraction of the sentences that fit no item.
WITHOUT = 1 / 3
#: Most sentences of an image.
MAX_SENTENCES = 100


def write_sentences(out: Path, split: str, amount: int, seed: int) -> int:
    """Write the sentences of a finished split; returns their number.

    Equal arguments and pictures give equal bytes.

    Args:
        out: folder of the data set.
        split: train, val or test.
        amount: sentences of an image; fewer where a scene has not so much to say.
        seed: of the wording.

    Raises:
        ConfigError: an ``amount`` below 1 or above :data:`MAX_SENTENCES`.
    """
    check_amount(amount)
    content = json.loads((out / f"{split}.json").read_text())
    notes: dict[int, list[dict[str, Any]]] = {}
    for note in content["annotations"]:
        if note["label"]:
            notes.setdefault(note["image_id"], []).append(note)
    code, without = SPLITS.index(split), round(WITHOUT * amount)
    scenes: list[Things] = []
    sayings: list[list[Saying]] = []
    for image in tqdm(content["images"], desc=f"{split} sentences", unit="img", smoothing=0.05):
        things = scene_things(out, image, notes.get(image["id"], []))
        rng = np.random.default_rng([seed, code, image["id"], 7])
        scenes.append(things)
        sayings.append(describe(rng, things, things.areas >= MIN_PIXELS, amount - without))
    everywhere = [saying for said in sayings for saying in said if len(saying.items) == 1]
    lines = []
    for image, things, said in zip(content["images"], scenes, sayings, strict=True):
        rng = np.random.default_rng([seed, code, image["id"], 8])
        labels = [note["label"] for note in notes.get(image["id"], [])]
        for saying in [*said, *refuse(rng, things, everywhere, without)]:
            fits = [labels[item] for item in saying.items]
            line = {
                "file_name": image["file_name"],
                "sentence": saying.sentence,
                "label": fits[0] if len(fits) == 1 else None,
                "labels": fits,
            }
            lines.append(json.dumps(line))
    write_text(out / f"{split}.sentences.jsonl", "".join(f"{line}\n" for line in lines))
    return len(lines)


def check_amount(amount: int) -> None:
    """Raise ConfigError unless so many sentences of an image can be asked for."""
    if not 1 <= amount <= MAX_SENTENCES:
        raise ConfigError(f"sentences is {amount}; it must be between 1 and {MAX_SENTENCES}")


def scene_things(out: Path, image: dict[str, Any], notes: list[dict[str, Any]]) -> Things:
    """The items of one picture as they truly are, in the order of its annotations.

    Args:
        out: folder of the data set.
        image: its entry in the COCO file.
        notes: its annotations, without the container.
    """
    picture = read_image(out / "images" / image["file_name"])
    depth = read_depth(out / "depth" / image["depth_file"], image["depth_scale"])
    labels = read_label_map(out / "labels" / image["file_name"])
    kinds = np.zeros((len(notes), len(KINDS)), np.float32)
    for row, note in enumerate(notes):
        kind = KIND_OF_SHAPE.get(note["kind"])
        if kind:
            kinds[row, KINDS.index(kind)] = 1
    return measure(picture, depth, labels, np.array([note["label"] for note in notes], np.uint16), kinds)
