"""`rise selftest`: is a runtime right, on this machine, with a shipped model?"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

SUMMARY = "check a runtime on this machine, from the export to a swap of weights"
EXAMPLES = """\
examples:
  rise selftest
  rise selftest --runtime tensorrt --precision fp16
  rise selftest --runtime openvino --model models/mine

It exports the model, builds an engine into an empty cache, compares it with torch on frames of the shipped
recording, loads it again from the cache, damages it and expects a new one, and swaps in changed weights. The
exit status is 0 when everything is as it should be.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--runtime", metavar="R", help="default: each that can run here")
    parser.add_argument(
        "--precision", default="fp32", choices=["fp32", "fp16", "bf16", "int8"], help="default: fp32"
    )
    parser.add_argument("--model", default="rise_small_rgb", metavar="M", help="model folder or name")
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda")


def run(args: argparse.Namespace) -> int:
    """Check; 2 when something is wrong."""
    from rise_perception.core.errors import RiseError
    from rise_perception.inference.device import choose_device
    from rise_perception.inference.engines.build import RUNTIMES, check_name
    from rise_perception.inference.engines.runner import RuntimeUnavailableError
    from rise_perception.inference.engines.selftest import checks
    from rise_perception.inference.segmenter import find_model

    device = choose_device(args.device)
    names = [args.runtime] if args.runtime else list(RUNTIMES)
    failed = tried = 0
    for name in names:
        check_name(name)
        if name not in RUNTIMES:
            raise RiseError(f"--runtime is {name!r}; those with engines are {', '.join(RUNTIMES)}")
        try:
            RUNTIMES[name].check(args.precision)
        except RuntimeUnavailableError as error:
            if args.runtime:
                raise
            print(f"{name}: left out: {error}")
            continue
        tried += 1
        with tempfile.TemporaryDirectory() as folder:
            try:
                for text in checks(find_model(args.model), name, args.precision, device, Path(folder)):
                    print(f"{name}: {text}", flush=True)
            except RiseError as error:
                failed += 1
                print(f"{name}: WRONG: {error}", file=sys.stderr, flush=True)
    if tried == 0:
        raise RiseError("no runtime besides torch can run here; pip install 'rise_perception[deploy]'")
    return 2 if failed else 0
