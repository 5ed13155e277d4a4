"""The parameters of the segmentation node."""

from __future__ import annotations

from rise_perception.inference.scene_foreground import check_mode
from rise_perception.inference.workspace import SYNTAX, parse_workspace
from rise_perception.nodes.camera_parameters import QOS_NOTE, camera_parameters
from rise_perception.nodes.parameter_table import Change, Parameter, ParameterTable

CONFIGURE, LIVE = Change.CONFIGURE, Change.LIVE

TABLE = ParameterTable(
    "segmentation_node",
    {
        "Model": {
            "model": Parameter(
                "auto",
                "Model folder, name of a shipped model, or auto: the RGB-D model while depth comes in, RGB "
                "otherwise.",
                change=CONFIGURE,
            ),
            "model_store": Parameter(
                "",
                "Folder of the learner's versions: the last active one serves again, and ~/reload_model "
                "takes "
                "versions from there and nowhere else; empty for none.",
                change=CONFIGURE,
            ),
            "device": Parameter(
                "auto",
                "Where the network runs: auto (CUDA if there is one), cpu, cuda, cuda:1.",
                change=CONFIGURE,
            ),
            "score_threshold": Parameter(
                0.0,
                "Instances that score below are dropped; 0 takes the threshold in the model's card.",
                (0.0, 1.0),
                LIVE,
            ),
            "min_relief_mm": Parameter(
                0.0,
                "Instances whose median height above the support surface is lower are dropped, in "
                "millimetres, where there is depth; 0 drops none.",
                (0.0, 1000.0),
                LIVE,
            ),
            "runtime": Parameter(
                "torch",
                "What runs the network: torch, auto (the fastest here, measured once), onnxruntime, "
                "openvino, "
                "tensorrt, onnxruntime-cuda, torch-compiled, torch-cudagraph. Its engine is built in the "
                "background "
                "for the camera's images; torch serves until then.",
                change=CONFIGURE,
            ),
            "precision": Parameter(
                "fp32",
                "Precision of the engine: fp32, fp16, bf16 or, in openvino, int8; auto chooses.",
                change=CONFIGURE,
            ),
            "calibration": Parameter(
                "",
                "Recording or folder of pictures from this camera that int8 is calibrated on; empty for the "
                "shipped recording.",
                change=CONFIGURE,
            ),
            "engine_dir": Parameter(
                "",
                "Folder of the engine cache; empty for ~/.cache/rise_perception/engines.",
                change=CONFIGURE,
            ),
        },
        "Camera": camera_parameters(CONFIGURE),
        "Space": {
            "workspace": Parameter(
                "",
                f"What counts as the scene: {SYNTAX}. Instances mostly outside are dropped, pixels outside "
                "removed. Empty for the whole image.",
                change=LIVE,
                parse=parse_workspace,
            ),
            "target_frame": Parameter(
                "",
                "Frame on /tf in which centroids, boxes and markers are given; the header of their message "
                "names it, that of the label map stays the camera's. Empty for the camera's.",
                change=LIVE,
            ),
        },
        "Foreground": {
            "foreground": Parameter(
                "auto",
                "What tells items from the place: auto (the reference, where there is one, and the M of a "
                "network that has one), network (M alone) or none. A reference drops instances of which "
                "almost nothing differs from it; M is only shown, on ~/foreground.",
                change=LIVE,
                parse=check_mode,
            ),
            "reference": Parameter(
                "",
                "Folder of pictures of the place without items, camera unmoved, which ~/capture_reference "
                "adds to. Empty for none at the start; captures go to ~/.rise_perception/reference then.",
                change=CONFIGURE,
            ),
        },
        "Sentences": {
            "refer_model": Parameter(
                "auto",
                "What answers ~/refer and ~/expression: folder or name of a referring model, auto for the "
                "shipped one, or none: the grammar alone, which knows no kinds.",
                change=CONFIGURE,
            ),
            "refer_catalogue": Parameter(
                "",
                "JSON file that gives names of your goods a meaning, as in {'fizzy pop': 'red can'} with "
                "double quotes; empty for none.",
                change=CONFIGURE,
            ),
        },
        "Node": {
            "latency_budget_ms": Parameter(
                200.0,
                "Diagnostics warn when the median time from image to masks, in milliseconds, exceeds this.",
                (1.0, 10000.0),
                LIVE,
            ),
            "autostart": Parameter(
                True,
                "Configure and activate at start, unless a lifecycle manager is there; false always waits "
                "for one.",
            ),
        },
    },
    QOS_NOTE,
)
