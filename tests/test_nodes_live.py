"""A cell with everything that a real one runs: what is picked, what is stored, what the report says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rise_perception.cli.live_report import WINDOW, Accuracy, Arm, figures, plot_section, summary_section
from rise_perception.cli.main import main
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.episode_labels import Cause
from rise_perception.nodes.live import EPISODES, PICKS, LiveRun, read_picks, run_live
from rise_perception.simulation.dataset import Settings, write_dataset

IDLE, LEARNING, VALIDATING = 0, 1, 2


def assert_every_grasp_is_an_episode(run: Path, grasps: int) -> None:
    """What a robot picked by the masks, and what the interaction node made of it."""
    picks = read_picks(run / PICKS)
    assert [pick["number"] for pick in picks] == list(range(grasps))
    assert len({pick["model_version"] for pick in picks}) == 1
    found = {episode.grasp.grasp_id: (episode, labels) for _, episode, labels in EpisodeStore(run / EPISODES)}
    assert set(found) == {pick["grasp"] for pick in picks}
    for pick in picks:
        episode, labels = found[pick["grasp"]]
        assert episode.grasp.outcome == pick["outcome"]
        assert episode.model_version == pick["model_version"]
        assert episode.before.instances is not None
        assert episode.grasp.target_id in episode.before.instances.ids
        assert (pick["taken"] > 0) == bool(labels.removed.any() or labels.added.any())
        assert episode.before.frame.depth is not None


@pytest.mark.slow
def test_what_a_model_does_not_see_is_tried_where_it_stands_bare(tmp_path: Path, blind_model: Path) -> None:
    cell = {"seed": 5, "picks": 1, "period": 0.0}  # what rises most stands free: no neighbour slides
    live = run_live(tmp_path / "run", str(blind_model), "cpu", cell, None, "test")
    (pick,) = live.picks
    assert pick["success"]
    assert len(live.latencies) > 5
    assert live.while_learning() == []
    ((_, episode, labels),) = EpisodeStore(tmp_path / "run" / EPISODES)
    assert episode.grasp.target_id == -1
    assert labels.cause == Cause.MISSED


@pytest.mark.slow
def test_the_live_demo_picks_stores_every_grasp_and_ends_with_a_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    anchors, out = tmp_path / "anchors", tmp_path / "out"
    write_dataset(anchors, Settings(4, 4, 4, 160, 120, seed=5))
    command = ["live-demo", "--picks", "2", "--period", "0", "--anchors", str(anchors), "--out", str(out)]
    assert main([*command, "--totes", "1"]) == 0
    content = json.loads((out / "live.json").read_text())
    off, on = content["arms"]
    assert off["grasps"] == on["grasps"] == 2
    assert content["cell_ap50_gain"] == 0  # two grasps do not begin an update
    assert off["first"]["cell_ap50"] > 0.3
    assert off["latency_p95_ms"] >= off["latency_median_ms"] > 0
    assert off["latency_p95_while_learning_ms"] is None
    assert_every_grasp_is_an_episode(out / "off", 2)
    page = (out / "report.html").read_text()
    for title in ("What learning brought", "Over the grasps", "What the grasps taught", "Updates"):
        assert title in page
    assert "AP50 on the novel objects +0.0" in capsys.readouterr().out
    assert main(command) == 2
    assert "name another folder" in capsys.readouterr().err


@pytest.fixture
def blind_model(tmp_path: Path) -> Path:
    """The shipped model, with a threshold that nothing reaches."""
    from rise_perception.inference.segmenter import find_model

    folder = tmp_path / "blind"
    folder.mkdir()
    for file in find_model("rise_small_rgbd").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (card,) = folder.glob("*.json")
    content = json.loads(card.read_text())
    content["score_threshold"] = 0.999
    card.write_text(json.dumps(content))
    return folder


# ---- figures ----


def test_latencies_while_learning_are_those_between_its_states() -> None:
    latencies = [(stamp, float(stamp)) for stamp in range(10)]
    states = [(1, IDLE), (3, LEARNING), (5, VALIDATING), (6, IDLE), (8, LEARNING)]
    live = LiveRun(Path(), [], latencies, states)
    assert live.while_learning() == [3.0, 4.0, 5.0, 8.0, 9.0]
    assert LiveRun(Path(), [], latencies).while_learning() == []


def test_a_record_that_is_being_written_is_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "picks.jsonl"
    assert read_picks(path) == []
    path.write_text('{"number": 0}\n{"num')
    assert read_picks(path) == [{"number": 0}]


def arm(name: str, successes: list[bool], versions: list[str], learning: list[float]) -> Arm:
    picks: list[dict[str, Any]] = [
        {"success": success, "model_version": version, "stamp": 100 * (k + 1)}
        for k, (success, version) in enumerate(zip(successes, versions, strict=True))
    ]
    latencies = [(stamp, 50.0 + stamp % 2) for stamp in range(0, 100 * len(picks), 10)]
    return Arm(name, picks, latencies, learning, versions[-1])


def test_figures_compare_the_ends_and_the_arms() -> None:
    measured = {"a": Accuracy(0.3, 0.6, 0.5, 0.7), "b": Accuracy(0.4, 0.7, 0.495, 0.69)}
    off = arm("learning off", [True, False] * 20, ["a"] * 40, [])
    on = arm("learning on", [True, False] * 10 + [True] * 20, ["a"] * 25 + ["b"] * 15, [60.0, 70.0])
    result = figures([off, on], measured)
    assert result["cell_ap50_gain"] == pytest.approx(0.1)
    assert result["anchor_ap_change"] == pytest.approx(-0.005)
    assert result["success_gain"] == pytest.approx(0.5)
    assert result["latency_ratio"] == pytest.approx(69.5 / 50.0)
    assert result["arms"][1]["versions"] == ["a", "b"]
    text = summary_section(result).text
    assert "+10.0" in text
    assert "-0.5" in text
    (picture,) = plot_section([off, on], measured).pictures
    assert picture.content[:4] == b"\x89PNG"
    assert len(on.picks) > WINDOW
