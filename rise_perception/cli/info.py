"""`rise info`: what a model is, how good it is, and how it was made."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

SUMMARY = "show a model's card, size, figures, and the command that trained it"
EXAMPLES = """\
examples:
  rise info rise_small_rgbd
  rise info path/to/model
  rise info rise_small_rgb --json | jq .card.metrics.test.ap50
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="model folder, or name of a shipped model")
    parser.add_argument("--json", action="store_true", help="print one JSON object for programs")


def run(args: argparse.Namespace) -> int:
    """Print the card of a model; its weights are loaded, so that a damaged model is found out."""
    from rise_perception.core.resources import find
    from rise_perception.inference.segmenter import find_model
    from rise_perception.network.card import WEIGHTS
    from rise_perception.network.checkpoint import load_model
    from rise_perception.referring.model import is_referring_model, load_referring_model

    places = Path(args.model), find("models") / args.model
    folder = next((place for place in places if is_referring_model(place)), None)
    network: Any
    card: Any
    if folder is not None:
        network, card = load_referring_model(folder)
    else:
        folder = find_model(args.model)
        network, card = load_model(folder)
    parameters = sum(p.numel() for p in network.parameters())
    size = (folder / WEIGHTS).stat().st_size
    if args.json:
        known = {"version": card.version, "folder": str(folder), "parameters": parameters, "bytes": size}
        print(json.dumps({**known, "card": dataclasses.asdict(card)}, indent=1))
        return 0
    rows = [
        ("model", card.version),
        ("folder", str(folder)),
        ("size", f"{parameters / 1e6:.2f} M parameters, {size / 1e6:.1f} MB"),
        *((f.name.replace("_", " "), getattr(card, f.name)) for f in dataclasses.fields(card)),
    ]
    for title, value in rows:
        print(f"{title:<16}{_text(value)}")
    return 0


def _text(value: object) -> str:
    """A value on lines of its own, indented, where it has parts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if not isinstance(value, dict):
        return str(value) if value != "" else "-"
    return "".join(f"\n  {key:<22}{json.dumps(part)}" for key, part in value.items()) or "-"
