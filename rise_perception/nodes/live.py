"""A simulated cell with everything that a real one runs: segmentation, interaction and learner nodes.

Each is a process of its own; this one starts them, watches what they publish, and ends them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rise_msgs.msg import InstanceArray, LearnerStatus
from tqdm import tqdm

from rise_perception.core.errors import RiseError
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.nodes import qos
from rise_perception.nodes.node_process import NodeProcess, environment, free_domain

#: Seconds until the first grasp must be done, and between two of them.
START, STUCK = 300.0, 180.0
#: Seconds at most for the interaction node's last episodes, and for the learner's update in work.
LAST_EPISODES, LAST_UPDATE = 10.0, 3600.0
#: Seconds without work after which the learner has nothing to do.
AT_REST = 10.0
PICKS, EPISODES, MODELS = "picks.jsonl", "episodes", "models"


@dataclass(frozen=True)
class LiveRun:
    """What a run left.

    Attributes:
        folder: with ``picks.jsonl``, ``episodes`` and, when it learned, ``models``.
        picks: a record of each grasp, as the cell node writes it.
        latencies: (time in ns, milliseconds from image to instances) of each frame.
        states: (time in ns, state of the learner) of each change.
    """

    folder: Path
    picks: list[dict[str, Any]]
    latencies: list[tuple[int, float]]
    states: list[tuple[int, int]] = field(default_factory=list)

    def while_learning(self) -> list[float]:
        """Latencies at which the learner trained or measured."""
        found, state, changes = [], LearnerStatus.IDLE, iter([*self.states, (1 << 63, LearnerStatus.IDLE)])
        when, following = next(changes)
        for stamp, latency in self.latencies:
            while stamp >= when:
                state = following
                when, following = next(changes)
            if state in (LearnerStatus.LEARNING, LearnerStatus.VALIDATING):
                found.append(latency)
        return found


def run_live(
    folder: Path,
    model: str,
    device: str,
    cell: Mapping[str, Any],
    learner: Mapping[str, Any] | None,
    title: str,
) -> LiveRun:
    """Run a cell until its last grasp is done and, with a learner, the update in work then.

    Args:
        folder: for everything that the nodes write; new.
        model: that serves at first.
        device: of the segmentation node.
        cell: parameters of the cell node.
        learner: parameters of the learner node; None: nothing is learned.
        title: of the progress bar.

    Raises:
        RiseError: a node ended, or nothing happens any more.
    """
    (folder / "log").mkdir(parents=True)
    (folder / EPISODES).mkdir()
    episodes = str(folder / EPISODES)
    domain = free_domain()
    env = environment(domain, folder / "log" / "ros")
    os.environ.update({key: env[key] for key in env if key.startswith(("FAST", "ROS_"))})
    models, picks = folder / MODELS, folder / PICKS
    nodes: list[NodeProcess] = []

    def start(name: str, parameters: Mapping[str, Any]) -> NodeProcess:
        nodes.append(NodeProcess(name, parameters, env, folder / "log" / f"{name}.log"))
        return nodes[-1]

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    watcher = _Watcher(context)
    try:
        served = {"model": model, "device": device}
        if learner is not None:
            start("learner_node", {"episode_store": episodes, "model_store": str(models), **learner})
            served["model_store"] = str(models)
        start("segmentation_node", served)
        start("interaction_node", {"episode_store": episodes})
        robot = start("cell_node", {**cell, "log": str(picks)})
        _follow(robot, nodes, picks, int(cell["picks"]), watcher, title)
        _await_episodes(folder / EPISODES, int(cell["picks"]), watcher)
        if learner is not None:
            print("waiting for the update in work", flush=True)
            end = time.monotonic() + LAST_UPDATE
            while not watcher.rests() and time.monotonic() < end:
                _check(nodes)
                watcher.spin(1.0)
        return LiveRun(folder, read_picks(picks), watcher.latencies, watcher.states)
    finally:
        for node in reversed(nodes):
            node.stop()
        watcher.close()
        rclpy.shutdown(context=context)


def read_picks(path: Path) -> list[dict[str, Any]]:
    """The records of a cell node; [] while there is none."""
    if not path.is_file():
        return []
    return [
        json.loads(line)
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]


def _follow(
    robot: NodeProcess, nodes: list[NodeProcess], picks: Path, total: int, watcher: _Watcher, title: str
) -> None:
    """Watches the grasps until the robot has done the last one."""
    deadline = time.monotonic() + START
    with tqdm(total=total, desc=title, unit="grasp", smoothing=0.1) as bar:
        while robot.poll() is None:
            watcher.spin(0.5)
            done = read_picks(picks)
            if len(done) > bar.n:
                bar.set_postfix(success=f"{sum(p['success'] for p in done[-20:]) / len(done[-20:]):.0%}")
                bar.update(len(done) - bar.n)
                deadline = time.monotonic() + STUCK
            _check(nodes)
            if time.monotonic() > deadline:
                raise RiseError(
                    f"no grasp for {STUCK:.0f} s; the logs in {robot.log and robot.log.parent} say why"
                )
        done = read_picks(picks)
        bar.update(len(done) - bar.n)


def _await_episodes(folder: Path, grasps: int, watcher: _Watcher) -> None:
    """Wait until every grasp is an episode, and not for ever: one may have brought none."""
    store, end = EpisodeStore(folder), time.monotonic() + LAST_EPISODES
    while len(store.entries()) < grasps and time.monotonic() < end:
        watcher.spin(0.2)


def _check(nodes: list[NodeProcess]) -> None:
    for node in nodes:
        if node.poll() not in (None, 0) or "cannot be configured" in node.log_tail(3):
            raise RiseError(f"{node.name} does not work; its log {node.log} ends with:\n{node.log_tail()}")


class _Watcher:
    """Listens to the masks' latency and to the learner's state."""

    def __init__(self, context: rclpy.Context) -> None:
        self._node = rclpy.create_node("live_demo", context=context)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self.latencies: list[tuple[int, float]] = []
        self.states: list[tuple[int, int]] = []
        self._node.create_subscription(
            InstanceArray,
            "/segmentation_node/instances",
            lambda message: self.latencies.append((time.time_ns(), message.latency_ms)),
            qos.output(),
        )
        self._node.create_subscription(LearnerStatus, "/learner_node/status", self._on_status, qos.latched())

    def _on_status(self, message: LearnerStatus) -> None:
        if not self.states or self.states[-1][1] != message.state:
            self.states.append((time.time_ns(), message.state))

    def rests(self) -> bool:
        """True when the learner has done nothing for a while: it would have begun what is due."""
        working = (LearnerStatus.LEARNING, LearnerStatus.VALIDATING)
        when, state = self.states[-1] if self.states else (0, LearnerStatus.IDLE)
        return state not in working and time.time_ns() - when > AT_REST * 1e9

    def spin(self, seconds: float) -> None:
        """Listen for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=left)

    def close(self) -> None:
        """Stop listening."""
        self._executor.shutdown()
        self._node.destroy_node()
