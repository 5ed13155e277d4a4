"""Which frame the worker gets: the newest, with its depth, and never an old one."""

from __future__ import annotations

from rise_perception.inference.pairing import FramePairing

MS = 1_000_000
SECOND = 1_000 * MS


def test_without_a_depth_camera_nothing_waits_and_the_newest_wins():
    pairing = FramePairing(0.02)
    for number in range(3):
        pairing.add_color(number * 33 * MS, f"c{number}", now=number * 0.033)
    pair = pairing.take(0.07)
    assert (pair.color, pair.depth, pair.stamp, pair.arrival) == ("c2", None, 66 * MS, 2 * 0.033)
    assert pairing.take(0.07) is None
    assert pairing.superseded == 2


def test_colour_waits_for_its_depth_whichever_comes_first():
    pairing = FramePairing(0.02)
    pairing.add_depth(1 * MS, "d0", 0.0)
    pairing.add_color(0, "c0", 0.001)
    assert pairing.take(0.001)[:2] == ("c0", "d0")
    pairing.add_color(33 * MS, "c1", 0.033)
    assert pairing.take(0.034) is None
    assert pairing.wait_time(0.034) > 0
    pairing.add_depth(33 * MS, "d1", 0.05)
    assert pairing.take(0.05)[:2] == ("c1", "d1")


def test_the_newest_complete_frame_is_taken_while_a_newer_one_waits():
    pairing = FramePairing(0.02)
    pairing.add_depth(0, "d0", 0.0)
    pairing.add_color(0, "c0", 0.0)
    pairing.add_color(33 * MS, "c1", 0.03)
    assert pairing.take(0.03)[:2] == ("c0", "d0")
    pairing.add_depth(33 * MS, "d1", 0.04)
    assert pairing.take(0.04)[:2] == ("c1", "d1")
    assert pairing.superseded == 0


def test_depth_beyond_the_tolerance_is_not_used():
    pairing = FramePairing(0.005)
    pairing.add_depth(10 * MS, "d", 0.0)
    pairing.add_color(0, "c", 0.0)
    assert pairing.take(0.0) is None
    assert pairing.take(0.11)[:2] == ("c", None)


def test_a_depth_camera_that_stops_delays_nothing_for_long_and_may_come_back():
    pairing = FramePairing(0.02, patience=0.1, silence=1.0)
    pairing.add_depth(0, "d", 0.0)
    pairing.add_color(100 * MS, "c1", 0.1)
    assert pairing.take(0.15) is None
    assert pairing.take(0.21)[:2] == ("c1", None)
    pairing.add_color(2 * SECOND, "c2", 2.0)
    assert not pairing.depth_is_alive(2.0)
    assert pairing.take(2.0)[:2] == ("c2", None)
    pairing.add_depth(3 * SECOND, "d3", 3.0)
    pairing.add_color(3 * SECOND, "c3", 3.0)
    assert pairing.take(3.0)[:2] == ("c3", "d3")


def test_an_announced_depth_camera_is_waited_for_once():
    pairing = FramePairing(0.02, patience=0.1, silence=1.0)
    pairing.expect_depth(0.0)
    pairing.add_color(0, "c0", 0.0)
    assert pairing.take(0.0) is None
    pairing.add_depth(0, "d0", 0.05)
    assert pairing.take(0.05)[:2] == ("c0", "d0")
    silent = FramePairing(0.02, silence=1.0)
    silent.expect_depth(0.0)
    silent.expect_depth(5.0)  # it has been silent for seconds: no new hope
    silent.add_color(0, "c", 5.0)
    assert silent.take(5.0)[:2] == ("c", None)


def test_a_clock_set_back_drops_the_past_and_a_late_message_only_itself():
    pairing = FramePairing(0.02)
    pairing.add_depth(10 * SECOND, "old depth", 0.0)
    pairing.add_color(10 * SECOND + 50 * MS, "waits", 0.0)
    pairing.add_color(10 * SECOND + 20 * MS, "late", 0.01)
    assert pairing.late == 1
    pairing.add_depth(0, "new depth", 0.02)
    pairing.add_color(0, "new", 0.03)
    assert pairing.jumps == 1
    assert pairing.take(0.03)[:2] == ("new", "new depth")
    assert pairing.take(10.0) is None


def test_memory_is_bounded_however_long_nobody_takes():
    pairing = FramePairing(0.02)
    for number in range(100):
        pairing.add_depth(number * 33 * MS + 25 * MS, object(), number * 0.033)
        pairing.add_color(number * 33 * MS, object(), number * 0.033)
    assert pairing.superseded == 100 - pairing.length
    pairing.clear()
    assert pairing.take(1e9) is None
    assert pairing.wait_time(1e9) is None


def test_depth_that_comes_late_is_counted_and_how_late():
    pairing = FramePairing(0.02, patience=0.1)
    for number in range(20):
        now = number * 0.033
        pairing.add_color(number * 33 * MS, f"c{number}", now)
        if number >= 5:  # 165 ms after its image
            pairing.add_depth((number - 5) * 33 * MS, f"d{number - 5}", now)
        pairing.take(now)
    assert pairing.demoted > 0
    assert abs(pairing.lateness - 0.165) < 1e-6
    assert pairing.demoted_since(0.0) == pairing.demoted
    assert pairing.demoted_since(10.0) == 0


def test_with_enough_patience_late_depth_is_used():
    pairing = FramePairing(0.02, patience=0.3)
    pairing.expect_depth(0.0)
    taken = []
    for number in range(30):
        now = number * 0.033
        pairing.add_color(number * 33 * MS, number, now)
        if number >= 5:
            pairing.add_depth((number - 5) * 33 * MS, number - 5, now)
        if (pair := pairing.take(now)) is not None:
            taken.append((pair.color, pair.depth))
    assert taken == [(number, number) for number in range(25)]
    assert pairing.demoted == pairing.superseded == 0


def test_a_camera_faster_than_its_depth_is_still_served():
    pairing = FramePairing(0.001, patience=1.0)
    pairing.add_depth(0, "d", 0.0)
    for number in range(1, 200):
        pairing.add_color(number * 2 * MS + MS, number, number * 0.002)
    assert pairing.take(0.4) is not None
