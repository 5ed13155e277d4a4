"""The segmentation node for a live camera; the nodes that keep episodes of grasps, and learn from them.

ros2 launch rise_perception live.launch.py
ros2 launch rise_perception live.launch.py color:=/wrist/color/image_raw info:=/wrist/color/camera_info \
    depth:=/wrist/aligned_depth_to_color/image_raw rviz:=true
ros2 launch rise_perception live.launch.py interaction:=true store:=/data/episodes
ros2 launch rise_perception live.launch.py interaction:=true learner:=true store:=/data/episodes \
    models:=/data/models anchors:=/data/tote/train.json heldout_anchors:=/data/tote/val.json
"""

import os
from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable, SetLaunchConfiguration
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(__file__).resolve().parents[1]  # the installed share folder, or the checkout
ARGUMENTS = {
    "model": ("auto", "model folder, name of a shipped model, or auto"),
    "device": ("auto", "auto, cpu, cuda"),
    "color": ("/camera/color/image_raw", "colour image topic; .../compressed for CompressedImage"),
    "depth": ("/camera/depth/image_raw", "depth topic, registered to colour; '' for none"),
    "info": ("/camera/color/camera_info", "camera info topic of the colour image"),
    "params": (str(SHARE / "config/segmentation_node.yaml"), "parameter file"),
    "interaction": ("false", "start the interaction node too"),
    "interaction_params": (str(SHARE / "config/interaction_node.yaml"), "its parameter file"),
    "store": ("~/.rise_perception/episodes", "folder that its episodes go to"),
    "model_store": ("", "folder of versions that may serve; the learner's, where it is started"),
    "learner": ("false", "start the learner node too, and let its versions serve"),
    "learner_params": (str(SHARE / "config/learner_node.yaml"), "its parameter file"),
    "learner_model": ("rise_small_rgbd", "what an empty folder of its versions begins with"),
    "models": ("~/.rise_perception/models", "folder of its versions"),
    "anchors": ("", "labelled images that it replays: COCO JSON, split or OCID folder"),
    "heldout_anchors": ("", "COCO JSON of other labelled images, on which nothing may be lost"),
    "rviz": ("false", "start RViz too"),
}


def text(name: str) -> ParameterValue:
    """The argument as a string, whatever it looks like."""
    return ParameterValue(LaunchConfiguration(name), value_type=str)


def generate_launch_description() -> LaunchDescription:
    """Segmentation node; the others on demand; the Fast DDS profile unless there is one."""
    actions = [
        DeclareLaunchArgument(name, default_value=value, description=about)
        for name, (value, about) in ARGUMENTS.items()
    ]
    if not {"FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"} & os.environ.keys():
        profile = str(SHARE / "config/fastdds.xml")
        actions.append(SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", profile))
    learns = IfCondition(LaunchConfiguration("learner"))
    actions.append(SetLaunchConfiguration("model_store", LaunchConfiguration("models"), condition=learns))
    actions.append(
        Node(
            package="rise_perception",
            executable="segmentation_node",
            name="segmentation_node",
            output="screen",
            parameters=[
                LaunchConfiguration("params"),
                {
                    "model": text("model"),
                    "model_store": text("model_store"),
                    "device": text("device"),
                    "color_topic": text("color"),
                    "depth_topic": text("depth"),
                    "info_topic": text("info"),
                },
            ],
        )
    )
    actions.append(
        Node(
            package="rise_perception",
            executable="interaction_node",
            name="interaction_node",
            output="screen",
            condition=IfCondition(LaunchConfiguration("interaction")),
            parameters=[
                LaunchConfiguration("interaction_params"),
                {
                    "store": text("store"),
                    "color_topic": text("color"),
                    "depth_topic": text("depth"),
                    "info_topic": text("info"),
                },
            ],
        )
    )
    actions.append(
        Node(
            package="rise_perception",
            executable="learner_node",
            name="learner_node",
            output="screen",
            condition=learns,
            parameters=[
                LaunchConfiguration("learner_params"),
                {
                    "model": text("learner_model"),
                    **{name: text(name) for name in ("store", "models", "anchors", "heldout_anchors")},
                },
            ],
        )
    )
    actions.append(
        Node(
            package="rviz2",
            executable="rviz2",
            arguments=["-d", str(SHARE / "config/rise.rviz")],
            condition=IfCondition(LaunchConfiguration("rviz")),
        )
    )
    return LaunchDescription(actions)
