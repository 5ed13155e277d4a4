"""The page about learning: the most instructive grasps first, and every update with its figures."""

from __future__ import annotations

from pathlib import Path

import pytest
from grasping import episode, label_map, picture

from rise_perception.evaluation.report import write_report
from rise_perception.grasp_learning.capture.episode import Outcome
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.grasp_learning.update.page import labels_section, updates_section, versions_section
from rise_perception.grasp_learning.update.update_log import DIARY, LONGEST, read_history, write_down


@pytest.fixture
def store(tmp_path: Path) -> EpisodeStore:
    """Two confirmed grasps, one of an item that was not predicted, one merged with its neighbour, one lie."""
    merged = label_map(1, 2, 3)
    merged[merged == 3] = 1
    cases = [
        episode(picture(1, 2, 3, seed=0), picture(2, 3, seed=1)),
        episode(picture(1, 2, 3, seed=2), picture(2, 3, seed=3), merged),
        episode(picture(1, 2, 3, seed=4), picture(2, 3, seed=5)),
        episode(picture(1, 2, 3, seed=6), picture(2, 3, seed=7), label_map(2, 3), target=-1),
        episode(picture(1, 2, 3, seed=8), picture(1, 2, 3, seed=9)),
    ]
    opened = EpisodeStore(tmp_path / "episodes", write=True, min_free_bytes=0)
    for case in cases:
        opened.add(case, label_episode(case))
    return opened


def test_corrections_come_first_and_every_verdict_is_counted(store: EpisodeStore) -> None:
    section = labels_section(store)
    captions = [p.caption for p in section.pictures]
    assert captions[0].startswith("Corrected: an item left that was not predicted. The model had overlooked")
    assert captions[1].startswith("Corrected: ")
    assert "The prediction held more than the item" in captions[1]
    assert [c.split(":")[0] for c in captions[2:]] == ["Confirmed", "Confirmed", "Rejected"]
    assert captions[4].endswith("although success was reported. Nothing is learned from it.")
    assert [int(count) for _, count in section.tables[0].rows] == [1, 1, 2, 1]
    assert len(labels_section(store, most=2).pictures) == 2


def test_a_verdict_without_a_label_says_so_and_damage_is_left_out(store: EpisodeStore) -> None:
    dropped = episode(
        picture(1, 2, 3, seed=10), picture(1, 2, 3, seed=11, moved=(20, 30)), label_map(), Outcome.DROPPED
    )
    labels = label_episode(dropped)
    store.add(dropped, labels)
    for entry in store.entries()[1:4]:
        (entry.folder / "before.png").write_bytes(b"x")
    captions = [p.caption for p in labels_section(store).pictures]
    assert captions[0] == f"Moved: {labels.reason}. No prediction agrees, so that there is no label in it."
    assert [c.split(":")[0] for c in captions[1:]] == ["Confirmed", "Rejected"]


def test_updates_and_versions_are_tables(tmp_path: Path, tiny_model: Path) -> None:
    models = ModelStore(tmp_path / "models", write=True)
    base = models.begin(tiny_model)
    assert updates_section(models).text == "There was none."
    write_down(models.root, {"verdict": "rejected", "reason": "the training failed", "episodes": 3})
    figures = {"steps": 40, "anchor_ap": [0.5, 0.49], "heldout": [0.25, 0.625]}
    write_down(models.root, {"verdict": "promoted", "reason": "good", "episodes": 8, **figures})
    with (models.root / DIARY).open("a") as file:
        file.write('{"stamp": 12\n')
    newest, oldest = updates_section(models).tables[0].rows
    assert newest[0].endswith(" promoted: good")
    assert newest[1:] == ("8", "40", "0.500 → 0.490", "0.250 → 0.625")
    assert oldest[1:] == ("3", "-", "-", "-")
    assert versions_section(models).tables[0].rows[0][0] == f"{base.version} (serves)"


def test_the_page_is_one_file(store: EpisodeStore, tmp_path: Path) -> None:
    write_report(tmp_path / "page.html", "Lessons", "rise learn", [labels_section(store)])
    text = (tmp_path / "page.html").read_text()
    assert text.count("data:image/jpeg") == 5
    assert "http" not in text


def test_the_diary_is_bounded(tmp_path: Path) -> None:
    (tmp_path / DIARY).write_text('{"verdict": "rejected"}\n' * LONGEST)
    write_down(tmp_path, {"verdict": "promoted"})
    history = read_history(tmp_path)
    assert (len(history), history[-1]["verdict"]) == (LONGEST, "promoted")
    assert read_history(tmp_path / "nowhere") == []
