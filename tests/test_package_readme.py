"""README and guides say what is so: commands run or parse, links lead somewhere, figures are the cards'."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from rise_perception import ROOMS
from rise_perception.cli.main import COMMANDS, build_parser
from rise_perception.core.resources import find
from rise_perception.data.images import write_image
from rise_perception.data.source import FrameSource
from rise_perception.network.card import read_card

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
#: Too long to run here, or in need of data that is not here: these are parsed only.
LONG = ("scenes", "train", "split", "live-demo", "learn", "teach")


def commands(text: str) -> list[list[str]]:
    """The lines `rise ...` of a page's code blocks, with continued lines joined."""
    joined = re.sub(r"\\\n\s+", "", text)
    return [
        shlex.split(line, comments=True)[1:] for line in re.findall(r"^    (rise .*)$", joined, re.MULTILINE)
    ]


LINES = [(page.name, line) for page in PAGES for line in commands(page.read_text())]


def test_there_are_commands_to_check() -> None:
    assert len(commands(README)) >= 6
    assert len(LINES) >= 25
    assert {line[0] for _, line in LINES} <= set(COMMANDS)


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}: {' '.join(line)}" for page, line in LINES])
def test_every_command_of_a_page_parses(page: str, line: list[str]) -> None:
    words = [word for word in line[1:] if not word.startswith("[") and not word.endswith("]")]
    build_parser(line[0]).parse_args(words)


@pytest.mark.slow
def test_the_commands_of_the_readme_run(rise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder with what a reader would have: pictures with depth and labels, and a recording."""
    monkeypatch.chdir(tmp_path)
    recording = find("models") / "demo_pick"
    shutil.copytree(recording, "recording")
    frame, truth = next(FrameSource(recording).frames())
    write_image(Path("photos/a.png"), frame.image)
    write_image(Path("depth/a.png"), (frame.depth * 1000).astype(np.uint16))
    write_coco(Path("photos/instances.json"), truth)
    done = []
    for line in commands(README):
        if line[0] not in LONG:
            status, out, err = rise(*line)
            assert status == 0, (line, out, err)
            done.append(line[0])
    assert done == ["predict", "replay", "eval"]


def write_coco(path: Path, truth: np.ndarray) -> None:
    from pycocotools import mask

    height, width = truth.shape
    annotations = []
    for label in set(np.unique(truth)) - {0}:
        runs = mask.encode(np.asfortranarray((truth == label).astype(np.uint8)))
        segmentation = {"size": [height, width], "counts": runs["counts"].decode()}
        area, box = float(mask.area(runs)), mask.toBbox(runs).tolist()
        annotations.append(
            {"id": int(label), "image_id": 1, "category_id": 1, "iscrowd": 0, "area": area, "bbox": box}
            | {"segmentation": segmentation}
        )
    images = [{"id": 1, "file_name": "a.png", "height": height, "width": width}]
    categories = [{"id": 1, "name": "object"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def test_every_command_is_in_the_readme() -> None:
    for command in COMMANDS:
        assert f"`rise {command}" in README or f"    rise {command}" in README


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_source_file_that_a_page_names_exists(page: Path) -> None:
    places = "|".join(
        ("rise_perception", "config", "launch", "examples", "tools", "tests", "benchmarks", *ROOMS)
    )
    for name in re.findall(rf"`((?:{places})/[\w/.]+\.\w+)`", page.read_text()):
        assert (ROOT / name).exists() or (ROOT / "rise_perception" / name).exists(), name


def test_the_rooms_are_drawn_and_listed_as_they_are() -> None:
    drawn = re.findall(r'class="t"[^>]*>(\w+)<', (ROOT / "docs/architecture.svg").read_text())
    assert [name for name in drawn if name in ROOMS] == list(reversed(ROOMS))
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert listed == list(ROOMS)


def test_the_snippet_runs() -> None:
    found = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert found
    names = {"image": np.full((240, 320, 3), 90, np.uint8), "depth": np.full((240, 320), 0.8, np.float32)}
    exec(found[1], names)  # the README's own code
    assert names["instances"].label_map.shape == (240, 320)


def test_the_figures_are_those_of_the_cards() -> None:
    results = (ROOT / "docs/results/models.md").read_text()
    depth, colour = (
        read_card(ROOT / "models" / name).metrics for name in ("rise_small_rgbd", "rise_small_rgb")
    )
    assert f"| {depth['test']['ap50']:.3f} (0.86) | {colour['test']['ap50']:.3f} (0.72) |" in results
    tests = (f"{m['test']['ap50']:.3f} / {m['test']['ap']:.3f}" for m in (depth, colour))
    assert f"| {' | '.join(tests)} |" in README
    best = [
        metrics["mean_best_iou"] for metrics in (depth["ycb_table"], colour["ycb_table"], colour["apc_shelf"])
    ]
    assert f"| {best[0]:.3f} | {best[1]:.3f} (0.80) |" in results
    assert f"| {best[2]:.3f} (0.65) |" in results
    assert f"| {best[0]:.3f} | {best[1]:.3f} |" in README
    assert f"| {best[2]:.3f} |" in README
