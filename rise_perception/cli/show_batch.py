"""`rise show-batch`: draw what a training configuration feeds the network, before believing it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from rise_perception.core.errors import ConfigError

SUMMARY = "draw the pseudo-sequences of a training configuration, with masks, identities and pseudo-labels"
EXAMPLES = """\
examples:
  rise show-batch config/train/rise_small_rgbd.yaml --out out/batch
  rise show-batch CONFIG --out out/batch --model runs/mine --step 5000     # and its pseudo-labels

One picture per step of the training: a row for each scene with x, x1 (before), x2 (after), x3 (strongly
augmented) and the depths of x1 and x3. Thick outlines are pasted objects; one number and colour is one
object.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("config", help="YAML file of `rise train`")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the pictures")
    parser.add_argument("--steps", type=int, default=3, metavar="N", help="how many steps (default: 3)")
    parser.add_argument("--step", type=int, default=0, metavar="T", help="the first of them (default: 0)")
    parser.add_argument("--model", metavar="M", help="model folder or name: the teacher of the pseudo-labels")


def run(args: argparse.Namespace) -> int:
    """Draw the batches and say where they are."""
    import numpy as np

    from rise_perception.data.images import write_image
    from rise_perception.inference.segmenter import find_model
    from rise_perception.network.checkpoint import load_model
    from rise_perception.training.batch_pictures import draw_scene
    from rise_perception.training.config import read_train_config
    from rise_perception.training.loader import seeded_order
    from rise_perception.training.scenes import Scenes

    config = read_train_config(args.config)
    last = config.optimisation.iterations
    if not 0 <= args.step < last or args.steps < 1:
        raise ConfigError(
            f"--step {args.step} --steps {args.steps} is outside the training: it has steps 0 to {last - 1}"
        )
    teacher = None
    if args.model:
        teacher, card = load_model(find_model(args.model))
        if card.network.input != config.network.input:
            raise ConfigError(
                f"--model {args.model} sees {card.network.input}, the training {config.network.input}"
            )
        size = card.network.image_size
        config = dataclasses.replace(config, network=dataclasses.replace(config.network, image_size=size))
    scenes = Scenes(config)
    stop = min(args.step + args.steps, last)
    for step, keys in enumerate(seeded_order(scenes, args.step, stop), args.step):
        rows = [draw_scene(scenes, key, teacher, step) for key in keys]
        width = max(row.shape[1] for row in rows)
        rows = [np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0))) for row in rows]
        write_image(args.out / f"step_{step:06d}.png", np.vstack(rows))
    print(f"pictures are in {args.out}")
    return 0
