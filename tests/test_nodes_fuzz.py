"""A short run of `rise fuzz` with a fixed seed, against the real nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; `make venv` installs it")

from rise_perception.core.frame import CameraIntrinsics, Frame
from rise_perception.nodes.fuzz_graph import MAX_GROWTH, fuzz_graph

pytestmark = pytest.mark.slow
CASES = 24
LIMIT = 10.0  # seconds: this is no benchmark, and the machine may be loaded


def test_the_nodes_live_answer_keep_their_memory_and_name_what_is_wrong(
    tmp_path: Path, tiny_model: Path, scene: tuple[np.ndarray, np.ndarray]
) -> None:
    frame = Frame(scene[0], camera=CameraIntrinsics(160, 120, 200.0, 200.0, 80.0, 60.0))
    result = fuzz_graph(tmp_path, tiny_model, frame, 0, lambda number: number < CASES, LIMIT)
    assert result.faults == []
    assert sum(result.cases.values()) == CASES
    assert len(result.latencies) == CASES // 4
    assert len(result.memory) == 4
    assert all(last - first <= MAX_GROWTH for first, last in result.memory.values())
