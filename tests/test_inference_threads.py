"""Threads of a network that share the cores with others."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rise_perception.inference.threads import SPIN_COUNT, spin_briefly

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # what is put back in the end
        monkeypatch.delenv(name)


def test_threads_of_every_node_spin_briefly() -> None:
    code = (
        "import os, sys, rise_perception.nodes; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(SPIN_COUNT), "False"]  # OpenMP reads it when torch is imported


@pytest.mark.parametrize("name", SETTINGS)
def test_how_threads_wait_is_the_users_where_he_says_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "7")
    spin_briefly()
    assert [os.environ.get(each) for each in SETTINGS] == ["7" if each == name else None for each in SETTINGS]
