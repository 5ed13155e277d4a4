"""Files that grasp generators read, written from a frame and its instances."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rise_perception.core.errors import DataError
from rise_perception.core.files import atomic_write
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.planning.clouds import instance_clouds, organised_points, scene_cloud, write_cloud


def write_contact_graspnet(path: str | Path, frame: Frame, instances: Instances) -> None:
    """Write the NPZ that Contact-GraspNet's inference reads.

    Keys: ``depth`` (H, W) float32 metres, ``K`` (3, 3) float64, ``segmap`` (H, W) uint16 with one value an
    instance, ``rgb`` (H, W, 3) uint8. Its loader swaps the channels of ``rgb``, so they are stored as BGR.

    Raises:
        DataError: the frame lacks depth or camera, or ``path`` is not named ``.npz``.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise DataError(f"{path}: Contact-GraspNet reads .npz files; give such a name")
    organised_points(frame)  # depth and camera are there
    assert frame.depth is not None
    assert frame.camera is not None
    with atomic_write(path) as temporary:
        np.savez_compressed(
            temporary,
            depth=frame.depth,
            K=frame.camera.matrix(),
            segmap=instances.label_map,
            rgb=np.ascontiguousarray(frame.image[..., ::-1]),
        )


def write_object_clouds(folder: str | Path, frame: Frame, instances: Instances) -> list[Path]:
    """Write the clouds that generators of the kind of GraspGen take; returns the objects' files.

    One ``object_<id>.ply`` for each instance with depth, and ``scene.ply``.

    Raises:
        DataError: the frame lacks depth or camera.
        MissingDependencyError: no Open3D.
    """
    folder = Path(folder)
    scene = scene_cloud(organised_points(frame), frame.image, instances)
    write_cloud(folder / "scene.ply", scene)
    written = []
    for row, cloud in enumerate(instance_clouds(scene, instances)):
        if len(cloud):
            written.append(folder / f"object_{int(instances.ids[row])}.ply")
            write_cloud(written[-1], cloud)
    return written
