"""Messages of packages that only ROS's distribution has, built here from their published definitions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from rise_perception.nodes.node_process import free_domain  # noqa: E402

pytestmark = pytest.mark.slow

Run = Callable[[str], list[Any]]
DEFINITIONS = {
    "TFMessage": "geometry_msgs/TransformStamped[] transforms\n",
    "Status": (
        "std_msgs/Header header\nstring id\nstring instance_id\nbool active\n"
        "float32 heartbeat_timeout\nfloat32 heartbeat_period\n"
    ),
}
#: One package for both, as each costs seconds; the modules under test look for theirs by name.
PACKAGE = "published_definitions"
CMAKE = f"""\
cmake_minimum_required(VERSION 3.8)
project({PACKAGE})
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
find_package(geometry_msgs REQUIRED)
find_package(std_msgs REQUIRED)
rosidl_generate_interfaces({PACKAGE} msg/Status.msg msg/TFMessage.msg DEPENDENCIES geometry_msgs std_msgs)
ament_package()
"""
MANIFEST = f"""\
<?xml version="1.0"?>
<package format="3">
  <name>{PACKAGE}</name><version>0.0.0</version><description>for tests</description>
  <maintainer email="nobody@example.org">nobody</maintainer><license>BSD</license>
  <buildtool_depend>ament_cmake</buildtool_depend><depend>geometry_msgs</depend><depend>std_msgs</depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
</package>
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a script where both messages can be imported; gives what it prints, as JSON."""
    prefix = Path(rclpy.__file__).parents[4]
    if not (prefix / "share/rosidl_cmake").is_dir() or shutil.which("cmake", path=_path(prefix)) is None:
        pytest.skip("the generators of interfaces are not installed")
    folder = tmp_path_factory.mktemp("definitions")
    (folder / "msg").mkdir()
    for name, text in DEFINITIONS.items():
        (folder / f"msg/{name}.msg").write_text(text)
    (folder / "CMakeLists.txt").write_text(CMAKE)
    (folder / "package.xml").write_text(MANIFEST)
    env = {
        **{name: value for name, value in os.environ.items() if name != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"},
        "PATH": _path(prefix),
        "AMENT_PREFIX_PATH": os.pathsep.join([str(prefix), os.environ.get("AMENT_PREFIX_PATH", "")]),
    }
    steps = (
        ["-S", folder, "-B", folder / "build", "-DBUILD_TESTING=OFF", "-Wno-dev",
         f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_INSTALL_PREFIX={folder / 'install'}",
         f"-DPython3_EXECUTABLE={sys.executable}", "-DPython3_FIND_VIRTUALENV=ONLY"],
        ["--build", folder / "build"],
        ["--install", folder / "build"],
    )  # fmt: skip
    for step in steps:
        done = subprocess.run(["cmake", *map(str, step)], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (site,) = (folder / "install").glob("lib/python3*/site-packages")
    root = str(Path(__file__).parents[1])
    env |= {
        "PYTHONPATH": os.pathsep.join([root, str(site)]),
        "LD_LIBRARY_PATH": os.pathsep.join([f"{folder}/install/lib", env.get("LD_LIBRARY_PATH", "")]),
        "AMENT_PREFIX_PATH": os.pathsep.join([f"{folder}/install", env["AMENT_PREFIX_PATH"]]),
        "ROS_DOMAIN_ID": str(free_domain()),
    }

    def call(script: str) -> list[Any]:
        done = subprocess.run(
            [sys.executable, "-c", PREAMBLE + script], env=env, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found: list[Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    return call


def _path(prefix: Path) -> str:
    return os.pathsep.join([f"{prefix}/bin", os.environ["PATH"]])


PREAMBLE = """
import json, sys, time, types
import published_definitions.msg as built
for name in ("tf2_msgs", "bond"):
    sys.modules[name], sys.modules[name + ".msg"] = types.ModuleType(name), built
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
rclpy.init()
node = rclpy.create_node("arm")
def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not come"
        rclpy.spin_once(node, timeout_sec=0.05)
"""


def test_transforms_come_from_the_topics_of_tf(run: Run) -> None:
    told = run("""
from geometry_msgs.msg import TransformStamped
from rise_perception.core.errors import TransformError
from rise_perception.nodes.transforms import Transforms
def link(parent, child, z, second):
    found = TransformStamped(child_frame_id=child)
    found.header.frame_id, found.header.stamp.sec = parent, second
    found.transform.translation.z, found.transform.rotation.x, found.transform.rotation.w = z, 1.0, 0.0
    return found
latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
fixed = node.create_publisher(built.TFMessage, "/tf_static", latched)
moving = node.create_publisher(built.TFMessage, "/tf", 100)
fixed.publish(built.TFMessage(transforms=[link("flange", "camera", 0.1, 0)]))  # before anybody listens
transforms = Transforms(node)
transforms.listen()
until(lambda: moving.get_subscription_count() == 1)
moving.publish(built.TFMessage(transforms=[link("base", "flange", 1.0, 10), link("base", "flange", 2.0, 12)]))
def there():
    try:
        return transforms.lookup("base", "camera", 11 * 10**9)
    except TransformError:
        return None
until(lambda: there() is not None)
print(json.dumps(there().tolist()))
""")
    # Turned over twice: the camera looks as the base does, 0.1 m below a flange that is at 1.5 m by then.
    assert [row[3] for row in told[:3]] == pytest.approx([0.0, 0.0, 1.4])
    assert told[2][2] == pytest.approx(1.0)


def test_an_active_node_has_a_heartbeat_and_says_when_it_goes(run: Run) -> None:
    told = run("""
from rise_perception.nodes.heartbeat import Heartbeat
heard = []
node.create_subscription(built.Status, "bond", heard.append, 10)
heartbeat = Heartbeat(node)
for _ in range(2):
    heartbeat.start()
    count = len(heard)
    until(lambda: len(heard) >= count + 3)
    heartbeat.stop()
    until(lambda: not heard[-1].active)
    heartbeat.stop()
print(json.dumps([
    (s.id, s.instance_id, s.active, s.heartbeat_timeout, round(s.heartbeat_period, 6)) for s in heard
]))
""")
    assert {(name, timeout, period) for name, _, _, timeout, period in told} == {("arm", 4.0, 0.1)}
    assert len({instance for _, instance, _, _, _ in told}) == 2  # each bond is a new one
    assert [active for _, _, active, _, _ in told].count(False) == 2
    assert told[-1][2] is False


def test_without_the_package_there_is_no_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    from rise_perception.nodes import heartbeat

    # What the module holds where the package bond is missing.
    monkeypatch.setattr(heartbeat, "Status", None)
    silent = heartbeat.Heartbeat(None)
    silent.start()
    silent.stop()
