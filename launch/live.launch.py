"""The segmentation node for a live camera; the nodes that keep episodes of grasps, and learn from them.

ros2 launch rise_perception live.launch.py camera:=realsense
ros2 launch rise_perception live.launch.py color:=/wrist/color/image_raw info:=/wrist/color/camera_info \
    depth:=/wrist/aligned_depth_to_color/image_raw rviz:=true
ros2 launch rise_perception live.launch.py camera:=orbbec namespace:=cell1 params:=cell1.yaml respawn:=true
ros2 launch rise_perception live.launch.py camera:=realsense interaction:=true learner:=true \
    anchors:=/data/tote/train.json heldout_anchors:=/data/tote/val.json

What is given here comes before the parameter file, the parameter file before the camera's preset.
"""

import os
from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(__file__).resolve().parents[1]  # the installed share folder, or the checkout
TOPICS = {"color": "image", "depth": "depth", "info": "camera_info", "depth_info": "depth_camera_info"}
#: Topics as the drivers name them by default, depth registered to colour by the driver.
CAMERAS = {
    "": {},
    # realsense-ros 4.54 and later, started with align_depth.enable:=true
    "realsense": {
        "color": "/camera/camera/color/image_raw",
        "depth": "/camera/camera/aligned_depth_to_color/image_raw",
        "info": "/camera/camera/color/camera_info",
    },
    # OrbbecSDK_ROS2, started with depth_registration:=true
    "orbbec": {
        "color": "/camera/color/image_raw",
        "depth": "/camera/depth/image_raw",
        "info": "/camera/color/camera_info",
    },
    # zed-ros2-wrapper 5.1 and later
    "zed": {
        "color": "/zed/zed_node/rgb/color/rect/image",
        "depth": "/zed/zed_node/depth/depth_registered",
        "info": "/zed/zed_node/rgb/color/rect/camera_info",
    },
    # phoxi_camera: texture and depth are of one sensor
    "photoneo": {
        "color": "/phoxi_camera/texture",
        "depth": "/phoxi_camera/depth_map",
        "info": "/phoxi_camera/camera_info",
    },
}
#: Arguments that are parameters of nodes: name, parameter, nodes.
SEGMENTATION, INTERACTION, LEARNER = "segmentation_node", "interaction_node", "learner_node"
PARAMETERS = (
    ("model", "model", (SEGMENTATION,)),
    ("device", "device", (SEGMENTATION,)),
    ("workspace", "workspace", (SEGMENTATION,)),
    ("target_frame", "target_frame", (SEGMENTATION,)),
    ("model_store", "model_store", (SEGMENTATION, LEARNER)),
    ("episode_store", "episode_store", (INTERACTION, LEARNER)),
    ("learner_model", "model", (LEARNER,)),
    ("anchors", "anchors", (LEARNER,)),
    ("heldout_anchors", "heldout_anchors", (LEARNER,)),
)
ARGUMENTS = {
    "namespace": ("", "namespace of all nodes and of relative topics"),
    "params": ("", "parameter file, for any of the nodes"),
    "use_sim_time": ("false", "take the time from /clock"),
    "respawn": ("false", "start a node again that has ended"),
    "camera": ("", f"preset of topics: {', '.join(filter(None, CAMERAS))}"),
    "color": ("", "colour image topic; .../compressed for CompressedImage"),
    "depth": ("", "depth topic; none for no depth"),
    "info": ("", "camera info topic of the colour image"),
    "depth_info": ("", "camera info topic of depth that is to be registered to the colour image"),
    "model": ("", "model folder, name of a shipped model, or auto"),
    "device": ("", "auto, cpu, cuda"),
    "workspace": ("", "polygon in the image or box in a frame; see docs/parameters.md"),
    "target_frame": ("", "frame of centroids and boxes"),
    "interaction": ("false", "start the interaction node too"),
    "episode_store": ("", "folder that its episodes go to"),
    "learner": ("false", "start the learner node too, and let its versions serve"),
    "model_store": ("", "folder of its versions"),
    "learner_model": ("", "what an empty folder of versions begins with"),
    "anchors": ("", "labelled images that it replays: COCO JSON, split or OCID folder"),
    "heldout_anchors": ("", "COCO JSON of other labelled images, on which nothing may be lost"),
    "rviz": ("false", "start RViz too"),
}
#: Where the learner's versions go when neither an argument nor a parameter file says so.
MODEL_STORE = "~/.rise_perception/models"


def start(context: LaunchContext) -> list[Node]:
    """The nodes that are asked for."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    if given["camera"] not in CAMERAS:
        known = ", ".join(filter(None, CAMERAS))
        raise RuntimeError(f"there is no preset camera:={given['camera']}; there are: {known}")
    learns = is_true(given["learner"])
    nodes = [SEGMENTATION]
    nodes += [INTERACTION] if is_true(given["interaction"]) else []
    nodes += [LEARNER] if learns else []
    actions = [node(name, given, learns) for name in nodes]
    if is_true(given["rviz"]):
        arguments = ["-d", str(SHARE / "config/rise.rviz")]
        actions.append(Node(package="rviz2", executable="rviz2", arguments=arguments))
    return actions


def node(name: str, given: dict[str, str], learns: bool) -> Node:
    """One node: the camera's preset, then the parameter file, then what was given."""
    defaults: dict[str, str] = {}
    texts: dict[str, str] = {}
    remappings: list[tuple[str, str]] = []
    if learns and name == SEGMENTATION:
        defaults["model_store"] = MODEL_STORE
    if name != LEARNER:
        for topic, relative in TOPICS.items():
            if given[topic]:
                texts[f"{topic}_topic"] = "" if given[topic] == "none" else given[topic]
            elif topic in CAMERAS[given["camera"]]:
                # Holds while the parameter file leaves the topic's parameter as it is.
                remappings.append((relative, CAMERAS[given["camera"]][topic]))
    texts.update({key: given[arg] for arg, key, nodes in PARAMETERS if name in nodes and given[arg]})
    # As texts, whatever they look like: a folder may be called 123.
    wanted: dict[str, Any] = {key: ParameterValue(text, value_type=str) for key, text in texts.items()}
    if is_true(given["use_sim_time"]):
        wanted["use_sim_time"] = True
    parameters = [defaults, given["params"], wanted]
    return Node(
        package="rise_perception",
        executable=name,
        name=name,
        namespace=given["namespace"],
        output="screen",
        respawn=is_true(given["respawn"]),
        respawn_delay=2.0,
        parameters=[source for source in parameters if source],
        remappings=remappings,
    )


def is_true(text: str) -> bool:
    """As launch reads conditions."""
    return text.lower() in ("true", "1")


def generate_launch_description() -> LaunchDescription:
    """Segmentation node; the others on demand; the Fast DDS profile unless there is one."""
    actions = [
        DeclareLaunchArgument(name, default_value=value, description=about)
        for name, (value, about) in ARGUMENTS.items()
    ]
    if not {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"} & os.environ.keys():
        profile = str(SHARE / "config/fastdds.xml")
        actions.append(SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", profile))
    return LaunchDescription([*actions, OpaqueFunction(function=start)])
