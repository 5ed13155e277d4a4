"""The package as a whole: metadata that agrees, imports that need no ROS, files where they are looked for."""

from __future__ import annotations

import ast
import configparser
import itertools
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml

import rise_perception
from rise_perception import ROOMS
from rise_perception.core import resources
from rise_perception.core.errors import RiseError

ROOT = Path(__file__).resolve().parents[1]
MESSAGES = ROOT / "ros2_ws/src/rise_msgs"
ROS = ("rclpy", "rise_msgs", "sensor_msgs", "std_msgs", "geometry_msgs", "diagnostic_msgs", "cv_bridge")
HEAVY = (
    "mujoco",
    "transformers",
    "open3d",
    "tensorrt",
    "onnxruntime",
    "openvino",
    "vision_msgs",
    "tensorboard",
)


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **env}, timeout=300
    )


def test_every_manifest_has_the_same_version():
    for manifest in (ROOT / "package.xml", MESSAGES / "package.xml"):
        assert ElementTree.parse(manifest).getroot().findtext("version") == rise_perception.__version__


def test_every_executable_is_a_function_that_exists():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].split("\n")
    for script in filter(None, map(str.strip, scripts)):
        module, function = script.split("=")[1].strip().split(":")
        source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
        assert re.search(rf"^def {function}\(", source, re.MULTILINE), script


def test_every_message_is_built_and_every_link_leads_home():
    build = (MESSAGES / "CMakeLists.txt").read_text()
    files = [
        p.relative_to(MESSAGES) for kind in ("msg", "srv", "action") for p in (MESSAGES / kind).iterdir()
    ]
    assert len(files) >= 14
    for file in files:
        assert str(file) in build, f"{file} is not in CMakeLists.txt"
    assert (ROOT / "ros2_ws/src/rise_perception").resolve() == ROOT


def test_every_arrow_between_rooms_goes_down():
    upward = []
    for path in sorted((ROOT / "rise_perception").rglob("*.py")):
        parts = path.relative_to(ROOT / "rise_perception").parts
        if len(parts) == 1:
            continue  # the package itself
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                room = name.partition("rise_perception.")[2].split(".")[0]
                if room and ROOMS.index(room) > ROOMS.index(parts[0]):
                    upward.append(f"{path.relative_to(ROOT)}:{node.lineno} imports {name}")
    assert not upward


def test_every_room_has_its_place_in_the_order():
    folders = {p.name for p in (ROOT / "rise_perception").iterdir() if (p / "__init__.py").is_file()}
    assert folders == set(ROOMS)


def test_no_source_file_is_longer_than_550_lines():
    sources = [*ROOT.glob("rise_perception/**/*.py"), *ROOT.glob("tools/*.py")]
    assert len(sources) > 40
    long = {str(p.relative_to(ROOT)): n for p in sources if (n := len(p.read_text().splitlines())) > 550}
    assert not long


def test_all_but_the_nodes_import_without_ros_and_without_heavy_packages():
    modules = [
        ".".join(p.relative_to(ROOT).with_suffix("").parts)
        for p in sorted(ROOT.glob("rise_perception/**/*.py"))
        if "nodes" not in p.relative_to(ROOT).parts and p.name != "__init__.py"
    ]
    assert len(modules) > 30
    modules.append("rise_perception.nodes.node_process")
    code = f"""
import importlib, sys
for module in {modules!r}:
    importlib.import_module(module)
    found = {{name.split(".")[0] for name in sys.modules}} & set({(*ROS, *HEAVY)!r})
    if found:
        sys.exit(f"{{module}} imports {{sorted(found)}}")
"""
    result = python(code)
    assert result.returncode == 0, result.stderr[-2000:]


def test_resources_come_from_the_checkout_and_unknown_ones_are_named():
    for name in ("models", "config", "launch", "msg"):
        assert resources.find(name).is_relative_to(ROOT)
    with pytest.raises(RiseError, match="'modles'"):
        resources.find("modles")


def test_resources_of_an_installation_are_found_below_its_prefix(tmp_path):
    package = tmp_path / "site/rise_perception"
    (package / "core").mkdir(parents=True)
    for name in ("__init__.py", "core/__init__.py", "core/resources.py", "core/errors.py"):
        shutil.copy(ROOT / "rise_perception" / name, package / name)
    config = tmp_path / "prefix/share/rise_perception/config"
    config.mkdir(parents=True)
    code = """
from rise_perception import ROOMS
from rise_perception.core import resources
print(resources.find("config"))
try:
    resources.find("models")
except resources.RiseError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path / "site",
        env={
            **os.environ,
            "PYTHONPATH": str(tmp_path / "site"),
            "AMENT_PREFIX_PATH": f"/no:{tmp_path}/prefix",
        },
    )
    found, missing = result.stdout.splitlines()
    assert found == str(config)
    assert "'models'" in missing
    assert f"{tmp_path}/prefix/share/rise_perception/models" in missing


@pytest.mark.parametrize(
    "file", ["segmentation_node.yaml", "interaction_node.yaml", "learner_node.yaml", "rise.rviz"]
)
def test_configuration_files_are_valid_yaml(file):
    assert yaml.safe_load((ROOT / "config" / file).read_text())


@pytest.mark.parametrize("file", ["segmentation_node.yaml", "interaction_node.yaml", "learner_node.yaml"])
def test_every_parameter_has_a_sentence_in_the_configuration(file):
    lines = (ROOT / "config" / file).read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"    \w+:", line):
            assert before.strip().startswith("#"), line


NO_LAUNCH = "the launch system is not on PyPI; it comes with ROS 2"


def launched(file: str, **given: str) -> dict[str, dict[str, object]]:
    """The nodes that a launch file starts: their parameters by source, remappings and namespace."""
    launch = pytest.importorskip("launch", reason=NO_LAUNCH)
    pytest.importorskip("launch_ros", reason=NO_LAUNCH)
    from launch.launch_description_sources import get_launch_description_from_python_launch_file
    from launch.utilities import normalize_to_list_of_substitutions, perform_substitutions
    from launch_ros.actions import Node
    from launch_ros.utilities import evaluate_parameters

    context = launch.LaunchContext()
    context.launch_configurations.update(given)
    description = get_launch_description_from_python_launch_file(str(ROOT / "launch" / file))
    started, waiting = {}, list(description.entities)
    while waiting:
        entity = waiting.pop(0)
        if not isinstance(entity, Node):
            waiting[:0] = entity.visit(context) or []
            continue
        # The only private names here: launch offers no other way to look at a node before it runs.
        private = vars(entity)
        sources = evaluate_parameters(context, private["_Node__parameters"])
        started[entity.node_executable] = {
            "sources": [source if isinstance(source, dict) else str(source) for source in sources],
            "remappings": {
                perform_substitutions(context, list(old)): perform_substitutions(context, list(new))
                for old, new in private["_Node__remappings"]
            },
            "namespace": perform_substitutions(
                context, normalize_to_list_of_substitutions(private["_Node__node_namespace"] or "")
            ),
        }
    return started


def test_launch_starts_the_nodes_that_are_asked_for():
    assert set(launched("live.launch.py")) == {"segmentation_node"}
    every = launched("live.launch.py", interaction="true", learner="true", rviz="true", namespace="cell1")
    assert set(every) == {"segmentation_node", "interaction_node", "learner_node", "rviz2"}
    assert {node["namespace"] for name, node in every.items() if name != "rviz2"} == {"cell1"}
    assert set(launched("replay.launch.py")) == {"segmentation_node", "camera_node"}


def test_a_parameter_file_comes_before_presets_and_after_what_is_given(tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("/**/segmentation_node: {ros__parameters: {model: rise_small_rgb, color_topic: /mine}}\n")
    (node,) = launched("live.launch.py", camera="realsense", params=str(own)).values()
    assert node["sources"] == [str(own)]  # nothing that could overrule it
    assert node["remappings"]["image"] == "/camera/camera/color/image_raw"  # of another name than /mine
    (node,) = launched("live.launch.py", params=str(own), model="auto", color="/c", depth="none").values()
    given = {"model": "auto", "color_topic": "/c", "depth_topic": ""}
    assert node["sources"] == [str(own), given]
    assert node["remappings"] == {}


def test_a_preset_that_is_not_there_is_named():
    pytest.importorskip("launch", reason=NO_LAUNCH)
    with pytest.raises(RuntimeError, match="camera:=kinect; there are: realsense, orbbec, zed, photoneo"):
        launched("live.launch.py", camera="kinect")


@pytest.mark.parametrize("learner", ["true", "false"])
def test_the_learners_versions_serve_where_it_is_started(learner):
    given = {"model_store": "/data/my models"} if learner == "true" else {}
    started = launched("live.launch.py", learner=learner, anchors="a.json", **given)
    assert ("learner_node" in started) == (learner == "true")
    if learner == "true":
        usual = {"model_store": "~/.rise_perception/models"}
        assert started["segmentation_node"]["sources"] == [usual, given]
        assert started["learner_node"]["sources"] == [{**given, "anchors": "a.json"}]
    else:
        assert started["segmentation_node"]["sources"] == []


def test_a_replay_is_by_the_recordings_clock():
    started = launched("replay.launch.py")
    assert started["segmentation_node"]["sources"] == [{"use_sim_time": True}]
    assert started["camera_node"]["sources"][0]["clock"] is True


def test_parameter_files_and_reference_page_are_what_the_nodes_declare():
    code = "from tools.write_parameters import texts\n" + (
        "stale = [str(path) for path, text in texts().items() if path.read_text() != text]\n"
        "assert not stale, f'run `python tools/write_parameters.py`: {stale}'\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-2000:]
