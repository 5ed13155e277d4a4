"""A camera that never pauses: the node answers the newest image, and neither delay nor memory grows."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed; `make venv` installs it")

from rise_perception.core.frame import CameraIntrinsics, Frame
from rise_perception.nodes.soak import SoakResult, soak


@pytest.mark.slow
def test_fifteen_seconds_at_thirty_hertz(tiny_depth_model, scene):
    image, depth = scene
    camera = CameraIntrinsics(160, 120, 200.0, 200.0, 80.0, 60.0)
    frames = [Frame(np.roll(image, shift, 1), np.roll(depth, shift, 1), camera) for shift in (0, 5, 10)]
    parameters = {"model": str(tiny_depth_model), "sync_tolerance_s": 0.01}
    result = soak(parameters, frames, rate=30.0, seconds=15.0)
    assert result.sent > 50
    assert len(result.latencies) > 10
    assert result.times[-1] > 12  # it answered to the end
    # A queue would grow by a second every few seconds; what is allowed here is a busy machine.
    assert result.latencies[-5:].max() < 5000
    assert result.latency_growth() < 4
    assert len(result.memory) >= 12
    assert result.memory_growth() < 25


def test_growth_is_seen():
    times = np.linspace(0.1, 60, 600)
    flat, rising = np.full(600, 50.0), 50.0 + times * 20
    steady, leaking = np.full(60, 500.0), 500.0 + np.arange(60) * 2.0
    assert SoakResult(times, flat, steady, 600).latency_growth() == 1.0
    assert SoakResult(times, rising, steady, 600).latency_growth() > 1.5
    assert SoakResult(times, flat, steady, 600).memory_growth() == 0.0
    assert SoakResult(times, flat, leaking, 600).memory_growth() > 20
