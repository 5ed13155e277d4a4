"""What every node does to run: standing back for others, in a domain of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rise_perception.nodes import node_process
from rise_perception.nodes.node_process import free_domain

SHOW = """
import os
from rise_perception.nodes.spin import lower_priority
lower_priority(7)
print(os.nice(0))
print(open("/proc/self/autogroup").read())
"""


def autogroup() -> str:
    """Niceness of this process's session; empty where the kernel keeps none."""
    try:
        return Path("/proc/self/autogroup").read_text().rpartition(" ")[2].strip()
    except OSError:
        return ""


@pytest.mark.skipif(not autogroup(), reason="this kernel has no autogroups")
@pytest.mark.parametrize("alone", [True, False])
def test_a_session_of_its_own_stands_back_as_a_whole_and_others_are_left_alone(alone: bool) -> None:
    mine = autogroup()
    told = subprocess.run(
        [sys.executable, "-c", SHOW], capture_output=True, text=True, start_new_session=alone, check=True
    ).stdout.split()
    assert told[0] == "7"
    assert told[-1] == ("7" if alone else mine)
    assert autogroup() == mine


def test_a_process_stands_back_on_any_kernel() -> None:
    command = "import os; from rise_perception.nodes import spin; spin.lower_priority(7); print(os.nice(0))"
    for alone in (True, False):
        told = subprocess.run(
            [sys.executable, "-c", command],
            capture_output=True,
            text=True,
            start_new_session=alone,
            check=True,
        )
        assert told.stdout.split() == ["7"]


def test_two_processes_never_get_the_same_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from rise_perception.nodes.node_process import free_domain; print(free_domain()); input()"
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    try:
        theirs = {int(other.stdout.readline()) for other in others}
        assert len(theirs) == 3
        # Drawn in order, so that theirs would come first: nobody listens there yet, and yet they are taken.
        first = [*theirs, *(set(range(1, 102)) - theirs)]
        monkeypatch.setattr(
            node_process.random.SystemRandom, "shuffle", lambda _, items: items.__init__(first)
        )
        assert free_domain() not in theirs
    finally:
        for other in others:
            other.communicate("")
    monkeypatch.setattr(node_process, "_claimed", dict.fromkeys(range(1, 102)))
    assert free_domain() == first[0], "when all are its own, one of them serves again"
