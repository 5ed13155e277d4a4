"""What a node does when a part of it fails: says so, answers, goes on, or ends for its supervisor to see."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; `make venv` installs it")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rise_msgs.srv import ListModels

from rise_perception.core.errors import ModelError
from rise_perception.nodes import spin
from rise_perception.nodes.diagnostics import Diagnostics
from rise_perception.nodes.fuzz_files import fuzz_files
from rise_perception.nodes.node_process import environment, free_domain
from rise_perception.nodes.services import answering


@pytest.fixture
def domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ROS domain of this process's own."""
    for key, value in environment(free_domain(), tmp_path).items():
        if key.startswith(("FAST", "ROS_")):
            monkeypatch.setenv(key, value)


class Fragile(Node):
    """A node with a worker that dies, and a timer that fails and then ends it."""

    worker_dies = True
    failures = 0

    def __init__(self) -> None:
        super().__init__("fragile")
        self.done: Any = None if self.worker_dies else rclpy.task.Future()
        self.diagnostics = Diagnostics(self, list)
        self.said: list[str] = []
        self.create_subscription(
            DiagnosticArray, "/diagnostics", lambda m: self.said.append(m.status[0].message), 10
        )
        self.worker = threading.Thread(target=self.work if self.worker_dies else self.wait, daemon=True)
        self.worker.start()
        self.diagnostics.watch(self.worker)
        self.create_timer(0.02, self.fail)
        last.node = self

    def work(self) -> None:
        """Ends, as a bug may have it."""

    def wait(self) -> None:
        threading.Event().wait(60)

    def fail(self) -> None:
        type(self).failures += 1
        if self.failures == 3 and self.done is not None:
            self.done.set_result(None)
        raise KeyError("a bug")

    def report_error(self, text: str) -> None:
        self.diagnostics.error(text)


class Sturdy(Fragile):
    worker_dies = False


last = SimpleNamespace(node=None)


@pytest.mark.usefixtures("domain")
def test_a_dead_worker_is_named_and_ends_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    Fragile.failures = 0
    last.node = None
    assert spin.run(Fragile) == 2
    assert "has died, and the process ends" in capsys.readouterr().err
    assert last.node.worker.name in last.node.diagnostics._watched[0].name


@pytest.mark.usefixtures("domain")
def test_a_callback_that_fails_is_named_and_the_node_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    Sturdy.failures = 0
    assert spin.run(Sturdy) == 0
    assert Sturdy.failures == 3
    assert last.node.diagnostics._errors >= 2
    assert "KeyError('a bug')" in last.node.diagnostics._last_error
    assert "Traceback" in capfd.readouterr().err


def spin_for_a_while(executor: SingleThreadedExecutor) -> None:
    for _ in range(200):
        executor.spin_once(timeout_sec=0.05)


@pytest.mark.usefixtures("domain")
def test_a_death_is_in_the_diagnostics_before_the_end() -> None:
    rclpy.init()
    node = rclpy.create_node("watching")
    said: list[str] = []
    node.create_subscription(DiagnosticArray, "/diagnostics", lambda m: said.append(m.status[0].message), 10)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    diagnostics = Diagnostics(node, list)
    worker = threading.Thread(target=lambda: None, name="frames")
    worker.start()
    worker.join()
    diagnostics.watch(worker)
    try:
        with pytest.raises(spin.WorkerDiedError, match="'frames' has died"):
            spin_for_a_while(executor)
        for _ in range(100):
            if said:
                break
            diagnostics.watch()
            executor.spin_once(timeout_sec=0.05)
        assert "'frames' has died" in said[0]
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


class Asked:
    """A node as far as a service callback sees it."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def get_logger(self) -> Any:
        return SimpleNamespace(error=self.told.append)

    def report_error(self, text: str) -> None:
        self.told.append(text)

    @answering
    def on_list(self, request: Exception, response: ListModels.Response) -> ListModels.Response:
        raise request

    @answering
    async def on_wait(self, request: Exception, response: ListModels.Response) -> ListModels.Response:
        raise request


@pytest.mark.parametrize("name", ["on_list", "on_wait"])
def test_a_service_answers_also_when_it_fails(name: str) -> None:
    def ask(node: Asked, error: Exception) -> Any:
        response = ListModels.Response(success=True)
        answer = getattr(node, name)(error, response)
        if name == "on_wait":
            with pytest.raises(StopIteration) as end:
                answer.send(None)
            return end.value.value
        return answer

    node = Asked()
    answer = ask(node, ModelError("card.json: created is 'x'"))
    assert (answer.success, answer.message, node.told) == (False, "card.json: created is 'x'", [])
    answer = ask(node, ZeroDivisionError("oh"))
    assert not answer.success
    assert "internal error" in answer.message
    assert "ZeroDivisionError" in answer.message
    assert any("Traceback" in told for told in node.told)
    assert answer.message in node.told


@pytest.mark.slow
def test_thousands_of_mutated_files_and_messages_are_read_or_refused(
    tmp_path: Path, tiny_model: Path
) -> None:
    """A few seconds of `rise fuzz`."""
    count, faults = fuzz_files(tmp_path, tiny_model, 4000, lambda number: number < 150)
    assert count == 150
    assert [f"{fault.target}, seed {fault.seed}: {fault.what}" for fault in faults] == []
