"""The parameters of the interaction node."""

from __future__ import annotations

from rise_perception.nodes.camera_parameters import QOS_NOTE, camera_parameters
from rise_perception.nodes.parameter_table import Change, Parameter, ParameterTable

TABLE = ParameterTable(
    "interaction_node",
    {
        "Episodes": {
            "capturing": Parameter(True, "Whether grasps are captured.", change=Change.LIVE),
            "episode_store": Parameter(
                "~/.rise_perception/episodes",
                "Folder that episodes are written to; one process may write to it, any number may read.",
            ),
            "max_store_mb": Parameter(
                4096,
                "MiB that episodes may take. When they are used up, the least useful go first: rejected, "
                "empty, "
                "confirmed, moved, double picks, corrected; of these the oldest.",
                (10, 1 << 24),
            ),
            "min_free_mb": Parameter(
                256,
                "MiB that stay free on the disk for everybody else; capturing pauses below.",
                (0, 1 << 24),
            ),
        },
        "Camera": {
            **camera_parameters(Change.START),
            "instances_topic": Parameter(
                "segmentation_node/instances",
                "Predictions that episodes keep, of the segmentation node; empty for none.",
            ),
            "robot_mask_topic": Parameter(
                "",
                "Image that is not 0 where the camera sees the robot, stamped within 0.1 s of its frame; "
                "it may "
                "come up to capture_window_s later. Empty for none.",
            ),
        },
        "Grasps": {
            "event_topic": Parameter(
                "grasp_events", "GraspEvent messages of the picking application; empty for none."
            ),
            "capture_service": Parameter(
                True,
                "Offer the service ~/capture (rise_msgs/CaptureGraspFrame), which takes one side of an "
                "episode "
                "on request.",
            ),
            "gripper_topic": Parameter(
                "",
                "A gripper's reading where nothing announces grasps: std_msgs/Float32, or a JointState; "
                "empty "
                "for none.",
            ),
            "gripper_joint": Parameter(
                "", "Joint of the JointState on gripper_topic; empty when it is a Float32."
            ),
            "gripper_threshold": Parameter(
                0.5, "Reading at which the gripper counts as closed.", (-1e6, 1e6)
            ),
            "gripper_hysteresis": Parameter(
                0.05,
                "How far beyond the threshold the reading has to go back until the gripper counts as open "
                "again.",
                (0.0, 1e6),
                Change.LIVE,
            ),
            "gripper_closed_below": Parameter(
                True,
                "True when readings fall as the gripper closes (a width), false when they rise (a vacuum).",
            ),
        },
        "Times": {
            "capture_window_s": Parameter(
                1.0,
                "Seconds before BEFORE and after AFTER in which the sharpest settled frame is taken.",
                (0.1, 10.0),
            ),
            "approach_s": Parameter(
                5.0,
                "Seconds before the gripper closes in which the scene was free of the arm; only for "
                "gripper_topic.",
                (0.5, 30.0),
            ),
            "settle_timeout_s": Parameter(
                5.0,
                "Seconds after a grasp until the arm has to be out of view and the scene settled.",
                (0.5, 60.0),
            ),
            "grasp_timeout_s": Parameter(
                120.0, "Seconds after which a grasp that never ended is given up.", (1.0, 3600.0)
            ),
            "history_s": Parameter(
                6.0,
                "Seconds for which frames are kept in memory; longer than approach_s. About 2 MB a frame at "
                "640x480 with depth.",
                (1.0, 60.0),
            ),
        },
    },
    QOS_NOTE,
)
