"""`make venv`: what it refuses and prints, how it mends the wheels, that it is quick the second time."""

from __future__ import annotations

import configparser
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools/prepare_venv.py"


@pytest.fixture
def prepare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_venv", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(tmp_path: Path, user: int | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    base = getattr(sys, "_base_executable", sys.executable)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("AMENT", "ROS_"))}
    return subprocess.run(
        [base, str(SCRIPT), "--venv", str(tmp_path / "venv")],
        capture_output=True,
        text=True,
        env={**clean, **env},
        user=user,
        timeout=120,
    )


def test_missing_system_packages_are_named_with_the_line_to_type(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    tmp_path.chmod(0o777)
    bare = tmp_path / "bin"
    bare.mkdir()
    result = run(tmp_path, PATH=str(bare))
    assert result.returncode == 1
    assert "cmake" in result.stderr
    assert "install their equivalents" in result.stderr
    # With apt-get there, but not as root: the exact line.
    (bare / "apt-get").symlink_to("/bin/true")
    readable = subprocess.run(["test", "-x", sys._base_executable], user=65534).returncode == 0
    if readable and subprocess.run(["test", "-r", str(SCRIPT)], user=65534).returncode == 0:
        result = run(tmp_path, user=65534, PATH=str(bare))
        assert result.returncode == 1
        assert "sudo apt-get install -y g++ cmake make" in result.stderr
    assert not (tmp_path / "venv").exists()


def test_a_sourced_ros_of_another_python_is_refused_with_the_remedy(tmp_path):
    result = run(tmp_path, AMENT_PREFIX_PATH="/opt/ros/jazzy", PYTHONPATH="")
    assert result.returncode == 1
    assert "cannot import its rclpy" in result.stderr
    assert "make venv PYTHON=/usr/bin/python3" in result.stderr


def test_an_unsupported_python_is_refused(prepare, monkeypatch):
    monkeypatch.setattr(prepare, "SUPPORTED", ((3, 98), (3, 99)))
    with pytest.raises(SystemExit, match=r"3\.98 to 3\.99 are supported"):
        prepare.check_python()


def test_steps_run_again_only_when_their_inputs_change(prepare, tmp_path, monkeypatch):
    for name in ("setup.cfg", "setup.py", "rise_perception/__init__.py", "ros2_ws/src/rise_msgs/msg/A.msg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    ran: list[str] = []
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    monkeypatch.setattr(prepare, "MESSAGES", tmp_path / "ros2_ws/src/rise_msgs")
    monkeypatch.setattr(prepare, "ros_is_sourced", lambda: False)
    monkeypatch.setattr(prepare, "install_system_packages", lambda: None)
    monkeypatch.setattr(prepare, "create", lambda venv, sourced: (venv.mkdir(), ran.append("create")))
    monkeypatch.setattr(prepare, "install_packages", lambda venv, sourced: ran.append("packages"))
    monkeypatch.setattr(prepare, "build_messages", lambda venv, sourced: ran.append("messages"))
    monkeypatch.setattr(sys, "argv", ["prepare_venv", "--venv", str(tmp_path / "venv")])
    prepare.main()
    prepare.main()
    assert ran == ["create", "packages", "messages"]
    (tmp_path / "ros2_ws/src/rise_msgs/msg/A.msg").write_text("2")
    prepare.main()
    assert ran[3:] == ["messages"]
    (tmp_path / "setup.cfg").write_text("2")
    monkeypatch.setattr(prepare, "install_packages", lambda venv, sourced: sys.exit("pip failed"))
    with pytest.raises(SystemExit):
        prepare.main()
    monkeypatch.setattr(prepare, "install_packages", lambda venv, sourced: ran.append("packages"))
    prepare.main()
    assert ran[4:] == ["packages"], "a step that failed has to run again"


def test_exports_of_the_wheels_are_pointed_at_this_python(prepare, tmp_path):
    export = tmp_path / "share/std_msgs/cmake/export.cmake"
    export.parent.mkdir(parents=True)
    export.write_text(
        'INCLUDE "/opt/python/cp312-cp312/include/python3.12;'
        '/opt/python/cp312-cp312/lib/python3.12/site-packages/numpy/_core/include;/usr/include"'
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    script = tmp_path / "bin/python"
    script.unlink()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    prepare.mend_exports(tmp_path)
    assert export.read_text() == (
        f'INCLUDE "{sysconfig.get_path("include")};{np.get_include()};/usr/include"'
    )


def test_the_lean_image_has_one_runtime_and_the_versions_of_the_package():
    lines = (ROOT / "docker/requirements-lean.txt").read_text().splitlines()
    lean = {line for line in lines if not line.startswith("#")}
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    stated = metadata["options"]["install_requires"] + metadata["options.extras_require"]["deploy"]
    assert lean <= set(stated.split())
    names = {line.partition(">=")[0] for line in lean}
    assert names & {"torch", "torchvision", "timm", "openvino", "onnxruntime"} == {"onnxruntime"}


@pytest.mark.slow
def test_colcon_builds_the_workspace_and_an_installed_node_runs(tmp_path, tiny_model):
    """As in the README: `cd ros2_ws && colcon build`, then a node from install/, not from the checkout."""
    rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed; `make venv` installs it")
    assert rclpy
    colcon = shutil.which("colcon", path=f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}")
    assert colcon, "colcon comes with the extra `dev` of setup.cfg"
    env = {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    env.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    env.setdefault("CMAKE_PREFIX_PATH", env["AMENT_PREFIX_PATH"])
    env.update(VIRTUAL_ENV=sys.prefix, PATH=f"{sys.prefix}/bin{os.pathsep}{env['PATH']}", MAKEFLAGS="-j4")
    build = subprocess.run(
        [
            *(colcon, "--log-base", tmp_path / "log", "build", "--base-paths", ROOT / "ros2_ws/src"),
            *("--build-base", tmp_path / "build", "--install-base", tmp_path / "install"),
        ],
        capture_output=True,
        text=True,
        env=env,
        timeout=900,
    )
    assert build.returncode == 0, build.stdout[-3000:] + build.stderr[-3000:]
    assert "2 packages finished" in build.stderr + build.stdout
    installed = tmp_path / "install/rise_perception"
    for name in ("rise", "segmentation_node", "camera_node", "recorder_node"):
        assert os.access(installed / "lib/rise_perception" / name, os.X_OK)
    for name in (
        "config/fastdds.xml",
        "launch/live.launch.py",
        "models/demo_pick/metadata.yaml",
        "package.xml",
    ):
        assert (installed / "share/rise_perception" / name).is_file()

    from ros_graph import Graph

    graph = Graph(tmp_path)
    node = None
    try:
        command = (
            f". {tmp_path}/install/setup.sh; "
            "python -c 'import rise_perception; print(rise_perception.__file__)'; "
            f"exec {installed}/lib/rise_perception/segmentation_node --ros-args -p model:={tiny_model}"
        )
        env.update({k: v for k, v in graph.env.items() if k.startswith(("ROS_", "FAST", "OMP"))})
        with (tmp_path / "node.log").open("wb") as log:
            node = subprocess.Popen(["sh", "-c", command], env=env, cwd=tmp_path, stdout=log, stderr=log)
        graph.wait_for_diagnostics("serving model: tiny_rgb-")
        assert str(tmp_path / "install") in (tmp_path / "node.log").read_text()
    finally:
        if node is not None:
            node.terminate()
            node.wait(60)
        graph.close()


@pytest.mark.slow
def test_a_wheel_holds_models_config_and_launch_and_works_in_a_clean_environment(tmp_path):
    """`pip install` of the built wheel, away from the checkout; dependencies are lent by this environment."""
    (tmp_path / "source").mkdir()
    for name in ("rise_perception", "config", "launch", "models", "resource", "ros2_ws/src/rise_msgs"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=ignore)
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path / "wheels"]
    subprocess.run([*pip, *build, tmp_path / "source"], check=True, cwd=tmp_path)
    (wheel,) = (tmp_path / "wheels").glob("rise_perception-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "clean"], check=True)
    python = tmp_path / "clean/bin/python"
    subprocess.run([*pip, "--python", python, "install", "-q", "--no-deps", wheel], check=True)
    where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(where, capture_output=True, text=True).stdout.strip()
    # Behind the clean environment's own packages; no .pth file of the lender is followed.
    Path(site, "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    code = """
import numpy as np, rise_perception
from rise_perception import Segmenter
from rise_perception.core import resources
print(rise_perception.__file__, *(resources.find(name) for name in ("models", "config", "launch", "msg")))
print(len(Segmenter.load("rise_small_rgb")(np.zeros((120, 160, 3), np.uint8))))
"""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "AMENT_PREFIX_PATH")}
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    places = done.stdout.split("\n")[0].split(" ")
    assert len(places) == 5
    assert all(place.startswith(str(tmp_path / "clean")) for place in places), places
    done = subprocess.run(
        [tmp_path / "clean/bin/rise", "info", "rise_small_rgbd"], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rise_small_rgbd" in done.stdout
