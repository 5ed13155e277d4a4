"""Another version while frames come in: none is lost, each says who made it, strangers are refused."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import picking
import pytest
from rise_msgs.msg import InstanceArray
from rise_msgs.srv import ReloadModel, RollbackModel, SnapshotModel
from ros_graph import RELIABLE, Graph, stamp_of, status_text
from safetensors.torch import load_file, save_file
from std_srvs.srv import Trigger
from test_nodes_learner import Robot
from tiny import tiny_config

from rise_perception.grasp_learning.update.model_store import ModelStore
from rise_perception.network.build import build_network
from rise_perception.network.card import WEIGHTS, ModelCard, file_checksum
from rise_perception.network.checkpoint import save_model

pytestmark = pytest.mark.slow
NODE = "/segmentation_node"
SECOND = 10**9


def add_version(store: ModelStore, shift: float) -> str:
    """A version with slightly other weights."""
    serving = store.serving()
    with store.workplace() as place:
        weights = {
            name: tensor + shift if tensor.is_floating_point() else tensor
            for name, tensor in load_file(serving.folder / WEIGHTS).items()
        }
        save_file(weights, place / WEIGHTS)
        card = dataclasses.replace(serving.card, checksum=file_checksum(place / WEIGHTS))
        return store.add(place, card, {"accepted": True}).version


def reload(graph: Graph, version: str) -> ReloadModel.Response:
    return graph.call(ReloadModel, f"{NODE}/reload_model", ReloadModel.Request(version=version))


def test_versions_change_between_two_frames_and_none_is_lost(tmp_path: Path, tiny_model: Path, scene) -> None:
    store = ModelStore(tmp_path / "models", write=True)
    base = store.begin(tiny_model).version
    newer = add_version(store, 1e-4)
    store.promote(newer, base)
    graph, (image, _) = Graph(tmp_path), scene
    parameters = {"model": str(tiny_model), "model_store": str(store.root), "depth_topic": "", **RELIABLE}
    try:
        process = graph.start("segmentation_node", parameters)
        instances = graph.listen(f"{NODE}/instances", InstanceArray)
        graph.wait(graph.camera_subscribers, "the camera's subscriber")
        graph.send(image, None, SECOND)
        graph.wait(lambda: instances, "a frame")
        assert instances[-1].model_version == newer  # from the start, what served last

        client = graph.node.create_client(ReloadModel, f"{NODE}/reload_model")
        graph.wait(client.service_is_ready, "the service")
        stamp, sent = SECOND, []
        for wanted in (base, newer, base):
            future = client.call_async(ReloadModel.Request(version=wanted))
            after = 0
            while after < 3:  # one frame at a time: each is answered, whatever happens meanwhile
                after += bool(future.done())
                stamp += SECOND // 10
                sent.append(stamp)
                graph.send(image, None, stamp)
                graph.wait(lambda: stamp_of(instances[-1]) == sent[-1], f"frame {stamp}", 20)
            assert (future.result().success, future.result().version) == (True, wanted)
            assert instances[-1].model_version == wanted
        assert [stamp_of(m) for m in instances[1:]] == sent
        versions = [m.model_version for m in instances]
        assert set(versions) == {base, newer}
        assert sum(a != b for a, b in itertools.pairwise(versions)) == 3  # no frame in between

        outside = tmp_path / "outside"
        shutil.copytree(tiny_model, outside)
        (store.root / "linked").symlink_to(outside)
        (store.root / newer / WEIGHTS).write_bytes(b"damaged")
        for name, why in (
            ("../outside", "no name of a model"),
            (str(outside), "no name of a model"),
            ("linked", "is a link"),
            ("nothing-12345678", "no version"),
            (newer, "checksum"),
        ):
            answer = reload(graph, name)
            assert not answer.success
            assert why in answer.message
            assert answer.version == base
        answer = reload(graph, "")  # the serving version is damaged: the last good one
        assert (answer.success, answer.version) == (True, base)
        assert process.stop() == 0
    finally:
        graph.close()


def test_a_rollback_at_the_learner_reaches_the_segmentation_node(tmp_path: Path) -> None:
    robot = Robot(tmp_path)
    try:
        model = ModelStore(robot.models).serving().folder
        parameters = {"model": str(model), "model_store": str(robot.models), "depth_topic": "", **RELIABLE}
        version = robot.call(SnapshotModel, "snapshot_model", note="").version
        assert robot.call(RollbackModel, "rollback_model", version=version).success
        assert robot.call(Trigger, "reset").success
        robot.graph.start("segmentation_node", parameters)
        base = ModelStore(robot.models).serving().version
        robot.graph.wait_for_diagnostics(f"serving model: {base}\ndatabase version: 3")  # as the store counts
        assert robot.call(RollbackModel, "rollback_model", version=version).success
        robot.graph.wait_for_diagnostics(f"serving model: {version}\ndatabase version: 4")
    finally:
        robot.graph.close()


def test_a_learner_that_comes_later_says_what_serves_from_the_start(tmp_path: Path) -> None:
    robot = Robot(tmp_path)
    try:
        base = ModelStore(robot.models).serving().version
        robot.process.stop()
        shutil.rmtree(robot.models)
        robot.models.mkdir()  # as when both start at once
        network = build_network(tiny_config(**picking.NETWORK))
        save_model(tmp_path / "own", network, ModelCard("own", network.config, score_threshold=0.0))
        own = {
            "model": str(tmp_path / "own"),
            "model_store": str(robot.models),
            "depth_topic": "",
            **RELIABLE,
        }
        robot.graph.start("segmentation_node", own)
        robot.graph.wait_for_diagnostics("serving model: own-")
        assert not [s for s in robot.graph.diagnostics if "can serve" in status_text(s)]
        robot.process = robot.start()
        robot.graph.wait_for_diagnostics(f"serving model: {base}")
        robot.graph.wait_for_diagnostics(f"segmentation node: serves {base}")
    finally:
        robot.graph.close()
