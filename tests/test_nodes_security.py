"""The access policy that ships for SROS2 allows what the nodes do, and nothing that they do not do."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ros_graph import Graph
from tiny_data import write_data

from rise_perception.core import resources

POLICY = resources.find("config") / "sros2_policy.xml"
NODES = ("segmentation_node", "interaction_node", "learner_node")
#: With use_sim_time, with tf2_msgs where transforms are asked for, and with vision_msgs.
SOMETIMES = {
    "/clock",
    "/tf",
    "/tf_static",
    *(f"/segmentation_node/{name}" for name in ("detections", "detections_3d", "label_info", "vision_info")),
}
#: What an action makes of its name.
ACTION_TOPICS, ACTION_SERVICES = ("feedback", "status"), ("send_goal", "get_result", "cancel_goal")


def allowed(node: str) -> dict[str, set[str]]:
    """Rule, such as "topics publish", to full names."""
    profile = next(p for p in ElementTree.parse(POLICY).iter("profile") if p.get("node") == node)
    found: dict[str, set[str]] = {}
    for group in profile:
        names = {(name.text or "").strip().replace("~", f"/{node}") for name in group}
        for permission, value in group.attrib.items():
            assert value == "ALLOW"
            found.setdefault(f"{group.tag} {permission}", set()).update(names)
    for action in found.pop("actions execute", set()):
        found["topics publish"] |= {f"{action}/_action/{topic}" for topic in ACTION_TOPICS}
        found["services reply"] |= {f"{action}/_action/{service}" for service in ACTION_SERVICES}
    return found


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Graph]:
    """The three nodes of a robot that learns, with their default names and topics."""
    folder = tmp_path_factory.mktemp("policy")
    graph = Graph(folder)
    stores = {"episode_store": str(folder / "episodes")}
    graph.start("segmentation_node", {"model": str(tiny_model), "device": "cpu"})
    graph.start("interaction_node", {**stores, "min_free_mb": 0})
    learner = {"model_store": str(folder / "models"), "model": "rise_small_rgb"}
    anchors = write_data(folder / "coco")
    graph.start(
        "learner_node", {**stores, **learner, "anchors": str(anchors), "heldout_anchors": str(anchors)}
    )
    yield graph
    graph.close()


@pytest.mark.slow
@pytest.mark.parametrize("node", NODES)
def test_the_policy_is_what_the_node_does(graph: Graph, node: str) -> None:
    here, policy = graph.node, allowed(node)
    graph.wait(lambda: (node, "/") in here.get_node_names_and_namespaces(), node)
    graph.wait(lambda: any(s.hardware_id == f"/{node}" for s in graph.diagnostics), f"{node} to be ready")
    asked: dict[str, Any] = {
        "topics publish": here.get_publisher_names_and_types_by_node,
        "topics subscribe": here.get_subscriber_names_and_types_by_node,
        "services reply": here.get_service_names_and_types_by_node,
        "services request": here.get_client_names_and_types_by_node,
    }
    for rule, names_of in asked.items():
        may = policy.get(rule, set())

        def does(names_of: Any = names_of) -> set[str]:
            return {name for name, _ in names_of(node, "/")}

        def idle(may: set[str] = may, does: Any = does) -> set[str]:
            """What it may do, and does not; discovery takes a moment."""
            return may - does() - SOMETIMES

        graph.wait(lambda idle=idle: not idle(), f"{node}, {rule}: {idle()}")
        assert does() - may == set(), rule


def test_who_may_touch_what_is_learned() -> None:
    enclaves = ElementTree.parse(POLICY).getroot().find("enclaves")
    assert enclaves is not None
    # The tool takes a comment for an enclave without a name, and fails.
    with_comments = ElementTree.parse(
        POLICY, ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    )
    assert [e.tag for e in with_comments.getroot().find("enclaves")] == ["enclave"] * len(enclaves)
    asks: dict[str, set[str]] = {}
    for enclave in enclaves:
        for rule in ("services[@request]", "actions[@call]", "topics[@publish]"):
            for name in enclave.findall(f".//{rule}/*"):
                asks.setdefault(str(name.text), set()).add(str(enclave.get("path")))
    assert asks["/segmentation_node/reload_model"] == {"/rise/learner_node"}
    assert asks["/learner_node/rollback_model"] == asks["/learner_node/fine_tune"] == {"/rise/operator"}
    assert asks["/segmentation_node/capture_reference"] == {"/rise/operator"}
    assert asks["/grasp_events"] == {"/rise/picking"}
    assert not any("parameters" in name for name in asks)
