"""A recorded bag, or a folder of pictures, played as a camera into the segmentation node.

ros2 launch rise_perception replay.launch.py                      # the shipped pick sequence, again and again
ros2 launch rise_perception replay.launch.py input:=/data/my_bag rate:=30.0 loop:=false rviz:=true
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(__file__).resolve().parents[1]  # the installed share folder, or the checkout


def generate_launch_description() -> LaunchDescription:
    """Camera node, and what live.launch.py starts (its arguments hold here too), by the recording's clock."""
    live = PythonLaunchDescriptionSource(str(SHARE / "launch/live.launch.py"))
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "input",
                default_value=str(SHARE / "models/demo_pick"),
                description="bag or folder of pictures",
            ),
            DeclareLaunchArgument("rate", default_value="5.0", description="frames per second"),
            DeclareLaunchArgument("loop", default_value="true", description="start again at the end"),
            DeclareLaunchArgument(
                "use_sim_time", default_value="true", description="publish the frames' stamps on /clock"
            ),
            # First: an included launch file changes the environment of what follows it.
            IncludeLaunchDescription(live),
            Node(
                package="rise_perception",
                executable="camera_node",
                name="camera_node",
                namespace=LaunchConfiguration("namespace"),
                output="screen",
                parameters=[
                    {
                        "input": ParameterValue(LaunchConfiguration("input"), value_type=str),
                        "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
                        "loop": ParameterValue(LaunchConfiguration("loop"), value_type=bool),
                        "clock": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                    }
                ],
            ),
        ]
    )
