"""The learner node killed at random times, amid updates and promotions: what serves is always whole."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import picking
import pytest
import torch
from ros_graph import Graph
from tiny import tiny_config

from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.update.learner import MEMORY
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.grasp_learning.update.update_log import DIARY
from rise_perception.network.build import build_network
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import load_model, save_model
from rise_perception.nodes.node_process import environment, free_domain

pytestmark = pytest.mark.slow
#: Another number of kills: RISE_KILLS=500 pytest tests/test_nodes_learner_killed.py
KILLS = int(os.environ.get("RISE_KILLS", "50"))
#: Forks a learner node for every line, so that it is there in a moment instead of after all imports. It is
#: the real node, but that an update of the episodes that were given to it is always due, and always good.
NURSERY = r"""
import json, os, sys
from rise_perception.nodes import learner_node
from rise_perception.grasp_learning.update import gate
from rise_perception.grasp_learning.update import learner
arguments, ids = sys.argv[1:-1], json.loads(sys.argv[-1])

class Restless(learner_node.LearnerNode):
    def _due(self):
        return learner_node.Job(ids)

learner_node.LearnerNode = Restless
learner.judge = lambda *measured: gate.GateDecision(True, "whatever it is")
learner_node.LOOK_PERIOD = 0.01
os.write(1, b"ready\n")
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)  # what it says goes to the log
        sys.exit(learner_node.main(arguments))
    os.write(1, b"%d\n" % child)
    os.waitpid(child, 0)
    os.write(1, b"dead\n")
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


def test_kill_9_of_the_learner_node_at_random_times(parameters: dict[str, Any], tmp_path: Path) -> None:
    entries = EpisodeStore(parameters["episode_store"]).entries()
    ids = [e.id for e in entries if e.stamp % (40 * 10**9) < 30 * 10**9]  # the others judge
    arguments = [text for name, value in parameters.items() for text in ("-p", f"{name}:={value}")]
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY, "--ros-args", *arguments, "--", json.dumps(ids)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("wb"),
        text=True,
        env={**environment(free_domain(), tmp_path / "ros"), "OMP_NUM_THREADS": "1"},
    )
    guard = threading.Timer(30 + 10 * KILLS, nursery.kill)
    guard.start()
    rng, numbers = random.Random(0), []
    try:
        assert nursery.stdout.readline() == "ready\n", (tmp_path / "log").read_text()
        for _ in range(KILLS):
            nursery.stdin.write("\n")
            nursery.stdin.flush()
            child = int(nursery.stdout.readline())
            time.sleep(rng.uniform(0.2, 3.5))
            os.kill(child, signal.SIGKILL)
            assert nursery.stdout.readline() == "dead\n"
            numbers.append(check(parameters))
    finally:
        guard.cancel()
        nursery.kill()
        nursery.wait()
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log, log[-3000:]
    assert numbers == sorted(numbers)
    assert numbers[-1] > 0.1 * KILLS, log[-3000:]  # or there was nothing to interrupt
    graph = Graph(tmp_path)
    try:
        process = graph.start("learner_node", parameters)
        graph.wait(
            lambda: f"serving {ModelStore(parameters['models']).serving().version}" in process.log_tail(),
            "it",
        )
        assert not list(Path(parameters["model_store"]).glob(".incoming*"))
        assert process.stop() == 0
    finally:
        graph.close()
