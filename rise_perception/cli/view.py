"""`rise view`: a picture with its masks, boxes and, with depth, its cloud, in a page or a window."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from rise_perception.cli.predict import add_camera_argument, add_model_arguments, load_segmenter
from rise_perception.core.errors import DataError, MissingDependencyError

SUMMARY = "look at a picture's masks, boxes and cloud, in a page or a window"
EXAMPLES = """\
examples:
  rise view scene.png --out scene.html
  rise view scene.png --depth scene-depth.png --camera 615,615,320,240 --out scene.html
  rise view scene.png --depth scene-depth.png --camera camera_info.yaml --window

The page is one file that needs no network. The window (Open3D) needs a display.
"""
#: Points of the page's cloud: more make a browser slow.
MAX_POINTS = 60_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("image", type=Path, help="image file")
    parser.add_argument("--depth", type=Path, metavar="FILE", help="its depth image")
    parser.add_argument("--depth-scale", type=float, metavar="METRES_PER_UNIT", help="as for `rise predict`")
    add_camera_argument(parser)
    shown = parser.add_mutually_exclusive_group(required=True)
    shown.add_argument("--out", type=Path, metavar="FILE.html", help="write a page")
    shown.add_argument("--window", action="store_true", help="open a window with the cloud")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment the picture and show the result."""
    from rise_perception.core.frame import Frame
    from rise_perception.data.camera_file import read_camera
    from rise_perception.data.images import read_depth, read_image

    if args.window and (args.depth is None or args.camera is None):
        raise DataError("--window shows the cloud: give --depth and --camera, or write a page with --out")
    if args.window and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise DataError("--window needs a display and there is none; write a page with --out FILE.html")
    image = read_image(args.image)
    depth = read_depth(args.depth, args.depth_scale) if args.depth else None
    camera = read_camera(args.camera, image.shape[1], image.shape[0]) if args.camera else None
    frame = Frame(image, depth, camera)
    segmenter = load_segmenter(args, depth is not None)
    instances = segmenter(image, depth)
    if args.window:
        _show_window(frame, instances)
    else:
        _write_page(args.out, args.image.name, frame, instances, segmenter.last_model)
        print(f"{len(instances)} instances: {args.out}")
    return 0


def _show_window(frame: Any, instances: Any) -> None:
    import numpy as np

    from rise_perception.core.geometry import locate
    from rise_perception.planning.clouds import open3d, organised_points, scene_cloud

    o3d = open3d()
    cloud = scene_cloud(organised_points(frame), _overlay(frame, instances), instances)
    shown = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(cloud.points.astype(np.float64)))
    shown.colors = o3d.utility.Vector3dVector(cloud.colors / 255.0)
    boxes = [
        o3d.geometry.OrientedBoundingBox(place.centre, place.rotation, place.size)
        for place in locate(instances, frame.depth, frame.camera)
        if place is not None
    ]
    o3d.visualization.draw_geometries([shown, *boxes], window_name="rise view")


def _write_page(path: Path, name: str, frame: Any, instances: Any, model: str) -> None:
    from rise_perception.core.files import write_text

    try:
        from plotly.subplots import make_subplots
    except ImportError:
        raise MissingDependencyError("the page needs plotly: pip install 'plotly>=5'") from None
    import plotly.graph_objects as go

    solid = frame.depth is not None and frame.camera is not None
    kinds = [[{"type": "xy"}, {"type": "scene"}]] if solid else [[{"type": "xy"}]]
    page = make_subplots(1, 2 if solid else 1, specs=kinds, horizontal_spacing=0.02)
    page.add_trace(go.Image(z=_overlay(frame, instances), hoverinfo="skip"), 1, 1)
    for row in range(len(instances)):
        x0, y0, x1, y1 = instances.boxes[row].tolist()
        kind = instances.class_names[int(instances.classes[row])]
        text = f"{kind} {int(instances.ids[row])}<br>score {float(instances.scores[row]):.2f}"
        outline = go.Scatter(
            x=[x0, x1, x1, x0, x0], y=[y0, y0, y1, y1, y0], mode="lines", text=text, hoverinfo="text",
            line={"color": "white", "width": 1}, showlegend=False,
        )  # fmt: skip
        page.add_trace(outline, 1, 1)
    if solid:
        page.add_trace(_cloud_trace(frame, instances, go), 1, 2)
        page.update_scenes(
            aspectmode="data", camera={"up": {"x": 0, "y": -1, "z": 0}, "eye": {"x": 0, "y": -0.8, "z": -1.6}}
        )
    page.update_layout(
        title=f"{name}: {len(instances)} instances, {model}", height=720, margin={"l": 10, "r": 10}
    )
    write_text(path, page.to_html(include_plotlyjs=True, full_html=True))


def _cloud_trace(frame: Any, instances: Any, go: Any) -> Any:
    import numpy as np

    from rise_perception.planning.clouds import organised_points, scene_cloud

    cloud = scene_cloud(organised_points(frame), _overlay(frame, instances), instances)
    keep = slice(None, None, max(1, len(cloud) // MAX_POINTS))
    points, colors = np.round(cloud.points[keep], 4), cloud.colors[keep]
    return go.Scatter3d(
        x=points[:, 0], y=points[:, 1], z=points[:, 2], mode="markers", hoverinfo="skip", showlegend=False,
        marker={"size": 1.5, "color": [f"rgb({r},{g},{b})" for r, g, b in colors.tolist()]},
    )  # fmt: skip


def _overlay(frame: Any, instances: Any) -> Any:
    from rise_perception.evaluation.overlay import draw_overlay

    return draw_overlay(frame.image, instances)
