"""The parameters of the interaction node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rclpy.node import Node

from rise_perception.nodes.parameters import declare

# name: default, sentence, range of a number
PARAMETERS: dict[str, tuple[Any, str, tuple[float, float] | None]] = {
    "store": ("~/.rise_perception/episodes", "Folder that episodes are written to.", None),
    "max_store_mb": (4096, "MiB that episodes may take; the least useful ones go first.", (10, 1 << 24)),
    "min_free_mb": (256, "MiB that stay free on the disk for everybody else.", (0, 1 << 24)),
    "color_topic": (
        "/camera/color/image_raw",
        "Colour image; a CompressedImage when the name ends in /compressed.",
        None,
    ),
    "depth_topic": (
        "/camera/depth/image_raw",
        "Depth registered to the colour image, or /compressedDepth; empty: none.",
        None,
    ),
    "info_topic": ("/camera/color/camera_info", "CameraInfo of the colour image.", None),
    "sync_tolerance": (
        0.02,
        "Seconds by which the stamps of colour and depth of one frame may differ.",
        (0.0, 0.5),
    ),
    "instances_topic": (
        "/segmentation_node/instances",
        "Predictions that episodes keep; empty: none.",
        None,
    ),
    "robot_mask_topic": ("", "Image that is not 0 where the camera sees the robot; empty: none.", None),
    "event_topic": ("/grasp_events", "GraspEvent messages that announce grasps; empty: none.", None),
    "capture_service": (True, "Offer ~/capture, which takes one side of an episode on request.", None),
    "gripper_topic": (
        "",
        "Gripper reading that announces grasps: Float32, or JointState with gripper_joint.",
        None,
    ),
    "gripper_joint": ("", "Joint of a JointState on gripper_topic; empty: the topic is a Float32.", None),
    "gripper_threshold": (0.5, "Reading at which the gripper counts as closed.", (-1e6, 1e6)),
    "gripper_hysteresis": (0.05, "How far beyond the threshold it counts as open again.", (0.0, 1e6)),
    "gripper_closed_below": (True, "Whether readings fall as it closes (a width) or rise (a vacuum).", None),
    "window": (1.0, "Seconds around an event in which the sharpest settled frame is taken.", (0.1, 10.0)),
    "approach": (
        5.0,
        "Seconds before the gripper closes in which the scene was free; for gripper_topic.",
        (0.5, 30.0),
    ),
    "timeout": (
        5.0,
        "Seconds after a grasp until the arm has to be out of view and the scene settled.",
        (0.5, 60.0),
    ),
    "grasp_timeout_s": (120.0, "Seconds after which a grasp that never ended is given up.", (1.0, 3600.0)),
    "history": (6.0, "Seconds for which frames are kept in memory.", (1.0, 60.0)),
    "frame_period": (0.1, "Seconds between the older frames that are kept without predictions.", (0.0, 5.0)),
}


def declare_all(node: Node) -> SimpleNamespace:
    """Declares every parameter; gives the values of those that are read once."""
    values = {
        name: declare(node, name, default, sentence, between=limits)
        for name, (default, sentence, limits) in PARAMETERS.items()
    }
    declare(
        node, "capturing", True, "Whether grasps are captured; may be changed at run time.", read_only=False
    )
    return SimpleNamespace(**values)
