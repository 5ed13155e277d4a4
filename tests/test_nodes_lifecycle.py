"""Transitions of the segmentation node: what fails is told, and a lifecycle manager is left to its work."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed; `make venv` installs it")

from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from rise_perception.core.errors import ConfigError  # noqa: E402
from rise_perception.nodes import segmentation_node  # noqa: E402
from rise_perception.nodes.node_process import free_domain  # noqa: E402
from rise_perception.nodes.segmentation_node import SegmentationNode  # noqa: E402

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


@pytest.fixture
def started(tiny_model: Path) -> Iterator[Any]:
    """A function that starts the node in this process with parameters as text."""
    nodes: list[SegmentationNode] = []

    def start(**parameters: str) -> SegmentationNode:
        given = {"model": str(tiny_model), "device": "cpu", **parameters}
        words = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
        rclpy.init(args=["--ros-args", *words], domain_id=free_domain())
        nodes.append(SegmentationNode())
        return nodes[-1]

    yield start
    for node in nodes:
        node.destroy_node()
    rclpy.try_shutdown()


def test_whatever_configure_raises_is_told_and_the_next_try_may_work(started, monkeypatch):
    node = started()

    def odd(*_: object) -> None:
        raise OverflowError("int too large to convert to float")

    with monkeypatch.context() as patch:
        patch.setattr(segmentation_node.Segmenter, "load", odd)
        assert node.trigger_configure() == FAILURE
    ((level, text, _),) = node._conditions()
    assert level == 2
    assert "cannot be configured: internal error" in text
    assert "int too large" in text
    with monkeypatch.context() as patch:
        patch.setattr(segmentation_node, "Outputs", odd)  # when the model is loaded already
        assert node.trigger_configure() == FAILURE
    assert node._segmenter is None
    assert node.trigger_configure() == SUCCESS
    with monkeypatch.context() as patch:
        patch.setattr(SegmentationNode, "_announce", odd)
        assert node.trigger_activate() == FAILURE
    assert "cannot be activated" in node._diagnostics._last_error
    assert node.trigger_activate() == SUCCESS


def test_the_threshold_that_is_announced_is_the_one_that_holds(started, monkeypatch, tiny_model, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    card = json.loads((model / "card.json").read_text())
    (model / "card.json").write_text(json.dumps({**card, "score_threshold": 0.2}))
    node, said = started(model=str(model)), []
    # The announcements are counted, which a late subscriber to a latched topic cannot do.
    monkeypatch.setattr(segmentation_node.Outputs, "announce", lambda *facts: said.append(facts[1:]))
    assert node.trigger_configure() == SUCCESS
    assert node.trigger_activate() == SUCCESS
    assert [facts[2] for facts in said] == [0.2]
    node.set_parameters([Parameter("score_threshold", value=0.5)])
    node._follow()
    node._follow()
    assert [facts[2] for facts in said] == [0.2, 0.5]
    assert len({facts[3] for facts in said}) == 1  # the same model: the same database version
    node.set_parameters([Parameter("score_threshold", value=0.0)])
    node._follow()
    assert said[-1][2] == 0.2


def spin(node: Any, condition: Any) -> None:
    executor, end = SingleThreadedExecutor(), time.monotonic() + 60
    executor.add_node(node)
    while not condition():
        assert time.monotonic() < end
        executor.spin_once(0.1)
    executor.remove_node(node)


def test_it_starts_by_itself_unless_a_manager_is_there(started):
    node = started()
    manager = rclpy.create_node("manager")
    try:
        client = manager.create_client(ChangeState, "/segmentation_node/change_state")
        spin(node, lambda: segmentation_node.managers(node) == ["/manager"])
        node.start_unmanaged()
        mark = time.monotonic()
        spin(node, lambda: time.monotonic() - mark > 2 * segmentation_node.MANAGER_PERIOD)
        assert node._segmenter is None
        manager.destroy_client(client)
        spin(node, lambda: segmentation_node.managers(node) == [])
        node.start_unmanaged()
        spin(node, lambda: node._active)
    finally:
        manager.destroy_node()


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"latency_budget_ms": "200"}, "latency_budget_ms is a float with the default 200.0"),
        ({"score_threshold": "1.5"}, "between 0 and 1"),
        ({"score_threshold": ".nan"}, "between 0 and 1"),
        ({"workspace": "'1,2 3,4'"}, "x0:x1"),
    ],
)
def test_a_parameter_that_cannot_be_taken_is_one_line(started, parameters, says):
    with pytest.raises(ConfigError) as error:
        started(**parameters)
    assert says in str(error.value)
    assert next(iter(parameters)) in str(error.value)
