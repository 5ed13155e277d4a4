"""The learner node, alive in a process of its own: versions by service, an update by action, a kill."""

from __future__ import annotations

import contextlib
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import picking
import pytest
import torch
import yaml
from action_msgs.msg import GoalStatus
from rcl_interfaces.srv import DescribeParameters, ListParameters
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from rise_msgs.action import FineTune
from rise_msgs.msg import LearnerStatus
from rise_msgs.srv import ListModels, ReloadModel, RollbackModel, SnapshotModel
from ros_graph import PATIENCE, Graph, status_text
from std_srvs.srv import SetBool, Trigger
from tiny import tiny_config

from rise_perception.core import resources
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.grasp_learning.update.canary import CanaryConfig, Trial
from rise_perception.grasp_learning.update.memory import read_memory, write_memory
from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.network.build import build_network
from rise_perception.network.card import ModelCard
from rise_perception.network.checkpoint import save_model
from rise_perception.nodes import qos
from rise_perception.nodes.learner_node import ASK_AGAIN
from rise_perception.nodes.learner_parameters import TABLE

pytestmark = pytest.mark.slow
NODE = "/learner_node"


class Robot:
    """A learner node with a store of episodes and anchors; optionally a segmentation node."""

    def __init__(self, folder: Path, dark: bool = False, **parameters: object) -> None:
        self.graph, self.models = Graph(folder), folder / "models"
        (folder / "data").mkdir()
        torch.manual_seed(0)
        network = build_network(tiny_config(**picking.NETWORK))
        save_model(folder / "shipped", network, ModelCard("cell", network.config, score_threshold=0.0))
        self.episodes = EpisodeStore(folder / "episodes", write=True, min_free_bytes=0)
        for number in range(24):
            grasp = picking.make_grasp(number)
            labels = label_episode(grasp)
            if dark:
                grasp.before.frame.image[:] = 0
            self.episodes.add(grasp, labels)
        self.parameters = {
            "episode_store": str(folder / "episodes"),
            "model_store": str(self.models),
            "model": str(folder / "shipped"),
            "anchors": str(picking.write_anchors(folder / "data/anchors.json", 4, 0)),
            "heldout_anchors": str(picking.write_anchors(folder / "data/heldout.json", 3, 1)),
            "iterations": 3,
            "batch": 2,
            "episode_batch": 2,
            "min_new": 1000,  # only on request
            "min_gain": 0.3,  # more than luck brings a network at its random start
            "nice": 3,
            **parameters,
        }
        self.status = self.graph.listen(f"{NODE}/status", LearnerStatus, qos.latched())
        self.process = self.start()
        self.wait_for_status()

    def start(self):
        return self.graph.start("learner_node", self.parameters)

    def wait_for_status(self) -> LearnerStatus:
        seen = len(self.status)
        return self.graph.wait(lambda: self.status[seen:] and self.status[-1], "a status")

    def call(self, kind: type, name: str, **fields: object):
        return self.graph.call(kind, f"{NODE}/{name}", kind.Request(**fields))


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    robot = Robot(tmp_path_factory.mktemp("robot"))
    yield robot
    robot.graph.close()


def test_it_says_what_it_does_and_stands_back(robot):
    status = robot.status[-1]
    base = ModelStore(robot.models).serving().version
    assert (status.serving_version, status.database_version, status.promoted) == (base, 1, 0)
    assert (status.episodes_total, status.episodes_accepted) == (24, 24)
    assert math.isnan(status.loss)
    assert status.candidate_version == ""
    assert os.getpriority(os.PRIO_PROCESS, robot.process.pid) >= 3
    text = status_text(robot.graph.wait_for_diagnostics("waiting for episodes"))
    assert f"serving version: {base}" in text
    assert "24, of which 24 teach" in text


def test_names_that_lead_outside_are_refused(robot):
    for name in ("../shipped", "/etc/passwd", "a/b", ".lock", "current.json", "nothing-12345678"):
        answer = robot.call(RollbackModel, "rollback_model", version=name)
        assert not answer.success
        assert answer.message
        assert answer.version == ModelStore(robot.models).serving().version
    answer = robot.call(RollbackModel, "rollback_model")
    assert "first version" in answer.message


def test_snapshot_list_rollback_and_reset(robot):
    base = ModelStore(robot.models).serving().version
    snapshot = robot.call(SnapshotModel, "snapshot_model", note="before the test")
    assert snapshot.success, snapshot.message
    listed = robot.call(ListModels, "list_models").models
    assert {m.version: m.serving for m in listed} == {base: True, snapshot.version: False}
    assert next(m for m in listed if not m.serving).note == "before the test"
    answer = robot.call(RollbackModel, "rollback_model", version=snapshot.version)
    assert (answer.success, answer.version) == (True, snapshot.version)
    robot.graph.wait(lambda: robot.status[-1].serving_version == snapshot.version, "the status")
    assert robot.status[-1].database_version == 2
    assert robot.call(Trigger, "reset").success
    assert ModelStore(robot.models).serving().version == base


def test_a_refused_version_is_asked_for_until_it_serves(robot):
    """A segmentation node that is busy, or has no model yet, refuses; a rollback is not lost for that."""
    asked: list[str] = []
    refuses = False

    def answer(request: ReloadModel.Request, response: ReloadModel.Response) -> ReloadModel.Response:
        asked.append(request.version)
        response.success = not refuses
        response.message = "" if response.success else "another version is being loaded"
        return response

    base = ModelStore(robot.models).serving().version
    service = robot.graph.node.create_service(ReloadModel, "/segmentation_node/reload_model", answer)
    robot.graph.wait_for_diagnostics(f"segmentation node: serves {base}")
    assert asked == [base]
    asked.clear()
    refuses = True
    version = robot.call(SnapshotModel, "snapshot_model", note="").version
    assert robot.call(RollbackModel, "rollback_model", version=version).success
    says = f"the segmentation node does not serve {version} and is asked again: another version is being"
    robot.graph.wait(lambda: says in robot.status[-1].detail, "the status")
    assert robot.graph.wait_for_diagnostics(says).level == b"\x01"
    robot.graph.wait(lambda: len(asked) > 1, "a second try")
    refuses = False
    robot.graph.wait_for_diagnostics(f"segmentation node: serves {version}")
    robot.graph.wait(lambda: "does not serve" not in robot.status[-1].detail, "the status")
    tries = len(asked)
    assert asked == [version] * tries
    robot.graph.spin(2 * ASK_AGAIN)
    assert len(asked) == tries  # and not any more
    assert robot.call(Trigger, "reset").success
    robot.graph.wait(lambda: asked[-1] == base, "the first version")
    robot.graph.node.destroy_service(service)


def test_pausing_is_remembered_and_resumed(robot):
    assert robot.call(SetBool, "set_paused", data=True).success
    robot.graph.wait(lambda: robot.status[-1].state == LearnerStatus.PAUSED, "the pause")
    assert robot.graph.wait_for_diagnostics("paused by request").level == b"\x01"
    assert robot.call(SetBool, "set_paused", data=False).success
    robot.graph.wait(lambda: robot.status[-1].state == LearnerStatus.IDLE, "the end of the pause")


def fine_tune(robot, **fields):
    client = ActionClient(robot.graph.node, FineTune, f"{NODE}/fine_tune")
    robot.graph.wait(client.server_is_ready, "the action")
    stages: list[str] = []
    sent = client.send_goal_async(FineTune.Goal(**fields), lambda m: stages.append(m.feedback.stage))
    robot.graph.wait(sent.done, "the goal's answer")
    assert sent.result().accepted
    answer = sent.result().get_result_async()
    robot.graph.wait(answer.done, "the result")
    return answer.result(), stages


def test_an_update_by_action_is_measured_and_a_useless_one_rejected(robot):
    """Three steps teach a network at its random start nothing: the gate says so, with figures."""
    base = ModelStore(robot.models).serving().version
    answer, stages = fine_tune(robot, iterations=2, promote=True)
    result = answer.result
    assert answer.status == GoalStatus.STATUS_SUCCEEDED
    assert result.success
    assert not result.promoted
    assert "held-out" in result.message
    assert math.isfinite(result.anchor_ap_before + result.anchor_ap_after)
    assert math.isfinite(result.heldout_quality_before + result.heldout_quality_after)
    assert stages
    robot.graph.wait(lambda: robot.status[-1].rejected == 1, "the count")
    assert result.version not in ("", base)
    robot.graph.wait(lambda: robot.status[-1].candidate_version == result.version, "the candidate")
    assert robot.status[-1].last_verdict.startswith("rejected: ")
    assert ModelStore(robot.models).serving().version == base
    answer, _ = fine_tune(robot, episode_ids=["nothing"])
    assert answer.status == GoalStatus.STATUS_ABORTED
    assert "'nothing' is not stored" in answer.result.message
    robot.graph.wait(lambda: robot.status[-1].state == LearnerStatus.IDLE, "the end")
    said = status_text(robot.graph.wait_for_diagnostics("last error: episode 'nothing' is not stored"))
    assert said.startswith("waiting for episodes")


def test_a_goal_that_cannot_be_met_is_told_why(robot):
    """Two updates at a time, and numbers beyond all bounds: aborted at once, with the reason."""
    answer, _ = fine_tune(robot, iterations=2_000_000)
    assert answer.status == GoalStatus.STATUS_ABORTED
    assert answer.result.message == "iterations is 2000000; at most 1000000, or 0 for the usual number"
    client = ActionClient(robot.graph.node, FineTune, f"{NODE}/fine_tune")
    robot.graph.wait(client.server_is_ready, "the action")
    sent = client.send_goal_async(FineTune.Goal(iterations=100_000))
    robot.graph.wait(lambda: robot.status[-1].iteration > 0, "a step")
    answer, _ = fine_tune(robot, iterations=1)
    assert answer.status == GoalStatus.STATUS_ABORTED
    assert "another update is under way" in answer.result.message
    assert "update refused: another" in status_text(robot.graph.wait_for_diagnostics("update refused"))
    first = sent.result()
    first.cancel_goal_async()
    ended = first.get_result_async()
    robot.graph.wait(ended.done, "the end")
    assert ended.result().status == GoalStatus.STATUS_CANCELED


def test_parameters_are_described_bounded_and_those_of_the_yaml_file(robot):
    own = yaml.safe_load((resources.find("config") / "learner_node.yaml").read_text())
    documented = own["/**/learner_node"]["ros__parameters"]
    listed = robot.call(ListParameters, "list_parameters").result.names
    names = [
        n for n in listed if not n.startswith(("qos_overrides", "use_sim_time", "start_type_description"))
    ]
    assert sorted(names) == sorted(documented)
    for descriptor in robot.call(DescribeParameters, "describe_parameters", names=names).descriptors:
        assert descriptor.description.endswith("."), descriptor.name
        if descriptor.type == Parameter.Type.DOUBLE.value:
            assert descriptor.floating_point_range, descriptor.name
    assert {name: parameter.default for name, parameter in TABLE.items()} == documented


def put_on_trial(folder: Path) -> str:
    """What a learner leaves behind that is killed while a candidate is on trial."""
    with contextlib.closing(ModelStore(folder, write=True)) as models, models.workplace() as place:
        card = models.serving().card
        torch.manual_seed(1)
        card = save_model(place, build_network(card.network), replace(card, metrics={}))
        models.add(place, card, {"accepted": True, "episodes": []})
    trials = (Trial(card.version, 10**18, "s" * count) for count in range(10))
    trial = next(trial for trial in trials if trial.is_turn(CanaryConfig(0.5)))
    write_memory(folder, replace(read_memory(folder)[0], trial=trial))
    return card.version


def test_killed_in_an_update_it_comes_back_with_the_last_good_version(robot):
    base = ModelStore(robot.models).serving().version
    client = ActionClient(robot.graph.node, FineTune, f"{NODE}/fine_tune")
    robot.graph.wait(client.server_is_ready, "the action")
    client.send_goal_async(FineTune.Goal(iterations=100_000))
    robot.graph.wait(lambda: robot.status[-1].iteration > 0, "a step")
    os.kill(robot.process.pid, signal.SIGKILL)
    assert robot.process.wait(PATIENCE) == -signal.SIGKILL
    assert ModelStore(robot.models).serving().version == base
    candidate = put_on_trial(robot.models)
    asked: list[str] = []

    def answer(request: ReloadModel.Request, response: ReloadModel.Response) -> ReloadModel.Response:
        asked.append(request.version)
        response.success = True
        return response

    service = robot.graph.node.create_service(ReloadModel, "/segmentation_node/reload_model", answer)
    robot.parameters["canary_fraction"] = 0.5
    robot.process = robot.start()
    robot.wait_for_status()
    assert robot.status[-1].serving_version == base
    assert not list(robot.models.glob(".incoming*"))
    robot.graph.wait(lambda: asked, "a version")
    assert asked == [candidate]  # has its turn, as before the kill
    assert f"on trial: {candidate}" in status_text(robot.graph.wait_for_diagnostics("on trial: cell"))
    assert robot.call(RollbackModel, "rollback_model").version == base
    robot.graph.wait(lambda: asked[-1] == base, "the serving version")
    robot.graph.node.destroy_service(service)
    os.kill(robot.process.pid, signal.SIGINT)
    assert robot.process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_episodes_that_teach_nothing_are_no_error(tmp_path):
    """All labels are in pictures that show nothing."""
    robot = Robot(tmp_path, dark=True, min_new=8)
    try:
        said = "0 new episodes teach something, min_new is 8"
        robot.graph.wait(lambda: robot.status and said in robot.status[-1].detail, "the reason")
        assert robot.status[-1].state == LearnerStatus.IDLE
    finally:
        robot.graph.close()


def test_without_anchors_it_says_what_is_missing(tmp_path, tiny_model):
    graph = Graph(tmp_path)
    try:
        parameters = {
            "model_store": str(tmp_path / "m"),
            "episode_store": str(tmp_path / "e"),
            "model": str(tiny_model),
        }
        process = graph.start("learner_node", parameters)
        assert process.wait(PATIENCE) == 2
        assert "no labelled anchors to replay" in process.log_tail()
    finally:
        graph.close()
