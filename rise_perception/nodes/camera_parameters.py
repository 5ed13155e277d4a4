"""The parameters of a camera's input, which two nodes share."""

from __future__ import annotations

from rise_perception.nodes.parameter_table import Change, Parameter

#: Names of a camera's topics, relative: remap them, or set the parameters.
COLOR, DEPTH, INFO, DEPTH_INFO = "image", "depth", "camera_info", "depth_camera_info"


def camera_parameters(change: Change) -> dict[str, Parameter]:
    """The group, where its topics may ``change`` as the node says."""
    return {
        "color_topic": Parameter(
            COLOR,
            "Colour image, to be remapped; a CompressedImage when the resolved name ends in /compressed.",
            change=change,
        ),
        "depth_topic": Parameter(
            DEPTH,
            "Depth image, 16UC1 in mm or 32FC1 in m, or a name that ends in /compressedDepth; empty "
            "for none.",
            change=change,
        ),
        "info_topic": Parameter(
            INFO, "CameraInfo of the colour image, without which nothing is in 3D.", change=change
        ),
        "depth_info_topic": Parameter(
            DEPTH_INFO,
            "CameraInfo of the depth image. Where it comes, depth in another frame (/tf) or of another size "
            "is registered to the colour image; otherwise depth has to be registered already.",
            change=change,
        ),
        "sync_tolerance_s": Parameter(
            0.02,
            "Seconds by which the stamps of a colour image and its depth may differ; half a frame "
            "period at most.",
            (0.0, 0.5),
            change,
        ),
        "depth_patience_s": Parameter(
            0.1,
            "Seconds for which a colour image waits for its depth; diagnostics say how late depth comes.",
            (0.0, 1.0),
            Change.LIVE,
        ),
    }


QOS_NOTE = """\
QoS of every topic can be overridden like this, by its resolved name; the camera is subscribed to with
best effort and depth 1.
qos_overrides:
  /camera/color/image_raw:
    subscription:
      reliability: reliable"""
