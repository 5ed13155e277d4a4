"""What a teaching is made of: pictures, their parts, the start and its network, read and checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rise_perception.core.errors import DataError, ImageError, ModelError, RiseError
from rise_perception.data.annotated import AnnotatedSet, downscaled_mask, read_annotated
from rise_perception.data.coco import LabelledImage
from rise_perception.data.folder import FolderImages
from rise_perception.data.images import read_image
from rise_perception.data.sources import ImageSource, open_unlabelled
from rise_perception.inference.reference_folder import newest
from rise_perception.inference.segmenter import AUTO_COLOUR, AUTO_DEPTH, find_model
from rise_perception.network.card import ModelCard, read_card
from rise_perception.network.config import INPUT_CHANNELS, NetworkConfig
from rise_perception.synthesis.backgrounds import shows_surroundings
from rise_perception.teaching.config import TeachConfig
from rise_perception.teaching.evaluation import EvaluationPicture
from rise_perception.teaching.rehearsal import rehearsal_pictures
from rise_perception.teaching.scenes import Material, gather_material

#: Minutes from which on half a minute of rendering pictures to rehearse is worth it.
RENDERED_FROM = 10.0


@dataclass(frozen=True)
class Given:
    """Everything that is given to a teaching.

    Attributes:
        annotated: the annotated pictures.
        pictures: each of them with (H, W) bool where nothing is known.
        empty: pictures without items.
        unlabelled: further pictures.
        rehearsal: pictures of elsewhere with their true items.
        region: (H, W) bool, where items lie; None is everywhere.
        start: folder of the model to start from, and
        start_card: its card.
        network: what is taught.
        with_depth: whether depth is read.
        notes: what the user should know.
    """

    annotated: AnnotatedSet
    pictures: tuple[EvaluationPicture, ...]
    empty: tuple[LabelledImage, ...]
    unlabelled: tuple[ImageSource, ...]
    rehearsal: tuple[LabelledImage, ...]
    region: np.ndarray | None
    start: Path
    start_card: ModelCard
    network: NetworkConfig
    with_depth: bool
    notes: tuple[str, ...]

    def material(self, which: tuple[int, ...]) -> Material:
        """What scenes of some of the pictures, given by their indices, are made of."""
        pictures = [self.pictures[k] for k in which]
        return gather_material(pictures, self.empty, self.rehearsal, self.network, self.region)


def read_given(config: TeachConfig) -> Given:
    """Read what a call names.

    Raises:
        RiseError: bad input, with the thing, its value and a remedy.
    """
    annotated = read_annotated(config.source, config.depth_scale)
    notes = list(annotated.notes)
    there = _uses_depth(config, annotated, notes)
    sees_depth = there and INPUT_CHANNELS[config.input or "rgbd"] > 3
    start = find_model(config.start or (AUTO_DEPTH if sees_depth else AUTO_COLOUR))
    card = read_card(start)
    network = replace(
        card.network,
        input=config.input or card.network.input,
        classes=annotated.classes,
        containers=annotated.containers,
        image_size=config.recipe.image_size or card.network.image_size,
        pretrained=False,
        frozen_norm=True,  # a handful of pictures says nothing about the statistics of norms
    )
    if network.sees_depth and not there:
        raise ModelError(
            f"model {card.name} needs depth, and "
            + ("--no-depth leaves it out" if not config.with_depth else "not all pictures have it")
            + f"; give --from {AUTO_COLOUR}"
        )
    with_depth = network.sees_depth or card.network.sees_depth
    region = _read_region(config.region, annotated) if config.region else None
    pictures = tuple(
        _evaluation_picture(annotated, k, with_depth, region) for k in range(len(annotated.pictures))
    )
    notes += _implausible_depth([sample for sample, _ in pictures])
    if len(annotated.classes) == len(annotated.containers):
        raise DataError(f"{config.source} outlines only {', '.join(annotated.classes)}; outline items")
    empty = _read_empty(config, with_depth)
    if not empty:
        notes += _without_background(annotated, [sample for sample, _ in pictures])
    unlabelled = (open_unlabelled(config.unlabelled, with_depth),) if config.unlabelled else ()
    return Given(
        annotated,
        pictures,
        tuple(empty),
        unlabelled,
        tuple(_rehearsal(config, annotated, with_depth, notes)),
        region,
        start,
        card,
        network,
        with_depth,
        tuple(notes),
    )


def _uses_depth(config: TeachConfig, annotated: AnnotatedSet, notes: list[str]) -> bool:
    if not config.with_depth:
        return False
    there = sum(p.depth is not None for p in annotated.pictures)
    if 0 < there < len(annotated.pictures):
        notes.append(f"{there} of {len(annotated.pictures)} pictures have depth: it is left out everywhere")
    return there == len(annotated.pictures)


def _evaluation_picture(
    annotated: AnnotatedSet, index: int, with_depth: bool, region: np.ndarray | None
) -> EvaluationPicture:
    picture = annotated.pictures[index]
    sample, ignored = picture.load(with_depth), picture.ignored_mask()
    if region is not None:
        ignored = ignored | ~_fitted(region, picture.size)
    return sample, ignored


def _read_empty(config: TeachConfig, with_depth: bool) -> list[LabelledImage]:
    if config.empty is None:
        return []
    if not config.empty.is_dir():
        raise DataError(f"--empty {config.empty} is no folder; give one with pictures of the empty place")
    try:
        folder = FolderImages(newest(config.empty), with_depth)
        return [folder[k] for k in range(len(folder))]
    except RiseError as error:
        remedy = "; give its depth, or --no-depth" if "depth" in str(error) else "; or leave --empty out"
        raise DataError(f"--empty: {error}{remedy}") from error


def _rehearsal(
    config: TeachConfig, annotated: AnnotatedSet, with_depth: bool, notes: list[str]
) -> list[LabelledImage]:
    """Pictures of elsewhere, their items of the only class of items; none where there are several."""
    items = [k for k, name in enumerate(annotated.classes) if name not in annotated.containers]
    if len(items) > 1:
        notes.append("several classes: no rehearsal, since items of elsewhere are of none of them")
        return []
    worth_it = config.steps or config.minutes >= RENDERED_FROM
    found = rehearsal_pictures(config.recipe.rehearsed if worth_it else 0, with_depth, notes)
    return [replace(r, classes=np.full_like(r.classes, items[0])) for r in found]


def _read_region(path: Path, annotated: AnnotatedSet) -> np.ndarray:
    try:
        white = np.asarray(read_image(path).max(2) > 127)
    except ImageError as error:
        raise DataError(f"--region: {error}") from error
    height, width = annotated.pictures[0].size
    if abs(white.shape[0] * width - white.shape[1] * height) > 0.02 * white.size**0.5 * max(height, width):
        raise DataError(
            f"--region {path} is {white.shape[1]}x{white.shape[0]}, the pictures are {width}x{height}; paint "
            "white on a picture of that size where the items lie"
        )
    if not white.any() or white.all():
        raise DataError(f"--region {path} is of one colour; paint white where the items lie, black elsewhere")
    return white


def _fitted(region: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return region if region.shape == size else downscaled_mask(region, size)


def _without_background(annotated: AnnotatedSet, samples: list[LabelledImage]) -> list[str]:
    items = np.array([name not in annotated.containers for name in annotated.classes], bool)
    covered = sum(not shows_surroundings(s.masks[items[s.classes]]) for s in samples)
    if covered == len(samples):
        return [
            "items cover every picture, so that nothing shows the place behind them: there are no collages, "
            "the pictures alone teach; pictures of the empty place (--empty) would give a background"
        ]
    if covered:
        return [f"items cover {covered} of {len(samples)} pictures: these give no background for collages"]
    return []


def _implausible_depth(samples: list[LabelledImage]) -> list[str]:
    medians = [
        float(np.median(s.depth[s.depth > 0])) for s in samples if s.depth is not None and s.depth.any()
    ]
    if medians and not 0.1 <= float(np.median(medians)) <= 8.0:
        return [
            f"the median depth is {np.median(medians):.3g} m, which no bin is away from its camera: check "
            "--depth-scale"
        ]
    return []
