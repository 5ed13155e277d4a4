"""The segmentation node, alive in a process of its own: what it publishes, and that nothing stops it."""

from __future__ import annotations

import array
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rise_msgs.srv import ReloadModel, SetTarget
from ros_graph import COLOR, DEPTH, RELIABLE, Graph, stamp_of, status_text
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import String

from rise_perception.core import resources
from rise_perception.data import ros_images
from rise_perception.data.images import encode_image
from rise_perception.data.ros_instances import to_instances
from rise_perception.nodes.node_process import free_domain
from rise_perception.nodes.segmentation_node import SegmentationNode

pytestmark = pytest.mark.slow
NODE = "/segmentation_node"
SECOND = 10**9


@pytest.fixture(scope="module")
def graph(tmp_path_factory, tiny_model) -> Iterator[Graph]:
    """One node serves all tests of this file: whatever one does to it, the next one needs it alive."""
    graph = Graph(tmp_path_factory.mktemp("graph"))
    graph.start("segmentation_node", {"model": str(tiny_model), "sync_tolerance_s": 0.01, **RELIABLE})
    yield graph
    graph.close()


@pytest.fixture
def stamp(request, graph) -> int:
    """A stamp later than all before, so that no test looks like a clock set back."""
    graph.clock = getattr(graph, "clock", 0) + 100 * SECOND
    return graph.clock


def test_masks_instances_and_boxes_of_a_frame(graph, scene, stamp):
    image, depth = scene
    label_maps = graph.listen(f"{NODE}/label_map", Image)
    message = graph.segment(image, depth, stamp)
    label_map = graph.wait(
        lambda: next((m for m in label_maps if stamp_of(m) == stamp), None), "the label map of the frame"
    )
    assert label_map.encoding == "mono16"
    assert (label_map.width, label_map.height) == (160, 120)
    assert label_map.header == message.header == message.label_map.header
    assert message.header.frame_id == "camera_color_optical_frame"
    np.testing.assert_array_equal(
        ros_images.to_label_map(label_map), ros_images.to_label_map(message.label_map)
    )
    assert message.model_version.startswith("tiny_rgb-")
    assert message.latency_ms > 0
    found = to_instances(message)
    assert len(found) > 0
    assert set(found.labels) == set(np.unique(found.label_map)) - {0}
    assert (np.diff(found.scores) <= 0).all()
    for row, single in enumerate(message.instances):
        v, u = np.nonzero(found.mask(row))
        assert single.area == len(v)
        box = single.bbox
        assert (box.x_offset, box.y_offset) == (u.min(), v.min())
        assert (box.x_offset + box.width, box.y_offset + box.height) == (u.max() + 1, v.max() + 1)
        inside = depth[found.mask(row)]
        if (inside > 0).sum() > 50:
            assert inside[inside > 0].min() - 0.02 <= single.centroid.z <= inside.max() + 0.02
            assert single.box_size.x > 0
        assert len(single.embedding) == 16


def test_images_travel_through_a_shared_memory_segment_that_holds_them(graph, scene, stamp):
    graph.segment(*scene, stamp)
    segments = [path.stat().st_size for path in Path("/dev/shm").glob("fastrtps_*")]
    assert max(segments, default=0) >= 32 << 20


def test_ids_persist_over_frames(graph, scene, stamp):
    image, _ = scene
    first = graph.segment(image, None, stamp)
    second = graph.segment(image, None, stamp + SECOND // 10)
    assert {i.id for i in first.instances} & {i.id for i in second.instances}


def test_overlay_cloud_camera_info_and_target_mask(graph, scene, stamp):
    image, depth = scene
    topics = {"overlay": Image, "points": PointCloud2, "camera_info": CameraInfo, "target_mask": Image}
    heard = {name: graph.listen(f"{NODE}/{name}", kind) for name, kind in topics.items()}
    graph.wait(lambda: all(graph.node.count_publishers(f"{NODE}/{name}") for name in topics), "publishers")
    graph.spin(1.0)
    message = graph.segment(image, depth, stamp)
    target = message.instances[0].id
    answer = graph.call(SetTarget, f"{NODE}/set_target", SetTarget.Request(id=target))
    assert answer.success, answer.message
    again = graph.segment(image, depth, stamp + SECOND // 10)
    graph.wait(
        lambda: all(stamp_of(m[-1]) == stamp + SECOND // 10 for m in heard.values() if m), "all outputs"
    )
    for name, messages in heard.items():
        assert messages, name
        assert messages[-1].header.frame_id == "camera_color_optical_frame"
    overlay = ros_images.to_rgb8(heard["overlay"][-1])
    assert overlay.shape == image.shape
    assert (overlay != image).any()
    found = to_instances(again)
    label = found.labels[found.ids == target]
    expected = np.isin(found.label_map, label) * 255
    np.testing.assert_array_equal(ros_images.pixels(heard["target_mask"][-1]), expected)
    cloud = heard["points"][-1]
    assert (cloud.height, cloud.width) == (120, 160)
    values = np.frombuffer(
        cloud.data, [(f.name, "<f4" if f.datatype == 7 else "<u2") for f in cloud.fields] + [("", "V2")]
    )
    np.testing.assert_array_equal(values["label"].reshape(120, 160), found.label_map)
    z = values["z"].reshape(120, 160)
    np.testing.assert_array_equal(np.isnan(z), depth == 0)
    assert heard["camera_info"][-1].width == 160
    unknown = graph.call(SetTarget, f"{NODE}/set_target", SetTarget.Request(id=999999))
    assert not unknown.success
    assert "999999" in unknown.message
    assert str(target) in unknown.message
    assert graph.call(SetTarget, f"{NODE}/set_target", SetTarget.Request(id=-1)).success
    for name in topics:
        graph.stop_listening(f"{NODE}/{name}")


def lying(image: np.ndarray, encoding: str = "rgb8", **wrong: object) -> Image:
    made = ros_images.fill(Image(), image, encoding)
    for name, value in wrong.items():
        setattr(made, name, value)
    return made


GREY = np.full((120, 160), 90, np.uint8)
COLOURED = np.full((120, 160, 3), 90, np.uint8)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lying(COLOURED, step=10), "step 10"),
        (lying(COLOURED, data=array.array("B", bytes(100))), "100 bytes"),
        (lying(COLOURED, height=0), "160x0"),
        (Image(), "''"),
        (lying(COLOURED, encoding="yuv12_of_my_own"), "yuv12_of_my_own"),
        (lying(GREY.astype(np.float32) + 500, "32FC1"), "0..1"),
    ],
    ids=["step", "data", "height", "empty", "encoding", "float"],
)
def test_a_bad_image_is_reported_and_the_next_one_is_served(graph, scene, stamp, bad, says):
    graph.segment(*scene, stamp)
    graph.send(bad, None, stamp + SECOND)
    status = graph.wait_for_diagnostics(says)
    assert status.level == b"\x02"
    assert graph.segment(*scene, stamp + 2 * SECOND).instances


@pytest.mark.parametrize(
    ("picture", "size"),
    [
        (np.zeros((1, 1, 3), np.uint8), (1, 1)),
        (lying(GREY, "mono8"), (160, 120)),
        (lying(np.dstack([COLOURED, GREY]), "rgba8"), (160, 120)),
        (lying(GREY.astype(np.uint16) * 257, "mono16"), (160, 120)),
        (lying(GREY, "bayer_rggb8"), (160, 120)),
        (np.zeros((4320, 7680, 3), np.uint8), (7680, 4320)),
    ],
    ids=["1x1", "grey", "rgba", "16 bit", "bayer", "8K"],
)
def test_odd_images_are_served_at_their_own_size(graph, stamp, picture, size):
    message = graph.segment(picture, None, stamp)
    assert (message.label_map.width, message.label_map.height) == size


def test_bad_depth_costs_the_depth_and_not_the_frame(graph, scene, stamp):
    image, depth = scene
    message = graph.segment(image, np.full((60, 80), 1.0, np.float32), stamp)
    assert all(np.isnan(i.centroid.z) for i in message.instances)
    graph.wait_for_diagnostics("depth ignored: depth is 80x60 but the image is 160x120")
    message = graph.segment(image, np.full_like(depth, np.nan), stamp + SECOND)
    assert all(np.isnan(i.centroid.z) for i in message.instances)
    message = graph.segment(image, depth, stamp + 2 * SECOND)
    assert any(np.isfinite(i.centroid.z) for i in message.instances)


def test_a_depth_camera_that_stops_is_reported_and_colour_goes_on(graph, scene, stamp):
    image, depth = scene
    graph.segment(image, depth, stamp)
    seen = len(graph.diagnostics)
    for number in range(1, 60):
        message = graph.segment(image, None, stamp + number * SECOND)
        graph.spin(0.3)
        warned = [s for s in graph.diagnostics[seen:] if f"no depth on {DEPTH}" in s.message]
        if warned:
            break
    else:
        pytest.fail(f"never reported; last: {graph.diagnostics[-1].message}")
    assert all(np.isnan(i.centroid.z) for i in message.instances)
    assert warned[0].level != b"\x00"


def test_the_clock_may_jump_back_and_the_resolution_may_change(graph, scene, stamp):
    image, _ = scene
    graph.segment(image, None, stamp)
    assert graph.segment(image, None, stamp - 90 * SECOND).instances
    graph.wait_for_diagnostics("clock jumps: 1")
    larger = graph.segment(np.repeat(np.repeat(image, 2, 0), 2, 1), None, stamp + SECOND)
    assert (larger.label_map.width, larger.label_map.height) == (320, 240)


def test_a_silent_camera_is_named(graph, scene, stamp):
    graph.segment(*scene, stamp)
    graph.spin(2.5)
    status = graph.wait_for_diagnostics(f"no image on {COLOR}")
    assert status.level == b"\x02"
    graph.segment(*scene, stamp + 10 * SECOND)
    graph.wait_for_diagnostics("serving model: tiny_rgb-")


def test_an_incompatible_subscriber_is_named(graph, scene, stamp):
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    subscription = graph.node.create_subscription(Image, f"{NODE}/label_map", lambda _: None, latched)
    graph.wait_for_diagnostics(f"a subscriber of {NODE}/label_map asks for an incompatible QoS (DURABILITY")
    graph.node.destroy_subscription(subscription)
    assert graph.segment(*scene, stamp)


def test_the_camera_is_only_subscribed_to_while_somebody_listens(graph, scene, stamp):
    graph.segment(*scene, stamp)
    for topic in list(graph.received):
        graph.stop_listening(topic)
    graph.wait(lambda: graph.camera_subscribers() == 0, "the node to leave the camera")
    graph.wait_for_diagnostics("idle: nobody listens")
    assert graph.segment(*scene, stamp + SECOND)


def test_parameters_are_described_bounded_and_those_of_the_yaml_file(graph):
    import yaml

    own = yaml.safe_load((resources.find("config") / "segmentation_node.yaml").read_text())
    documented = own["/**/segmentation_node"]["ros__parameters"]
    listed = graph.call(ListParameters, f"{NODE}/list_parameters", ListParameters.Request()).result.names
    names = [
        n for n in listed if not n.startswith(("qos_overrides", "use_sim_time", "start_type_description"))
    ]
    assert sorted(names) == sorted(documented)
    request = DescribeParameters.Request(names=names)
    for descriptor in graph.call(DescribeParameters, f"{NODE}/describe_parameters", request).descriptors:
        assert descriptor.description.endswith("."), descriptor.name
        if descriptor.type == Parameter.Type.DOUBLE.value:
            assert descriptor.floating_point_range, descriptor.name
    values = graph.call(GetParameters, f"{NODE}/get_parameters", GetParameters.Request(names=names)).values
    given = {"model", "sync_tolerance_s"}
    for name, value in zip(names, values, strict=True):
        if name not in given:
            assert Parameter.from_parameter_msg(_parameter(name, value)).value == documented[name], name

    def change(name: str, value: object) -> object:
        parameter = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        return graph.call(SetParameters, f"{NODE}/set_parameters", request).results[0]

    assert not change("model", "another").successful
    assert not change("latency_budget_ms", -1.0).successful
    assert change("latency_budget_ms", 150.0).successful
    assert change("latency_budget_ms", 200.0).successful


def test_without_a_model_folder_nothing_is_reloaded(graph):
    answer = graph.call(ReloadModel, f"{NODE}/reload_model", ReloadModel.Request(version="tiny_rgb"))
    assert not answer.success
    assert "model_store" in answer.message
    assert answer.version.startswith("tiny_rgb-")


def _parameter(name: str, value: object) -> object:
    from rcl_interfaces.msg import Parameter as Message

    return Message(name=name, value=value)


def test_lifecycle_can_be_walked_by_a_manager_with_a_compressed_camera(tmp_path, tiny_model, scene):
    graph = Graph(tmp_path)
    jpeg = CompressedImage(format="jpeg", data=array.array("B", encode_image(scene[0], ".jpg")))
    topic = f"{COLOR}/compressed"
    parameters = {
        "model": str(tiny_model),
        "autostart": False,
        "color_topic": topic,
        f"qos_overrides.{topic}.subscription.reliability": "reliable",
    }
    try:
        process = graph.start("segmentation_node", parameters)

        def change(transition: int) -> bool:
            request = ChangeState.Request(transition=Transition(id=transition))
            return graph.call(ChangeState, f"{NODE}/change_state", request).success

        def state() -> int:
            return graph.call(GetState, f"{NODE}/get_state", GetState.Request()).current_state.id

        assert state() == State.PRIMARY_STATE_UNCONFIGURED
        graph.wait_for_diagnostics("not configured")
        for number in (1, 2):
            assert change(Transition.TRANSITION_CONFIGURE)
            graph.wait_for_diagnostics("inactive")
            assert graph.camera_subscribers() == 0
            assert change(Transition.TRANSITION_ACTIVATE)
            assert graph.segment(jpeg, None, number * SECOND).instances
            graph.wait_for_diagnostics("database version: 1")  # the same model each time
            assert change(Transition.TRANSITION_DEACTIVATE)
            graph.wait(lambda: graph.camera_subscribers() == 0, "the node to leave the camera")
            assert change(Transition.TRANSITION_CLEANUP)
        assert state() == State.PRIMARY_STATE_UNCONFIGURED
        assert process.stop() == 0
    finally:
        graph.close()


def test_an_interrupt_during_a_frame_is_no_error(monkeypatch):
    rclpy.init(domain_id=free_domain())
    node = SegmentationNode()
    try:
        said: list[str] = []

        def interrupted(*_):  # the network computes, and rclpy's signal handler shuts down meanwhile
            rclpy.shutdown()
            node.create_publisher(String, "x", 1)

        monkeypatch.setattr(node, "_process", interrupted)  # a signal cannot be timed into a frame
        monkeypatch.setattr(node._diagnostics, "error", said.append)
        node._active = True
        frames = iter([object(), None])
        node._work(SimpleNamespace(next=lambda: next(frames)), None, None)
        assert not rclpy.ok()
        assert said == []
        assert next(frames) is None, "it goes on after the interrupt"
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def test_a_model_that_is_not_there_is_named_and_the_node_stays(tmp_path):
    graph = Graph(tmp_path)
    try:
        process = graph.start("segmentation_node", {"model": "no_such_model"})
        status = graph.wait_for_diagnostics("no_such_model")
        assert status.level == b"\x02"
        assert "not configured" in status_text(status)
        assert process.poll() is None
        assert "Traceback" not in process.log_tail(100)
    finally:
        graph.close()
