"""Episodes with known truth, from pick sequences of the tote world: for the benchmark and the tests.

Predictions are the truth with the mistakes that segmenters make, so that the right verdict is known.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from rise_perception.core.errors import DataError
from rise_perception.core.frame import Frame
from rise_perception.core.instances import Instances
from rise_perception.core.regions import mask_iou
from rise_perception.data.images import read_depth, read_image, read_label_map
from rise_perception.grasp_learning.capture.episode import Episode, Grasp, Observation, Outcome, Phase
from rise_perception.grasp_learning.labelling.episode_labels import Verdict

#: What is done to the prediction of the target, and how often.
MISTAKES = {"none": 0.5, "merged": 0.15, "split": 0.15, "missed": 0.1, "part": 0.1}
#: Intersection over union at which a prediction is right; in between, either verdict is.
RIGHT, EITHER = 0.7, (0.6, 0.8)
#: An item whose mask overlaps its earlier self by less has moved; in between, either verdict is right.
MOVED, STAYED = 0.8, 0.93
#: Nothing else moved: other pixels that changed their owner, as a fraction of the item's.
CLEAN = 0.2


@dataclass(frozen=True)
class Trial:
    """One grasp with its truth.

    Attributes:
        name: sequence, grasp and what was altered.
        episode: what the analysis sees.
        before, after: (H, W) uint16, true labels; an item keeps its label.
        target: label of the item that was aimed at.
        expected: every verdict that is right.
        clean: one item left, in full sight, and nothing else moved.
    """

    name: str
    episode: Episode
    before: np.ndarray
    after: np.ndarray
    target: int
    expected: frozenset[Verdict]
    clean: bool

    @property
    def can_lie(self) -> bool:
        """True when reporting success would be wrong."""
        return self.episode.grasp.outcome in (Outcome.EMPTY, Outcome.DROPPED)


def read_trials(folder: Path, seed: int = 0, with_depth: bool = True) -> Iterator[Trial]:
    """The grasps of a sequence that ``rise scenes sequence`` wrote, with predictions drawn from ``seed``.

    Raises:
        DataError: the folder holds no such sequence.
    """
    path = folder / "sequence.json"
    if not path.is_file():
        raise DataError(f"{path} does not exist; make a sequence with `rise scenes sequence {folder}`")
    rng = np.random.default_rng(seed)
    before: tuple[Frame, np.ndarray] | None = None
    for record in json.loads(path.read_text(encoding="utf-8"))["images"]:
        event = record["event"]
        if event is None or event["phase"] not in (Phase.BEFORE, Phase.AFTER):
            continue
        frame, labels = _read(folder, record, with_depth)
        if event["phase"] == Phase.BEFORE:
            before = frame, labels
        elif before is not None:
            name = f"{folder.name} {event['grasp']}"
            yield make_trial(name, *before, frame, labels, event["target"], Outcome(event["outcome"]), rng)


def _read(folder: Path, record: dict[str, str], with_depth: bool) -> tuple[Frame, np.ndarray]:
    name = record["file_name"]
    depth = read_depth(folder / "depth" / name) if with_depth else None
    frame = Frame(read_image(folder / "images" / name), depth, None, int(record["stamp"]))
    return frame, read_label_map(folder / "labels" / name)


def make_trial(
    name: str,
    first: Frame,
    before: np.ndarray,
    second: Frame,
    after: np.ndarray,
    target: int,
    outcome: Outcome,
    rng: np.random.Generator,
) -> Trial:
    """A trial whose predictions are the truth with one of ``MISTAKES`` made at the target."""
    mistake = str(rng.choice(list(MISTAKES), p=list(MISTAKES.values())))
    instances = flawed(before, target, mistake, rng)
    aimed = before == target
    hit = np.bincount(instances.label_map[aimed], minlength=2) if aimed.any() else np.zeros(2)
    hit[0] = 0  # a robot aims at what it was told of, or at nothing it knows
    target_id = int(hit.argmax()) if hit.any() else -1
    grasp = Grasp(name, target_id, outcome, second.stamp)
    episode = Episode(
        Observation(first, instances, model_version="truth with mistakes"), Observation(second), grasp
    )
    expected = expected_verdicts(outcome, before, after, target, instances)
    elsewhere = (before != after) & (cv2.dilate(aimed.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0)
    clean = outcome == Outcome.SUCCESS and bool(elsewhere.sum() < CLEAN * aimed.sum())
    return Trial(f"{name} ({mistake})", episode, before, after, target, expected, clean)


def expected_verdicts(
    outcome: Outcome, before: np.ndarray, after: np.ndarray, target: int, instances: Instances
) -> frozenset[Verdict]:
    """Every verdict that is right for a grasp at ``target`` with these true labels and these predictions."""
    aimed = before == target
    if outcome == Outcome.DOUBLE:
        return frozenset({Verdict.DOUBLE})
    if outcome == Outcome.SUCCESS:
        best = max((mask_iou(aimed, instances.mask(row)) for row in range(len(instances))), default=0.0)
        right = {Verdict.CONFIRMED} if best >= RIGHT else {Verdict.CORRECTED}
        return frozenset({Verdict.CONFIRMED, Verdict.CORRECTED} if EITHER[0] < best < EITHER[1] else right)
    labels = [k for k in np.unique(before[before > 0]).tolist() if (before == k).sum() >= 100]
    least = min((mask_iou(before == k, after == k) for k in labels), default=1.0)
    right = {Verdict.MOVED} if least < MOVED else {Verdict.EMPTY}
    return frozenset({Verdict.MOVED, Verdict.EMPTY} if MOVED <= least < STAYED else right)


def flawed(labels: np.ndarray, target: int, mistake: str, rng: np.random.Generator) -> Instances:
    """Instances of a true label map (H, W) uint16 with one of ``MISTAKES`` made at ``target``.

    All outlines are a pixel off here and there, as a network's are.
    """
    made = _wobble(labels, rng)
    aimed = labels == target
    ys, xs = np.nonzero(aimed)
    if mistake == "merged":
        ring = (cv2.dilate(aimed.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0) & ~aimed
        near = np.bincount(labels[ring], minlength=target + 1)
        near[[0, target]] = 0
        if near.any():
            made[made == near.argmax()] = target
    elif mistake in ("split", "part") and len(xs):
        angle = rng.uniform(0, np.pi)
        grid_y, grid_x = np.mgrid[: labels.shape[0], : labels.shape[1]]
        side = (grid_x - xs.mean()) * np.cos(angle) + (grid_y - ys.mean()) * np.sin(angle) > 0
        made[(made == target) & side] = labels.max() + 1 if mistake == "split" else 0
    elif mistake == "missed":
        made[made == target] = 0
    return from_label_map(made)


def _wobble(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels read up to a pixel away, smoothly varying."""
    height, width = labels.shape
    coarse = (max(2, height // 12), max(2, width // 12))
    off = [cv2.resize(rng.normal(0, 0.8, coarse).astype(np.float32), (width, height)) for _ in range(2)]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return cv2.remap(labels, x + off[0], y + off[1], cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def from_label_map(label_map: np.ndarray) -> Instances:
    """Instances of class "object" with score 0.9 and ids equal to labels, of a label map (H, W) uint16."""
    labels = np.unique(label_map[label_map > 0]).astype(np.uint16)
    boxes = [cv2.boundingRect((label_map == k).astype(np.uint8)) for k in labels]
    corners = np.array([(x, y, x + w, y + h) for x, y, w, h in boxes], np.float32).reshape(-1, 4)
    count = len(labels)
    return Instances(
        label_map,
        labels,
        np.full(count, 0.9, np.float32),
        np.zeros(count, np.int64),
        corners,
        np.zeros((count, 0), np.float32),
        labels.astype(np.int64),
    )


def altered(trial: Trial, how: str, rng: np.random.Generator) -> Trial:
    """The same grasp seen by a worse camera, or told by a robot that is wrong.

    Args:
        trial: the grasp.
        how: "exposure", "shift", "noise" or "shadow", which change nothing about the right verdict;
            "camera moved", "exposure jump", "lie", which have to be rejected where they matter.
        rng: draws how much.
    """
    second = trial.episode.after.frame
    image, depth = second.image, second.depth
    height, width = image.shape[:2]
    expected, grasp, clean = trial.expected, trial.episode.grasp, trial.clean
    if how == "exposure":
        image = _clip(image * rng.uniform(0.75, 1.3) * np.exp(rng.normal(0, 0.03, 3)) + rng.uniform(-8, 8))
    elif how == "noise":
        image = _clip(image + rng.normal(0, 6, image.shape))
    elif how == "shadow":
        x, y = rng.uniform(0.2, 0.8, 2) * (width, height)
        spot = np.zeros((height, width), np.float32)
        cv2.ellipse(spot, (int(x), int(y)), (width // 5, height // 6), rng.uniform(0, 180), 0, 360, 1.0, -1)
        soft = np.asarray(cv2.GaussianBlur(spot, (0, 0), width / 60))
        image = _clip(image * (1 - rng.uniform(0.25, 0.45) * soft[..., None]))
    elif how in ("shift", "camera moved"):
        far = rng.uniform(1, 3) if how == "shift" else 0.08 * width
        angle = rng.uniform(0, 2 * np.pi)
        matrix = np.array([[1, 0, far * np.cos(angle)], [0, 1, far * np.sin(angle)]])
        border = cv2.BORDER_REFLECT
        image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=border)
        if depth is not None:
            depth = cv2.warpAffine(depth, matrix, (width, height), flags=cv2.INTER_NEAREST, borderMode=border)
    elif how == "exposure jump":
        image = _clip(image * rng.uniform(0.15, 0.3))
    elif how == "lie" and trial.can_lie:
        grasp = replace(grasp, outcome=Outcome.SUCCESS)
    if how in ("camera moved", "exposure jump", "lie"):
        expected, clean = frozenset({Verdict.REJECTED}), False
    after = Observation(replace(second, image=image, depth=depth))
    episode = replace(trial.episode, after=after, grasp=grasp)
    return replace(trial, name=f"{trial.name}, {how}", episode=episode, expected=expected, clean=clean)


def _clip(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)
