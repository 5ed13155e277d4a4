"""The interaction node, alive in a process of its own: grasps become episodes, and nothing stops it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from grasping import label_map, picture
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rise_msgs.msg import GraspEvent, InstanceArray
from rise_msgs.srv import CaptureGraspFrame
from ros_graph import LENS, RELIABLE, Graph, header_of, status_text
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float32

from benchmarks.grasp_trials import from_label_map
from rise_perception.core import resources
from rise_perception.core.regions import mask_iou
from rise_perception.data import ros_images
from rise_perception.grasp_learning.capture.episode import Calibration, Episode, Outcome, Phase
from rise_perception.grasp_learning.capture.episode_store import EpisodeStore
from rise_perception.grasp_learning.labelling.episode_labels import EpisodeLabels, Verdict
from rise_perception.grasp_learning.labelling.label_episode import label_episode
from rise_perception.nodes import interaction_node
from rise_perception.nodes.interaction_parameters import TABLE
from rise_perception.nodes.messages import instance_array

pytestmark = pytest.mark.slow
NODE = "/interaction_node"
SECOND = 10**9
FAST = {"capture_window_s": 0.4, "settle_timeout_s": 2.0, "approach_s": 2.0}


class Cell:
    """A camera, a segmentation node's topic, a picking application and a gripper."""

    gripper_type: type = Float32

    def __init__(self, folder: Path, **parameters: object) -> None:
        self.graph = Graph(folder)
        self.store = folder / "episodes"
        self.parameters = {
            "episode_store": str(self.store),
            "min_free_mb": 0,
            "gripper_topic": "/gripper",
            **FAST,
            **RELIABLE,
            **parameters,
        }
        self.process = self.start()
        reliable = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
        node = self.graph.node
        self._events = node.create_publisher(GraspEvent, "/grasp_events", reliable)
        self._instances = node.create_publisher(InstanceArray, "/segmentation_node/instances", reliable)
        self._gripper = node.create_publisher(self.gripper_type, "/gripper", reliable)
        self.masks = node.create_publisher(Image, "/robot_mask", reliable)
        self.now, self.items, self.number = 1000 * SECOND, (1, 2, 3), 0
        self.wait_for_node()

    def start(self):
        return self.graph.start("interaction_node", self.parameters)

    def wait_for_node(self) -> None:
        self.graph.wait_for_camera_subscriber("interaction_node")
        publishers = (self._events, self._instances, self._gripper)
        self.graph.wait(lambda: all(p.get_subscription_count() for p in publishers), "the subscriptions")
        # A killed node's subscriptions linger for a while; that it counts frames says that it is connected.
        seen, end = len(self.graph.diagnostics), time.monotonic() + 60
        while not any("output rate (Hz): 0.0" not in status_text(s) for s in self.graph.diagnostics[seen:]):
            assert time.monotonic() < end, self.process.log_tail()
            self.show(0.2)

    def show(self, seconds: float, arm: bool = False) -> None:
        """Frames at 10 Hz of stamps, with predictions."""
        for _ in range(round(seconds * 10)):
            self.now += SECOND // 10
            self.number += 1
            frame = picture(*self.items, seed=self.number)
            if arm:  # elsewhere in each frame, also in those that a slow node gets
                image = frame.image.copy()
                image[40:60, 60 + self.number % 8 * 8 :] = 15
                frame = replace(frame, image=image)
            self.graph.send(frame.image, frame.depth, self.now)
            labels = label_map(*self.items)
            header = header_of(self.now)
            message = ros_images.fill(Image(header=header), labels, "mono16")
            self._instances.publish(instance_array(header, message, from_label_map(labels), None, "model-1"))
            self.graph.spin(0.05)

    def say(
        self, phase: int, grasp_id: str, target: int = 1, outcome: int = 0, stamp: int | None = None
    ) -> None:
        header = header_of(self.now if stamp is None else stamp)
        event = GraspEvent(header=header, grasp_id=grasp_id, phase=phase, target_id=target, outcome=outcome)
        self._events.publish(event)
        self.graph.spin(0.2)

    def capture(self, phase: int, grasp_id: str, arm_for: int = 0, **fields: object):
        """Calls the service; an arm moves for ``arm_for`` fifths of a second, then the scene rests."""
        client = self.graph.node.create_client(CaptureGraspFrame, f"{NODE}/capture")
        self.graph.wait(client.service_is_ready, "the service")
        future = client.call_async(CaptureGraspFrame.Request(grasp_id=grasp_id, phase=phase, **fields))
        end, steps = time.monotonic() + 30, 0
        while not future.done() and time.monotonic() < end:
            self.show(0.2, arm=steps < arm_for)
            steps += 1
        assert future.done()
        self.graph.node.destroy_client(client)
        return future.result()

    def grip(self, reading: float) -> None:
        self._gripper.publish(Float32(data=reading))
        self.graph.spin(0.2)

    def grasp(self, grasp_id: str, rest: float = 1.5) -> None:
        """A whole grasp that takes item 1, and ``rest`` seconds of frames after it."""
        self.items = (1, 2, 3)
        self.show(0.8)
        self.say(GraspEvent.BEFORE, grasp_id)
        self.show(0.4, arm=True)
        self.say(GraspEvent.CLOSED, grasp_id)
        self.items = (2, 3)
        self.show(0.3, arm=True)
        self.say(GraspEvent.AFTER, grasp_id, outcome=GraspEvent.SUCCESS)
        self.show(rest)

    def entry(self, grasp_id: str, timeout: float = 40):
        """Waits for the episode of a grasp; gives (entry, episode, episode_labels)."""
        return self.graph.wait(lambda: self.find(grasp_id), f"the episode of {grasp_id}", timeout)

    def find(self, grasp_id: str):
        if not self.store.is_dir():
            return None
        found = [e for e in EpisodeStore(self.store) if e[1].grasp.grasp_id.startswith(grasp_id)]
        return found[0] if found else None


@pytest.fixture(scope="module")
def cell(tmp_path_factory) -> Iterator[Cell]:
    mask = {
        "robot_mask_topic": "/robot_mask",
        "qos_overrides./robot_mask.subscription.reliability": "reliable",
    }
    cell = Cell(tmp_path_factory.mktemp("cell"), **mask)
    yield cell
    cell.graph.close()


def test_a_grasp_becomes_an_episode_with_everything(cell):
    cell.grasp("first")
    entry, episode, episode_labels = cell.entry("first")
    assert entry.verdict == episode_labels.verdict == Verdict.CONFIRMED, episode_labels.reason
    assert mask_iou(episode_labels.masks[0], label_map(1) == 1) > 0.9
    assert episode.model_version == "model-1"
    assert episode.grasp.outcome == Outcome.SUCCESS
    assert episode.grasp.target_id == 1
    frame = episode.before.frame
    assert frame.depth is not None
    assert frame.camera is not None
    assert frame.camera.fx == 200
    assert episode.before.calibration == episode.after.calibration == Calibration.of(CameraInfo(**LENS))
    assert (episode.before.model_version, episode.after.model_version) == ("model-1", "model-1")
    assert set(episode.grasp.stamps) == {Phase.BEFORE, Phase.CLOSED, Phase.AFTER}
    assert frame.frame_id == "camera_color_optical_frame"
    assert set(episode.before.instances.labels.tolist()) == {1, 2, 3}
    assert set(episode.after.instances.labels.tolist()) == {2, 3}
    status = cell.graph.wait_for_diagnostics("confirmed: agrees: 1")
    assert "interaction" in status.name
    assert "episodes in the store: 1" in status_text(status)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"grasp_id": "", "phase": 0}, "is empty"),
        ({"grasp_id": "bad", "phase": 17}, "phase 17"),
        ({"grasp_id": "bad", "phase": 0, "outcome": 99}, "outcome 99"),
        ({"grasp_id": "bad", "phase": 0, "target": -5}, "target_id -5"),
        ({"grasp_id": "bad", "phase": 3}, "no BEFORE"),
        ({"grasp_id": "bad", "phase": 0, "stamp": 5}, "one clock"),
    ],
)
def test_malformed_events_are_refused_with_a_reason(cell, fields, says):
    cell.show(0.3)
    cell.say(**fields)
    status = cell.graph.wait_for_diagnostics(says)
    assert status.level == b"\x02"
    assert "event refused" in status_text(status)


def test_the_service_takes_both_sides(cell):
    cell.items = (1, 2, 3)
    cell.show(0.6)

    before = cell.capture(GraspEvent.BEFORE, "service")
    assert before.success, before.message
    assert before.stamp.sec >= 1000
    cell.items = (2, 3)
    after = cell.capture(GraspEvent.AFTER, "service")
    assert after.success, after.message
    assert "confirmed" in after.message
    entry, episode, _ = cell.entry("service")
    assert after.episode_id == entry.id
    assert after.stamp == Time(
        sec=episode.after.frame.stamp // SECOND, nanosec=episode.after.frame.stamp % SECOND
    )
    for phase, grasp_id, fields, says in (
        (GraspEvent.LIFTED, "x", {}, "phase 2"),
        (GraspEvent.AFTER, "unknown", {}, "no BEFORE"),
        (GraspEvent.BEFORE, "", {}, "is empty"),
        (GraspEvent.BEFORE, "x", {"timeout_s": float("nan")}, "timeout_s"),
        (GraspEvent.BEFORE, "x", {"timeout_s": -1.0}, "timeout_s"),
    ):
        answer = cell.capture(phase, grasp_id, **fields)
        assert not answer.success
        assert says in answer.message


def test_a_call_that_is_made_again_gets_an_answer_of_its_own(cell):
    cell.items = (1, 2, 3)
    cell.show(0.6, arm=True)
    answer = cell.capture(GraspEvent.BEFORE, "again", arm_for=100, timeout_s=0.5)
    assert (answer.success, answer.message) == (False, "no settled frame in time")
    answer = cell.capture(GraspEvent.BEFORE, "again", arm_for=5)
    assert answer.success, answer.message
    cell.items = (2, 3)
    answer = cell.capture(GraspEvent.AFTER, "again")
    assert answer.success, answer.message


def grip_and_release(cell: Cell) -> None:
    cell.items = (1, 2, 3)
    cell.show(0.3)
    cell.grip(0.9)
    cell.show(0.8)
    cell.show(0.3, arm=True)
    cell.grip(0.1)
    cell.items = (2, 3)
    cell.show(0.4, arm=True)
    cell.grip(0.9)
    cell.show(1.5)


def test_a_gripper_alone_makes_an_episode(cell):
    grip_and_release(cell)
    _, episode, episode_labels = cell.entry("gripper-")
    assert episode.grasp.outcome == Outcome.UNKNOWN
    assert episode_labels.verdict == Verdict.CONFIRMED, episode_labels.reason


class JointCell(Cell):
    """Its gripper is a joint among others, and speaks of it with stamps."""

    gripper_type = JointState

    def grip(self, reading: float) -> None:
        header = header_of(self.now)
        for names, positions in (
            (["elbow"], [0.1]),  # another part of the robot
            (["elbow", "finger"], [0.1]),  # no reading
            (["elbow", "finger"], [0.1, reading]),
        ):
            self._gripper.publish(JointState(header=header, name=names, position=positions))
        self.graph.spin(0.2)


def test_a_joint_of_the_gripper_makes_an_episode(tmp_path):
    cell = JointCell(tmp_path, gripper_joint="finger")
    try:
        grip_and_release(cell)
        _, episode, episode_labels = cell.entry("gripper-")
        assert episode_labels.verdict == Verdict.CONFIRMED, episode_labels.reason
        closed = int(episode.grasp.grasp_id.split("-")[1])
        assert episode.grasp.stamps == {Phase.CLOSED: closed}
        assert closed % (SECOND // 10) == 0  # the stamp of the reading
        assert episode.before.frame.stamp < closed < episode.grasp.stamp < episode.after.frame.stamp
        assert EpisodeStore(cell.store).entries()[1:] == []
    finally:
        cell.graph.close()


@pytest.mark.parametrize("late", [-1, 6])
def test_robot_masks_are_kept_also_when_they_come_after_their_frames(cell, late):
    cell.items = (1, 2, 3)
    robot = np.zeros((120, 160), np.uint8)
    robot[:20, 140:] = 255
    for part in range(2):
        for _ in range(14):
            header = header_of(cell.now - late * SECOND // 10)
            cell.masks.publish(ros_images.fill(Image(header=header), robot, "mono8"))
            cell.show(0.1)
        if part == 0:
            cell.say(GraspEvent.BEFORE, f"masked {late}")
            cell.items = (2, 3)
            cell.say(GraspEvent.AFTER, f"masked {late}", outcome=GraspEvent.SUCCESS)
    _, episode, episode_labels = cell.entry(f"masked {late}")
    np.testing.assert_array_equal(episode.after.robot, robot > 0)
    assert not episode_labels.known[robot > 0].any()


def test_capturing_is_switched_off_and_on(cell):
    def switch(value: bool) -> None:
        parameter = Parameter("capturing", value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        assert cell.graph.call(SetParameters, f"{NODE}/set_parameters", request).results[0].successful

    switch(False)
    cell.grasp("while off")
    cell.graph.wait_for_diagnostics("capturing is switched off")
    assert cell.find("while off") is None
    switch(True)
    cell.grasp("on again")
    assert cell.entry("on again")


def test_what_was_not_captured_is_counted(cell):
    cell.show(0.5)
    cell.say(GraspEvent.BEFORE, "dropped")
    cell.say(GraspEvent.ABORTED, "dropped")
    cell.graph.wait_for_diagnostics("not captured: aborted: 1")


def test_parameters_are_described_bounded_and_those_of_the_yaml_file(cell):
    import yaml

    own = yaml.safe_load((resources.find("config") / "interaction_node.yaml").read_text())
    documented = own["/**/interaction_node"]["ros__parameters"]
    listed = cell.graph.call(ListParameters, f"{NODE}/list_parameters", ListParameters.Request()).result.names
    names = [
        n for n in listed if not n.startswith(("qos_overrides", "use_sim_time", "start_type_description"))
    ]
    assert sorted(names) == sorted(documented)
    request = DescribeParameters.Request(names=names)
    for descriptor in cell.graph.call(DescribeParameters, f"{NODE}/describe_parameters", request).descriptors:
        assert descriptor.description.endswith("."), descriptor.name
        if descriptor.type == Parameter.Type.DOUBLE.value:
            assert descriptor.floating_point_range, descriptor.name
    assert {name: parameter.default for name, parameter in TABLE.items()} == documented


def test_killed_while_it_writes_it_comes_back_with_whole_episodes(tmp_path):
    cell = Cell(tmp_path)
    try:
        for number in range(3):
            cell.grasp(f"killed-{number}", rest=0.4)
            time.sleep(0.1 * number)  # somewhere between the choice of the frames and the end of the writing
            os.kill(cell.process.pid, signal.SIGKILL)
            cell.process.wait(10)
            assert EpisodeStore(cell.store).damaged() == []
            cell.graph.spin(0.5)  # what the killed node has said last
            cell.process = cell.start()
            cell.wait_for_node()
        for number in range(5):  # an event that comes before the node has found its topic is lost
            cell.grasp(f"at last {number}")
            with contextlib.suppress(pytest.fail.Exception):
                cell.entry(f"at last {number}", 15)
                break
        else:
            pytest.fail(cell.process.log_tail())
        assert EpisodeStore(cell.store).damaged() == []
        assert not list(cell.store.glob(".incoming*"))
    finally:
        cell.graph.close()


class Host:
    """The node in a thread of this process."""

    def __init__(self, domain: int, parameters: dict[str, object]) -> None:
        given = [word for k, v in parameters.items() for word in ("-p", f"{k}:={json.dumps(v)}")]
        rclpy.init(args=["--ros-args", *given], domain_id=domain)
        self._node = interaction_node.InteractionNode()
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def log_tail(self) -> str:
        return "in this process"

    def stop(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()
        rclpy.shutdown()


class HostedCell(Cell):
    def start(self):
        return Host(self.graph.domain, self.parameters)


def test_a_call_is_answered_when_the_analysis_does_not_keep_up(tmp_path, monkeypatch):
    analyse = threading.Event()

    def slow(episode: Episode) -> EpisodeLabels:
        assert analyse.wait(100)
        return label_episode(episode)

    # Held, not slowed down: when the queue is full must not depend on the machine.
    monkeypatch.setattr(interaction_node, "label_episode", slow)
    monkeypatch.setattr(interaction_node, "WAITING_EPISODES", 1)
    cell = HostedCell(tmp_path)
    try:
        for name in ("in work", "next"):
            cell.grasp(name)
        cell.items = (1, 2, 3)
        cell.show(0.6)
        assert cell.capture(GraspEvent.BEFORE, "one too many").success
        cell.items = (2, 3)
        answer = cell.capture(GraspEvent.AFTER, "one too many")
        assert (answer.success, answer.message) == (
            False,
            "an episode was dropped: the analysis does not keep up",
        )
        analyse.set()
        cell.entry("next")
    finally:
        analyse.set()
        cell.process.stop()
        cell.graph.close()


def test_nothing_is_analysed_while_the_disk_is_full(tmp_path, monkeypatch):
    analysed: list[Episode] = []
    # What is not done leaves no trace but this.
    monkeypatch.setattr(interaction_node, "label_episode", analysed.append)
    cell = HostedCell(tmp_path, min_free_mb=1 << 24)
    try:
        cell.grasp("no room")
        cell.graph.wait_for_diagnostics("not capturing")
        assert analysed == []
    finally:
        cell.process.stop()
        cell.graph.close()


def test_a_full_disk_stops_capturing_and_says_so(tmp_path):
    cell = Cell(tmp_path, min_free_mb=1 << 24)
    try:
        cell.grasp("no room")
        status = cell.graph.wait_for_diagnostics("not capturing")
        assert "have to stay free" in status_text(status)
        assert status.level == b"\x02"
        assert EpisodeStore(cell.store).entries() == []
        assert cell.process.poll() is None
        second = cell.start()
        assert second.wait(60) == 2
        assert "another process writes" in second.log_tail()
        assert cell.process.stop() == 0
    finally:
        cell.graph.close()
