"""`rise predict`: image files in; label maps, instances and overlays out."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rise_perception.core.errors import ConfigError, DataError, ModelError, RiseError

if TYPE_CHECKING:
    from rise_perception.inference.workspace import ImagePolygon

SUMMARY = "segment image files: label map, instances as JSON, and overlay of each"
EXAMPLES = """\
examples:
  rise predict photos/ --out result
  rise predict photos/ --recursive --out result      (result/SUB/NAME.label.png for photos/SUB/NAME.png)
  rise predict 'bin/*-color.png' --depth bin --depth-scale 0.0001 --out result
  rise predict new/ --reference empty/ --out result
  rise predict scene.png --model models/mine --device cuda --score 0.3 --out result
  rise predict bin/ --workspace '0.1,0.1 0.9,0.1 0.9,0.9 0.1,0.9' --out result

For the picture NAME.png it writes into the folder OUT:
  NAME.label.png        16-bit, one value an instance, 0 = background
  NAME.instances.json   image, model, runtime, time, and each instance in COCO's conventions
  NAME.overlay.png      the picture with the instances in colour
  NAME.cloud.ply        with --cloud: points with colour and label, camera optical frame, metres
A depth image has its picture's name, or that with -depth or .depth at the end, or in place of -color.
REFERENCE is a folder of pictures of the same place without items, or what a node's ~/capture_reference wrote
(depth beside them is used where it is given here, too): instances of which almost nothing differs from their
median are left out. With --workspace only what lies inside counts.
Where a model's folder holds model.onnx beside its weights, as those of the shipped models do, torch is not
loaded for what that can serve, and the first picture is done sooner. For a model of yours it is made by
`rise export MODEL --out MODEL/model.onnx`.
Pictures that cannot be read are reported at the end; the others are done, and the exit status is 2.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGES", help="image files, folders, or quoted patterns"
    )
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="the folders in IMAGES too; OUT gets the same folders"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to write into")
    parser.add_argument("--depth", type=Path, metavar="DIR", help="folder with the depth images")
    parser.add_argument(
        "--depth-scale",
        type=float,
        metavar="METRES_PER_UNIT",
        help="what 1 means in a depth image, in metres (default: 0.001 for integers, 1 for floats)",
    )
    add_camera_argument(parser)
    parser.add_argument(
        "--cloud", choices=("ply", "pcd"), help="write NAME.cloud.ply or .pcd: labelled points (needs Open3D)"
    )
    parser.add_argument(
        "--reference", type=Path, metavar="DIR", help="pictures of the place without items, camera unmoved"
    )
    parser.add_argument(
        "--workspace",
        default="",
        metavar="POLYGON",
        help="leave out what is outside: 'x,y x,y x,y ...' in pixels, or in fractions of width and height",
    )
    add_model_arguments(parser)


def add_camera_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument that gives the camera's intrinsics."""
    parser.add_argument(
        "--camera", metavar="FX,FY,CX,CY|FILE", help="intrinsics in pixels, or a ROS calibration file (.yaml)"
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose and run a model."""
    parser.add_argument(
        "--model",
        default="auto",
        metavar="M",
        help="model folder or name of a shipped one (default: auto, by whether there is depth)",
    )
    parser.add_argument(
        "--device", default="auto", metavar="D", help="auto (default), cpu, cuda, cuda:1, ..."
    )
    parser.add_argument(
        "--score", type=float, metavar="S", help="leave out instances that score below (default: the model's)"
    )


def run(args: argparse.Namespace) -> int:
    """Segment every image; 2 when one of them failed."""
    from tqdm import tqdm

    if args.cloud and (args.depth is None or args.camera is None):
        raise DataError("--cloud needs --depth and --camera: points are computed from both")
    _workspace(args.workspace)  # a wrong one is refused before the model is loaded
    pictures = _find_pictures(args)
    depths = _find_depths(pictures, args.depth, args.out)
    segmenter = load_segmenter(args, has_depth=args.depth is not None, quickly=True)
    reference = None
    if args.reference:
        from rise_perception.inference.reference_folder import read_reference

        reference = read_reference(args.reference, args.depth_scale).reference
    args.out.mkdir(parents=True, exist_ok=True)
    stale: list[str] = []
    failures: list[str] = []
    found, warned = 0, False
    start = time.perf_counter()
    for picture, folder in tqdm(pictures.items(), unit="image", dynamic_ncols=True):
        try:
            count, odd = _predict(segmenter, picture, depths.get(picture), folder, args, reference, stale)
            found += count
            if odd and not warned:  # once: the others will be as odd
                print(f"rise: warning: {depths[picture]}: {odd}; is --depth-scale right?", file=sys.stderr)
                warned = True
        except RiseError as error:
            message = str(error)
            failures.append(message if str(picture) in message else f"{picture}: {message}")
    done = len(pictures) - len(failures)
    rate = done / (time.perf_counter() - start)
    speed = f"{rate:.1f} images/s"
    if segmenter.last_runtime:
        speed += f" in {segmenter.last_runtime}"
    print(f"{found} instances in {done} images ({speed}, model {segmenter.version}): {args.out}")
    if stale:
        more = f" and {len(stale) - 1} more" if len(stale) > 1 else ""
        print(f"rise: warning: --reference was left out: {stale[0]}{more}", file=sys.stderr)
    for failure in failures:
        print(f"rise: error: {failure}", file=sys.stderr)
    return 2 if failures else 0


def load_segmenter(args: argparse.Namespace, has_depth: bool, quickly: bool = False) -> Any:
    """The segmenter that ``args`` ask for.

    Args:
        args: with what :func:`add_model_arguments` adds.
        has_depth: whether depth is given.
        quickly: without torch where an exported file lies beside the weights.

    Raises:
        ModelError: no such model, or it needs depth and there is none.
    """
    from rise_perception.inference.quick_start import load_exported
    from rise_perception.inference.segmenter import AUTO_COLOUR, Segmenter

    if args.score is not None and not 0 <= args.score <= 1:
        raise ModelError(f"--score {args.score} is not in 0..1")
    # Of the pair, nobody waits for the one that sees what is not there.
    model = AUTO_COLOUR if args.model == "auto" and not has_depth else args.model
    segmenter = load_exported(model, args.device, args.score) if quickly else None
    segmenter = segmenter or Segmenter.load(model, args.device, args.score)
    if segmenter.needs_depth and not has_depth:
        raise ModelError(
            f"model {segmenter.version} needs depth and none is given; give it, or use --model auto"
        )
    return segmenter


def _predict(
    segmenter: Any,
    picture: Path,
    depth_file: Path | None,
    folder: Path,
    args: argparse.Namespace,
    reference: Any,
    stale: list[str],
) -> tuple[int, str]:
    """Segment one image and write its files; returns the number of instances and what is odd about depth."""
    from rise_perception.core.files import write_json
    from rise_perception.core.frame import Frame
    from rise_perception.core.regions import instances_json
    from rise_perception.data.camera_file import read_camera
    from rise_perception.data.images import implausible_depth, read_depth, read_image, write_image
    from rise_perception.evaluation.overlay import draw_overlay, shade_outside
    from rise_perception.inference.workspace import keep_inside

    image = read_image(picture)
    depth = read_depth(depth_file, args.depth_scale) if depth_file else None
    camera = read_camera(args.camera, image.shape[1], image.shape[0]) if args.camera else None
    instances = segmenter(image, depth)
    workspace = _workspace(args.workspace)
    outside = workspace.outside(*image.shape[:2]) if workspace is not None else None
    if outside is not None:
        instances = keep_inside(instances, outside)
    if reference is not None:
        kept = reference.keep_changed(instances, image, depth, outside)
        instances = kept.instances
        stale += [f"{picture}: {kept.problem}"] if kept.problem else []
    overlay = draw_overlay(image, instances, scores=True)
    if outside is not None:
        shade_outside(overlay, outside)
    write_image(folder / f"{picture.stem}.label.png", instances.label_map)
    write_image(folder / f"{picture.stem}.overlay.png", overlay)
    if args.cloud:
        _write_cloud(folder / f"{picture.stem}.cloud.{args.cloud}", Frame(image, depth, camera), instances)
    content = {
        "image": picture.name,
        "file": str(picture.resolve()),
        "depth_file": str(depth_file.resolve()) if depth_file else None,
        "width": instances.width,
        "height": instances.height,
        "model": segmenter.last_model,
        "runtime": segmenter.last_runtime,
        "workspace": args.workspace or None,
        "milliseconds": {stage: round(value, 3) for stage, value in segmenter.last_timing.items()},
        **instances_json(instances),
    }
    write_json(folder / f"{picture.stem}.instances.json", content)
    return len(instances), "" if depth is None else implausible_depth(depth)


def _write_cloud(path: Path, frame: Any, instances: Any) -> None:
    from rise_perception.planning.clouds import organised_points, scene_cloud, write_cloud

    write_cloud(path, scene_cloud(organised_points(frame), frame.image, instances))


def _workspace(text: str) -> ImagePolygon | None:
    from rise_perception.inference.workspace import FrameBox, parse_workspace

    workspace = parse_workspace(text)
    if isinstance(workspace, FrameBox):
        raise ConfigError(
            f"--workspace {text!r} is a box in a frame; pictures have no frames: give a polygon in the image"
        )
    return workspace


def _find_pictures(args: argparse.Namespace) -> dict[Path, Path]:
    """The pictures, each with the folder that its results go to.

    Raises:
        DataError: there are none, or two would write to the same files.
    """
    from rise_perception.data.images import list_images, picture_folders

    found: dict[Path, Path] = {}
    for item in args.images:
        inner = picture_folders(Path(item)) if args.recursive and Path(item).is_dir() else []
        for folder in inner or [item]:
            out = args.out / Path(folder).relative_to(item) if inner else args.out
            found.update(dict.fromkeys(list_images([folder]), out))
    seen: dict[Path, Path] = {}
    for picture, out in found.items():
        if other := seen.get(name := out / f"{picture.stem}.label.png"):
            raise DataError(
                f"{other} and {picture} would both write {name}; "
                "rename one, or use a folder for each with --out"
            )
        seen[name] = picture
    return found


def _find_depths(pictures: dict[Path, Path], folder: Path | None, out: Path) -> dict[Path, Path]:
    from rise_perception.data.images import find_companion

    if folder is None:
        return {}
    if not folder.is_dir():
        raise DataError(f"--depth {folder}: no such folder")
    depths = {}
    for picture, place in pictures.items():
        beside = folder / place.relative_to(out)
        path = find_companion(beside, picture.stem, ("depth",))
        if path is None or path.samefile(picture):
            raise DataError(
                f"{picture} has no depth image in {beside}; expected {picture.stem}.png, or that name with "
                "-depth or .depth at its end or in place of -color"
            )
        depths[picture] = path
    return depths
