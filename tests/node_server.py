"""Nodes for tests without their start-up: a server imports torch and rclpy once and forks every node.

A forked node runs its module as ``python -m`` would, in a process, a session and an environment of its own,
and ends as any other. What a bare start needs is shown by the tests of the commands, which start their nodes
in earnest.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

from rise_perception.nodes.node_process import NodeProcess

PRELOADED = ("segmentation_node", "interaction_node", "learner_node", "camera_node", "recorder_node")


class ForkedNode(NodeProcess):
    """A node that the server of this process forked."""

    def _launch(self, command: list[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        assert self.log is not None
        request = {"module": command[2], "arguments": command[3:], "env": dict(env), "log": str(self.log)}
        return cast("subprocess.Popen[bytes]", _server().fork(request))


class _Forked:
    """What :class:`NodeProcess` uses of ``subprocess.Popen``."""

    def __init__(self, server: _Server, pid: int) -> None:
        self._server, self.pid = server, pid

    def poll(self) -> int | None:
        return self._server.status(self.pid, 0.0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._server.status(self.pid, timeout)
        if status is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class _Server:
    def __init__(self) -> None:
        env = {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**env, "OMP_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        self._news = threading.Condition()
        self._pids: list[int] = []
        self._statuses: dict[int, int] = {}
        self._dead = False
        threading.Thread(target=self._listen, daemon=True).start()

    def fork(self, request: dict[str, Any]) -> _Forked:
        assert self._process.stdin is not None
        with self._news:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            self._news.wait_for(lambda: self._pids or self._dead)
            assert self._pids, "the server of nodes has died"
            return _Forked(self, self._pids.pop())

    def status(self, pid: int, timeout: float | None) -> int | None:
        with self._news:
            self._news.wait_for(lambda: pid in self._statuses or self._dead, timeout)
            return self._statuses.get(pid, -signal.SIGKILL if self._dead else None)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            pid, status = (None if word == b"-" else int(word) for word in line.split())
            with self._news:
                if status is None:
                    self._pids.append(cast("int", pid))
                else:
                    self._statuses[cast("int", pid)] = status
                self._news.notify_all()
        with self._news:
            self._dead = True
            self._news.notify_all()


@cache
def _server() -> _Server:
    return _Server()


def _serve() -> dict[str, Any] | None:
    """Forks until the tests have ended (None); returns in each child with what it is to be."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the tests, which end their nodes
    signal.set_wakeup_fd(wake)
    pending = b""
    children: set[int] = set()
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
        for pid in list(children):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                children.remove(pid)
                _tell(pid, os.waitstatus_to_exitcode(status))
        if 0 not in ready:
            continue
        data = os.read(0, 1 << 16)
        if not data:
            for pid in children:
                os.kill(pid, signal.SIGKILL)
            return None
        *lines, pending = (pending + data).split(b"\n")
        for line in lines:
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.close(woken)
                os.close(wake)
                return cast("dict[str, Any]", json.loads(line))
            children.add(pid)
            _tell(pid, None)


def _tell(pid: int, status: int | None) -> None:
    os.write(1, f"{pid} {'-' if status is None else status}\n".encode())


def _become(request: dict[str, Any]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(null)
    time.tzset()
    module = request["module"]
    sys.modules.pop(module, None)  # its own file runs as the main program
    sys.argv = [module, *request["arguments"]]
    status: object = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
        status = 1
    # What is left to the interpreter's end except taking down what the server had imported, page by page.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


if __name__ == "__main__":
    for node in PRELOADED:
        __import__(f"rise_perception.nodes.{node}")
    if (wanted := _serve()) is not None:
        _become(wanted)
