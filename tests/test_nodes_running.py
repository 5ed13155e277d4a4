"""What every node does to run: standing back for others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
