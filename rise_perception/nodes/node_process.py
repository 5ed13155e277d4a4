"""Starts nodes as processes of their own, with the environment they need. Imports no ROS itself."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rise_perception.core import resources

GRACE = 10.0  # seconds that a node gets to end by itself
#: Domains that :func:`free_domain` gave to this process, and the names that hold them.
_claimed: dict[int, socket.socket] = {}


def environment(domain: int, logs: Path) -> dict[str, str]:
    """This process's environment, completed for a node.

    Adds what the user has not set: discovery on this machine only, and the Fast DDS profile for images.

    Args:
        domain: ROS_DOMAIN_ID.
        logs: folder for ROS's own log files, which otherwise go to the home folder.
    """
    env = dict(os.environ)
    # The ROS wheels mark that they have set up this interpreter; a child sets up its own.
    env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    if env.get("ROS_DISTRO") == "humble":
        env.setdefault("ROS_LOCALHOST_ONLY", "1")
    else:
        env.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if not {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"} & env.keys():
        env["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(resources.find("config") / "fastdds.xml")
    # With a sourced ROS, the libraries of the rise_msgs in this environment have to be found.
    for name, folder in (("LD_LIBRARY_PATH", f"{sys.prefix}/lib"), ("AMENT_PREFIX_PATH", sys.prefix)):
        if env.get("AMENT_PREFIX_PATH"):
            env[name] = os.pathsep.join([folder, *filter(None, [env.get(name, "")])])
    return {**env, "ROS_DOMAIN_ID": str(domain), "ROS_LOG_DIR": str(logs.resolve())}


def free_domain() -> int:
    """A ROS domain that nobody on this machine uses now, 1 to 101; this process's own until it ends."""
    candidates = list(range(1, 102))
    random.SystemRandom().shuffle(candidates)
    for domain in sorted(candidates, key=_claimed.__contains__):  # its own again when there is no other
        if _is_silent(domain) and _claim(domain):
            return domain
    return candidates[0]


def _is_silent(domain: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", 7400 + 250 * domain + 10))  # where a domain's first participant listens
        except OSError:
            return False
        return True


def _claim(domain: int) -> bool:
    """Take a domain before its first participant is there; the kernel frees it with the process."""
    if domain not in _claimed:
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            name.bind(f"\0rise_perception-domain-{domain}")
        except OSError:
            name.close()
            return False
        _claimed[domain] = name
    return True


class NodeProcess:
    """A node of this package, running as ``python -m rise_perception.nodes.<name>``.

    Args:
        name: module below ``rise_perception.nodes``.
        parameters: ROS parameters; bool, int, float or str.
        env: see :func:`environment`.
        log: file for stdout and stderr; None leaves stderr to the terminal and drops stdout.
        namespace: that it runs in.
    """

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, Any],
        env: Mapping[str, str],
        log: Path | None,
        namespace: str = "/",
    ) -> None:
        self.name = name
        self.log = log
        command = [sys.executable, "-m", f"rise_perception.nodes.{name}", "--ros-args"]
        command += ["-r", f"__ns:={namespace}"]
        for key, value in parameters.items():
            command += ["-p", f"{key}:={_yaml(value)}"]
        self._process = self._launch(command, env)

    def _launch(self, command: list[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        out: int | IO[bytes] = subprocess.DEVNULL if self.log is None else self.log.open("wb")
        error = None if self.log is None else subprocess.STDOUT
        # A group of its own: Ctrl-C reaches the parent, which ends its nodes in order.
        process = subprocess.Popen(
            command, env=dict(env), stdin=subprocess.DEVNULL, stdout=out, stderr=error, start_new_session=True
        )
        if not isinstance(out, int):
            out.close()
        return process

    def poll(self) -> int | None:
        """Exit status, None while the node runs."""
        return self._process.poll()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def wait(self, timeout: float) -> int | None:
        """Exit status, None if the node still runs after ``timeout`` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> int:
        """Interrupts the node as Ctrl-C would, kills it if that does not help; returns the exit status."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.poll() is not None:
                break
            self._process.send_signal(number)
            self.wait(GRACE)
        return self._process.wait()

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        if self.log is None or not self.log.is_file():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def wait_for(condition: Any, timeout: float, period: float = 0.05) -> bool:
    """Calls ``condition`` until it is true; False after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(period)
    return True


def _yaml(value: Any) -> str:
    """A parameter value as ROS's command line parses it, strings quoted so that they stay strings."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value)
