"""The README says what is so: commands parse, the snippet runs, figures are those in the model cards."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from rise_perception.cli.main import COMMANDS, build_parser
from rise_perception.network.card import read_card

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
LINES = [
    shlex.split(line, comments=True)[1:] for line in re.findall(r"^    (rise .*)$", README, re.MULTILINE)
]


def test_there_are_commands_to_check() -> None:
    assert len(LINES) >= 8
    assert {line[0] for line in LINES} <= set(COMMANDS)


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_every_command_of_the_readme_parses(line: list[str]) -> None:
    build_parser(line[0]).parse_args(line[1:])


def test_every_command_is_in_the_readme() -> None:
    for command in COMMANDS:
        assert f"`rise {command}" in README


def test_every_file_that_the_readme_names_exists() -> None:
    linked = re.findall(r"\((docs/[^)]+|[A-Z]+\.md)\)", README)
    quoted = re.findall(r"`((?:rise_perception|config|nodes|network|data|runtime)/[\w/.]+)`", README)
    names = {*linked, *quoted}
    assert len(names) > 8
    for name in names:
        assert (ROOT / name).exists() or (ROOT / "rise_perception" / name).exists(), name


def test_the_snippet_runs() -> None:
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found
    names = {"image": np.full((240, 320, 3), 90, np.uint8), "depth": np.full((240, 320), 0.8, np.float32)}
    exec(found[1], names)  # the README's own code
    assert names["instances"].label_map.shape == (240, 320)


def test_the_figures_are_those_of_the_cards() -> None:
    depth, colour = (
        read_card(ROOT / "models" / name).metrics for name in ("rise_small_rgbd", "rise_small_rgb")
    )
    row = f"| {depth['test']['ap50']:.3f} (0.80) | {colour['test']['ap50']:.3f} (0.60) |"
    assert row in README
    best = [
        metrics["mean_best_iou"] for metrics in (depth["ycb_table"], colour["ycb_table"], colour["apc_shelf"])
    ]
    assert f"| {best[0]:.3f} (0.75) | {best[1]:.3f} (0.55) |" in README
    assert f"| {best[2]:.3f} (0.55) |" in README
