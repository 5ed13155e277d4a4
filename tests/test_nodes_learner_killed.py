"""The learner node killed between any two writes of an update or a promotion: what serves is always whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import picking
import pytest
import torch
from tiny import tiny_config

from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.update.memory import MEMORY
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.grasp_learning.update.update_log import DIARY
from rise_perception.network.build import build_network
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.nodes.node_process import environment, free_domain

pytest.importorskip("rclpy", reason="rclpy is not installed; `make venv` installs it")
pytestmark = pytest.mark.slow
#: Another number of kills: RISE_KILLS=500 pytest tests/test_nodes_learner_killed.py
KILLS = int(os.environ.get("RISE_KILLS", "16"))
#: Promotions that have to lie between the kills.
PROMOTIONS = 4
#: Multiples of it are spread evenly over an interval, wherever one stops.
GOLDEN = 0.618034
HANG = 1200  # seconds after which something waits for ever
#: Forks a learner node for every line, so that it is there in a moment instead of after all imports. It is
#: the real node, except that an update of the episodes that do not judge is always due, and always good.
#: It kills itself just before the write to the disk whose number the line gives: a time would hit other
#: moments on another machine, and on a slow one never an update. For the line 0 it lives until an update has
#: ended, and tells how many writes there were.
NURSERY = r"""
import dataclasses, os, signal, sys
from rise_perception.nodes import learner_node
from rise_perception.grasp_learning.update import gate
from rise_perception.grasp_learning.update import learner
arguments, folder = sys.argv[1:-1], sys.argv[-1]

class Restless(learner_node.LearnerNode):
    def _due(self):
        self._learner.survey()
        scenes = self._learner.scenes
        scenes.max_looks = 10**6
        return learner_node.Job([e.id for e in self._learner.episodes.entries() if not scenes.holds_out(e)])

    def _update(self, job):
        config = self._learner.config  # other weights in every update: a version is promoted once
        update = dataclasses.replace(config.update, seed=seen + 1000 * lives)
        self._learner.config = dataclasses.replace(config, update=update)
        outcome = super()._update(job)
        if last == 0:
            os.write(told, b"%d writes\n" % seen)
            os.kill(os.getpid(), signal.SIGKILL)
        return outcome

learner_node.LearnerNode = Restless
assert learner.gate_candidate is gate.gate_candidate
learner.gate_candidate = lambda *measured: gate.GateDecision(True, "whatever it is")
learner_node.LOOK_PERIOD = 0.01
WRITES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree"}

seen, last, lives = 0, -1, 0

def look(event, details):
    global seen
    opened = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
    if event in WRITES or (opened and str(details[0]).startswith(folder)):
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)

os.write(1, b"ready\n")
for line in sys.stdin:
    lives += 1
    child = os.fork()
    if child == 0:
        last, told = int(line), os.dup(1)
        os.dup2(2, 1)  # what it says goes to the log
        sys.addaudithook(look)
        sys.exit(learner_node.main(arguments))
    os.write(1, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.fixture
def parameters(tmp_path: Path) -> dict[str, Any]:
    """Twelve grasps, anchors, and a model of random weights."""
    (tmp_path / "data").mkdir()
    torch.manual_seed(0)
    network = build_network(tiny_config(**picking.NETWORK))
    save_model(tmp_path / "shipped", network, ModelCard("cell", network.config, score_threshold=0.0))
    with EpisodeStore(tmp_path / "episodes", write=True, min_free_bytes=0) as store:
        for number in range(12):
            grasp = picking.make_grasp(number)
            store.add(grasp, label_episode(grasp))
    return {
        "episode_store": str(tmp_path / "episodes"),
        "model_store": str(tmp_path / "models"),
        "model": str(tmp_path / "shipped"),
        "anchors": str(picking.write_anchors(tmp_path / "data/anchors.json", 2, 0)),
        "heldout_anchors": str(picking.write_anchors(tmp_path / "data/heldout.json", 2, 1)),
        "iterations": 1,
        "batch": 2,
        "episode_batch": 2,
        "min_heldout": 2,
        "max_versions": 5,
        "nice": 0,
    }


def check(parameters: dict[str, Any]) -> int:
    """Everything on the disk is whole; how often another version has begun to serve."""
    if not Path(parameters["model_store"]).is_dir():  # killed before the folder was made
        return 0
    models = ModelStore(parameters["model_store"])
    current = models.current()
    if current is None:  # killed before there was anything
        return 0
    serving = models.serving()  # by checksum
    assert serving.version == current.version
    load_model(serving.folder)
    named = [p.name for p in models.root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    assert {models.find(name).version for name in named} == set(named)
    assert EpisodeStore(parameters["episode_store"]).damaged() == []
    for name in (MEMORY, DIARY):
        text = (models.root / name).read_text() if (models.root / name).exists() else ""
        for document in text.splitlines() if name == DIARY else filter(None, [text]):
            json.loads(document)
    return current.database_version


def test_kill_9_of_the_learner_node_between_two_writes(parameters: dict[str, Any], tmp_path: Path) -> None:
    arguments = [text for name, value in parameters.items() for text in ("-p", f"{name}:={value}")]
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY, "--ros-args", *arguments, "--", str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("wb"),
        text=True,
        env={**environment(free_domain(), tmp_path / "ros"), "OMP_NUM_THREADS": "1"},
    )
    guard = threading.Timer(HANG, nursery.kill)
    guard.start()
    numbers = []

    def live(write: int) -> str:
        """Let a node live until it is killed before this write; what it said."""
        nursery.stdin.write(f"{write}\n")
        nursery.stdin.flush()
        said = nursery.stdout.readline()
        told = nursery.stdout.readline() if said.endswith("writes\n") else said
        assert told == f"{-signal.SIGKILL}\n", (tmp_path / "log").read_text()[-3000:]
        numbers.append(check(parameters))
        return said

    try:
        assert nursery.stdout.readline() == "ready\n", (tmp_path / "log").read_text()
        writes = int(live(0).split()[0])
        # Over the writes of one and a half updates, far from each other, so that many outlive a promotion.
        reach = writes * 3 // 2
        for kill in range(KILLS):
            live(1 + round(kill * reach * GOLDEN) % reach)
        live(0)  # the last one learns to the end, after all that
        assert not list(Path(parameters["model_store"]).glob(".incoming*"))
    finally:
        guard.cancel()
        nursery.kill()
        nursery.wait()
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log, log[-3000:]
    assert numbers == sorted(numbers)
    assert numbers[-1] - 1 >= PROMOTIONS, log[-3000:]  # or there was little to interrupt
