"""`rise train`: train a model from one YAML configuration."""

from __future__ import annotations

import argparse
import shlex
import subprocess
from pathlib import Path

from rise_perception.core.errors import ConfigError

SUMMARY = "train a model from a YAML configuration; rerun the same command to resume"
EXAMPLES = """\
examples:
  rise train config/train/rise_small_rgb.yaml               # makes its data, trains, measures
  rise train config/train/rise_small_rgb.yaml --hours 10    # within this time
  rise train config/train/rise_small_rgb.yaml --device cuda
  rise train config/train/refer_small.yaml
  rise train config/train/refer_grasps.yaml                 # goes on from what grasps said of sentences
  rise train config/train/grasp_segmenter.yaml              # what left between two frames of a grasp
  rise train config/train/tables.yaml:table3/ps_ot          # a row of the paper's tables
  tensorboard --logdir runs
  torchrun --nproc-per-node 4 -m rise_perception.cli.main train CONFIG      # four GPUs share each batch
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "config", help="YAML file, or FILE.yaml:ROW of a table; those that ship are in config/train/"
    )
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--hours",
        type=float,
        default=0.0,
        metavar="H",
        help="end within H hours; the learning rate fits itself",
    )


def run(args: argparse.Namespace) -> int:
    """Train, and print where the model lies."""
    from rise_perception.grasp_learning.segmenter.config import is_segmenter_training
    from rise_perception.inference.device import choose_device
    from rise_perception.referring.config import is_referring_training
    from rise_perception.training.config import read_train_config
    from rise_perception.training.distributed import rank, stop_processes
    from rise_perception.training.run import train

    command = (
        "rise train "
        + shlex.quote(args.config)
        + (f" --device {args.device}" if args.device != "auto" else "")
        + (f" --hours {args.hours:g}" if args.hours else "")
    )
    if is_referring_training(args.config):
        return _train_referring(args, command)
    if args.hours < 0:
        raise ConfigError(f"--hours is {args.hours}; give a number above 0, or leave it out")
    if is_segmenter_training(args.config):
        return _train_segmenter(args, command)
    config = read_train_config(args.config)
    card = train(config, command, choose_device(args.device), git_revision(), args.hours)
    if rank() == 0:
        print(f"model {card.version} is in {config.out}; {config.out}/report.html shows what it can do")
    stop_processes()
    return 0


def _train_referring(args: argparse.Namespace, command: str) -> int:
    """Train a model for `rise refer`."""
    from rise_perception.inference.device import choose_device
    from rise_perception.referring.config import read_referring_training
    from rise_perception.referring.grasp_training import learn_from_grasps
    from rise_perception.referring.trainer import train_referring

    config = read_referring_training(args.config)
    train = learn_from_grasps if config.init else train_referring
    card = train(config, command, choose_device(args.device), git_revision())
    print(f"model {card.version} is in {config.out}; `rise info {config.out}` shows its card")
    return 0


def _train_segmenter(args: argparse.Namespace, command: str) -> int:
    """Train the grasp segmenter."""
    from rise_perception.grasp_learning.segmenter.config import read_segmenter_training
    from rise_perception.grasp_learning.segmenter.trainer import train_segmenter

    config = read_segmenter_training(args.config)
    card = train_segmenter(config, command, git_revision(), args.hours)
    print(f"model {card.version} is in {config.out}; copy it to models/{config.name} to use it")
    return 0


def git_revision() -> str:
    """Short revision of the checkout that this code runs from, or an empty string."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
