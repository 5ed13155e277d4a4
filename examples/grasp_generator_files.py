#!/usr/bin/env python3
"""Writes what grasp generators read from a picture with depth.

    python3 examples/grasp_generator_files.py scene.png scene-depth.png --camera 615,615,320,240 --out out

``out/scene.npz`` is for Contact-GraspNet's inference; ``out/scene.ply`` and ``out/object_<id>.ply`` are for
generators that take one object's cloud and the scene's, such as GraspGen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rise_perception import Frame, Segmenter
from rise_perception.data.camera_file import read_camera
from rise_perception.data.images import read_depth, read_image
from rise_perception.planning.exports import write_contact_graspnet, write_object_clouds


def main() -> None:
    """Segment one picture and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("depth", type=Path)
    parser.add_argument(
        "--depth-scale", type=float, help="metres per unit; default: millimetres for integers"
    )
    parser.add_argument("--camera", required=True, help="fx,fy,cx,cy in pixels, or a ROS calibration file")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    image, depth = read_image(args.image), read_depth(args.depth, args.depth_scale)
    frame = Frame(image, depth, read_camera(args.camera, image.shape[1], image.shape[0]))
    instances = Segmenter.load()(frame.image, frame.depth)
    write_contact_graspnet(args.out / "scene.npz", frame, instances)
    files = write_object_clouds(args.out, frame, instances)
    print(f"{len(files)} objects of {len(instances)} instances: {args.out}")


if __name__ == "__main__":
    main()
