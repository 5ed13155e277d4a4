"""The segmentation node and its engines: torch serves, an engine is built, the engine serves."""

from __future__ import annotations

import pytest
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rise_msgs.action import BuildEngine
from ros_graph import RELIABLE, Graph, status_text

for _package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(
        _package, reason=f"{_package} is not installed; pip install 'rise_perception[deploy]'"
    )

pytestmark = pytest.mark.slow
NODE = "/segmentation_node"
SECOND = 10**9


def value(status, key: str) -> str:
    return next(v.value for v in status.values if v.key == key)


def test_engines_by_parameter_and_by_action(tmp_path, tiny_model, scene):
    graph = Graph(tmp_path)
    image, _ = scene
    cache = tmp_path / "engines"
    parameters = {"model": str(tiny_model), "runtime": "onnxruntime", "engine_dir": str(cache), **RELIABLE}
    try:
        process = graph.start("segmentation_node", parameters)
        stamp = SECOND
        assert graph.segment(image, None, stamp).instances
        graph.wait_for_diagnostics("runtime asked for: onnxruntime fp32")
        for _ in range(200):  # served by torch until the engine is there, and by the engine then
            stamp += SECOND
            assert graph.segment(image, None, stamp).instances
            graph.spin(0.5)
            if value(graph.diagnostics[-1], "runtime") == "onnxruntime fp32":
                break
        else:
            pytest.fail(f"still: {status_text(graph.diagnostics[-1])}")
        status = graph.wait_for_diagnostics("fallback: none")
        assert value(status, "engine").startswith("160x120, tiny_rgb-")
        assert "mask IoU with torch" in value(status, "engine")
        assert list(cache.glob("engine-*.bin"))

        client = ActionClient(graph.node, BuildEngine, f"{NODE}/build_engine")
        graph.wait(client.server_is_ready, "the action")
        stages: list[str] = []

        def ask(**fields: object):
            goal = BuildEngine.Goal(**fields)
            sent = client.send_goal_async(goal, lambda message: stages.append(message.feedback.stage))
            graph.wait(sent.done, "the goal's answer")
            return sent.result()

        def outcome(handle):
            answer = handle.get_result_async()
            graph.wait(answer.done, "the result")
            return answer.result()

        # Only built: the present one goes on serving, and other goals are turned away meanwhile.
        handle = ask(runtime="openvino", activate=False)
        assert handle.accepted
        assert not ask(runtime="openvino").accepted
        stamp += SECOND
        assert graph.segment(image, None, stamp).instances
        done = outcome(handle)
        assert done.status == GoalStatus.STATUS_SUCCEEDED
        assert done.result.success
        assert not done.result.from_cache
        assert done.result.mask_iou_parity >= 0.99
        assert stages
        graph.wait_for_diagnostics("runtime: onnxruntime fp32")

        done = outcome(ask(runtime="openvino", activate=True))
        assert done.result.success
        assert done.result.from_cache
        stamp += SECOND
        graph.segment(image, None, stamp)
        graph.wait_for_diagnostics("runtime: openvino fp32")

        for fields, text in (
            ({"runtime": "abacus"}, "'abacus'"),
            ({"runtime": "openvino", "precision": 9}, "precision is 9"),
            ({"runtime": "openvino", "version": "another-1"}, "'another-1' does not serve"),
        ):
            done = outcome(ask(**fields))
            assert done.status == GoalStatus.STATUS_ABORTED
            assert not done.result.success
            assert text in done.result.message

        # What fails or is cancelled leaves the engine that serves.
        done = outcome(ask(runtime="openvino", precision=BuildEngine.Goal.FP16, activate=True))
        assert "'fp16'" in done.result.message
        handle = ask(runtime="onnxruntime", activate=True)
        cancelled = handle.cancel_goal_async()
        graph.wait(cancelled.done, "the cancellation")
        status = outcome(handle).status
        assert status in (GoalStatus.STATUS_CANCELED, GoalStatus.STATUS_SUCCEEDED)
        stamp += SECOND
        assert graph.segment(image, None, stamp).instances
        graph.diagnostics.clear()
        serving = "openvino" if status == GoalStatus.STATUS_CANCELED else "onnxruntime"
        graph.wait_for_diagnostics(f"runtime: {serving} fp32")
        assert process.stop() == 0
    finally:
        graph.close()


def test_a_runtime_that_is_not_here_is_reported_and_torch_serves(tmp_path, tiny_model, scene):
    graph = Graph(tmp_path)
    parameters = {"model": str(tiny_model), "runtime": "tensorrt", **RELIABLE}
    try:
        graph.start("segmentation_node", {**parameters, "engine_dir": str(tmp_path / "engines")})
        assert graph.segment(scene[0], None, SECOND).instances
        status = graph.wait_for_diagnostics("torch serves instead of an engine: ")
        assert "tensorrt" in status.message
        assert status.level != b"\x00"
        assert value(status, "runtime") == "torch fp32"
        assert graph.segment(scene[0], None, 2 * SECOND).instances
    finally:
        graph.close()
