"""What an integrator finds: namespaces, parameters that change, services, frames, faults that are named."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from builtin_interfaces.msg import Time
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rise_msgs.msg import Referral
from rise_msgs.srv import CaptureGraspFrame, Refer, Segment
from ros_graph import Graph, header_of, stamp_of, status_text
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

from rise_perception.data import ros_images
from rise_perception.inference.segmenter import Segmenter
from rise_perception.referring.answer import Status
from rise_perception.referring.referrer import Referrer

pytestmark = pytest.mark.slow
CELL, SECOND = "/cell1", 10**9
NODE, INSTANCES = f"{CELL}/segmentation_node", f"{CELL}/segmentation_node/instances"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Graph]:
    """Two nodes in a namespace, of which one has a simulation's clock that never comes."""
    folder = tmp_path_factory.mktemp("graph")
    graph = Graph(folder, CELL)
    topics = ("/image", "/depth", "/camera_info", "/depth_camera_info")
    reliable = {f"qos_overrides.{CELL}{topic}.subscription.reliability": "reliable" for topic in topics}
    # The grammar alone answers sentences: what it says of random masks can be reckoned here as well.
    own = {"model": str(tiny_model), "device": "cpu", "refer_model": "none"}
    graph.start("segmentation_node", {**own, "reference": str(folder / "reference"), **reliable})
    store = {"episode_store": str(folder / "episodes"), "min_free_mb": 0, "use_sim_time": True}
    graph.start("interaction_node", {**store, **reliable})
    yield graph
    graph.close()


@pytest.fixture
def stamp(graph: Graph) -> int:
    """A stamp later than all before."""
    graph.clock = getattr(graph, "clock", 0) + 100 * SECOND
    return graph.clock


def next_stamp(graph: Graph) -> int:
    graph.clock += SECOND
    return int(graph.clock)


def change(graph: Graph, **values: object) -> str:
    """Sets parameters of the segmentation node; gives why one was refused."""
    parameters = [Parameter(name, value=value).to_parameter_msg() for name, value in values.items()]
    answer = graph.call(SetParameters, f"{NODE}/set_parameters", SetParameters.Request(parameters=parameters))
    return next((result.reason for result in answer.results if not result.successful), "")


def said(graph: Graph, text: str, node: str = NODE) -> Any:
    """The next status of a node that contains ``text``."""
    seen = len(graph.diagnostics)
    return graph.wait(
        lambda: next(
            (s for s in graph.diagnostics[seen:] if s.hardware_id == node and text in status_text(s)), None
        ),
        f"{node} to say {text!r}",
    )


def warned(graph: Graph, text: str, frame: Callable[[int], Any]) -> Any:
    """The segmentation node's warning that contains ``text``, while ``frame`` sends numbered frames.

    What an earlier test provoked is told as an error for some seconds, and so is a camera that is silent.
    """
    seen, number = len(graph.diagnostics), 0

    def found() -> Any:
        nonlocal number
        number += 1
        frame(number)
        graph.spin(0.2)
        told = (s for s in graph.diagnostics[seen:] if s.hardware_id == NODE and text in s.message)
        return next((s for s in told if s.level == b"\x01"), None)

    return graph.wait(found, f"a warning that says {text!r}")


def test_in_a_namespace_the_nodes_find_camera_and_each_other(graph, scene, stamp):
    assert graph.segment(*scene, stamp).instances
    graph.wait(lambda: graph.node.count_subscribers(INSTANCES) == 2, "the interaction node's subscription")
    assert graph.node.count_subscribers(f"{CELL}/grasp_events") == 1
    assert graph.node.count_publishers("/segmentation_node/instances") == 0


def test_a_clock_that_does_not_come_is_told_and_holds_up_nothing(graph, scene, stamp):
    node = f"{CELL}/interaction_node"
    status = said(graph, "use_sim_time is set and nobody publishes /clock", node)
    assert status.level != b"\x00"  # at least a warning; what else is missing at first may weigh more
    graph.segment(*scene, stamp)
    request = CaptureGraspFrame.Request(grasp_id="no clock", phase=3, timeout_s=1.0)
    answer = graph.call(CaptureGraspFrame, f"{node}/capture", request)
    assert not answer.success
    assert answer.message


def test_the_score_threshold_changes_while_it_runs(graph, scene, stamp):
    assert graph.segment(*scene, stamp).instances
    assert change(graph, score_threshold=1.0) == ""
    assert not graph.segment(*scene, stamp + SECOND).instances
    assert change(graph, score_threshold=0.0) == ""
    assert graph.segment(*scene, stamp + 2 * SECOND).instances


def test_what_cannot_be_is_refused_with_the_reason(graph):
    assert change(graph, score_threshold=float("nan"))
    assert change(graph, score_threshold=1.5)
    assert "clean the node up" in change(graph, model="another")
    assert "x0:x1" in change(graph, workspace="1,2 3,4")
    given = graph.call(
        GetParameters, f"{NODE}/get_parameters", GetParameters.Request(names=["workspace"])
    ).values
    assert given[0].type == ParameterType.PARAMETER_STRING
    assert given[0].string_value == ""


def test_after_cleanup_another_model_can_be_configured(graph, scene, stamp, tiny_model, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    card = json.loads((other / "card.json").read_text())
    (other / "card.json").write_text(json.dumps({**card, "name": "other"}))

    def walk(*transitions: int) -> None:
        for number in transitions:
            request = ChangeState.Request(transition=Transition(id=number))
            assert graph.call(ChangeState, f"{NODE}/change_state", request).success, number

    up = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    down = (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
    assert graph.segment(*scene, stamp).model_version.startswith("tiny_rgb-")
    walk(*down)
    assert "not active" in graph.call(Segment, f"{NODE}/segment", Segment.Request()).message
    assert change(graph, model=str(other)) == ""
    walk(*up)
    assert graph.segment(*scene, stamp + SECOND).model_version.startswith("other-")
    walk(*down)
    assert change(graph, model="no_such_model") == ""
    request = ChangeState.Request(transition=Transition(id=up[0]))
    assert not graph.call(ChangeState, f"{NODE}/change_state", request).success
    said(graph, "not configured: cannot be configured: model 'no_such_model'")
    assert change(graph, model=str(tiny_model)) == ""
    walk(*up)
    assert graph.segment(*scene, stamp + 2 * SECOND).model_version.startswith("tiny_rgb-")


def test_one_answer_for_a_cell_that_stops_and_looks(graph, scene, stamp):
    graph.segment(*scene, stamp)
    graph.stop_listening(INSTANCES)  # the interaction node listens on; the request needs no other listener
    client = graph.node.create_client(Segment, f"{NODE}/segment")
    graph.wait(client.service_is_ready, "the service")

    def ask(not_before: int, timeout: float) -> Any:
        request = Segment.Request(timeout_s=timeout)
        request.not_before = Time(sec=not_before // SECOND, nanosec=not_before % SECOND)
        return client.call_async(request)

    answer = ask(stamp + SECOND, 30.0)
    graph.spin(0.5)
    graph.send(*scene, stamp + SECOND // 2)  # too old
    graph.spin(1.0)
    assert not answer.done()
    graph.send(*scene, stamp + SECOND)
    graph.wait(answer.done, "the answer")
    found = answer.result()
    assert found.success, found.message
    assert stamp_of(found.instances) == stamp + SECOND
    assert found.instances.instances
    assert ros_images.to_label_map(found.instances.label_map).shape == (120, 160)
    again = ask(stamp + SECOND, 30.0)  # the last frame is new enough
    graph.wait(again.done, "the answer")
    assert stamp_of(again.result().instances) == stamp + SECOND
    late = ask(stamp + 3 * SECOND, 0.5)
    graph.wait(late.done, "the answer")
    assert not late.result().success
    assert "no frame within 0.5 s that is new enough: the newest is 2.000 s too old" in late.result().message
    new = ask(0, 30.0)
    graph.spin(1.0)
    assert not new.done()  # without a stamp the last frame is not new
    graph.send(*scene, stamp + 4 * SECOND)
    graph.wait(new.done, "the answer")
    assert stamp_of(new.result().instances) == stamp + 4 * SECOND
    wrong = ask(0, -1.0)
    graph.wait(wrong.done, "the answer")
    assert "timeout_s" in wrong.result().message


def test_what_is_outside_the_workspace_is_not_segmented(graph, scene, stamp):
    overlays = graph.listen(f"{NODE}/overlay", Image)
    whole = graph.segment(*scene, stamp)
    assert change(graph, workspace="0,0 80,0 80,119 0,119") == ""
    part = graph.segment(*scene, stamp + SECOND)
    label_map = ros_images.to_label_map(part.label_map)
    assert label_map[:, :80].any()
    assert not label_map[:, 82:].any()
    assert 0 < len(part.instances) < len(whole.instances)
    overlay = graph.wait(
        lambda: next((m for m in overlays if stamp_of(m) == stamp + SECOND), None), "the overlay"
    )
    assert ros_images.to_rgb8(overlay)[:, 90:].max() < 90
    assert change(graph, workspace="nowhere 0:1 0:1 0:1") == ""
    seen = len(graph.received[INSTANCES])
    graph.send(*scene, stamp + 2 * SECOND)
    missing = "'nowhere'" if importlib.util.find_spec("tf2_msgs") else "tf2_msgs"
    text = status_text(said(graph, "the workspace cannot be applied and the frame is left out"))
    assert missing in text
    assert len(graph.received[INSTANCES]) == seen
    assert change(graph, workspace="") == ""
    assert len(graph.segment(*scene, stamp + 3 * SECOND).instances) == len(whole.instances)


def test_a_captured_reference_drops_what_is_the_place_and_is_left_out_when_it_is_stale(graph, scene, stamp):
    said(graph, "there is no reference")
    ground = (
        np.random.default_rng(1).integers(90, 110, (120, 160, 3), np.uint8),
        np.ones((120, 160), np.float32),
    )
    assert graph.segment(*ground, stamp).instances
    client = graph.node.create_client(Trigger, f"{NODE}/capture_reference")
    graph.wait(client.service_is_ready, "the service")
    graph.stop_listening(INSTANCES)
    answer = client.call_async(Trigger.Request())
    sent = 0

    def captured() -> bool:
        nonlocal sent
        sent += 1
        graph.send(*ground, stamp + sent * SECOND)
        graph.spin(0.1)
        return bool(answer.done())

    graph.wait(captured, "the answer")
    assert answer.result().success, answer.result().message
    assert "5 frames are the reference now" in answer.result().message
    foreground = graph.listen(f"{NODE}/foreground", Image)
    graph.wait(lambda: graph.node.count_publishers(f"{NODE}/foreground"), "the publisher")
    graph.spin(1.0)
    stamp += 100 * SECOND
    assert not graph.segment(*ground, stamp).instances
    assert graph.segment(*scene, stamp + SECOND).instances
    shown = graph.wait(
        lambda: next((m for m in foreground if stamp_of(m) == stamp + SECOND), None), "the foreground"
    )
    assert shown.encoding == "mono8"
    picture = ros_images.pixels(shown)
    assert (picture[35:65, 25:55] == 255).all()
    assert not picture[:, 150:].any()
    assert "reference age (s)" in status_text(said(graph, "reference mismatch"))
    elsewhere = np.random.default_rng(2).integers(0, 256, (8, 10, 3), np.uint8).repeat(15, 0).repeat(16, 1)
    seen = len(graph.diagnostics)

    def told() -> bool:
        nonlocal stamp
        stamp += SECOND
        assert graph.segment(elsewhere, ground[1], stamp).instances
        return any("reference is stale" in s.message and "capture_reference" in s.message
                   for s in graph.diagnostics[seen:])  # fmt: skip

    graph.wait(told, "the stale reference to be told")
    assert "auto, network, none" in change(graph, foreground="both")
    assert change(graph, foreground="network") == ""
    graph.spin(0.5)
    assert graph.segment(*ground, stamp + SECOND).instances
    graph.clock += 200 * SECOND
    graph.stop_listening(f"{NODE}/foreground")


def test_markers_show_what_has_a_place(graph, scene, stamp):
    markers = graph.listen(f"{NODE}/markers", MarkerArray)
    graph.wait(lambda: graph.node.count_publishers(f"{NODE}/markers"), "the publisher")
    graph.spin(1.0)
    message = graph.segment(*scene, stamp)
    shown = graph.wait(
        lambda: next((m for m in markers if stamp_of(m.markers[0]) == stamp), None), "the markers"
    ).markers
    placed = [i for i in message.instances if np.isfinite(i.centroid.z)]
    assert placed
    assert shown[0].action == Marker.DELETEALL
    cubes = [m for m in shown if m.type == Marker.CUBE]
    assert [(c.pose, c.scale) for c in cubes] == [(i.box_pose, i.box_size) for i in placed]
    assert {c.header.frame_id for c in cubes} == {"camera_color_optical_frame"}
    assert [m.text for m in shown if m.type == Marker.TEXT_VIEW_FACING] == [
        f"{i.class_name} {i.id}" for i in placed
    ]


def test_a_target_frame_that_is_not_there_is_named_and_nothing_is_misplaced(graph, scene, stamp):
    assert change(graph, target_frame="base_link") == ""
    message = graph.segment(*scene, stamp)
    assert message.header.frame_id == "base_link"
    assert message.label_map.header.frame_id == "camera_color_optical_frame"
    assert all(np.isnan(i.centroid.z) for i in message.instances)
    warned(
        graph,
        "nothing is placed in target_frame 'base_link'",
        lambda number: graph.segment(*scene, stamp + number * SECOND // 10),
    )
    assert change(graph, target_frame="") == ""


def test_boxes_in_a_frame_of_tf(graph, scene, stamp):
    tf2_msgs = pytest.importorskip("tf2_msgs.msg", reason="tf2_msgs is not on PyPI; it comes with ROS 2")
    from geometry_msgs.msg import Quaternion, TransformStamped

    latched = QoSProfile(
        depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
    )
    publisher = graph.node.create_publisher(tf2_msgs.TFMessage, "/tf_static", latched)
    link = TransformStamped(child_frame_id="camera_color_optical_frame")
    link.header.frame_id = "base_link"
    link.transform.translation.z = 2.0
    link.transform.rotation = Quaternion(x=1.0, y=0.0, z=0.0, w=0.0)  # it looks down
    publisher.publish(tf2_msgs.TFMessage(transforms=[link]))
    camera = graph.segment(*scene, stamp)
    assert change(graph, target_frame="base_link") == ""
    graph.spin(2.0)
    base = graph.segment(*scene, stamp + SECOND)
    assert base.header.frame_id == "base_link"
    pairs = {i.label: i for i in camera.instances}
    placed = [i for i in base.instances if np.isfinite(i.centroid.z)]
    assert placed
    for there in placed:
        here = pairs[there.label].centroid
        assert there.centroid.z == pytest.approx(2 - here.z, abs=1e-6)
        assert there.centroid.y == pytest.approx(-here.y, abs=1e-6)
    assert change(graph, target_frame="", workspace="base_link -9:9 -9:9 1.15:9") == ""
    depth = scene[1]
    inside = ros_images.to_label_map(graph.segment(*scene, stamp + 2 * SECOND).label_map) > 0
    assert inside.any()
    assert not inside[depth > 0.86].any()  # what is lower than 1.15 m
    assert change(graph, workspace="") == ""
    graph.node.destroy_publisher(publisher)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"width": 320}, "camera info on /cell1/camera_info is of 320x120 pixels and the image of 160x120"),
        ({"k": [1e300, 0.0, 80.0, 0.0, 200.0, 60.0, 0.0, 0.0, 1.0]}, "fx = 1e+300 in K"),
        ({"k": [200.0, 0.0, float("inf"), 0.0, 200.0, 60.0, 0.0, 0.0, 1.0]}, "cx = inf in K"),
    ],
)
def test_a_camera_info_that_does_not_fit_is_named_and_the_frame_is_served(graph, scene, stamp, fields, says):
    def frame(number: int) -> None:
        message = graph.segment(*scene, stamp + number * SECOND // 10, **fields)
        assert message.instances
        if number > 1:  # CameraInfo may come after its image; then the frame before told it
            assert all(np.isnan(i.centroid.z) for i in message.instances)

    assert "nothing is in 3D" in warned(graph, says, frame).message


def test_depth_that_comes_late_is_told_and_waited_for_on_request(graph, scene, stamp):
    image, depth = scene
    instances = graph.listen(INSTANCES, type(graph.segment(*scene, stamp)))

    def late(stamp: int) -> Any:
        graph.send(image, None, stamp)
        graph.spin(0.3)
        message = ros_images.fill(Image(header=header_of(stamp)), depth, "32FC1")
        graph._depth.publish(message)
        return graph.wait(lambda: next((m for m in instances if stamp_of(m) == stamp), None), "the frame")

    graph.segment(*scene, next_stamp(graph))

    def frame(_: int) -> None:
        assert all(np.isnan(i.centroid.z) for i in late(next_stamp(graph)).instances)

    told = warned(graph, "set depth_patience_s above that", frame)
    assert "waited 0.1 s in vain" in told.message
    assert change(graph, depth_patience_s=1.0) == ""

    def placed() -> bool:  # a machine that takes a second to deliver depth counts as one without
        graph.segment(*scene, next_stamp(graph))
        return any(np.isfinite(i.centroid.z) for i in late(next_stamp(graph)).instances)

    assert any(placed() for _ in range(20))
    assert change(graph, depth_patience_s=0.1) == ""


def test_sentences_are_answered_about_the_next_frame_and_about_every_frame(graph, scene, stamp, tiny_model):
    view = Segmenter.load(tiny_model, "cpu")(*scene)
    referrer = Referrer.load("none")
    seen = referrer.look(*scene, view)
    extremes = [f"the {word} thing" for word in ("leftmost", "rightmost", "largest", "smallest", "nearest")]
    clear = next(said for said in extremes if referrer.answer(seen, said).status is Status.FOUND)
    asked = {clear: Referral.FOUND, "the pink thing": Referral.NONE, "the thing": Referral.AMBIGUOUS,
             "the flurb": Referral.NOT_UNDERSTOOD}  # fmt: skip
    assert {s: int(referrer.answer(seen, s).status) for s in asked} == asked
    masks = graph.listen(f"{NODE}/target_mask", Image)
    client = graph.node.create_client(Refer, f"{NODE}/refer")
    graph.wait(client.service_is_ready, "the service")
    stamps = iter(range(stamp, stamp + 90 * SECOND, SECOND))

    def ask(sentence: str) -> Any:
        """Asks, and shows frames until there is an answer: it is about one that comes after the question."""
        for _ in range(5):
            answer = client.call_async(Refer.Request(sentence=sentence, set_target=sentence == clear))
            while not answer.done():
                graph.segment(*scene, next(stamps))
                graph.spin(0.1)
            if answer.result().success or "no frame came" not in answer.result().message:
                break  # a loaded machine may take longer for a frame than a call waits
        assert answer.result().success, answer.result().message
        return answer.result().referral

    graph.segment(*scene, next(stamps))  # the node is configured
    for sentence, status in asked.items():
        told = ask(sentence)
        assert (told.expression, told.status) == (sentence, status), told.detail
        found = status == Referral.FOUND
        assert bool(any(told.mask.data)) == found
        assert (told.id >= 0, told.score > 0) == (found, found)
        assert bool(told.candidates) == (status in (Referral.FOUND, Referral.AMBIGUOUS))
    assert "flurb" in told.detail
    message = graph.segment(*scene, next(stamps))
    followed = graph.wait(
        lambda: next((m for m in masks if stamp_of(m) == stamp_of(message)), None), "the target's mask"
    )
    assert any(followed.data)  # set_target made it the target

    answers = graph.listen(f"{NODE}/referred", Referral)
    speaker = graph.node.create_publisher(String, f"{NODE}/expression", 5)
    graph.wait(lambda: speaker.get_subscription_count() == 1, "the node to listen")
    graph.wait(lambda: graph.node.count_publishers(f"{NODE}/referred") == 1, "the answers")
    for sentence, status in [*asked.items(), (clear, Referral.FOUND)]:
        speaker.publish(String(data=sentence))
        graph.wait(
            lambda sentence=sentence: (
                graph.segment(*scene, next(stamps)) and answers and answers[-1].expression == sentence
            ),
            "the answer",
        )
        assert answers[-1].status == status
    speaker.publish(String(data=""))

    def silent() -> bool:
        told = len(answers)
        graph.segment(*scene, next(stamps))
        graph.spin(0.2)
        return len(answers) == told

    graph.wait(silent, "an empty sentence to end the answers")
    graph.stop_listening(f"{NODE}/referred")
    graph.node.destroy_client(client)


def test_depth_of_a_camera_of_its_own_is_registered(graph, scene, stamp):
    """Last: from here on the nodes know the depth camera."""
    image, depth = scene
    publisher = graph.node.create_publisher(CameraInfo, f"{CELL}/depth_camera_info", 10)
    graph.segment(*scene, stamp)
    graph.wait(lambda: publisher.get_subscription_count() == 2, "both nodes to subscribe")
    small = np.ascontiguousarray(depth[::2, ::2])
    k = [100.0, 0.0, 40.0, 0.0, 100.0, 30.0, 0.0, 0.0, 1.0]
    message = None
    for number in range(1, 20):
        publisher.publish(CameraInfo(header=header_of(stamp), width=80, height=60, k=k))
        graph.spin(0.2)
        message = graph.segment(image, small, stamp + number * SECOND)
        if any(np.isfinite(i.centroid.z) for i in message.instances):
            break
    placed = [i for i in message.instances if np.isfinite(i.centroid.z)]
    assert placed
    label_map = ros_images.to_label_map(message.label_map)
    for instance in placed:
        inside = depth[(label_map == instance.label) & (depth > 0)]
        if len(inside) > 50:
            assert inside.min() - 0.02 <= instance.centroid.z <= inside.max() + 0.02


def test_what_the_layouts_of_rviz_and_foxglove_show_is_published(graph, scene, stamp):
    """Their topics carry no namespace: a user sets that."""
    graph.segment(*scene, stamp)
    config = Path(__file__).parents[1] / "config"
    layout = json.loads((config / "rise.foxglove.json").read_text())
    panels = layout["configById"].values()
    images = {panel["imageMode"]["imageTopic"] for panel in panels if "imageMode" in panel}
    shown = images | {topic for panel in panels for topic in panel.get("topics", ())}
    assert len(shown) == 4
    rviz = yaml.safe_load((config / "rise.rviz").read_text())["Visualization Manager"]["Displays"]
    shown |= {display["Topic"]["Value"] for display in rviz if "Topic" in display}
    published = dict(graph.node.get_topic_names_and_types())
    for topic in shown:
        assert graph.node.count_publishers(f"{CELL}{topic}") == 1, topic
    assert all(published[f"{CELL}{topic}"] == ["sensor_msgs/msg/Image"] for topic in images)
    tree = json.dumps(layout["layout"])
    assert all(f'"{panel}"' in tree for panel in layout["configById"])
